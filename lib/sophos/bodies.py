"""An answer's body, unpacked as it comes: never more of it in memory than it may have."""

from __future__ import annotations

import zlib

from urllib3.exceptions import DecodeError

ACCEPTED = "gzip"
"""The `Accept-Encoding` of a request."""
_PACKED = ("gzip", "x-gzip", "deflate")
"""Each `Content-Encoding` that is unpacked; any other body is taken as it comes."""
_EITHER = zlib.MAX_WBITS | 32
"""zlib's own format, or gzip's, as the bytes say."""
_STEP_BYTES = 1 << 20
"""What one step of unpacking makes at most."""


class TooLongError(Exception):
    """The body has more bytes than it may have."""


class Body:
    """The bytes of one body."""

    def __init__(self, encoding: str | None, most: int) -> None:
        """`encoding` is its Content-Encoding, `most` how many bytes it may have once it is unpacked."""
        self._is_packed = (encoding or "").strip().lower() in _PACKED
        self._most = most
        self._bytes = bytearray()
        self._part = zlib.decompressobj(_EITHER)
        """What unpacks: gzip's format may consist of several parts."""
        self._is_whole = True

    def add(self, chunk: bytes) -> None:
        """Take bytes as they came.

        Raises TooLongError where they are too many, DecodeError where they are not what the encoding says.
        """
        if not self._is_packed:
            self._keep(chunk)
            return
        try:
            while chunk:
                if self._part.eof:
                    self._part = zlib.decompressobj(_EITHER)
                # The bound holds before each step: the last one makes a single byte too many.
                self._keep(self._part.decompress(chunk, min(_STEP_BYTES, self._most + 1 - len(self._bytes))))
                chunk = self._part.unused_data if self._part.eof else self._part.unconsumed_tail
        except zlib.error as error:
            raise DecodeError(f"the body cannot be unpacked: {error}") from None
        self._is_whole = self._part.eof

    def whole(self) -> bytes:
        """The body, after its last byte; DecodeError where it is cut off."""
        if not self._is_whole:
            raise DecodeError("the packed body is cut off")
        return bytes(self._bytes)

    def _keep(self, part: bytes) -> None:
        self._bytes += part
        if len(self._bytes) > self._most:
            raise TooLongError
