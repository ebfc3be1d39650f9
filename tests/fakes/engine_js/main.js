// A stand-in for the engine on @grpc/grpc-js: one ack a log. Arguments: the socket, the record, channel options as JSON.
"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");

const [socket, record, options] = process.argv.slice(2);
const NAMES = ["id", "dataType", "dataSource", "timestamp", "tenantId", "raw"];
const out = record ? fs.openSync(record, "a") : null;

// A message whose fields are text alone, as plugins.Log and plugins.Ack are.
function read(bytes) {
  const fields = {};
  for (let at = 0; at < bytes.length; ) {
    const number = bytes[at++] >> 3;
    let size = 0;
    let shift = 0;
    do {
      size += (bytes[at] & 127) * 2 ** shift;
      shift += 7;
    } while (bytes[at++] & 128);
    fields[NAMES[number - 1]] = bytes.toString("utf8", at, at + size);
    at += size;
  }
  return fields;
}

function ack(id) {
  const text = Buffer.from(id);
  if (text.length > 127) throw new Error("an id of over 127 bytes");
  return Buffer.concat([Buffer.from([10, text.length]), text]);
}

const service = {
  Input: {
    path: "/plugins.Engine/Input",
    requestStream: true,
    responseStream: true,
    requestDeserialize: read,
    requestSerialize: (each) => each,
    responseDeserialize: (each) => each,
    responseSerialize: ack,
  },
};

let streams = 0;
const server = new grpc.Server(JSON.parse(options || "{}"));
server.addService(service, {
  Input(call) {
    streams += 1;
    call.on("data", (log) => {
      if (out !== null) fs.writeSync(out, JSON.stringify(log) + "\n");
      call.write(log.id);
    });
    call.on("end", () => call.end());
    call.on("error", () => undefined);
  },
});
fs.rmSync(socket, { force: true });
server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
  console.log("ready");
});
process.on("SIGTERM", () => {
  server.forceShutdown();
  console.log(streams);
  process.exit(0);
});
