"""Which streams are asked at a tick, where a credential has more of them than calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BUSY_WEIGHT = 6
"""How much sooner a stream that speaks is asked again than one that is quiet."""
BUSY_SECONDS = 900.0
"""A stream that brought something within that time speaks."""


@dataclass(frozen=True, slots=True)
class Asked:
    """When a stream was last asked, and what is known of it; Unix seconds."""

    at: float
    every: float = 0.0
    """Seconds between the last two times."""
    spoke_at: float = 0.0
    """When it last brought something."""

    def again(self, now: float) -> Asked:
        """The same stream, asked now."""
        return Asked(now, max(0.0, now - self.at), self.spoke_at)

    def urgency(self, now: float) -> float:
        """How long it has waited, counted more for one that speaks. A time to come is a clock that jumped back."""
        waited = now - self.at
        if waited < 0:
            return float("inf")
        return waited * (BUSY_WEIGHT if now - self.spoke_at < BUSY_SECONDS else 1)


def choose(streams: Iterable[str], asked: Mapping[str, Asked], now: float, most: int) -> list[str]:
    """The streams to ask now: the most urgent first; those that were never asked before all others."""
    urgency = {name: asked[name].urgency(now) if name in asked else float("inf") for name in streams}
    return sorted(urgency, key=lambda name: (-urgency[name], name))[:most]
