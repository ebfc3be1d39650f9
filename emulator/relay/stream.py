"""A caller's stream with its own connection to the engine, so that no stream waits for another.

The bytes of messages pass unchanged in both directions.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import h2.errors

from emulator.relay.frames import ReceiveWindow
from emulator.relay.http2 import INPUT, Http2Connection, ending
from emulator.relay.messages import PREFIX, MessageBuffer
from lib.grpc_stream import Answered, Broken, ClientStream, Data, Ended, Event, Headers, Status
from lib.model.log import MAX_LOG_BYTES

if TYPE_CHECKING:
    from emulator.relay.caller import Caller

STREAM_WINDOW = 256 << 10
"""What a caller may send on a stream ahead of what has been passed on, in bytes."""
BACKLOG_BYTES = 64 << 10
"""Bytes that may wait in one direction before reading from the other end pauses."""


class RelayedStream:
    """A caller's stream, in both directions."""

    def __init__(self, caller: Caller, number: int, encoding: bytes | None) -> None:
        """`encoding` is the compression of the caller's messages, or None."""
        self._caller = caller
        self._gate = caller.gate
        self._number = number
        self._encoding = encoding
        self._forth, self._back = MessageBuffer(), MessageBuffer()
        self.window = ReceiveWindow(STREAM_WINDOW)
        self.has_ended = False
        """Whether the caller has ended its direction."""
        self.in_flight = 0
        """Unacknowledged bytes."""
        self.moved = time.monotonic()
        """The monotonic time at which the last message or acknowledgement passed."""
        self._sizes: deque[int] = deque()
        self._slot: float | None = None
        self._engine: _ToEngine | None = None
        self._has_begun = False
        self._is_over = False
        self._trailers: Headers | None = None
        """The trailers that wait until all acknowledgements before them are sent."""
        self._gate.streams.add(self)
        self._connecting = asyncio.create_task(self._connect())

    @property
    def is_busy(self) -> bool:
        """Whether more than one message is under way: its caller does not wait for each acknowledgement."""
        return len(self._sizes) > 1

    # From the caller

    def came(self, data: bytes) -> int:
        """Take bytes of messages; the number of messages that begin in them."""
        if self._is_over:
            self._caller.passed(len(data), self._number)
            return 0
        before = len(self._forth.held)
        self._forth.add(data)
        return len(self._forth.held) - before

    def abandon(self) -> None:
        """Close the stream: the caller has gone."""
        self._close("CANCELLED")

    def go(self) -> None:
        """Pass on what may go, in both directions. This does not flush the caller's connection."""
        if not self._is_over:
            self._go_forth()
        self._go_back()

    # From the engine

    def resume(self) -> None:
        """Continue: the engine has sent data, or has room again."""
        self.go()
        self._caller.flush()

    def engine_made(self, engine: _ToEngine) -> None:
        """Use the connection, which is now open."""
        if self._is_over:
            engine.leave()
        else:
            self._engine = engine
            self.resume()

    def engine_answered(self, headers: Headers) -> None:
        """Pass the engine's headers on unchanged."""
        if not self._is_over:
            self._has_begun = True
            self._caller.h2.send_headers(self._number, headers)

    def engine_acknowledged(self, data: bytes) -> None:
        """Take bytes of acknowledgements; they need no release."""
        self._back.add(data)
        while self._back.held:
            self._back.release()

    def engine_ended(self, end: Ended) -> None:
        """Pass the engine's status on; its message says that it comes from the engine."""
        prefix = b"the engine ended the stream: "
        if not end.trailers:
            self.end(end.status, f"{prefix.decode()}{end.message}")
            return
        self._finish(
            end.status.name,
            [
                (key, prefix + value if key == b"grpc-message" else value)
                for key, value in end.trailers
                # The status OK has no message.
                if not key.startswith(b":") and key != b"content-type" and (end.status or key != b"grpc-message")
            ],
        )

    def engine_went(self, reason: str) -> None:
        """Find out why the engine's connection ended without a status, and end the stream."""
        self._engine = None
        if not self._is_over:
            self._connecting = asyncio.create_task(self._explain(reason))

    def end(self, code: Status, text: str) -> None:
        """End the stream with a status of the relay's own."""
        self._finish(code.name, ending(code, text))

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(
                lambda: _ToEngine(self, self._encoding), self._gate.socket
            )
        except OSError as error:
            await self._explain(str(error))

    # A new connection shows whether the engine is down or only ended this stream. Callers need different remedies.
    async def _explain(self, reason: str) -> None:
        problem = await self._gate.engine_problem()
        self.end(Status.UNAVAILABLE, problem or f"the engine ended the stream: {reason}")

    def _go_forth(self) -> None:
        now = time.monotonic()
        held = self._forth.held
        share, is_unbound = self._gate.bounds.share, self._gate.bounds.rate is None
        while held and self.in_flight < share and (is_unbound or self._may_pass(now)):
            size = held[0]
            if size > MAX_LOG_BYTES:
                text = f"the message is larger than max ({size} vs. {MAX_LOG_BYTES})"
                self.end(Status.RESOURCE_EXHAUSTED, text)
                return
            self._forth.release()
            self._sizes.append(PREFIX + size)
            self.in_flight += PREFIX + size
            self.moved = now
            self._gate.counts["messages"] += 1
            self._gate.counts["bytes"] += size
        if self.has_ended and not held and self._forth.waiting and not self._forth.ready:
            self.end(Status.INTERNAL, "the stream ended within a message")
        elif self._engine is not None:
            # Send until the engine's connection is full; `resume` is called when it has room again.
            while sent := self._engine.send(self._forth):
                self._caller.passed(sent, self._number)
                self._engine.flush()
            if self.has_ended and not self._forth.waiting:
                self._engine.end()
            self._engine.flush()

    def _may_pass(self, now: float) -> bool:
        """Whether the rate limit lets one more message pass now. If not, a timer continues later."""
        if self._slot is None:
            self._slot = self._gate.slot()
            if self._slot > now:
                asyncio.get_running_loop().call_at(self._slot, self._go_on)
        if self._slot > now:
            return False
        self._slot = None
        return True

    def _go_on(self) -> None:
        # The clock is not read again here: a timer may fire a little early.
        self._slot = 0.0
        self.resume()

    def _go_back(self) -> None:
        if self._caller.streams.get(self._number) is not self:
            return  # It was ended or reset, and h2 accepts nothing more for it.
        self._caller.send(self._back, self._number)
        if self._engine is not None:
            self._engine.read_or_not(is_full=self._back.waiting >= BACKLOG_BYTES)
        if acks := self._back.finished():
            self._acknowledged(acks)
        trailers = self._trailers
        if trailers is not None and not self._back.waiting:
            self._trailers = None
            self._caller.trailers(self._number, trailers, has_begun=self._has_begun, has_ended=self.has_ended)

    def _acknowledged(self, acks: int) -> None:
        was_full = self.in_flight >= self._gate.bounds.share
        # The engine sends one acknowledgement for each message. Only the caller has to know which one it names.
        for _ in range(min(acks, len(self._sizes))):
            self.in_flight -= self._sizes.popleft()
        self.moved = time.monotonic()
        self._gate.counts["acks"] += acks
        if was_full and not self._is_over:  # Otherwise nothing waits for the room.
            self._go_forth()

    def _finish(self, status: str, trailers: Headers) -> None:
        if self._is_over:
            return
        self._close(status)
        if self._back.close():
            self._trailers = trailers
            self._go_back()
        else:
            # An acknowledgement was passed on in part, and its rest will never come.
            self._caller.streams.pop(self._number)
            self._caller.h2.reset_stream(self._number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        self._caller.flush()

    def _close(self, status: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        # The place is free before the caller has read everything: a slow reader must not keep others out.
        self._connecting.cancel()
        self._gate.streams.discard(self)
        self._gate.ended[status] += 1
        if self._engine is not None:
            self._engine.leave()
            self._engine = None
        # Bytes that are not passed on must not occupy the connection's window.
        self._caller.passed(self._forth.waiting, self._number)


class _ToEngine(Http2Connection):
    """A stream's connection to the engine's socket."""

    def __init__(self, stream: RelayedStream, encoding: bytes | None) -> None:
        super().__init__()
        self._stream = stream
        metadata: Headers = () if encoding is None else ((b"grpc-encoding", encoding),)
        self._call = ClientStream(INPUT, authority="localhost", metadata=metadata)
        self._is_leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the HTTP/2 call."""
        super().connection_made(transport)
        self.flush()
        self._stream.engine_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection, unless this side closed it."""
        if not self._is_leaving:
            self._take(self._call.hung_up(str(exc or "")))

    def resume_writing(self) -> None:
        """Continue: the engine's connection has room again."""
        super().resume_writing()
        self._stream.resume()

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        self._take(self._call.receive(data))
        if not self._is_leaving:
            self._stream.resume()
            self.flush()

    def send(self, buffer: MessageBuffer) -> int:
        """Pass on as many bytes as there is room for; return their number."""
        sent = 0
        if self._call.is_open and self.is_writable:
            sent = min(buffer.ready, max(0, BACKLOG_BYTES - self._call.backlog))
            self._call.send(buffer.take(sent))
        return sent

    def flush(self) -> None:
        """Write prepared frames while the connection has room."""
        while self.is_writable and (data := self._call.to_send()):
            self.transport.write(bytes(data))
            self._call.sent(len(data))

    def read_or_not(self, *, is_full: bool) -> None:
        """Pause or resume reading from the engine; pause while the caller has too much to read."""
        if is_full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def end(self) -> None:
        """End this direction: the caller has ended its stream."""
        self._call.end()

    def leave(self) -> None:
        """Close the connection and ignore everything that still comes."""
        self._is_leaving = True
        self.transport.abort()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Data(data):
                    self._stream.engine_acknowledged(data)
                case Answered(headers):
                    self._stream.engine_answered(headers)
                case Ended():
                    self._stream.engine_ended(event)
                case Broken(reason):
                    self.leave()
                    self._stream.engine_went(f"it {reason}")
