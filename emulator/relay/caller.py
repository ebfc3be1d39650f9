"""A caller's connection: HTTP/2 over TLS, the two methods that there are, and the refusal of everything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import h2.errors
import h2.events
import h2.exceptions
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from emulator.relay.bounds import Gate
from emulator.relay.frames import DATA, GOAWAY, HEADERS, PREFACE, Frame, Frames
from emulator.relay.http2 import INPUT, Connection, ending
from emulator.relay.messages import PREFIX, Way
from emulator.relay.stream import Stream
from lib.grpc_stream import Headers, Status

log = logging.getLogger(__name__)

HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""`HealthCheckResponse` with status 1 and 2 (grpc/health/v1/health.proto)."""
HEALTH_OF = (b"", b"\x0a\x0eplugins.Engine")
"""`HealthCheckRequest` for the whole server, and for the one service."""
MAX_HEALTH_BYTES = 64
MOST_STREAMS = 1024
"""Open ones of a connection at any time; how many it may have it reads only after it has begun."""
STRANGE_REQUESTS, STRANGE_PER_SECOND = 100.0, 10.0
"""How many requests that come to nothing a connection may make at once, and how many a second on the whole."""
AT_ONCE_BYTES = 16 << 10
"""How much is looked at before others have their turn."""
STREAM_WINDOW = 256 << 10
"""What a caller may send on a stream ahead of what has been passed on, in bytes."""
MAX_HEADER_BYTES = 16 << 10
STRANGERS_FRAMES, STRANGERS_PER_SECOND = 200.0, 20.0
"""How many frames that bring no message a connection may send at once, and a second, before a stream is let in,
two for a request,"""
KNOWN_FRAMES, KNOWN_PER_SECOND = 2000.0, 200.0
"""and after."""
FRAMES_PER_MESSAGE = 8.0
"""How many more it may send for each message that comes: windows, pings, a message in parts."""
FRAME_BYTES = 256
"""A longer one counts for several: settings are work by their length."""
FULL_BYTES = 1024
"""A frame of data from this size on counts for nothing, on a stream that is let in."""
_ENCODINGS = (None, b"identity", b"gzip", b"deflate")
_BEGINNING = ((b":status", b"200"), (b"content-type", b"application/grpc"))


class Caller(Connection):
    """A caller's connection, with all its streams."""

    def __init__(self, gate: Gate, came: Callable[[Caller], None], went: Callable[[Caller], None]) -> None:
        """`came` and `went` are told when it is there, and when no longer."""
        super().__init__()
        # Headers are looked at, never handed on: what is odd about them is no reason to end the connection.
        configuration = H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        self.h2 = H2Connection(configuration)
        self.gate = gate
        self._came = came
        self._went = went
        self.streams: dict[int, Stream | _Health] = {}
        self.made = self.heard = self.used = time.monotonic()
        """When it was made, when something came last, when a stream of it was let in or ended last."""
        self.pinged: float | None = None
        """When it was asked whether it is there, where it has not answered."""
        self.is_known = gate.knows_all
        """Whether it has shown who it is."""
        self.address = ""
        """Where it comes from."""
        self._is_leaving = False
        self._unread = bytearray()
        self._frames = Frames()
        self._strange, self._idle = _Bucket(), _Bucket()

    @property
    def has_stream(self) -> bool:
        """Whether a stream of it was let in and is open."""
        return any(stream in self.gate.streams for stream in self.streams.values())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, once TLS is there."""
        super().connection_made(transport)
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self.transport.abort()
            return
        self.address = str(transport.get_extra_info("peername")[0])
        most = self.gate.bounds.streams_per_connection
        # Until the caller has read the settings it may open more streams: they are refused one by one, not all at once.
        settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS})
        self.h2.local_settings = settings
        self.h2.decoder.max_header_list_size = MAX_HEADER_BYTES
        self.h2.initiate_connection()
        self.h2.receive_data(PREFACE)  # of which `Frames` sees to it that it comes
        self.h2.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: most,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            }
        )
        # What one stream holds takes no room from the others.
        self.h2.increment_flow_control_window(STREAM_WINDOW * most)
        self.flush()
        self._came(self)

    def connection_lost(self, _: Exception | None) -> None:
        """All its streams are over."""
        self._went(self)
        self._abandon()

    def pause_writing(self) -> None:
        """What was sent is not read."""
        super().pause_writing()
        self._read_or_not()

    def resume_writing(self) -> None:
        """It is read again."""
        super().resume_writing()
        self._read_or_not()
        self._go(self.streams.values())

    def data_received(self, data: bytes) -> None:
        """Any part of anything."""
        self.heard, self.pinged = time.monotonic(), None
        is_behind = bool(self._unread)
        self._unread += data
        if not is_behind:
            self._work()

    def _work(self) -> None:
        """Look at some of what has come, and at the rest when others have had their turn."""
        data = bytes(self._unread[:AT_ONCE_BYTES])
        del self._unread[:AT_ONCE_BYTES]
        try:
            self._look_at(data)
        except h2.exceptions.ProtocolError as error:
            log.info("a caller's connection is closed: %s", error)
            self.flush()
            self._unread.clear()
            self._abandon()
            self.transport.close()
        if self._unread:
            asyncio.get_running_loop().call_soon(self._work)
        self._read_or_not()

    def _read_or_not(self) -> None:
        # Who does not read is not read from either: answers to pings alone could fill what waits to be written.
        if self.is_writable and not self._unread:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _look_at(self, data: bytes) -> None:
        touched: dict[int, Stream | _Health] = {}
        says_farewell = False
        for frame in self._frames.add(data):
            self._count(frame)
            if frame.kind == GOAWAY:
                # To h2 it would be the end of everything; streams that are under way go on (RFC 9113, 6.8).
                says_farewell = True
                continue
            for event in self.h2.receive_data(frame.whole):
                self._take(event, touched)
        self._go(touched.values())
        if says_farewell:
            # It knows that it opens no more streams, and is not told.
            self._is_leaving = True
            self.leave()

    def _count(self, frame: Frame) -> None:
        """One more frame; ProtocolError where too many bring nothing that is passed on."""
        size = len(frame.whole)
        if frame.kind == HEADERS:
            cost = 2.0
        elif frame.kind != DATA:
            cost = 1.0 + size / FRAME_BYTES
        elif size < FULL_BYTES or frame.stream not in self.streams:
            cost = 1.0
        else:
            return
        most, a_second = (KNOWN_FRAMES, KNOWN_PER_SECOND) if self.is_known else (STRANGERS_FRAMES, STRANGERS_PER_SECOND)
        if self._idle.add(cost, a_second) > most:
            self.h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            raise h2.exceptions.ProtocolError("too many frames that bring nothing")

    def brought(self, messages: int) -> None:
        """So many messages came on streams that are let in."""
        self._idle.take(messages * FRAMES_PER_MESSAGE)

    def _take(self, event: h2.events.Event, touched: dict[int, Stream | _Health]) -> None:
        match event:
            case h2.events.DataReceived(stream_id=number, data=data, flow_controlled_length=length):
                stream = self.streams.get(number)
                if stream is not None:
                    stream.came(data)
                    touched[number] = stream
                unheld = length if stream is None else length - len(data)
                if unheld:
                    # It came for a stream that was refused, or is padding.
                    self.h2.acknowledge_received_data(unheld, number)
            case h2.events.RequestReceived(stream_id=number, headers=headers):
                self._request(number, dict(headers))
            case h2.events.StreamEnded(stream_id=number) if number in self.streams:
                touched[number] = self.streams[number]
                touched[number].has_ended = True
            case h2.events.StreamReset(stream_id=number) if number in self.streams:
                touched.pop(number, None)
                self.streams.pop(number).abandon()
                self._count_strange()
            case h2.events.WindowUpdated(stream_id=number) if number in self.streams:
                touched[number] = self.streams[number]
            case h2.events.WindowUpdated(stream_id=0) | h2.events.RemoteSettingsChanged():
                touched |= self.streams

    def flush(self) -> None:
        """Send what h2 has made."""
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def send(self, way: Way, number: int) -> None:
        """Pass on what the caller has room for, as far as h2."""
        while self.is_writable and way.ready:
            room = min(way.ready, self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                return
            self.h2.send_data(number, way.take(room))

    def _go(self, streams: Iterable[Stream | _Health]) -> None:
        for stream in list(streams):
            stream.go()
        self.flush()

    def _request(self, number: int, headers: dict[bytes, bytes]) -> None:
        path = headers.get(b":path", b"").decode("ascii", "replace")
        is_grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
        if self._is_leaving or not is_grpc or headers.get(b":method") != b"POST":
            self._count_strange()
            with suppress(h2.exceptions.ProtocolError):
                self.h2.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif path == HEALTH:
            self._count_strange()
            self.streams[number] = _Health(self, number)
        elif path != INPUT:
            self._count_strange()
            self._refuse(number, Status.UNIMPLEMENTED, f"the relay knows {INPUT} alone")
        elif not self.gate.knows(headers.get(b"authorization", b"").decode("utf-8", "replace")):
            self._count_strange()
            text = "the relay knows no such token: send `authorization: Bearer TOKEN`"
            self._refuse(number, Status.UNAUTHENTICATED, text)
        elif headers.get(b"grpc-encoding") not in _ENCODINGS:
            self._refuse(number, Status.UNIMPLEMENTED, "the relay passes gzip, deflate and identity alone")
        elif len(self.gate.streams) >= self.gate.bounds.streams:
            text = f"the relay has its {self.gate.bounds.streams} streams: try again later"
            self._refuse(number, Status.RESOURCE_EXHAUSTED, text)
        else:
            self.used, self.is_known = time.monotonic(), True
            self.streams[number] = Stream(self, number, headers.get(b"grpc-encoding"))

    def _count_strange(self) -> None:
        """One more request that comes to nothing; ProtocolError where there are too many of them."""
        if self._strange.add(1.0, STRANGE_PER_SECOND) > STRANGE_REQUESTS:
            self.h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            raise h2.exceptions.ProtocolError("too many requests that come to nothing")

    def _refuse(self, number: int, code: Status, text: str) -> None:
        self.gate.ended[code.name] += 1
        self.trailers(number, ending(code, text))

    def trailers(self, number: int, trailers: Headers, *, has_begun: bool = False, has_ended: bool = False) -> None:
        """End a stream; whether its headers were sent, and whether the caller has ended it on its side."""
        if self.streams.pop(number, None) is not None:
            self.used = time.monotonic()
        # The caller may have reset it meanwhile.
        with suppress(h2.exceptions.ProtocolError):
            head = () if has_begun else _BEGINNING
            self.h2.send_headers(number, [*head, *trailers], end_stream=True)
            if not has_ended:
                # It need not go on sending (RFC 9113, 8.1).
                self.h2.reset_stream(number, h2.errors.ErrorCodes.NO_ERROR)

    def leave(self) -> None:
        """Let its streams come to their end, and open no new one; once there is none, close it."""
        if self.transport.is_closing():
            return
        if not self._is_leaving:
            self._is_leaving = True
            # h2 itself knows a GOAWAY only that ends everything at once.
            goaway = GoAwayFrame(0, last_stream_id=self.h2.highest_inbound_stream_id)
            self.transport.write(goaway.serialize())
        if not any(isinstance(stream, Stream) for stream in self.streams.values()):
            self.transport.close()

    def ping(self) -> None:
        """Ask whether the caller is there."""
        if not self.transport.is_closing():
            self.pinged = time.monotonic()
            self.h2.ping(bytes(8))
            self.flush()

    def _abandon(self) -> None:
        for stream in list(self.streams.values()):
            stream.abandon()
        self.streams.clear()


class _Bucket:
    """What was counted lately: it runs out at so much a second."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at = time.monotonic()

    def add(self, amount: float, a_second: float) -> float:
        """Count so much; how much there is now."""
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._at) * a_second) + amount
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Count so much less."""
        self._level = max(0.0, self._level - amount)


class _Health:
    """`grpc.health.v1.Health/Check`: whether the engine's socket takes connections."""

    def __init__(self, caller: Caller, number: int) -> None:
        self._caller = caller
        self._number = number
        self._request = b""
        self.has_ended = False
        """Whether the request is there."""
        self._answering: asyncio.Task[None] | None = None

    def came(self, data: bytes) -> None:
        """A part of the request; of one that is too long, the beginning tells enough."""
        self._request += data[: MAX_HEALTH_BYTES - len(self._request)]
        self._caller.h2.acknowledge_received_data(len(data), self._number)

    def abandon(self) -> None:
        """The caller has gone."""
        if self._answering is not None:
            self._answering.cancel()

    def go(self) -> None:
        """Answer, once the request is there."""
        if self.has_ended and self._answering is None:
            self._answering = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        answer = NOT_SERVING if await self._caller.gate.engine_problem() else SERVING
        framed = bytes(1) + len(answer).to_bytes(PREFIX - 1, "big") + answer
        has_room = self._caller.h2.local_flow_control_window(self._number) >= len(framed)
        if self._request[PREFIX:] not in HEALTH_OF:
            trailers, has_begun = ending(Status.NOT_FOUND, "the relay serves plugins.Engine only"), False
        elif not has_room:
            trailers, has_begun = ending(Status.RESOURCE_EXHAUSTED, "there is no room for an answer"), False
        else:
            self._caller.h2.send_headers(self._number, _BEGINNING)
            self._caller.h2.send_data(self._number, framed)
            trailers, has_begun = ending(Status.OK, ""), True
        self._caller.trailers(self._number, trailers, has_begun=has_begun, has_ended=True)
        self._caller.flush()
