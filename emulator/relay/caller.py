"""A caller's connection: HTTP/2 over TLS. It serves two methods and refuses everything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, cast

import h2.errors
import h2.events
import h2.exceptions
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hyperframe.frame import DataFrame, GoAwayFrame

from emulator.relay.bounds import Gate
from emulator.relay.frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    Frame,
    Frames,
    ReceiveWindow,
    unpadded,
)
from emulator.relay.http2 import INPUT, Http2Connection, ending
from emulator.relay.messages import PREFIX, MessageBuffer
from emulator.relay.stream import STREAM_WINDOW, RelayedStream
from lib.grpc_stream import Headers, Status
from lib.grpc_stream.frames import WINDOW_UPDATE, data_header, open_window, window_update

if TYPE_CHECKING:
    from asyncio.sslproto import _SSLProtocolTransport

log = logging.getLogger(__name__)

HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""`HealthCheckResponse` with status 1 and 2 (grpc/health/v1/health.proto)."""
HEALTH_OF = (b"", b"\x0a\x0eplugins.Engine")
"""`HealthCheckRequest` for the whole server, and for `plugins.Engine`."""
MAX_HEALTH_BYTES = 64
MOST_STREAMS = 1024
"""The hard limit of a connection's open streams. A caller learns the real limit only after it has begun to send."""
STRANGE_REQUESTS, STRANGE_PER_SECOND = 100.0, 10.0
"""Useless requests that a connection may send at once, and a second over time."""
AT_ONCE_BYTES = 64 << 10
"""Bytes of one connection that are processed before other connections have their turn."""
REST_SECONDS = 0.005
"""Nothing more is read for so long after a turn with fewer bytes, while a stream has more than one message under way.

What comes meanwhile is passed on together. A turn costs as much as several messages, and some callers send each message
by itself.
"""
MAX_HEADER_BYTES = 16 << 10
STRANGERS_FRAMES, STRANGERS_PER_SECOND = 200.0, 20.0
"""Frames without a message that a connection may send at once, and a second, before its first accepted stream.

A request counts as two.
"""
KNOWN_FRAMES, KNOWN_PER_SECOND = 2000.0, 200.0
"""The same limits after its first accepted stream."""
FRAMES_PER_MESSAGE = 8.0
"""Further frames that each message allows: window updates, pings, a message in parts."""
FRAME_BYTES = 256
"""A longer frame counts as several, because the work for settings grows with their length."""
FULL_BYTES = 1024
"""A frame of data of at least this size does not count on an accepted stream."""
_ENCODINGS = (None, b"identity", b"gzip", b"deflate")
_BEGINNING = ((b":status", b"200"), (b"content-type", b"application/grpc"))


class Caller(Http2Connection):
    """A caller's connection, with all its streams."""

    def __init__(self, gate: Gate, came: Callable[[Caller], None], went: Callable[[Caller], None]) -> None:
        """`came` and `went` are called when the connection is made and lost."""
        super().__init__()
        # Headers are read but never passed on. So invalid ones need not end the connection.
        configuration = H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        self.h2 = H2Connection(configuration)
        self.gate = gate
        self._came = came
        self._went = went
        self.streams: dict[int, RelayedStream | _HealthCheck] = {}
        self.made = self.data_at = self.used = time.monotonic()
        """Monotonic times: of the connection, of the last data, of the last stream's acceptance or end."""
        self.pinged: float | None = None
        """The time of a ping without an answer yet."""
        self.is_known = gate.needs_no_token
        """Whether the caller is authenticated."""
        self.address = ""
        """The caller's IP address."""
        self._is_leaving = self._is_resting = self._is_trickling = False
        self._unread = bytearray()
        self._frames = Frames()
        self._window = ReceiveWindow(STREAM_WINDOW)
        """The connection's: it is opened as often as a stream's, though it has room for all of them."""
        self._outgoing = bytearray()
        self._strange, self._idle = _Bucket(), _Bucket()

    @property
    def has_stream(self) -> bool:
        """Whether an accepted stream is open."""
        return any(stream in self.gate.streams for stream in self.streams.values())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start HTTP/2 after the TLS handshake."""
        super().connection_made(transport)
        self._tls = cast("_SSLProtocolTransport", transport)
        # HTTP/2 over TLS must be negotiated by ALPN (RFC 9113, 3.2).
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self.transport.abort()
            return
        self.address = str(transport.get_extra_info("peername")[0])
        most = self.gate.bounds.streams_per_connection
        # A caller that has not read the settings yet may open more streams. They are refused one by one; ending the
        # connection would end the good ones too.
        settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS})
        self.h2.local_settings = settings
        self.h2.decoder.max_header_list_size = MAX_HEADER_BYTES
        self.h2.initiate_connection()
        self.h2.receive_data(PREFACE)  # `Frames` checks that the caller sends it.
        self.h2.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: most,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            }
        )
        # The connection's window allows all streams to be full, so that one stream cannot block the others.
        self.h2.increment_flow_control_window(STREAM_WINDOW * most)
        self.flush()
        self._came(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Abandon all streams."""
        self._went(self)
        self._unread.clear()
        self._abandon()

    def pause_writing(self) -> None:
        """The caller does not read; stop reading from it."""
        super().pause_writing()
        self._read_or_not()

    def resume_writing(self) -> None:
        """The caller reads again; continue."""
        super().resume_writing()
        self._read_or_not()
        self._go(self.streams.values())

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        self.data_at, self.pinged = time.monotonic(), None
        is_behind = bool(self._unread)
        self._unread += data
        self._is_trickling = len(data) < AT_ONCE_BYTES
        if not is_behind:
            self._work()

    def _work(self) -> None:
        """Process AT_ONCE_BYTES; the rest follows when other connections have had their turn."""
        data = bytes(self._unread[:AT_ONCE_BYTES])
        del self._unread[:AT_ONCE_BYTES]
        try:
            self._look_at(data)
        except h2.exceptions.ProtocolError as error:
            log.info("closed a caller's connection: %s", error)
            self.flush()
            self._unread.clear()
            self._abandon()
            self.transport.close()
        if self._unread:
            asyncio.get_running_loop().call_soon(self._work)
        elif self._is_trickling and any(
            isinstance(stream, RelayedStream) and stream.is_busy for stream in self.streams.values()
        ):
            self._is_resting = True
            asyncio.get_running_loop().call_later(REST_SECONDS, self._go_on)
        self._read_or_not()

    def _go_on(self) -> None:
        self._is_resting = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        # A caller that does not read must not be read from: answers to its pings alone could fill the memory.
        # The limits: without them asyncio reads on from the socket, and each TLS record of a caller wakes the relay.
        with suppress(AttributeError):  # From asyncio, which has no socket any more when a connection is lost.
            if self.is_writable and not self._unread and not self._is_resting:
                self._tls.set_read_buffer_limits()
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()
                self._tls.set_read_buffer_limits(high=1, low=0)

    def _look_at(self, data: bytes) -> None:
        touched: dict[int, RelayedStream | _HealthCheck] = {}
        says_farewell = False
        for frame in self._frames.add(data):
            stream = self.streams.get(frame.stream) if frame.kind == DATA else None
            whole = frame.whole
            if isinstance(stream, RelayedStream) and not stream.has_ended and not self._frames.is_in_headers:
                touched[frame.stream] = stream
                self._take_data(frame, stream)
                if not frame.flags & END_STREAM:
                    continue
                whole = DataFrame(frame.stream, flags=["END_STREAM"]).serialize()
            else:
                self._count(frame)
            if frame.kind == GOAWAY:
                # For h2 the connection would end here. In HTTP/2 open streams continue (RFC 9113, 6.8).
                says_farewell = True
            elif not self._frames.is_in_headers and self._opens(frame):
                touched |= self._waiting_for(frame.stream)
            else:
                for event in self.h2.receive_data(whole):
                    self._take(event, touched)
        self._go(touched.values())
        if says_farewell:
            # The caller has said that it opens no more streams. It needs no GOAWAY in return.
            self._is_leaving = True
            self.leave()

    def _opens(self, frame: Frame) -> bool:
        """Whether it is a valid WINDOW_UPDATE; then it is taken."""
        return frame.kind == WINDOW_UPDATE and open_window(self.h2, frame.stream, frame.whole)

    def _waiting_for(self, number: int) -> dict[int, RelayedStream | _HealthCheck]:
        """The streams whose window is opened with that of this number; 0 is the connection's."""
        return {key: stream for key, stream in self.streams.items() if number in (0, key)}

    def _count(self, frame: Frame) -> None:
        """Count a frame; ProtocolError if too many carry no message."""
        if frame.kind == HEADERS:
            self._bear(2.0)
        elif frame.kind != DATA:
            self._bear(1.0 + len(frame.whole) / FRAME_BYTES)
        elif len(frame.whole) < FULL_BYTES or frame.stream not in self.streams:
            self._bear(1.0)

    def _bear(self, cost: float) -> None:
        most, a_second = (KNOWN_FRAMES, KNOWN_PER_SECOND) if self.is_known else (STRANGERS_FRAMES, STRANGERS_PER_SECOND)
        if self._idle.add(cost, a_second) > most:
            self._break_off(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _break_off(self, code: h2.errors.ErrorCodes, why: str) -> NoReturn:
        self.h2.close_connection(code)
        raise h2.exceptions.ProtocolError(why)

    def _take_data(self, frame: Frame, stream: RelayedStream) -> None:
        """Data of a stream that is let in; ProtocolError where it may not come."""
        body = frame.body
        data = unpadded(body) if frame.flags & PADDED else body
        if data is None:
            self._break_off(h2.errors.ErrorCodes.PROTOCOL_ERROR, "a frame of padding alone")
        if not stream.window.came(len(body)):
            self._break_off(h2.errors.ErrorCodes.FLOW_CONTROL_ERROR, "more data than the window allows")
        if messages := stream.came(data):
            self._idle.take(messages * FRAMES_PER_MESSAGE)
        elif len(body) < FULL_BYTES:
            self._bear(1.0)
        if data is not body:
            self.passed(len(body) - len(data), frame.stream)

    def passed(self, size: int, number: int) -> None:
        """So many bytes of what came on the stream have gone on, or go no farther: the caller may send as many more."""
        stream = self.streams.get(number)
        if isinstance(stream, RelayedStream) and not stream.has_ended and (opened := stream.window.passed(size)):
            self._outgoing += window_update(number, opened)
        if opened := self._window.passed(size):
            self._outgoing += window_update(0, opened)

    def _take(self, event: h2.events.Event, touched: dict[int, RelayedStream | _HealthCheck]) -> None:
        match event:
            case h2.events.DataReceived(stream_id=number, data=data, flow_controlled_length=length):
                stream = self.streams.get(number)
                if isinstance(stream, _HealthCheck):
                    stream.came(data)
                    touched[number] = stream
                if length:
                    self.h2.acknowledge_received_data(length, number)
            case h2.events.RequestReceived(stream_id=number, headers=headers):
                self._request(number, dict(headers))
            case h2.events.StreamEnded(stream_id=number) if number in self.streams:
                touched[number] = self.streams[number]
                touched[number].has_ended = True
            case h2.events.StreamReset(stream_id=number) if number in self.streams:
                touched.pop(number, None)
                self.streams.pop(number).abandon()
                self._count_strange()
            case h2.events.RemoteSettingsChanged():
                touched |= self.streams  # They can open every stream's window.

    def flush(self) -> None:
        """Send all that is prepared."""
        self._outgoing += self.h2.data_to_send()
        if self._outgoing:
            data, self._outgoing = self._outgoing, bytearray()
            self.transport.write(data)

    def send(self, buffer: MessageBuffer, number: int) -> None:
        """Prepare as many bytes as the caller's windows allow."""
        while self.is_writable and buffer.ready:
            room = min(buffer.ready, self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                return
            self._outgoing += self.h2.data_to_send()  # The headers of the stream come first.
            self._outgoing += data_header(self.h2, number, room) + buffer.take(room)

    def _go(self, streams: Iterable[RelayedStream | _HealthCheck]) -> None:
        for stream in list(streams):
            stream.go()
        self.flush()

    def _request(self, number: int, headers: dict[bytes, bytes]) -> None:
        path = headers.get(b":path", b"").decode("ascii", "replace")
        is_grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
        if self._is_leaving or not is_grpc or headers.get(b":method") != b"POST":
            self._count_strange()
            with suppress(h2.exceptions.ProtocolError):
                # Tells the caller that nothing was processed: it may send the request again (RFC 9113, 8.7).
                self.h2.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif path == HEALTH:
            self._count_strange()
            self.streams[number] = _HealthCheck(self, number)
        elif path != INPUT:
            self._count_strange()
            self._refuse(number, Status.UNIMPLEMENTED, f"the relay serves only {INPUT}")
        elif not self.gate.accepts(headers.get(b"authorization", b"").decode("utf-8", "replace")):
            self._count_strange()
            text = (
                "the relay does not accept this token: send `authorization: Bearer TOKEN` with a token of relay.tokens"
            )
            self._refuse(number, Status.UNAUTHENTICATED, text)
        elif headers.get(b"grpc-encoding") not in _ENCODINGS:
            self._refuse(number, Status.UNIMPLEMENTED, "the relay supports only gzip, deflate and identity")
        elif len(self.gate.streams) >= self.gate.bounds.streams:
            text = f"all {self.gate.bounds.streams} streams of the relay are in use: try again later"
            self._refuse(number, Status.RESOURCE_EXHAUSTED, text)
        else:
            self.used, self.is_known = time.monotonic(), True
            self.streams[number] = RelayedStream(self, number, headers.get(b"grpc-encoding"))

    def _count_strange(self) -> None:
        """Count a useless request; ProtocolError if there are too many."""
        if self._strange.add(1.0, STRANGE_PER_SECOND) > STRANGE_REQUESTS:
            self._break_off(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, "too many useless requests")

    def _refuse(self, number: int, code: Status, text: str) -> None:
        self.gate.ended[code.name] += 1
        self.trailers(number, ending(code, text))

    def trailers(self, number: int, trailers: Headers, *, has_begun: bool = False, has_ended: bool = False) -> None:
        """End a stream. `has_begun`: its headers were sent. `has_ended`: the caller has ended its direction."""
        if self.streams.pop(number, None) is not None:
            self.used = time.monotonic()
        # The caller may have reset the stream in the meantime.
        with suppress(h2.exceptions.ProtocolError):
            head = () if has_begun else _BEGINNING
            self.h2.send_headers(number, [*head, *trailers], end_stream=True)
            if not has_ended:
                # The caller need not send the rest (RFC 9113, 8.1).
                self.h2.reset_stream(number, h2.errors.ErrorCodes.NO_ERROR)

    def leave(self) -> None:
        """Accept no new streams, and close the connection when the open streams have ended."""
        if self.transport.is_closing():
            return
        if not self._is_leaving:
            self._is_leaving = True
            # h2's own GOAWAY would end everything at once.
            goaway = GoAwayFrame(0, last_stream_id=self.h2.highest_inbound_stream_id)
            self.transport.write(goaway.serialize())
        if not any(isinstance(stream, RelayedStream) for stream in self.streams.values()):
            self.transport.close()

    def ping(self) -> None:
        """Send a ping to learn if the caller is still there."""
        if not self.transport.is_closing():
            self.pinged = time.monotonic()
            self.h2.ping(bytes(8))
            self.flush()

    def _abandon(self) -> None:
        for stream in list(self.streams.values()):
            stream.abandon()
        self.streams.clear()


class _Bucket:
    """A leaky bucket: it drains at a given rate a second."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at = time.monotonic()

    def add(self, amount: float, a_second: float) -> float:
        """Add the amount; return the level."""
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._at) * a_second) + amount
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Remove the amount."""
        self._level = max(0.0, self._level - amount)


class _HealthCheck:
    """`grpc.health.v1.Health/Check`: whether the engine's socket accepts connections."""

    def __init__(self, caller: Caller, number: int) -> None:
        self._caller = caller
        self._number = number
        self._request = b""
        self.has_ended = False
        """Whether the request is complete."""
        self._answering: asyncio.Task[None] | None = None

    def came(self, data: bytes) -> None:
        """Take a part of the request. The rest of a request that is too long is dropped; it matches no service."""
        self._request += data[: MAX_HEALTH_BYTES - len(self._request)]

    def abandon(self) -> None:
        """Cancel the answer: the caller has gone."""
        if self._answering is not None:
            self._answering.cancel()

    def go(self) -> None:
        """Answer once the request is complete."""
        if self.has_ended and self._answering is None:
            self._answering = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        answer = NOT_SERVING if await self._caller.gate.engine_problem() else SERVING
        framed = bytes(1) + len(answer).to_bytes(PREFIX - 1, "big") + answer
        has_room = self._caller.h2.local_flow_control_window(self._number) >= len(framed)
        if self._request[PREFIX:] not in HEALTH_OF:
            trailers, has_begun = ending(Status.NOT_FOUND, "the relay serves only plugins.Engine"), False
        elif not has_room:
            trailers, has_begun = ending(Status.RESOURCE_EXHAUSTED, "the window has no room for an answer"), False
        else:
            self._caller.h2.send_headers(self._number, _BEGINNING)
            self._caller.h2.send_data(self._number, framed)
            trailers, has_begun = ending(Status.OK, ""), True
        self._caller.trailers(self._number, trailers, has_begun=has_begun, has_ended=True)
        self._caller.flush()
