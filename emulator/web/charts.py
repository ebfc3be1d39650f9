"""The charts' data: counts and samples in buckets over a range, and the marks in it. Pure."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from lib.model.stream import KINDS, Stream
from lib.state.codec import Codec

MINUTE, HOUR, DAY = 60, 3600, 86_400
LAYOUT = 2
"""Of a day's object, and of the marks. Layout 1 counted hours by tenant: its counts are rebuilt from the receipts."""
RECENT = 3 * HOUR
"""How far back a stream's counts are kept by the minute. Older counts are by the hour."""

Pair = Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]
"""The numbers of fetched and of acknowledged events."""
Sample = Annotated[list[int | float], msgspec.Meta(min_length=3, max_length=3)]
"""The highest lag (seconds), the waiting bytes and the calls of the last minute."""
Counts = Mapping[int, Pair]
"""Events by the number of the minute or hour."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range that a person can choose."""

    name: str
    seconds: int
    step: int
    """Seconds of a bucket."""
    title: str

    @property
    def short(self) -> str:
        """Its name, with a space between number and unit."""
        return f"{self.name[:-1]} {self.name[-1]}"


RANGES = {
    range_.name: range_
    for range_ in (
        Range("1h", HOUR, MINUTE, "1 hour"),
        Range("3h", 3 * HOUR, MINUTE, "3 hours"),
        Range("24h", DAY, 10 * MINUTE, "24 hours"),
        Range("7d", 7 * DAY, HOUR, "7 days"),
        Range("90d", 90 * DAY, DAY, "90 days"),
    )
}
DEFAULT = "3h"


@dataclass(frozen=True, slots=True)
class Scope:
    """The subject of a chart: everything, an integration, a tenant, or a stream."""

    integration: str | None = None
    tenant: str | None = None
    kind: str | None = None

    @property
    def streams(self) -> list[Stream]:
        """The streams of a tenant, or the one stream; empty for a larger scope."""
        if self.integration is None or self.tenant is None:
            return []
        return [Stream(self.integration, self.tenant, kind) for kind in KINDS if self.kind in (None, kind)]

    def holds(self, line: Mapping[str, Any]) -> bool:
        """Whether the scope contains the line's stream."""
        return (
            self.integration in (None, line["integration"])
            and self.tenant in (None, line["tenant"])
            and self.kind in (None, line["stream"])
        )

    def step(self, chosen: Range) -> int:
        """Seconds of a bucket: a stream's minutes are kept for a short time only."""
        return max(chosen.step, HOUR) if self.streams and chosen.seconds > RECENT else chosen.step


class Mark(msgspec.Struct, frozen=True, rename={"begin": "from", "end": "to"}):
    """Something that happened: `gap`, `late`, `outage` or `restart`. Its times are Unix times."""

    kind: str
    begin: float
    end: float
    text: str

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


@dataclass(slots=True)
class Day:
    """The counts and samples of one day (UTC)."""

    day: str
    until: float = 0.0
    """All events before this Unix time are counted."""
    minutes: dict[str, dict[int, Pair]] = field(default_factory=dict)
    """Fetched and acknowledged a minute of Unix time, by integration."""
    hours: dict[str, dict[str, dict[int, Pair]]] = field(default_factory=dict)
    """The same by the hour, by integration and stream (tenant/kind)."""
    samples: dict[int, dict[str, Sample]] = field(default_factory=dict)
    """By minute and integration."""

    def add(self, stream: Stream, at: float, *, fetched: int = 0, acked: int = 0) -> None:
        """Count events in."""
        streams = self.hours.setdefault(stream.integration, {})
        count_in(self.minutes.setdefault(stream.integration, {}), int(at) // MINUTE, fetched, acked)
        count_in(streams.setdefault(f"{stream.tenant}/{stream.kind}", {}), int(at) // HOUR, fetched, acked)

    def coarse(self) -> Day:
        """The same day by the hour: charts of more than a day need no minutes, and this saves memory."""
        minutes: dict[str, dict[int, list[int]]] = {}
        for name, counts in self.minutes.items():
            for minute, (fetched, acked) in counts.items():
                count_in(minutes.setdefault(name, {}), minute // 60 * 60, fetched, acked)
        samples: dict[int, dict[str, list[float]]] = {}
        for minute, by_name in self.samples.items():
            hour = samples.setdefault(minute // 60 * 60, {})
            for name, sample in by_name.items():
                hour[name] = _worst(hour.get(name), sample)
        return Day(self.day, self.until, minutes, self.hours, samples)


CHART_DAY = Codec(Day, "a day of charts", layout=LAYOUT)


def day_from_body(body: bytes) -> Day:
    """A stored day. Of layout 1 only the samples count; DamagedError, LayoutError as the codec."""
    stored = CHART_DAY.load(body)
    if stored["layout"] < LAYOUT:
        stored |= {"until": 0.0, "minutes": {}, "hours": {}}
    return CHART_DAY.value(stored)


@dataclass(frozen=True, slots=True)
class Marks:
    """What a restart needs beside the days."""

    seen: int | float | None = None
    """When the connector ran last (Unix time)."""
    marks: Sequence[Mark] = ()
    known_since: int | float | None = None


MARKS = Codec(Marks, "the marks of the charts", later=("known_since",), layout=LAYOUT)


def marks_from_body(body: bytes) -> Marks:
    """The stored marks. Layout 1 has counts that are rebuilt; DamagedError, LayoutError as the codec."""
    stored = MARKS.load(body)
    return MARKS.value(stored if stored["layout"] == LAYOUT else stored | {"known_since": None})


class StreamSamples:
    """The lag and the waiting bytes of every stream, by the minute, for the last three hours.

    As plain numbers: five thousand streams take 7 MB.
    """

    def __init__(self) -> None:
        self._places: dict[Stream, int] = {}
        self._taken: deque[tuple[int, array[float]]] = deque(maxlen=RECENT // MINUTE)

    def take(self, minute: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Keep the lag and the waiting bytes of all streams at this minute."""
        by_place = {self._places.setdefault(Stream.of(line), len(self._places)): line for line in lines}
        pairs = (
            (by_place[at]["lag_seconds"] or 0.0, by_place[at]["pending_bytes"]) if at in by_place else (-1.0, 0.0)
            for at in range(len(self._places))
        )
        self._taken.append((minute, array("f", (value for pair in pairs for value in pair))))

    def of(self, streams: Sequence[Stream]) -> Iterator[tuple[int, list[float]]]:
        """The highest lag and the sum of the waiting bytes of these streams, by minute."""
        places = [self._places[stream] for stream in streams if stream in self._places]
        for minute, values in [*self._taken]:
            sampled = [at for at in places if 2 * at < len(values) and values[2 * at] >= 0.0]
            if sampled:
                yield minute, [max(values[2 * at] for at in sampled), sum(values[2 * at + 1] for at in sampled)]


def count_in(counts: dict[int, list[int]], number: int, fetched: int, acked: int) -> None:
    """Add events to the bucket with that number."""
    bucket = counts.setdefault(number, [0, 0])
    bucket[0] += fetched
    bucket[1] += acked


def day_name(at: float) -> str:
    """The day (UTC) of a Unix time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def days_of(chosen: Range, now: float) -> list[str]:
    """The days that overlap the range, oldest first."""
    first = (now - chosen.seconds) // DAY
    return [day_name(number * DAY) for number in range(int(first), int(now // DAY) + 1)]


def bucketed(
    counts: Iterable[tuple[int, Sequence[float]]],
    samples: Iterable[tuple[int, Sequence[float]]],
    *,
    chosen: Range,
    step: int,
    now: float,
    known_since: float = 0.0,
) -> dict[str, list[Any]]:
    """Columns of the range: times, fetched and acknowledged events a minute, lag, waiting bytes, calls.

    None where there is no data. Each item of `counts` and `samples` has its Unix time.
    """
    end = int(now // step + 1) * step
    times = list(range(end - -(-chosen.seconds // step) * step, end, step))
    place = {at: index for index, at in enumerate(times)}
    sums: list[list[float] | None] = [[0, 0] if at + step > known_since else None for at in times]
    worst: list[list[float] | None] = [None] * len(times)
    for at, (fetched, acked) in counts:
        index = place.get(at // step * step)
        if index is not None and at <= now:
            before = sums[index] or [0, 0]
            sums[index] = [before[0] + fetched, before[1] + acked]
    for at, sample in samples:
        index = place.get(at // step * step)
        if index is not None:
            worst[index] = _worst(worst[index], sample)
    minutes = step / MINUTE
    columns = {
        name: [None if bucket is None else round(bucket[at] / minutes, 2) for bucket in sums]
        for at, name in enumerate(("fetched", "acked"))
    }
    columns |= {
        name: [None if bucket is None or at >= len(bucket) else bucket[at] for bucket in worst]
        for at, name in enumerate(("lag", "waiting", "calls"))
    }
    return {"t": list(times), **columns}


def counts_of(days: Iterable[Day], scope: Scope) -> Iterator[tuple[int, Sequence[float]]]:
    """The counts of the scope with their times: of a tenant or stream by the hour, otherwise by the minute."""
    places = [f"{stream.tenant}/{stream.kind}" for stream in scope.streams]
    for day in days:
        for name in [scope.integration] if scope.integration is not None else [*day.minutes]:
            if not places:
                for minute, pair in [*day.minutes.get(name, {}).items()]:
                    yield minute * MINUTE, pair
            for place in places:
                for hour, pair in [*day.hours.get(name, {}).get(place, {}).items()]:
                    yield hour * HOUR, pair


def samples_of(days: Iterable[Day], integration: str | None) -> Iterator[tuple[int, Sequence[float]]]:
    """An integration's samples with their times; of all integrations the highest lag and the sums of the others."""
    for day in days:
        for minute, by_name in [*day.samples.items()]:
            chosen = [sample for key, sample in by_name.items() if integration in (None, key)]
            if chosen:
                lags, waiting, calls = zip(*chosen, strict=True)
                yield minute * MINUTE, [max(lags), sum(waiting), sum(calls)]


def _worst(before: Sequence[float] | None, sample: Sequence[float]) -> list[float]:
    """A bucket shows the highest value of each figure."""
    return [*sample] if before is None else [max(pair) for pair in zip(before, sample, strict=True)]


def within(marks: Iterable[Mark], chosen: Range, now: float) -> list[Mark]:
    """The marks that overlap the range, oldest first."""
    return sorted(
        (mark for mark in marks if mark.end >= now - chosen.seconds and mark.begin <= now), key=lambda mark: mark.begin
    )
