"""Splits a caller's bytes into HTTP/2 frames before `h2` reads them, so that each can be counted or held back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from h2.exceptions import FrameTooLargeError, ProtocolError

MAX_FRAME_BYTES = 16 << 10
MAX_HEADER_FRAMES = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, GOAWAY, CONTINUATION = 0, 1, 7, 9
_HEADER = struct.Struct(">HBBBL")


@dataclass(frozen=True, slots=True)
class Frame:
    """A complete frame."""

    kind: int
    stream: int
    whole: bytes
    """The frame's bytes with its header of nine bytes."""


class Frames:
    """The splitter. It holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._unread = b""
        self._preface_left = PREFACE
        self._continuations = 0

    def add(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now; ProtocolError for invalid bytes or a frame that is too large."""
        data = self._unread + self._after_preface(data)
        at, size = 0, len(data)
        while size - at >= _HEADER.size:
            high, low, kind, _, stream = _HEADER.unpack_from(data, at)
            length = high << 8 | low
            if length > MAX_FRAME_BYTES:
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = at + _HEADER.size + length
            if end > size:
                break
            self._continuations = self._continuations + 1 if kind == CONTINUATION else 0
            if self._continuations >= MAX_HEADER_FRAMES:
                raise FrameTooLargeError("headers in too many frames")
            yield Frame(kind, stream & 0x7FFFFFFF, data[at:end])
            at = end
        self._unread = data[at:]

    def _after_preface(self, data: bytes) -> bytes:
        expected = self._preface_left[: len(data)]
        if not data.startswith(expected):
            raise ProtocolError("this is not HTTP/2")
        self._preface_left = self._preface_left[len(expected) :]
        return data[len(expected) :]
