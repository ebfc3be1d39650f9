"""How late events come, and what that says of `settle` and of the interval of reconciliation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from lib.model.duration import duration_text

BOUNDS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
"""Upper bounds of the histogram, in seconds from `created_at` to the time of being fetched at last."""
MORE = "more"
UNKNOWN = "unknown"
"""An event that names no time."""
SETTLES = ("1m", "5m", "15m")
"""The values of `settle` that are proposed: each delays every event by that long."""
MANY = 0.001
"""The share of late events from which on a change is proposed."""
MOST = 0.9
"""The share of late events that a proposed `settle` has to catch."""
SHORTER = timedelta(hours=1)
"""The interval of reconciliation that is proposed where many events come late."""


def bound_of(late: timedelta) -> str:
    """The name of the smallest bound that the lateness does not exceed."""
    names = list(BOUNDS)
    at = bisect_left(list(BOUNDS.values()), late.total_seconds())
    return names[at] if at < len(names) else MORE


def in_order(lateness: Mapping[str, int]) -> dict[str, int]:
    """The histogram with its bounds in rising order."""
    return {name: lateness[name] for name in (*BOUNDS, MORE, UNKNOWN) if name in lateness}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one setting is, what it could be, and why."""

    setting: str
    now: str
    proposed: str
    why: str

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        return asdict(self)


def propose(
    lateness: Mapping[str, int], received: int, settle: timedelta, reconcile: timedelta | None
) -> list[Proposal]:
    """What the measured lateness of so many received events says of both settings; nothing is changed."""
    late = sum(lateness.values())
    interval = "off" if reconcile is None else duration_text(reconcile)
    delay = duration_text(settle)
    if reconcile is None:
        why = "Reconciliation is off: late events are neither found nor counted."
        return [Proposal("settle", delay, delay, why), Proposal("reconcile", interval, "6h", why)]
    told = f"{late} of {max(received, late)} events came late"
    if late < MANY * max(received, late, 1):
        why = f"{told}: under {MANY:.1%}, and reconciliation finds them."
        return [Proposal("settle", delay, delay, why), Proposal("reconcile", interval, interval, why)]
    catches = next((name for name in SETTLES if _within(lateness, name) >= MOST * late), None)
    if catches is None:
        settled, why = settle, f"{told}, too few of them within {SETTLES[-1]} to wait for."
    else:
        settled = max(settle, timedelta(seconds=BOUNDS[catches]))
        why = f"{told}, {_within(lateness, catches)} within {catches}. Every event is then read that much later."
    sooner = f"{told}. A late event reaches UTMStack with the next reconciliation, at most {interval} after it came."
    return [
        Proposal("settle", delay, duration_text(settled), why),
        Proposal("reconcile", interval, duration_text(min(reconcile, SHORTER)), sooner),
    ]


def _within(lateness: Mapping[str, int], bound: str) -> int:
    return sum(count for name, count in lateness.items() if BOUNDS.get(name, BOUNDS["24h"] + 1) <= BOUNDS[bound])
