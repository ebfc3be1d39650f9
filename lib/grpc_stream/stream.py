"""The client side of one gRPC call on its own HTTP/2 connection: bytes in, events out, no I/O and no clock.

Theory of operation. `h2` implements HTTP/2. It writes and reads every frame except these kinds, which h2 does not see:
- DATA of the call. A server sends one small frame for each message; h2 takes several times as long for each. Therefore
  this module reads and writes them. It keeps the receive windows; h2 keeps the server's, and is told what is used.
- WINDOW_UPDATE and PING, if valid. A grpc-go server sends both after nearly each read.
- GOAWAY. For h2 the connection ends there; in HTTP/2 a call under way continues (RFC 9113, 6.8).

The request goes out when the server's SETTINGS have arrived and allow a stream. Memory is bounded whatever the server
sends: one frame, one block of headers, and the answers to its control frames. A frame that is not allowed, or an
endless sequence without data, ends the call with a reason (`Broken`). No event follows `Ended` or `Broken`.
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

from lib.grpc_stream.frames import FRAME, WINDOW_UPDATE, data_header, open_window, window_update
from lib.grpc_stream.status import Status, from_header, status_of, status_of_http

Headers = Sequence[tuple[bytes, bytes]]

WINDOW_BYTES = 1 << 20
"""The receive window: bytes that a server may send ahead."""
OUTGOING_BYTES = 64 << 10
"""Bytes of frames that are prepared ahead of sending."""
MAX_UNSENT_BYTES = 256 << 10
"""Bytes that may wait to be sent, with answers to control frames."""
MAX_FRAME_BYTES = 16 << 10
"""HTTP/2's default limit. No longer frame is sent, and no server is allowed to send one."""
MAX_IDLE_FRAMES = 100_000
"""How many frames in a row may carry no bytes of a message."""
MAX_TOLD_BYTES = 200
"""Bytes of a GOAWAY's debug text that are kept."""

_STREAM = 1
_DATA, _HEADERS, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _CONTINUATION = 0, 1, 4, 5, 6, 7, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_DEFAULT_WINDOW = 65535
_PING_BYTES, _FLAGS_AT = 17, 4


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's headers."""

    headers: Headers


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of messages, split anywhere."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The server ended the call with a status."""

    status: Status
    message: str
    trailers: Headers
    """The trailers as received. If the answer has no other headers, they include the pseudo-headers."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The call ended without a status. The reason continues a sentence after the server's name: "reset the stream"."""

    reason: str


Event = Answered | Data | Ended | Broken


class _PeerError(Exception):
    """The server broke the protocol."""


class ClientStream:
    """A call, from its connection's first byte to its end.

    The owner of the connection passes received bytes to `receive`, and sends the bytes that `to_send` returns.
    """

    def __init__(self, path: str, *, authority: str, scheme: str = "http", metadata: Headers = ()) -> None:
        """`path` is `/package.Service/Method`; `metadata` is sent with the request."""
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
        """Whether `Ended` or `Broken` was emitted, or the call was cancelled."""
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        # Replaced before `initiate_connection`, which sends them. Without push, the call's stream is the only one.
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
        self._goaway_reason = ""

    # To the server

    @property
    def backlog(self) -> int:
        """Bytes that wait for room in the server's windows."""
        return len(self._waiting)

    def send(self, data: bytes) -> None:
        """Queue bytes of messages; they go out when the windows allow."""
        self._waiting += data

    def end(self) -> None:
        """End the client's direction after the queued bytes."""
        self._ends = True

    def cancel(self) -> None:
        """Cancel the call; no event follows."""
        # Before the request there is no stream to reset (RFC 9113, 6.4).
        if self.is_open and not self.is_over:
            self._h2.reset_stream(_STREAM, ErrorCodes.CANCEL)
            self._outgoing += self._h2.data_to_send()
        self.is_over = True

    def to_send(self) -> bytearray:
        """The bytes to send next. The caller reports the sent part with `sent`."""
        if self.is_open and not self.is_over:
            if self._waiting and len(self._outgoing) < OUTGOING_BYTES:
                self._frame_waiting()
            if self._ends and not self._waiting and not self._has_ended:
                self._has_ended = True
                self._h2.end_stream(_STREAM)
                self._outgoing += self._h2.data_to_send()
        return self._outgoing

    def _frame_waiting(self) -> None:
        """Make frames of the waiting bytes, as far as the server's windows and OUTGOING_BYTES allow."""
        room = min(len(self._waiting), self._h2.local_flow_control_window(_STREAM))
        at = 0
        while at < room and len(self._outgoing) < OUTGOING_BYTES:
            # A server may allow frames of up to 16 MiB. Frames of MAX_FRAME_BYTES suit every server.
            end = min(at + MAX_FRAME_BYTES, room)
            self._outgoing += data_header(self._h2, _STREAM, end - at)
            self._outgoing += self._waiting[at:end]
            at = end
        del self._waiting[:at]

    def sent(self, count: int) -> None:
        """Remove the first `count` bytes of `to_send`: they were sent."""
        del self._outgoing[:count]

    # From the server

    def receive(self, data: bytes) -> list[Event]:
        """The events in the connection's next bytes."""
        if self.is_over:
            return []
        try:
            self._read(self._unread + data if self._unread else data)
        except _PeerError as error:
            self._break(str(error))
        except (H2Error, HyperframeError) as error:
            self._break(f"broke HTTP/2: {error}")
        return self._take_events()

    def hung_up(self, reason: str = "") -> list[Event]:
        """The events of a closed connection; `reason` is the operating system's error."""
        if not self.is_over:
            self._break(f"hung up{': ' if reason else ''}{reason}")
        return self._take_events()

    def _take_events(self) -> list[Event]:
        self._join()
        events, self._events = self._events, []
        return events

    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        while size - at >= FRAME.size and not self.is_over:
            high, low, kind, flags, number = FRAME.unpack_from(data, at)
            length = high << 8 | low  # 24 bits (RFC 9113, 4.1), for which `struct` has no format.
            # The server's first frame must be SETTINGS (RFC 9113, 3.4). TLS or HTTP/1 on the port fails here.
            if not self._is_greeted and (kind != _SETTINGS or flags & _ACK or length > MAX_FRAME_BYTES):
                raise _PeerError("does not speak HTTP/2")
            if length > MAX_FRAME_BYTES:
                raise _PeerError(f"sent a frame of {length} bytes, {MAX_FRAME_BYTES} are allowed")
            end = at + FRAME.size + length
            if end > size:
                break
            if kind == _DATA and number == _STREAM:
                if flags or not length or self._in_headers or not self._is_answered:
                    self._take_data(data[at + FRAME.size : end], flags)
                else:  # The same for what servers send nearly always: one frame for each acknowledgement.
                    self._room -= length
                    if self._room < WINDOW_BYTES // 2:
                        self._give_room()
                    self._idle_frames = 0
                    self._chunks.append(data[at + FRAME.size : end])
            else:
                self._take_frame(kind, flags, number, data[at:end])
            at = end
        self._unread = data[at:]

    def _take_data(self, payload: bytes, flags: int) -> None:
        if not self._is_answered or self._in_headers:
            raise _PeerError("sent data where headers were due")
        # Back-pressure needs no smaller window: a caller that reads slower from the connection slows the server down,
        # since the connection carries only this call.
        # Padding counts too (RFC 9113, 6.1), so the window is reduced before it is removed.
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
        for number in (0, _STREAM):  # The connection has a window of its own (RFC 9113, 6.9.1).
            self._outgoing += window_update(number, given)
        self._room = WINDOW_BYTES

    def _count_idle(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise _PeerError("sent too many frames without data")

    def _take_frame(self, kind: int, flags: int, number: int, frame: bytes) -> None:
        self._count_idle()
        if kind == _GOAWAY:
            self._take_goaway(frame)
            return
        if self._in_headers or not self.is_open or not self._take_simple(kind, flags, number, frame):
            self._is_greeted = True
            events = self._h2.receive_data(frame)
            self._in_headers = kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION) and not flags & _END_HEADERS
            for event in events:
                self._take(event)
            self._outgoing += self._h2.data_to_send()
        if len(self._outgoing) > MAX_UNSENT_BYTES:
            raise _PeerError("sent control frames faster than it reads the answers")

    def _take_simple(self, kind: int, flags: int, number: int, frame: bytes) -> bool:
        """Take a valid WINDOW_UPDATE or PING; False for any other frame."""
        if kind == WINDOW_UPDATE:
            return open_window(self._h2, number, frame)
        if kind != _PING or flags or number or len(frame) != _PING_BYTES:
            return False
        self._outgoing += frame[:_FLAGS_AT] + bytes([_ACK]) + frame[_FLAGS_AT + 1 :]
        return True

    def _take_goaway(self, frame: bytes) -> None:
        if len(frame) < FRAME.size + 8 or self._in_headers:
            raise _PeerError("broke HTTP/2: an invalid GOAWAY")
        last, code = struct.unpack_from(">LL", frame, FRAME.size)
        # The server chooses the length of the text, and the text goes into errors and the log.
        text = frame[FRAME.size + 8 :][:MAX_TOLD_BYTES].decode("utf-8", "replace")
        self._goaway_reason = f"{_name(code)}{': ' if text else ''}{text}"
        # The first bit of a stream's number is reserved (RFC 9113, 6.8). A stream after `last` is not served.
        if not self.is_open or last & 0x7FFFFFFF < _STREAM:
            raise _PeerError("accepts no more streams")

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
        # A server may allow no stream at first, and raise the limit with later settings (RFC 9113, 6.5.2).
        if not self.is_open and self._h2.remote_settings.max_concurrent_streams > 0:
            self._h2.send_headers(_STREAM, self._request)
            self.is_open = True

    def _take_headers(self, headers: Headers, *, is_end: bool) -> None:
        fields = dict(headers)
        is_grpc = fields.get(b"content-type", b"").startswith(b"application/grpc")
        if is_end and b"grpc-status" in fields:
            # Trailers-Only: a server that refuses a call at once sends a single block of headers (PROTOCOL-HTTP2.md).
            self._take_trailers(headers)
        elif fields[b":status"] != b"200" or not is_grpc:
            # Not from a gRPC server, but for example from a proxy (http-grpc-status-mapping.md).
            message = f"HTTP status {fields[b':status'].decode('ascii', 'replace')}, which is not gRPC"
            self._end(Ended(status_of_http(fields[b":status"]), message, ()))
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
        self._end(Broken(f"{reason} ({self._goaway_reason})" if self._goaway_reason else reason))

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
    """HTTP/2's name for an error code."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error code {code}"
