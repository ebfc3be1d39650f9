"""A gRPC server on a Unix socket, with whatever it is given."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc


@contextmanager
def listening(path: Path, add: Callable[[grpc.Server], None], **options: int) -> Iterator[None]:
    """Serve what `add` adds; `options` are the server's, without `grpc.`."""
    given = [(f"grpc.{name}", value) for name, value in options.items()]
    server = grpc.server(ThreadPoolExecutor(8), options=given)
    add(server)
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
