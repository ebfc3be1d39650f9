"""gRPC's messages as HTTP/2 carries them: each with its length before it, cut anywhere into frames.

(https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)
"""

from __future__ import annotations

from collections import deque

PREFIX = 5
"""Bytes before a message: whether it is compressed, and its length."""


class Way:
    """One direction of a stream: bytes that wait to go on, and the messages among them.

    A message goes on once it is released; what comes before its length is known waits.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._gone = 0
        """Bytes that have gone on; this, and what follows, counts from the stream's beginning."""
        self._released = 0
        self._last = 0
        """Where the newest message begins whose length is known,"""
        self._known = 0
        """and where it ends."""
        self._ends: deque[int] = deque()
        """Where released messages end that have not wholly gone on."""
        self.held: deque[int] = deque()
        """Sizes of messages that are not released, in bytes without their prefix."""

    @property
    def ready(self) -> int:
        """How many bytes may go on."""
        return min(self._released, self._gone + len(self._waiting)) - self._gone

    @property
    def waiting(self) -> int:
        """How many bytes wait, those included that may not go on."""
        return len(self._waiting)

    def add(self, data: bytes) -> None:
        """What has come."""
        self._waiting += data
        end = self._gone + len(self._waiting)
        while end - self._known >= PREFIX:
            at = self._known - self._gone
            size = int.from_bytes(self._waiting[at + 1 : at + PREFIX], "big")
            self._last, self._known = self._known, self._known + PREFIX + size
            self.held.append(size)

    def release(self) -> None:
        """The next message that is held may go on."""
        self._released += PREFIX + self.held.popleft()
        self._ends.append(self._released)

    def take(self, most: int) -> bytes:
        """The next bytes that go on; `most` is no more than `ready`."""
        taken = bytes(self._waiting[:most])
        del self._waiting[:most]
        self._gone += len(taken)
        return taken

    def finished(self) -> int:
        """How many messages have wholly gone on since this was asked last."""
        count = 0
        while self._ends and self._ends[0] <= self._gone:
            self._ends.popleft()
            count += 1
        return count

    def close(self) -> bool:
        """Nothing more comes: a message that is not whole is dropped; False where its beginning has gone on."""
        whole = self._last if self._known > self._gone + len(self._waiting) else self._known
        if self._gone > whole:
            return False
        del self._waiting[whole - self._gone :]
        return True
