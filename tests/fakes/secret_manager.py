"""A Secret Manager for tests, on loopback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from google.cloud import secretmanager_v1


@contextmanager
def serving(held: Mapping[str, str], port: int = 0) -> Iterator[str]:
    """Serve the versions that the mapping holds, by name; the address."""

    def access(asked: secretmanager_v1.AccessSecretVersionRequest, context: grpc.ServicerContext) -> object:
        if asked.name not in held:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such version")
        return secretmanager_v1.AccessSecretVersionResponse(
            name=asked.name, payload={"data": held[asked.name].encode()}
        )

    handler = grpc.unary_unary_rpc_method_handler(
        access,
        request_deserializer=secretmanager_v1.AccessSecretVersionRequest.deserialize,
        response_serializer=secretmanager_v1.AccessSecretVersionResponse.serialize,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    service = "google.cloud.secretmanager.v1.SecretManagerService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"AccessSecretVersion": handler}),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
