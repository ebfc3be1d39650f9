"""One gRPC stream of a delivery: sends logs as the window and the engine allow, and takes acknowledgements."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lib.errors import ConnectorError
from lib.grpc_stream import Broken, ClientStream, Data, Ended, Event, MessageReader, Status
from lib.utmstack.channel import Connection
from lib.utmstack.window import LARGE, Flight, Window

SEND_BYTES = 32 << 10
"""Bytes that are sent as soon as they are ready, so that the engine works while further logs are read."""
BACKLOG_BYTES = 64 << 10
"""Bytes that may wait to be sent before reading logs pauses."""
MAX_ACK_BYTES = 64 << 10
"""An acknowledgement holds one id: a larger message does not come from an engine."""
_VAGUE = (
    *(Status.UNKNOWN, Status.INTERNAL, Status.FAILED_PRECONDITION, Status.OUT_OF_RANGE, Status.DATA_LOSS),
    *(Status.NOT_FOUND, Status.ALREADY_EXISTS, Status.ABORTED),
)
"""Statuses that do not show if one log or the engine itself is the cause."""


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a stream failed."""

    error: ConnectorError
    status: Status | None = None
    """The engine's status; None if the stream ended without one."""
    details: str = ""

    @property
    def is_about_a_log(self) -> bool:
        """Whether the status shows that one log is the cause: too large for grpc-go's limit, or invalid."""
        too_large = self.status is Status.RESOURCE_EXHAUSTED and "larger than max" in self.details
        return too_large or self.status is Status.INVALID_ARGUMENT

    @property
    def is_vague(self) -> bool:
        """Whether the cause may be one log or the engine itself."""
        return self.status in _VAGUE

    def is_about_a_large_log(self, flight: Flight) -> bool:
        """Whether a large log in flight may be the cause."""
        is_large = any(entry.size >= LARGE for entry in flight.in_flight.values())
        return self.status is Status.RESOURCE_EXHAUSTED and is_large


class EngineCall:
    """A stream on its connection, used by one thread."""

    def __init__(self, window: Window, flight: Flight, connection: Connection, stream: ClientStream) -> None:
        self.is_over = False
        self.ended: Ended | Broken | None = None
        """The end of the stream; None before it."""
        self.quiet_since = time.monotonic()
        """The monotonic time of the last acknowledgement, moved on by the time that the caller needed since."""
        self._window = window
        self._flight = flight
        self._connection = connection
        self._stream = stream
        self._acks = MessageReader(MAX_ACK_BYTES)
        self._is_writable = True

    @property
    def is_open(self) -> bool:
        """Whether the request was sent: the engine has opened HTTP/2."""
        return self._stream.is_open

    def fill(self) -> None:
        """Read and send logs as far as the window and the engine allow; never wait."""
        while not self.is_over:
            if self._stream.backlog >= SEND_BYTES:
                self._flush()
                if self._stream.backlog >= BACKLOG_BYTES:
                    return
            entry = self._window.take(self._flight)
            if entry is None:
                break
            self._stream.send(entry.message)
        if self._window.is_exhausted and self._flight.next > self._window.last:
            self._stream.end()
        self._flush()

    def turn(self, until: float) -> list[int]:
        """Wait for acknowledgements until a monotonic time; return the settled count after each of them."""
        counts: list[int] = []
        for event in self._wait(until - time.monotonic()):
            match event:
                case Data(data):
                    self._take(data, counts)
                case Ended() | Broken():
                    self._end(event)
        if counts:
            self.quiet_since = time.monotonic()
        return counts

    def close(self) -> None:
        """Cancel the call and close the connection."""
        self._stream.cancel()
        self._flush()
        self._connection.close()

    def _take(self, data: bytes, counts: list[int]) -> None:
        window, flight = self._window, self._flight
        try:
            for message in self._acks.feed(data):
                if window.acknowledge(flight, acknowledged_id(message)):
                    counts.append(window.settled)  # noqa: PERF401 - counts before an invalid message must be kept
        except ValueError as error:
            self._end(Broken(f"sent an invalid acknowledgement: {error}"))

    def _end(self, event: Ended | Broken) -> None:
        self.is_over, self.ended = True, self.ended or event

    def _flush(self) -> None:
        """Send as much as the engine takes now."""
        while self._is_writable and (data := self._stream.to_send()):
            try:
                sent = self._connection.send(data)
            except OSError:
                # Acknowledgements that the engine sent before it closed the connection can still be read.
                self._is_writable = False
                return
            if not sent:
                return
            self._stream.sent(sent)

    def _wait(self, seconds: float) -> list[Event]:
        self._connection.wait(seconds, writes=self._is_writable and bool(self._stream.to_send()))
        try:
            data = self._connection.receive()
        except OSError as error:
            return self._stream.hung_up(str(error.strerror or error))
        if data is None:
            return []
        return self._stream.receive(data) if data else self._stream.hung_up()


def acknowledged_id(message: bytes) -> bytes:
    """The id in a `plugins.Ack`, empty if it has none; ValueError if the message is not a `plugins.Ack`."""
    if len(message) > 1 and message[0] == 0x0A and message[1] == len(message) - 2 < 0x80:
        return message[2:]
    # A long id, unknown fields, or an invalid message. This is rare, so importing all of protobuf is acceptable.
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    from lib.utmstack.pb import plugins_pb2  # noqa: PLC0415

    try:
        return plugins_pb2.Ack.FromString(message).lastId.encode()
    except DecodeError as error:
        raise ValueError(str(error)) from None
