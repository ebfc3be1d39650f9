"""What the charts show: buckets of counts and of samples over a range, with what happened in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86_400

Counts = Mapping[int, Sequence[float]]
"""Events fetched and acknowledged, by the time (Unix seconds) at which a bucket begins."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range that can be chosen."""

    name: str
    seconds: int
    step: int
    """Seconds a bucket."""
    title: str


RANGES = {
    each.name: each
    for each in (
        Range("1h", HOUR, MINUTE, "1 hour"),
        Range("3h", 3 * HOUR, MINUTE, "3 hours"),
        Range("24h", DAY, 10 * MINUTE, "24 hours"),
        Range("7d", 7 * DAY, HOUR, "7 days"),
        Range("90d", 90 * DAY, DAY, "90 days"),
    )
}
DEFAULT = "3h"


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened: `gap`, `outage` or `restart`."""

    kind: str
    begin: float
    end: float
    text: str

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        return {"kind": self.kind, "from": self.begin, "to": self.end, "text": self.text}


@dataclass(slots=True)
class Day:
    """What is known of one day (UTC)."""

    day: str
    until: float = 0.0
    """Everything that happened before is counted."""
    minutes: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    """Fetched and acknowledged a minute of Unix time, by integration."""
    hours: dict[str, dict[str, dict[int, list[int]]]] = field(default_factory=dict)
    """The same by the hour, by integration and tenant."""
    samples: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """The highest lag (seconds), the bytes that wait, and the calls of the last minute, by minute and integration."""

    def add(self, integration: str, tenant: str, at: float, *, fetched: int = 0, acked: int = 0) -> None:
        """Count events in."""
        minute, hour = int(at) // MINUTE, int(at) // HOUR
        for bucket in (
            self.minutes.setdefault(integration, {}).setdefault(minute, [0, 0]),
            self.hours.setdefault(integration, {}).setdefault(tenant, {}).setdefault(hour, [0, 0]),
        ):
            bucket[0] += fetched
            bucket[1] += acked

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        return {
            "layout": 1,
            "day": self.day,
            "until": self.until,
            "minutes": self.minutes,
            "hours": self.hours,
            "samples": self.samples,
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Day:
        """The day that `fields` wrote; ValueError, KeyError, TypeError or AttributeError for anything else."""

        def numbered(buckets: Mapping[str, Any]) -> dict[int, Any]:
            return {int(key): value for key, value in buckets.items()}

        return cls(
            str(fields["day"]),
            float(fields["until"]),
            {name: numbered(each) for name, each in fields["minutes"].items()},
            {
                name: {tenant: numbered(each) for tenant, each in tenants.items()}
                for name, tenants in fields["hours"].items()
            },
            numbered(fields["samples"]),
        )


def day_name(at: float) -> str:
    """The day (UTC) of a Unix time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def days_of(chosen: Range, now: float) -> list[str]:
    """The days that a range touches, oldest first."""
    first = (now - chosen.seconds) // DAY
    return [day_name(each * DAY) for each in range(int(first), int(now // DAY) + 1)]


def bucketed(
    days: Iterable[Day], chosen: Range, now: float, integration: str | None = None, tenant: str | None = None
) -> dict[str, list[Any]]:
    """Columns of the range: times, events fetched and acknowledged a minute, lag, bytes that wait, calls.

    None where nothing is known. Of one tenant there are hours only, and no samples.
    """
    step = max(chosen.step, HOUR) if tenant is not None else chosen.step
    end = int(now // step + 1) * step
    times = list(range(end - -(-chosen.seconds // step) * step, end, step))
    place = {at: index for index, at in enumerate(times)}
    counts = [[0, 0] for _ in times]
    samples: list[list[float] | None] = [None] * len(times)
    for day in days:
        for at, (fetched, acked) in _counts(day, integration, tenant, fine=step < HOUR):
            index = place.get(at // step * step)
            if index is not None:
                counts[index][0] += fetched
                counts[index][1] += acked
        for minute, by_integration in day.samples.items() if tenant is None else ():
            index = place.get(minute * MINUTE // step * step)
            if index is not None:
                _raise(samples, index, by_integration, integration)
    per_minute = step / MINUTE
    return {
        "t": list(times),
        "fetched": [round(each[0] / per_minute, 2) for each in counts],
        "acked": [round(each[1] / per_minute, 2) for each in counts],
        "lag": [None if each is None else each[0] for each in samples],
        "waiting": [None if each is None else each[1] for each in samples],
        "calls": [None if each is None else each[2] for each in samples],
    }


def _counts(
    day: Day, integration: str | None, tenant: str | None, *, fine: bool
) -> Iterable[tuple[int, Sequence[int]]]:
    for name in [integration] if integration is not None else day.minutes:
        if tenant is not None:
            for hour, each in day.hours.get(name, {}).get(tenant, {}).items():
                yield hour * HOUR, each
        elif fine or name in day.minutes:
            for minute, each in day.minutes.get(name, {}).items():
                yield minute * MINUTE, each


def _raise(
    samples: list[list[float] | None], index: int, by_integration: Mapping[str, Sequence[float]], name: str | None
) -> None:
    """Take a minute's sample in: of a bucket the highest lag and calls, and the most bytes, are shown."""
    chosen = [each for key, each in by_integration.items() if name in (None, key)]
    if chosen:
        one = [max(each[0] for each in chosen), sum(each[1] for each in chosen), sum(each[2] for each in chosen)]
        before = samples[index]
        samples[index] = one if before is None else [max(pair) for pair in zip(before, one, strict=True)]


def within(marks: Iterable[Mark], chosen: Range, now: float) -> list[Mark]:
    """The marks that a range touches, oldest first."""
    return sorted(
        (each for each in marks if each.end >= now - chosen.seconds and each.begin <= now), key=lambda each: each.begin
    )
