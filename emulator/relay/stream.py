"""A caller's stream, and the connection to the engine that it has for itself: none waits for another's engine end.

Bytes of messages pass from one to the other as they are, in both directions.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import h2.errors
import h2.events
import h2.exceptions
from grpc import StatusCode

from emulator.relay.http2 import INPUT, Connection, Headers, ending
from emulator.relay.messages import PREFIX, Way
from lib.model.log import MAX_LOG_BYTES

if TYPE_CHECKING:
    from emulator.relay.caller import Caller

_TO_ENGINE = 1
"""The number of the one stream of a connection to the engine."""


class Stream:
    """A caller's stream, and the way to the engine and back."""

    def __init__(self, caller: Caller, number: int, encoding: bytes | None) -> None:
        """`encoding`: how the caller's messages are compressed, where they are."""
        self._caller = caller
        self._gate = caller.gate
        self._number = number
        self._encoding = encoding
        self._forth, self._back = Way(), Way()
        self.has_ended = False
        """Whether the caller has ended it."""
        self.in_flight = 0
        """Bytes that the engine has not acknowledged."""
        self.moved = time.monotonic()
        """When something was passed last."""
        self._sizes: deque[int] = deque()
        self._slot: float | None = None
        self._engine: _ToEngine | None = None
        self._has_begun = False
        self._is_over = False
        self._trailers: Headers | None = None
        """Its end, which waits for the acknowledgements before it."""
        self._gate.streams.add(self)
        self._connecting = asyncio.create_task(self._connect())

    # What comes from the caller

    def came(self, data: bytes) -> None:
        """Messages, or parts of them."""
        if self._is_over:
            self._caller.h2.acknowledge_received_data(len(data), self._number)
        else:
            self._forth.add(data)

    def abandon(self) -> None:
        """The caller has gone."""
        self._close("CANCELLED")

    def go(self) -> None:
        """Pass on what may go, in both directions; the caller's connection is flushed by whoever calls this."""
        if not self._is_over:
            self._go_forth()
        self._go_back()

    # What comes from the engine

    def resume(self) -> None:
        """It has sent something, or can take more."""
        self.go()
        self._caller.flush()

    def engine_made(self, engine: _ToEngine) -> None:
        """It is there."""
        if self._is_over:
            engine.leave()
        else:
            self._engine = engine
            self.resume()

    def engine_answered(self, headers: Headers) -> None:
        """Its headers, which go on as they are."""
        if not self._is_over:
            self._has_begun = True
            self._caller.h2.send_headers(self._number, headers)

    def engine_acknowledged(self, data: bytes) -> None:
        """Acknowledgements, or parts of them."""
        self._back.add(data)
        while self._back.held:
            self._back.release()

    def engine_ended(self, trailers: Headers) -> None:
        """Its status, which goes on with who it is from."""
        number = dict(trailers).get(b"grpc-status")
        if number is None:
            self.end(StatusCode.UNAVAILABLE, "the engine ended the stream without a status")
            return
        name = next((each.name for each in StatusCode if b"%d" % each.value[0] == number), "UNKNOWN")
        told = b"the engine ended the stream: "
        self._finish(
            name,
            [
                (key, told + value if key == b"grpc-message" else value)
                for key, value in trailers
                if not key.startswith(b":") and key != b"content-type"
            ],
        )

    def engine_went(self, reason: str) -> None:
        """It has gone without a status."""
        self._engine = None
        if not self._is_over:
            self._connecting = asyncio.create_task(self._explain(reason))

    def end(self, code: StatusCode, text: str) -> None:
        """End it with a status of the relay's own."""
        self._finish(code.name, ending(code, text))

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(
                lambda: _ToEngine(self, self._encoding), self._gate.socket
            )
        except OSError as error:
            await self._explain(str(error))

    async def _explain(self, reason: str) -> None:
        problem = await self._gate.engine_problem()
        self.end(StatusCode.UNAVAILABLE, problem or f"the engine ended the stream: {reason}")

    def _go_forth(self) -> None:
        now = time.monotonic()
        held = self._forth.held
        while held and self.in_flight < self._gate.bounds.share and self._may_pass(now):
            size = held[0]
            if size > MAX_LOG_BYTES:
                text = f"the relay passes no message larger than max ({size} vs. {MAX_LOG_BYTES})"
                self.end(StatusCode.RESOURCE_EXHAUSTED, text)
                return
            self._forth.release()
            self._sizes.append(PREFIX + size)
            self.in_flight += PREFIX + size
            self.moved = now
            self._gate.counts["messages"] += 1
            self._gate.counts["bytes"] += size
        if self.has_ended and not held and self._forth.waiting and not self._forth.ready:
            self.end(StatusCode.INTERNAL, "the stream ended within a message")
        elif self._engine is not None:
            if sent := self._engine.send(self._forth, _TO_ENGINE):
                self._caller.h2.acknowledge_received_data(sent, self._number)
            if self.has_ended and not self._forth.waiting:
                self._engine.end()
            self._engine.flush()

    def _may_pass(self, now: float) -> bool:
        """Whether the rate lets one more message pass now; where it does not, this goes on by itself."""
        if self._slot is None:
            self._slot = self._gate.slot()
            if self._slot > now:
                asyncio.get_running_loop().call_at(self._slot, self._go_on)
        if self._slot > now:
            return False
        self._slot = None
        return True

    def _go_on(self) -> None:
        # Not the clock's word: a timer may be early by a tick of it.
        self._slot = 0.0
        self.resume()

    def _go_back(self) -> None:
        if self._caller.streams.get(self._number) is not self:
            return
        sent = self._caller.send(self._back, self._number)
        if sent and self._engine is not None:
            self._engine.h2.acknowledge_received_data(sent, _TO_ENGINE)
            self._engine.flush()
        if acks := self._back.finished():
            self._acknowledged(acks)
        trailers = self._trailers
        if trailers is not None and not self._back.waiting:
            self._trailers = None
            self._caller.trailers(self._number, trailers, has_begun=self._has_begun, has_ended=self.has_ended)

    def _acknowledged(self, acks: int) -> None:
        was_full = self.in_flight >= self._gate.bounds.share
        # The engine sends one a message; which one it names is the caller's business.
        for _ in range(min(acks, len(self._sizes))):
            self.in_flight -= self._sizes.popleft()
        self.moved = time.monotonic()
        self._gate.counts["acks"] += acks
        if was_full and not self._is_over:
            self._go_forth()

    def _finish(self, status: str, trailers: Headers) -> None:
        if self._is_over:
            return
        self._close(status)
        if self._back.close():
            self._trailers = trailers
            self._go_back()
        else:
            # The rest of an acknowledgement will never come.
            self._caller.streams.pop(self._number)
            self._caller.h2.reset_stream(self._number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        self._caller.flush()

    def _close(self, status: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._connecting.cancel()
        self._gate.streams.discard(self)
        self._gate.ended[status] += 1
        if self._engine is not None:
            self._engine.leave()
            self._engine = None
        # What goes no farther makes room on the connection.
        self._caller.h2.acknowledge_received_data(self._forth.waiting, self._number)


class _ToEngine(Connection):
    """A stream's connection to the engine's socket."""

    def __init__(self, stream: Stream, encoding: bytes | None) -> None:
        super().__init__(is_client=True)
        self._stream = stream
        self._encoding = encoding
        self._has_ended = False
        self._is_leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the one stream."""
        super().connection_made(transport)
        self.h2.initiate_connection()
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", INPUT.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        if self._encoding is not None:
            headers.append((b"grpc-encoding", self._encoding))
        self.h2.send_headers(_TO_ENGINE, headers)
        self.flush()
        self._stream.engine_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine hung up, or this did."""
        self._went(str(exc or "it hung up"))

    def resume_writing(self) -> None:
        """The engine takes more."""
        super().resume_writing()
        self._stream.resume()

    def data_received(self, data: bytes) -> None:
        """Any part of anything."""
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._went(f"it speaks no HTTP/2: {error}")
            return
        for event in events:
            self._take(event)
        if not self._is_leaving:
            self._stream.resume()
            self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived(data=data, flow_controlled_length=length):
                self._stream.engine_acknowledged(data)
                if padding := length - len(data):
                    self.h2.acknowledge_received_data(padding, _TO_ENGINE)
            case h2.events.ResponseReceived(headers=headers, stream_ended=None):
                self._stream.engine_answered(headers)
            case h2.events.ResponseReceived(headers=headers) | h2.events.TrailersReceived(headers=headers):
                self._stream.engine_ended(headers)
            case h2.events.StreamEnded():
                self._went("without a status")
            case h2.events.StreamReset(error_code=code):
                self._went(f"it reset the stream with error code {code}")
            case h2.events.ConnectionTerminated():
                self._went("it is about to end")

    def end(self) -> None:
        """The caller has ended its stream."""
        if not self._has_ended:
            self._has_ended = True
            self.h2.end_stream(_TO_ENGINE)

    def leave(self) -> None:
        """Nothing of this matters any more."""
        self._is_leaving = True
        self.transport.abort()

    def _went(self, reason: str) -> None:
        if not self._is_leaving:
            self.leave()
            self._stream.engine_went(reason)
