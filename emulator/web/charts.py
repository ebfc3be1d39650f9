"""The charts' data: counts and samples in buckets over a range, and the marks in it. Pure."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Annotated, Any

import msgspec

from lib.model.stream import KINDS, Stream
from lib.state.codec import Codec

MINUTE, HOUR, DAY = 60, 3600, 86_400
RECENT = 3 * HOUR
"""How far back a stream's figures are kept by the minute. Older ones are by ten minutes."""
MARKS_LAYOUT = 2
"""Layout 1 has no time from which there is data: the counts beside it are made again from the receipts."""

OUTAGE = "The engine took no events"
ONGOING = "The engine takes no events"

Pair = Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]
"""The numbers of fetched and of acknowledged events."""
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


@dataclass(frozen=True, slots=True)
class Marks:
    """What a restart needs beside the days."""

    seen: int | float | None = None
    """When the connector ran last (Unix time)."""
    marks: Sequence[Mark] = ()
    known_since: int | float | None = None


MARKS = Codec(Marks, "the marks of the charts", later=("known_since",), layout=MARKS_LAYOUT)


def marks_from_body(body: bytes) -> Marks:
    """The stored marks. Layout 1 has counts that are rebuilt; DamagedError, LayoutError as the codec."""
    stored = MARKS.load(body)
    return MARKS.value(stored if stored["layout"] == MARKS_LAYOUT else stored | {"known_since": None})


class StreamSamples:
    """The lag, the waiting bytes and the calls of every stream, by the minute, for the last three hours.

    As plain numbers: five thousand streams take 11 MB.
    """

    def __init__(self) -> None:
        self._places: dict[Stream, int] = {}
        self._taken: deque[tuple[int, array[float]]] = deque(maxlen=RECENT // MINUTE)

    def take(self, minute: int, streams: Sequence[Stream], figures: Sequence[float]) -> None:
        """Keep the figures of this minute: lag, waiting bytes and calls of each stream, one after the other."""
        places = [self._places.setdefault(stream, len(self._places)) for stream in streams]
        taken = array("f", [-1.0]) * (3 * len(self._places))
        for at, place in enumerate(places):
            taken[3 * place : 3 * place + 3] = array("f", figures[3 * at : 3 * at + 3])
        self._taken.append((minute, taken))

    @property
    def since(self) -> float:
        """The Unix time of the first minute that is kept."""
        return self._taken[0][0] * MINUTE if self._taken else inf

    def of(self, stream: Stream) -> Iterator[tuple[int, list[float]]]:
        """The figures of the stream, with their Unix times."""
        at = 3 * self._places.get(stream, -1)
        for minute, values in [*self._taken]:
            if 0 <= at < len(values) and values[at] >= 0.0:
                yield minute * MINUTE, [*values[at : at + 3]]


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
    now: float,
    known_since: float = 0.0,
) -> dict[str, list[Any]]:
    """Columns of the range: times, fetched and acknowledged events a minute, lag, waiting bytes, calls.

    None where there is no data. Each item of `counts` and `samples` has its Unix time.
    """
    step = chosen.step
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
            worst[index] = worst_of(worst[index], sample)
    minutes = step / MINUTE
    columns = {
        name: [None if bucket is None else round(bucket[at] / minutes, 2) for bucket in sums]
        for at, name in enumerate(("fetched", "acked"))
    }
    columns |= {
        name: [None if bucket is None else bucket[at] for bucket in worst]
        for at, name in enumerate(("lag", "waiting", "calls"))
    }
    return {"t": list(times), **columns}


def counts_of(days: Iterable[Mapping[str, Counts]], integration: str | None) -> Iterator[tuple[int, Sequence[float]]]:
    """The counts of an integration, or of all, with their times. `days`: each day's counts by the minute."""
    for minutes in days:
        for name in [integration] if integration is not None else [*minutes]:
            for minute, pair in [*minutes.get(name, {}).items()]:
                yield minute * MINUTE, pair


def samples_of(
    days: Iterable[Mapping[int, Mapping[str, Sequence[float]]]], integration: str | None
) -> Iterator[tuple[int, Sequence[float]]]:
    """An integration's samples with their times; of all integrations the highest lag and the sums of the others.

    `days`: each day's samples by minute and integration.
    """
    for samples in days:
        for minute, by_name in [*samples.items()]:
            chosen = [sample for key, sample in by_name.items() if integration in (None, key)]
            if chosen:
                lags, waiting, calls = zip(*chosen, strict=True)
                yield minute * MINUTE, [max(lags), sum(waiting), sum(calls)]


def worst_of(before: Sequence[float] | None, sample: Sequence[float]) -> list[float]:
    """A bucket shows the highest value of each figure."""
    return [*sample] if before is None else [max(pair) for pair in zip(before, sample, strict=True)]


def joined(marks: Iterable[Mark], more: Iterable[Mark]) -> list[Mark]:
    """All marks, the oldest first. An outage of `more` that touches one of the same cause is one with it."""
    joint = [*marks]
    for mark in more:
        same = [other for other in joint if other == mark or (mark.kind == "outage" and _is_one_outage(other, mark))]
        joint = [other for other in joint if other not in same]
        begin, end = min(part.begin for part in (mark, *same)), max(part.end for part in (mark, *same))
        joint.append(Mark(mark.kind, begin, end, mark.text))
    return sorted(joint, key=lambda mark: mark.begin)


def _is_one_outage(first: Mark, second: Mark) -> bool:
    """Whether two outages have one cause, and no break of a minute between them."""
    texts = {first.text, second.text}
    is_near = first.begin < second.end + MINUTE and second.begin < first.end + MINUTE
    return is_near and (len(texts) == 1 or texts == {OUTAGE, ONGOING})


def within(marks: Iterable[Mark], chosen: Range, now: float) -> list[Mark]:
    """The marks that overlap the range, oldest first."""
    return sorted(
        (mark for mark in marks if mark.end >= now - chosen.seconds and mark.begin <= now), key=lambda mark: mark.begin
    )
