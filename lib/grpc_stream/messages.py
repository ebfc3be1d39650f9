"""gRPC's messages in the bytes of a stream: each has its length before it, and HTTP/2 cuts them anywhere."""

from __future__ import annotations

PREFIX_BYTES = 5
"""Bytes before a message: whether it is compressed, and its length."""
MAX_MESSAGE_BYTES = 4 << 20


class MessageTooLargeError(ValueError):
    """A message that is longer than allowed, or compressed though nobody offered that."""


def framed(message: bytes) -> bytes:
    """The message with its length before it."""
    return len(message).to_bytes(PREFIX_BYTES, "big") + message


class MessageReader:
    """Finds the messages in one direction of a stream; holds at most one message that is not whole yet."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        """`limit`: bytes of the longest message that is taken."""
        self._limit = limit
        self._rest = b""

    @property
    def is_within(self) -> bool:
        """Whether the beginning of a message is there, and not its end."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that end in this data; MessageTooLargeError once one begins that is not taken."""
        if self._rest:
            data = self._rest + data
        found: list[bytes] = []
        at, size = 0, len(data)
        while size - at >= PREFIX_BYTES:
            # The first byte says whether it is compressed: as the highest of the number it makes it too long.
            length = int.from_bytes(data[at : at + PREFIX_BYTES], "big")
            if length > self._limit:
                raise MessageTooLargeError(f"a message of over {self._limit} bytes, or a compressed one")
            end = at + PREFIX_BYTES + length
            if end > size:
                break
            found.append(data[at + PREFIX_BYTES : end])
            at = end
        self._rest = data[at:]
        return found
