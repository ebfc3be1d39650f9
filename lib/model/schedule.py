"""Which streams a tick polls if a credential has more streams than calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

BUSY_WEIGHT = 6
"""How much more the wait of a busy stream counts than that of a quiet one."""
BUSY_SECONDS = 900.0
"""A stream that brought an event within this time is busy."""
BUSY_DUE_SECONDS = 90.0
"""A busy stream that has waited this long goes before all others, within half of the calls."""


class Asked(NamedTuple):
    """The times of a stream's last poll and last event; Unix seconds."""

    at: float
    every: float = 0.0
    """Seconds between the last two polls."""
    spoke_at: float = 0.0
    """The time at which it last brought an event."""

    def again(self, now: float) -> Asked:
        """The times after a poll at `now`."""
        return Asked(now, max(0.0, now - self.at), self.spoke_at)

    def waited(self, now: float) -> float:
        """Seconds since the last poll; infinite if that lies in the future, because the clock jumped back."""
        return now - self.at if now >= self.at else float("inf")

    def speaks(self, now: float) -> bool:
        """Whether the stream is busy."""
        return abs(now - self.spoke_at) < BUSY_SECONDS  # A time in the future means that the clock jumped back.

    def urgency(self, now: float) -> float:
        """Seconds waited, weighted with BUSY_WEIGHT for a busy stream."""
        return self.waited(now) * (BUSY_WEIGHT if self.speaks(now) else 1)


def choose(streams: Iterable[str], asked: Mapping[str, Asked], now: float, most: int) -> list[str]:
    """At most `most` streams to poll now, the most urgent first.

    Busy streams that are due go first, within half of the calls. Then come streams that were never polled, then the
    others by urgency. Names decide between equals, so the order does not depend on the input's order.
    """
    urgency = {name: asked[name].urgency(now) if name in asked else float("inf") for name in streams}
    ranked = sorted(urgency, key=lambda name: (-urgency[name], name))
    due = [name for name in ranked if name in asked and _is_due(asked[name], now)][: most // 2]
    first = set(due)
    return [*due, *(name for name in ranked if name not in first)][:most]


def _is_due(stream: Asked, now: float) -> bool:
    return stream.speaks(now) and stream.waited(now) >= BUSY_DUE_SECONDS
