"""How late events come, and which `settle` and reconciliation interval fit that lateness."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from lib.model.duration import duration_text
from lib.model.text import several

BOUNDS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
"""Upper bounds of the histogram, in seconds from `created_at` to the time of the fetch."""
MORE = "more"
UNKNOWN = "unknown"
"""The bound's name for events without a time."""
SETTLES = ("1m", "5m", "15m")
"""The values of `settle` that are proposed: each delays every event by that long."""
MANY = 0.001
"""A change is proposed from this share of late events on."""
MOST = 0.9
"""The share of late events that a proposed `settle` must catch."""
SHORTER = timedelta(hours=1)
"""The proposed interval of reconciliation if many events come late."""


def bound_of(late: timedelta) -> str:
    """The name of the smallest bound that is at least the lateness."""
    names = list(BOUNDS)
    at = bisect_left(list(BOUNDS.values()), late.total_seconds())
    return names[at] if at < len(names) else MORE


def in_order(lateness: Mapping[str, int]) -> dict[str, int]:
    """The histogram with its bounds in rising order."""
    return {name: lateness[name] for name in (*BOUNDS, MORE, UNKNOWN) if name in lateness}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A setting's value, its proposed value, and the reason."""

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
    """Proposals for both settings from the measured lateness of `received` events. Nothing is changed."""
    late = sum(lateness.values())
    interval = "off" if reconcile is None else duration_text(reconcile)
    delay = duration_text(settle)
    if reconcile is None:
        why = "Reconciliation is off: late events are neither found nor counted."
        return [Proposal("settle", delay, delay, why), Proposal("reconcile", interval, "6h", why)]
    share = f"{late} of {several(max(received, late), 'event')} came late"
    if late < MANY * max(received, late, 1):
        why = f"{share}: under {MANY:.1%}, and reconciliation finds them."
        return [Proposal("settle", delay, delay, why), Proposal("reconcile", interval, interval, why)]
    catches = next((name for name in SETTLES if _within(lateness, name) >= MOST * late), None)
    if catches is None:
        settled, why = settle, f"{share}, too few of them within {SETTLES[-1]} to wait for."
    else:
        settled = max(settle, timedelta(seconds=BOUNDS[catches]))
        why = f"{share}, {_within(lateness, catches)} within {catches}. Every event is then read that much later."
    sooner = f"{share}. A late event reaches UTMStack with the next reconciliation, at most {interval} after it came."
    return [
        Proposal("settle", delay, duration_text(settled), why),
        Proposal("reconcile", interval, duration_text(min(reconcile, SHORTER)), sooner),
    ]


def _within(lateness: Mapping[str, int], bound: str) -> int:
    return sum(count for name, count in lateness.items() if BOUNDS.get(name, BOUNDS["24h"] + 1) <= BOUNDS[bound])
