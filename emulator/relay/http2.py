"""Code that both sides of the relay share: a connection with back-pressure, and gRPC's trailers."""

from __future__ import annotations

import asyncio
from typing import cast

from lib.grpc_stream import Headers, Status
from lib.grpc_stream.status import to_header

INPUT = "/plugins.Engine/Input"
WRITE_BUFFER_BYTES = 64 << 10
"""Bytes that may wait in the write buffer before writing pauses."""


def ending(code: Status, text: str) -> Headers:
    """The trailers of a stream with this status; an empty text gives no `grpc-message`."""
    status = (b"grpc-status", b"%d" % code)
    return (status, (b"grpc-message", to_header(text))) if text else (status,)


class Http2Connection(asyncio.Protocol):
    """A connection to a caller or to the engine."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self.is_writable = True
