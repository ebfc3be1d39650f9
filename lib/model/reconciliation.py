"""How far a reconciliation has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

SLACK = timedelta(seconds=1)
"""Between a time that is typed and the clock that is read after it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reconciliation has come, and what the last one found."""

    began_at: datetime | None = None
    """None: none is under way."""
    cursor: str | None = None
    read: int = 0
    missing: int = 0
    lateness: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] | None = None
    """What was read, by the hour of its creation; None where that was not counted from the beginning."""
    window: float | None = None
    """Of a window, how many seconds before `began_at` it begins; None: all that Sophos serves."""
    ended_at: datetime | None = None
    last: Mapping[str, Any] | None = None
    """The report of the last one that came to its end."""

    def goes_on(self, now: datetime, horizon: timedelta, window: timedelta | None) -> bool:
        """Whether what is under way is what is asked for: the same window, named as a time or as a duration."""
        if self.began_at is None or not timedelta(0) <= (age := now - self.began_at) <= horizon:
            return False
        if window is None or self.window is None:
            return window is None and self.window is None
        return timedelta(0) <= window - timedelta(seconds=self.window) + SLACK <= age + 2 * SLACK

    def due(self, every: timedelta, now: datetime) -> bool:
        """Whether it is time for the next one. An end in the future is a clock that jumped back."""
        return self.ended_at is None or not timedelta(0) <= now - self.ended_at < every
