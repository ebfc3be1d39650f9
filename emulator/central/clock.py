"""The simulator's own time, in Unix milliseconds, and its ISO form."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock:
    """Real time plus an offset, or, with `start` (Unix seconds), a clock that only moves when it is advanced."""

    def __init__(self, *, start: float | None = None, offset_seconds: float = 0) -> None:
        self._lock = threading.Lock()
        self._standing = start is not None
        self._base = int((start or 0) * 1000) + int(offset_seconds * 1000)

    def now(self) -> int:
        """Unix milliseconds."""
        return self._base if self._standing else self._base + time.time_ns() // 1_000_000

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back with a negative number."""
        with self._lock:
            self._base += int(seconds * 1000)

    def at_least(self, earliest: int) -> int:
        """The later one of now and `earliest` (Unix milliseconds). A standing clock moves to it."""
        with self._lock:
            if self._standing:
                self._base = max(self._base, earliest)
            return max(self.now(), earliest)


def iso(ms: int) -> str:
    """Unix milliseconds in Sophos's form: `2026-03-10T01:02:03.456Z`."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC).isoformat()[:19]}.{ms % 1000:03d}Z"


def from_iso(text: str) -> int:
    """Unix milliseconds of an ISO time with a zone; ValueError for any other text."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"no zone: {text!r}")
    return (moment - _EPOCH) // _MILLISECOND
