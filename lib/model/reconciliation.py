"""The progress of a reconciliation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lib.model.clock import text_or_none

SLACK = timedelta(seconds=1)
"""Allowed difference between a typed time and the clock that is read after it."""


@dataclass(frozen=True, slots=True)
class ReconcileSums:
    """The sums of one reconciliation so far; with times when it has ended."""

    began_at: datetime | None = None
    ended_at: datetime | None = None
    read: int = 0
    """Events read."""
    missing: int = 0
    """Events that the ledger did not contain."""
    lateness: Mapping[str, int] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        sums = {"read": self.read, "missing": self.missing, "lateness": dict(self.lateness)}
        if self.ended_at is None:
            return sums
        return {"began_at": text_or_none(self.began_at), "ended_at": text_or_none(self.ended_at), **sums}


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of the reconciliation under way, and the result of the last one."""

    began_at: datetime | None = None
    """None: none is under way."""
    cursor: str | None = None
    read: int = 0
    missing: int = 0
    lateness: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] | None = None
    """Events read, by the hour of their creation; None if they were not counted from the beginning."""
    window: float | None = None
    """The window's length in seconds before `began_at`; None: everything that Sophos serves."""
    ended_at: datetime | None = None
    last: ReconcileSums | None = None
    """The sums of the last completed reconciliation."""

    def goes_on(self, now: datetime, horizon: timedelta, window: timedelta | None) -> bool:
        """Whether the reconciliation under way covers the wanted window, so that it continues and does not restart.

        A window typed as a time grows with the clock; the comparison allows for that.
        """
        if self.began_at is None or not timedelta(0) <= (age := now - self.began_at) <= horizon:
            return False
        if window is None or self.window is None:
            return window is None and self.window is None
        return timedelta(0) <= window - timedelta(seconds=self.window) + SLACK <= age + 2 * SLACK

    def due(self, every: timedelta, now: datetime) -> bool:
        """Whether the next one is due. An end in the future means that the clock jumped back: it is due then."""
        return self.ended_at is None or not timedelta(0) <= now - self.ended_at < every
