"""How far a reconciliation has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


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
    ended_at: datetime | None = None
    last: Mapping[str, Any] | None = None
    """The report of the last one that came to its end."""

    def due(self, every: timedelta, now: datetime) -> bool:
        """Whether it is time for the next one. An end in the future is a clock that jumped back."""
        return self.ended_at is None or not timedelta(0) <= now - self.ended_at < every
