// A caller on @grpc/grpc-js that closes its client with a call under way. Arguments: address, CA, token, packages' folder.
"use strict";

const fs = require("node:fs");
const [address, ca, token, packages] = process.argv.slice(2);
const grpc = require(`${packages}/node_modules/@grpc/grpc-js`);

const Client = grpc.makeGenericClientConstructor({
  Input: {
    path: "/plugins.Engine/Input",
    requestStream: true,
    responseStream: true,
    requestSerialize: (id) => Buffer.concat([Buffer.from([10, id.length]), Buffer.from(id)]),
    requestDeserialize: (each) => each,
    responseSerialize: (each) => each,
    responseDeserialize: (bytes) => bytes.toString("utf8", 2),
  },
});

const client = new Client(address, grpc.credentials.createSsl(fs.readFileSync(ca)));
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${token}`);
const call = client.Input(metadata);
call.on("data", (id) => {
  console.log(id);
  if (id === "before") {
    client.close();
    call.write("after");
  } else {
    call.end();
  }
});
call.on("status", (status) => console.log(status.code, status.details));
call.on("error", () => undefined);
call.write("before");
