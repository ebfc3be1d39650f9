"""One gRPC call on an HTTP/2 connection of its own, seen from the client: bytes in, events out, no I/O and no clock.

Theory of operation. `h2` speaks HTTP/2: it makes every frame that is sent, and reads every frame but two kinds, which
are read here, in front of it:
- DATA of the call. A server sends one small frame a message; through h2 each costs several times what it costs here.
  So the receive windows are kept here too: h2 never hears of the bytes.
- GOAWAY. To h2 it is the end of the connection; to HTTP/2 a call that is under way goes on (RFC 9113, 6.8).

The request is sent once the server's SETTINGS are there and allow a stream. Whatever a server sends, what is held of it
has a bound: a frame, a block of headers, and the answers to its control frames. What it may not send, or sends without
end, breaks the call with a reason in words (`Broken`). After `Ended` or `Broken` there is nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.exceptions import HyperframeError

from lib.grpc_stream.status import Status, from_header, status_of, status_of_http

Headers = Sequence[tuple[bytes, bytes]]

WINDOW_BYTES = 1 << 20
"""How much a server may send ahead of what was received."""
OUTGOING_BYTES = 64 << 10
"""How much is made into frames ahead of what was sent."""
MAX_UNSENT_BYTES = 256 << 10
"""How much may wait to be sent, answers to control frames included."""
MAX_FRAME_BYTES = 16 << 10
"""HTTP/2's limit where nothing else is agreed: none longer is sent, and no server is told that it may."""
MAX_IDLE_FRAMES = 100_000
"""How many frames in a row may bring no bytes of a message."""
MAX_TOLD_BYTES = 200
"""How much of a GOAWAY's words is kept."""

_STREAM = 1
_FRAME = struct.Struct(">HBBBL")
_WINDOW_UPDATE = struct.Struct(">HBBBLL")
_DATA, _HEADERS, _SETTINGS, _PUSH_PROMISE, _GOAWAY, _CONTINUATION = 0, 1, 4, 5, 7, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_DEFAULT_WINDOW = 65535


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's headers."""

    headers: Headers


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of messages, cut anywhere."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The server ended the call with a status."""

    status: Status
    message: str
    trailers: Headers
    """As they came, pseudo-headers included where they are all that came."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The call cannot go on and has no status; the reason reads on after "the server"'s name: "reset the stream"."""

    reason: str


Event = Answered | Data | Ended | Broken


class _PeerError(Exception):
    """The server did what breaks the call."""


class ClientStream:
    """A call, from its connection's first byte to its end.

    Whoever has the connection gives what it receives to `receive`, and sends what `to_send` returns.
    """

    def __init__(self, path: str, *, authority: str, scheme: str = "http", metadata: Headers = ()) -> None:
        """`path` is `/package.Service/Method`; `metadata` goes with the request."""
        self._request = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *metadata,
        ]
        self.is_open = False
        """Whether the request was sent."""
        self.is_over = False
        """Whether `Ended` or `Broken` was told, or the call was cancelled."""
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: self._h2.decoder.max_header_list_size,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES - _DEFAULT_WINDOW)
        self._outgoing = bytearray(self._h2.data_to_send())
        self._waiting = bytearray()
        self._ends = self._has_ended = False
        self._unread = b""
        self._events: list[Event] = []
        self._chunks: list[bytes] = []
        self._room = WINDOW_BYTES
        self._idle_frames = 0
        self._is_greeted = self._is_answered = self._in_headers = False
        self._farewell = ""

    # To the server

    @property
    def backlog(self) -> int:
        """How many bytes wait for the server's windows."""
        return len(self._waiting)

    def send(self, data: bytes) -> None:
        """Send bytes of messages, once the windows allow."""
        self._waiting += data

    def end(self) -> None:
        """Nothing more is sent after what was given to `send`."""
        self._ends = True

    def cancel(self) -> None:
        """The client wants no more of it."""
        if self.is_open and not self.is_over:
            self._h2.reset_stream(_STREAM, ErrorCodes.CANCEL)
            self._outgoing += self._h2.data_to_send()
        self.is_over = True

    def to_send(self) -> bytearray:
        """What is to be sent next; `sent` tells how much of it was."""
        if self.is_open and not self.is_over:
            while self._waiting and len(self._outgoing) < OUTGOING_BYTES:
                # A server may allow frames of up to 16 MiB: these are no longer than any server takes.
                room = min(self._h2.local_flow_control_window(_STREAM), MAX_FRAME_BYTES)
                if room <= 0:
                    break
                self._h2.send_data(_STREAM, bytes(self._waiting[:room]))
                del self._waiting[:room]
                self._outgoing += self._h2.data_to_send()
            if self._ends and not self._waiting and not self._has_ended:
                self._has_ended = True
                self._h2.end_stream(_STREAM)
                self._outgoing += self._h2.data_to_send()
        return self._outgoing

    def sent(self, count: int) -> None:
        """So many bytes of what `to_send` returned were sent."""
        del self._outgoing[:count]

    # From the server

    def receive(self, data: bytes) -> list[Event]:
        """What the next bytes of the connection tell."""
        if self.is_over:
            return []
        try:
            self._read(self._unread + data if self._unread else data)
        except _PeerError as error:
            self._break(str(error))
        except (H2Error, HyperframeError) as error:
            self._break(f"broke HTTP/2: {error}")
        return self._told()

    def hung_up(self, reason: str = "") -> list[Event]:
        """What it means that nothing more will come from the connection; `reason` is the system's."""
        if not self.is_over:
            self._break(f"hung up{': ' if reason else ''}{reason}")
        return self._told()

    def _told(self) -> list[Event]:
        self._join()
        events, self._events = self._events, []
        return events

    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        while size - at >= _FRAME.size and not self.is_over:
            high, low, kind, flags, number = _FRAME.unpack_from(data, at)
            length = high << 8 | low
            if not self._is_greeted and (kind != _SETTINGS or flags & _ACK or length > MAX_FRAME_BYTES):
                raise _PeerError("does not speak HTTP/2")
            if length > MAX_FRAME_BYTES:
                raise _PeerError(f"sent a frame of {length} bytes, {MAX_FRAME_BYTES} are allowed")
            end = at + _FRAME.size + length
            if end > size:
                break
            if kind == _DATA and number == _STREAM:
                self._take_data(data[at + _FRAME.size : end], flags)
            else:
                self._take_frame(kind, flags, data[at:end])
            at = end
        self._unread = data[at:]

    def _take_data(self, payload: bytes, flags: int) -> None:
        if not self._is_answered or self._in_headers:
            raise _PeerError("sent data where headers were due")
        # Whoever wants the server to wait reads less from the connection: it carries nothing else.
        self._room -= len(payload)
        if self._room < WINDOW_BYTES // 2:
            self._give_room()
        if flags & _PADDED:
            if not payload or payload[0] >= len(payload):
                raise _PeerError("sent a frame of padding alone")
            payload = payload[1 : len(payload) - payload[0]]
        if payload:
            self._idle_frames = 0
            self._chunks.append(payload)
        else:
            self._count_idle()
        if flags & _END_STREAM:
            raise _PeerError("ended the stream without a status")

    def _give_room(self) -> None:
        given = WINDOW_BYTES - self._room
        for number in (0, _STREAM):
            self._outgoing += _WINDOW_UPDATE.pack(0, 4, 8, 0, number, given)
        self._room = WINDOW_BYTES

    def _count_idle(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise _PeerError("sent too many frames that bring nothing")

    def _take_frame(self, kind: int, flags: int, frame: bytes) -> None:
        self._count_idle()
        if kind == _GOAWAY:
            self._take_goaway(frame)
            return
        self._is_greeted = True
        events = self._h2.receive_data(frame)
        self._in_headers = kind in (_HEADERS, _CONTINUATION) and not flags & _END_HEADERS
        for event in events:
            self._take(event)
        self._outgoing += self._h2.data_to_send()
        if len(self._outgoing) > MAX_UNSENT_BYTES:
            raise _PeerError("sent more control frames than it takes answers to")

    def _take_goaway(self, frame: bytes) -> None:
        if len(frame) < _FRAME.size + 8 or self._in_headers:
            raise _PeerError("broke HTTP/2: a GOAWAY that is none")
        last, code = struct.unpack_from(">LL", frame, _FRAME.size)
        told = frame[_FRAME.size + 8 :][:MAX_TOLD_BYTES].decode("utf-8", "replace")
        self._farewell = f"{_name(code)}{': ' if told else ''}{told}"
        if not self.is_open or last & 0x7FFFFFFF < _STREAM:
            raise _PeerError("takes no more streams")

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                self._open()
            case h2.events.ResponseReceived(headers=headers, stream_ended=ended):
                self._take_headers(tuple(headers or ()), is_end=ended is not None)
            case h2.events.TrailersReceived(headers=headers):
                self._take_trailers(tuple(headers or ()))
            case h2.events.StreamReset(error_code=code, remote_reset=False):
                raise _PeerError(f"broke HTTP/2: {_name(code or 0)}")
            case h2.events.StreamReset(error_code=code):
                raise _PeerError(f"reset the stream: {_name(code or 0)}")

    def _open(self) -> None:
        if not self.is_open and self._h2.remote_settings.max_concurrent_streams > 0:
            self._h2.send_headers(_STREAM, self._request)
            self.is_open = True

    def _take_headers(self, headers: Headers, *, is_end: bool) -> None:
        fields = dict(headers)
        is_grpc = fields.get(b"content-type", b"").startswith(b"application/grpc")
        if is_end and b"grpc-status" in fields:
            self._take_trailers(headers)
        elif fields[b":status"] != b"200" or not is_grpc:
            told = f"HTTP status {fields[b':status'].decode('ascii', 'replace')}, which is not gRPC"
            self._end(Ended(status_of_http(fields[b":status"]), told, ()))
        elif is_end:
            raise _PeerError("ended the stream without a status")
        else:
            self._is_answered = True
            self._emit(Answered(headers))

    def _take_trailers(self, trailers: Headers) -> None:
        fields = dict(trailers)
        if b"grpc-status" not in fields:
            raise _PeerError("ended the stream without a status")
        message = from_header(fields.get(b"grpc-message", b""))
        self._end(Ended(status_of(fields[b"grpc-status"]), message, trailers))

    def _break(self, reason: str) -> None:
        self._end(Broken(f"{reason} ({self._farewell})" if self._farewell else reason))

    def _end(self, event: Event) -> None:
        self._emit(event)
        self.is_over = True
        self._waiting.clear()

    def _emit(self, event: Event) -> None:
        self._join()
        self._events.append(event)

    def _join(self) -> None:
        if self._chunks:
            self._events.append(Data(b"".join(self._chunks)))
            self._chunks.clear()


def _name(code: int) -> str:
    """HTTP/2's name of an error code."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error code {code}"
