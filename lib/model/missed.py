"""What UTMStack's own plugin would have missed of the events that were observed.

Every five minutes it asks for what came since the last time, reads one page of 200, and goes on from now: of each
window the first 200 reach UTMStack. Its own failures and restarts come on top; they are not known, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

WINDOW_SECONDS = 300
PAGE = 200
HOUR_SECONDS = 3600


@dataclass(slots=True)
class Hour:
    """One hour of a stream, by the time at which Sophos stored the events."""

    observed: int = 0
    missed: int = 0
    late: int = 0
    """Of those observed, found behind the cursor only: whether the plugin saw them cannot be told."""


def window_of(created_at: datetime) -> int:
    """The beginning of the window that the time is in, as Unix seconds."""
    seconds = int(created_at.timestamp())
    return seconds - seconds % WINDOW_SECONDS


def windows_of(times: Iterable[datetime | None]) -> dict[str, int]:
    """How many of the times are in each window; what has no time is in none."""
    found: dict[str, int] = {}
    for time in times:
        if time is not None:
            window = str(window_of(time))
            found[window] = found.get(window, 0) + 1
    return found


def hours_of(polled: Mapping[int, int], late: Mapping[int, int]) -> dict[str, Hour]:
    """The hours of those windows in order, by their beginning: events that the cursor showed, and late ones."""
    hours: dict[str, Hour] = {}
    for window in sorted({*polled, *late}):
        start = datetime.fromtimestamp(window - window % HOUR_SECONDS, UTC).strftime("%Y-%m-%dT%H:00Z")
        hour = hours.setdefault(start, Hour())
        count, behind = polled.get(window, 0), late.get(window, 0)
        hour.observed += count + behind
        hour.missed += max(0, count - PAGE)
        hour.late += behind
    return hours
