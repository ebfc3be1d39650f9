"""The observed events that UTMStack's own plugin would have missed.

The plugin polls every five minutes for the events since its last poll. It reads one page of 200 and continues from the
present. So the first 200 events of each window reach UTMStack. Events lost by failures and restarts of the plugin are
not counted.
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
    """Counts of one hour of a stream, by the time at which Sophos stored the events."""

    observed: int = 0
    missed: int = 0
    late: int = 0
    """Observed events that only reconciliation found. It is unknown if the plugin would have read them."""


def window_of(created_at: datetime) -> int:
    """The beginning of a time's window, as Unix seconds."""
    seconds = int(created_at.timestamp())
    return seconds - seconds % WINDOW_SECONDS


def windows_of(times: Iterable[datetime | None]) -> dict[str, int]:
    """How many of the times are in each window. A missing time counts nowhere."""
    counts: dict[str, int] = {}
    for time in times:
        if time is not None:
            window = str(window_of(time))
            counts[window] = counts.get(window, 0) + 1
    return counts


def hours_of(polled: Mapping[int, int], late: Mapping[int, int]) -> dict[str, Hour]:
    """The hours of the windows in order, by their beginning: counts of polled events and of late events."""
    hours: dict[str, Hour] = {}
    for window in sorted({*polled, *late}):
        start = datetime.fromtimestamp(window - window % HOUR_SECONDS, UTC).strftime("%Y-%m-%dT%H:00Z")
        hour = hours.setdefault(start, Hour())
        count, behind = polled.get(window, 0), late.get(window, 0)
        hour.observed += count + behind
        hour.missed += max(0, count - PAGE)
        hour.late += behind
    return hours
