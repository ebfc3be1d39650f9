"""Which streams are asked at a tick, where a credential has more of them than calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

BUSY_WEIGHT = 6
"""How much sooner a stream that speaks is asked again than one that is quiet."""
BUSY_SECONDS = 900.0
"""A stream that brought something within that time speaks."""
BUSY_DUE_SECONDS = 90.0
"""A stream that speaks and has waited so long comes before all others, within half of the calls."""


class Asked(NamedTuple):
    """When a stream was last asked, and what is known of it; Unix seconds."""

    at: float
    every: float = 0.0
    """Seconds between the last two times."""
    spoke_at: float = 0.0
    """When it last brought something."""

    def again(self, now: float) -> Asked:
        """The same stream, asked now."""
        return Asked(now, max(0.0, now - self.at), self.spoke_at)

    def waited(self, now: float) -> float:
        """Seconds since it was asked; a time to come is a clock that jumped back, and counts as for ever."""
        return now - self.at if now >= self.at else float("inf")

    def speaks(self, now: float) -> bool:
        """Whether it brought something lately."""
        return abs(now - self.spoke_at) < BUSY_SECONDS  # A time to come is a clock that jumped back.

    def urgency(self, now: float) -> float:
        """How long it has waited, counted more for one that speaks."""
        return self.waited(now) * (BUSY_WEIGHT if self.speaks(now) else 1)


def choose(streams: Iterable[str], asked: Mapping[str, Asked], now: float, most: int) -> list[str]:
    """The streams to ask now, the most urgent first: those that speak, those never asked, those asked longest ago."""
    urgency = {name: asked[name].urgency(now) if name in asked else float("inf") for name in streams}
    ranked = sorted(urgency, key=lambda name: (-urgency[name], name))
    due = [name for name in ranked if name in asked and _is_due(asked[name], now)][: most // 2]
    first = set(due)
    return [*due, *(name for name in ranked if name not in first)][:most]


def _is_due(one: Asked, now: float) -> bool:
    return one.speaks(now) and one.waited(now) >= BUSY_DUE_SECONDS
