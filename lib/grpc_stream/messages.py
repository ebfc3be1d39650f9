"""gRPC's messages in the bytes of a stream. Each has its length in front, and HTTP/2 may split them anywhere."""

from __future__ import annotations

PREFIX_BYTES = 5
"""Bytes in front of a message: a flag for compression, and the length."""
MAX_MESSAGE_BYTES = 4 << 20


class MessageTooLargeError(ValueError):
    """A message that is longer than allowed, or compressed without an agreement."""


def framed(message: bytes) -> bytes:
    """The message with its prefix."""
    return len(message).to_bytes(PREFIX_BYTES, "big") + message


class MessageReader:
    """Splits one direction of a stream into messages. It holds at most one incomplete message."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        """`limit` is the greatest accepted length of a message, in bytes."""
        self._limit = limit
        self._rest = b""

    @property
    def is_within(self) -> bool:
        """Whether the data so far ends within a message."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that end in this data; MessageTooLargeError for a message over the limit."""
        if self._rest:
            data = self._rest + data
        messages: list[bytes] = []
        at, size = 0, len(data)
        while size - at >= PREFIX_BYTES:
            # The first byte is the flag for compression. Read as the number's highest byte, it exceeds any limit.
            length = int.from_bytes(data[at : at + PREFIX_BYTES], "big")
            if length > self._limit:
                raise MessageTooLargeError(f"a message longer than {self._limit} bytes, or a compressed one")
            end = at + PREFIX_BYTES + length
            if end > size:
                break
            messages.append(data[at + PREFIX_BYTES : end])
            at = end
        self._rest = data[at:]
        return messages
