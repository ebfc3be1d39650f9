"""What both ends of a stream have in common: a connection that may be full, and how gRPC ends a stream."""

from __future__ import annotations

import asyncio
from typing import cast

from lib.grpc_stream import Headers, Status
from lib.grpc_stream.status import to_header

INPUT = "/plugins.Engine/Input"
WRITE_BUFFER_BYTES = 64 << 10
"""What may wait for the system to take it, before no more is made."""


def ending(code: Status, text: str) -> Headers:
    """The trailers of a stream that ends so; one that ends well needs no words."""
    status = (b"grpc-status", b"%d" % code)
    return (status, (b"grpc-message", to_header(text))) if text else (status,)


class Connection(asyncio.Protocol):
    """One, to a caller or to the engine."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def pause_writing(self) -> None:
        """What was sent waits to be taken."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """It was taken."""
        self.is_writable = True
