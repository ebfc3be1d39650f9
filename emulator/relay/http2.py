"""What both ends of a stream have in common: HTTP/2, which is h2's, over a connection, and how gRPC ends a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast
from urllib.parse import quote

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection

from emulator.relay.messages import Way

INPUT = "/plugins.Engine/Input"
WRITE_BUFFER_BYTES = 64 << 10
"""What may wait for the system to take it, before no more is made."""
Headers = Sequence[tuple[bytes, bytes]]
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def ending(code: grpc.StatusCode, text: str) -> Headers:
    """The trailers of a stream that ends so."""
    return (
        (b"grpc-status", str(code.value[0]).encode()),
        (b"grpc-message", quote(text, safe=_PRINTABLE).encode()),
    )


class Connection(asyncio.Protocol):
    """One, to a caller or to the engine."""

    transport: asyncio.Transport

    def __init__(self, *, is_client: bool) -> None:
        # A caller's headers are looked at, never handed on: what is odd about them is no reason to end its connection.
        configuration = H2Configuration(client_side=is_client, header_encoding=None, validate_inbound_headers=is_client)
        self.h2 = H2Connection(configuration)
        self.is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def flush(self) -> None:
        """Send what h2 has made."""
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def send(self, way: Way, number: int) -> int:
        """Pass on what the other end has room for, as far as h2; how many bytes."""
        sent = 0
        while self.is_writable and way.ready:
            room = min(way.ready, self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                break
            self.h2.send_data(number, way.take(room))
            sent += room
        return sent

    def pause_writing(self) -> None:
        """What was sent waits to be taken."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """It was taken."""
        self.is_writable = True
