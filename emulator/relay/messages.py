"""gRPC's messages in HTTP/2: each has its length in front, and frames split them anywhere.

(https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)
"""

from __future__ import annotations

from collections import deque

PREFIX = 5
"""Bytes in front of a message: a flag for compression, and the length."""


class MessageBuffer:
    """One direction of a stream: bytes that wait to be passed on, and the boundaries of the messages in them.

    A message is passed on after its release. Bytes of a message whose length is not known yet wait.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._gone = 0
        """Bytes passed on. This offset and the following ones count from the stream's beginning."""
        self._released = 0
        """The end of the last released message."""
        self._last = 0
        """The beginning of the newest message with a known length."""
        self._message_end = 0
        """The end of that message."""
        self._ends: deque[int] = deque()
        """The ends of released messages that are not completely passed on."""
        self.held: deque[int] = deque()
        """Sizes of the messages that are not released, in bytes without prefix."""

    @property
    def ready(self) -> int:
        """The bytes that may be passed on now."""
        return min(self._released, self._gone + len(self._waiting)) - self._gone

    @property
    def waiting(self) -> int:
        """All waiting bytes, with those that may not be passed on yet."""
        return len(self._waiting)

    def add(self, data: bytes) -> None:
        """Append received bytes."""
        self._waiting += data
        end = self._gone + len(self._waiting)
        while end - self._message_end >= PREFIX:
            at = self._message_end - self._gone
            size = int.from_bytes(self._waiting[at + 1 : at + PREFIX], "big")
            self._last, self._message_end = self._message_end, self._message_end + PREFIX + size
            self.held.append(size)

    def release(self) -> None:
        """Let the next held message be passed on."""
        self._released += PREFIX + self.held.popleft()
        self._ends.append(self._released)

    def take(self, most: int) -> bytes:
        """Remove and return the next `most` bytes; `most` is at most `ready`."""
        taken = bytes(self._waiting[:most])
        del self._waiting[:most]
        self._gone += len(taken)
        return taken

    def finished(self) -> int:
        """How many messages were completely passed on since the last call."""
        count = 0
        while self._ends and self._ends[0] <= self._gone:
            self._ends.popleft()
            count += 1
        return count

    def close(self) -> bool:
        """End the direction and drop an incomplete message; return False if its beginning was already passed on."""
        whole = self._last if self._message_end > self._gone + len(self._waiting) else self._message_end
        if self._gone > whole:
            return False
        del self._waiting[whole - self._gone :]
        return True
