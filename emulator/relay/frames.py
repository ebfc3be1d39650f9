"""Splits a caller's bytes into HTTP/2 frames before `h2` reads them, so that each can be counted or held back.

DATA is held back: a caller sends one small frame a message, and in h2 each costs several times what it costs here. So
the receive windows are kept here too, and h2 never hears of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from h2.exceptions import FrameTooLargeError, ProtocolError

from lib.grpc_stream.frames import FRAME

MAX_FRAME_BYTES = 16 << 10
"""What a peer must keep to if it is told no other limit (RFC 9113, 6.5.2)."""
MAX_HEADER_FRAMES = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, GOAWAY, CONTINUATION = 0, 1, 7, 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8


class Frame(NamedTuple):
    """A complete frame."""

    kind: int
    flags: int
    stream: int
    whole: bytes
    """The frame's bytes with its header of nine bytes."""

    @property
    def body(self) -> bytes:
        """What follows its header, padding included."""
        return self.whole[FRAME.size :]


class Frames:
    """The splitter. It holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._unread = b""
        self._preface_left = PREFACE
        self._continuations = 0
        self.is_in_headers = False
        """Whether headers have begun whose end is not there: nothing else may come before it."""

    def add(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now; ProtocolError for invalid bytes or a frame that is too large."""
        data = self._unread + self._after_preface(data)
        at, size = 0, len(data)
        while size - at >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            length = high << 8 | low  # 24 bits (RFC 9113, 4.1), for which `struct` has no format.
            if length > MAX_FRAME_BYTES:
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = at + FRAME.size + length
            if end > size:
                break
            self._continuations = self._continuations + 1 if kind == CONTINUATION else 0
            # An endless header block would fill the memory before its end (https://kb.cert.org/vuls/id/421644).
            if self._continuations >= MAX_HEADER_FRAMES:
                raise FrameTooLargeError("headers in too many frames")
            yield Frame(kind, flags, stream & 0x7FFFFFFF, data[at:end])
            if kind in (HEADERS, CONTINUATION):
                self.is_in_headers = not flags & END_HEADERS
            at = end
        self._unread = data[at:]

    def _after_preface(self, data: bytes) -> bytes:
        expected = self._preface_left[: len(data)]
        if not data.startswith(expected):
            raise ProtocolError("this is not HTTP/2")
        self._preface_left = self._preface_left[len(expected) :]
        return data[len(expected) :]


def unpadded(body: bytes) -> bytes | None:
    """What a padded frame of DATA carries; None where its padding is longer than itself."""
    return body[1 : len(body) - body[0]] if body and body[0] < len(body) else None


class ReceiveWindow:
    """What a caller may send ahead of what was passed on; it is opened again by halves."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._passed = 0

    def came(self, size: int) -> bool:
        """So much has come; whether the caller was allowed it."""
        self._left -= size
        return self._left >= 0

    def passed(self, size: int) -> int:
        """So much was passed on; by how much the window is opened now."""
        self._passed += size
        if self._passed < self._size // 2:
            return 0
        opened, self._passed = self._passed, 0
        self._left += opened
        return opened
