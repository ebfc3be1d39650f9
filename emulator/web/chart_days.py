"""The charts' figures of a day: stored as `charts/<day>.json`, and added to while the day lasts. Pure."""

from __future__ import annotations

import sys
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import msgspec

from emulator.web.charts import DAY, HOUR, MINUTE, Counts, Pair, count_in, day_name, worst_of
from lib.errors import DamagedError
from lib.model.stream import Stream
from lib.state.codec import Codec
from lib.store.base import ABSENT

BUCKET = 10 * MINUTE
"""Seconds of a bucket of a stream's figures."""
BUCKETS = DAY // BUCKET
LAYOUT = 3
"""Of a day's object. Layout 2 had a stream's counts by the hour, and no other figures of it.

Layout 1 counted hours by tenant: its counts are made again from the receipts.
"""
Sample = Annotated[list[int | float], msgspec.Meta(min_length=3, max_length=3)]
"""The highest lag (seconds), the waiting bytes and the calls of the last minute."""

_EMPTY = array("I", [0]) * (5 * BUCKETS)
"""A day's buckets of seconds of lag and 1 (0: no sample), waiting bytes, calls in ten minutes, and events that were
fetched and acknowledged."""
_FETCHED, _ACKED = 3 * BUCKETS, 4 * BUCKETS
_MOST = 2**32 - 1
_BYTES = _EMPTY.itemsize


class StoredStream(msgspec.Struct, frozen=True, array_like=True):
    """A stream's day as it is stored: the numbers of its last counted events, and its buckets."""

    fetched: int | None
    acked: int | None
    buckets: str
    """Base64 of zlib of the numbers of _EMPTY: first the lowest byte of each, then the next one of each."""


@dataclass(frozen=True, slots=True)
class Day:
    """The stored figures of one day (UTC)."""

    day: str
    until: int | float = 0.0
    """The time (Unix time) up to which receipts need not be read again."""
    minutes: Mapping[str, Mapping[int, Pair]] = field(default_factory=dict)
    """Fetched and acknowledged a minute of Unix time, by integration."""
    streams: Mapping[str, Mapping[str, StoredStream]] = field(default_factory=dict)
    """By integration and stream (tenant/kind)."""
    samples: Mapping[int, Mapping[str, Sample]] = field(default_factory=dict)
    """By minute and integration."""
    numbered: bool = True
    """Whether `streams` has the numbers: a stream that it does not name has no counted event. Layout 2 has none."""
    following: str | None = None
    """The day that is counted in now. This one is closed then: its numbers of events are where that one began."""

    def __post_init__(self) -> None:
        _check(self.day)

    def coarse(self) -> Day:
        """The integrations' figures by the hour: charts of more than a day need no minutes, and this saves memory."""
        minutes: dict[str, dict[int, list[int]]] = {}
        for name, counts in self.minutes.items():
            for minute, (fetched, acked) in counts.items():
                count_in(minutes.setdefault(name, {}), minute // 60 * 60, fetched, acked)
        samples: dict[int, dict[str, list[float]]] = {}
        for minute, by_name in self.samples.items():
            hour = samples.setdefault(minute // 60 * 60, {})
            for name, sample in by_name.items():
                hour[name] = worst_of(hour.get(name), sample)
        return Day(self.day, self.until, minutes, {}, samples)

    def of(self, stream: Stream) -> StreamFigures:
        """A stream's figures; DamagedError."""
        stored = self.streams.get(stream.integration, {}).get(_place(stream))
        return StreamFigures() if stored is None else StreamFigures.of(stored)


@dataclass(frozen=True, slots=True)
class OlderDay:
    """A day of layout 2."""

    day: str
    until: int | float
    minutes: Mapping[str, Mapping[int, Pair]]
    hours: Mapping[str, Mapping[str, Mapping[int, Pair]]]
    """Fetched and acknowledged an hour of Unix time, by integration and stream (tenant/kind)."""
    samples: Mapping[int, Mapping[str, Sample]]

    def __post_init__(self) -> None:
        _check(self.day)


CHART_DAY = Codec(Day, "a day of charts", layout=LAYOUT, later=("following",))
OLDER_CHART_DAY = Codec(OlderDay, "a day of charts", layout=2)


def day_from_body(body: bytes) -> Day:
    """A stored day. Of layout 1 only the samples count; DamagedError, LayoutError as the codec."""
    stored = CHART_DAY.load(body)
    if stored["layout"] == LAYOUT:
        return CHART_DAY.value(stored)
    if stored["layout"] == 1:
        stored |= {"until": 0.0, "minutes": {}, "hours": {}}
    older = OLDER_CHART_DAY.value(stored)
    streams = {
        integration: {place: _of_hours(older.day, hours) for place, hours in places.items()}
        for integration, places in older.hours.items()
    }
    return Day(older.day, older.until, older.minutes, streams, older.samples, numbered=False)


class _Streams(msgspec.Struct):
    """What a stream's chart needs of a day: the rest is not decoded."""

    layout: int
    streams: dict[str, msgspec.Raw]


def streams_from_body(body: bytes, streams: Sequence[Stream]) -> list[StreamFigures]:
    """The figures of some streams of a stored day; DamagedError, LayoutError as `day_from_body`."""
    with suppress(msgspec.DecodeError):
        day = msgspec.json.decode(body, type=_Streams)
        if day.layout == LAYOUT:
            places = {
                name: msgspec.json.decode(day.streams[name], type=dict[str, msgspec.Raw])
                for name in {stream.integration for stream in streams} & day.streams.keys()
            }
            rows = [places.get(stream.integration, {}).get(_place(stream)) for stream in streams]
            return [
                StreamFigures() if row is None else StreamFigures.of(msgspec.json.decode(row, type=StoredStream))
                for row in rows
            ]
    day_of_all = day_from_body(body)
    return [day_of_all.of(stream) for stream in streams]


def _place(stream: Stream) -> str:
    return f"{stream.tenant}/{stream.kind}"


def _of_hours(day: str, hours: Counts) -> StoredStream:
    stream_day, begin = StreamFigures(), begin_of(day)
    for hour, (fetched, acked) in hours.items():
        stream_day.add(_bucket(hour * HOUR, begin), fetched, acked)
    return stream_day.stored()


class StreamFigures:
    """A stream's figures of a day."""

    __slots__ = ("acked", "fetched", "values")

    def __init__(self, fetched: int | None = None, acked: int | None = None, values: array[int] = _EMPTY) -> None:
        self.fetched = fetched
        """The number of the last fetched event that is counted; None: none, or an older version counted."""
        self.acked = acked
        """The same of the acknowledged events."""
        self.values = values[:]

    @classmethod
    def of(cls, stored: StoredStream) -> StreamFigures:
        """The figures of a stored stream; DamagedError."""
        size = _BYTES * len(_EMPTY)
        try:
            data = zlib.decompressobj().decompress(b64decode(stored.buckets, validate=True), size + 1)
        except (ValueError, zlib.error) as error:
            raise DamagedError(f"a day of charts cannot be read: buckets of a stream: {error}") from None
        if len(data) != size:
            raise DamagedError("a day of charts cannot be read: a stream has too few or too many buckets")
        joined = bytearray(size)
        for at in range(_BYTES):
            joined[at::_BYTES] = data[at * len(_EMPTY) : (at + 1) * len(_EMPTY)]
        values = array("I", bytes(joined))
        if sys.byteorder == "big":
            values.byteswap()
        return cls(stored.fetched, stored.acked, values)

    def stored(self) -> StoredStream:
        """As it is stored."""
        values = self.values[:]
        if sys.byteorder == "big":
            values.byteswap()
        data = values.tobytes()
        # Most numbers are small: their higher bytes, all together, are nothing but zeros.
        split = b"".join(data[at::_BYTES] for at in range(_BYTES))
        return StoredStream(self.fetched, self.acked, b64encode(zlib.compress(split)).decode())

    def count(self, fetched: int | None, acked: int | None) -> Pair:
        """Note that the events up to these numbers are counted; how many of them were not before."""
        self.fetched, new_fetched = _counted(self.fetched, fetched)
        self.acked, new_acked = _counted(self.acked, acked)
        return [new_fetched, new_acked]

    def add(self, bucket: int, fetched: int, acked: int) -> None:
        """Add so many events to the bucket."""
        for at, events in ((_FETCHED + bucket, fetched), (_ACKED + bucket, acked)):
            self.values[at] = max(0, min(self.values[at] + events, _MOST))

    def sample(self, bucket: int, figures: Iterable[float]) -> None:
        """Keep the highest lag, waiting bytes and calls a minute of the bucket."""
        lag, waiting, calls = figures
        for at, figure in enumerate((lag + 1, waiting, 10 * calls)):
            place = at * BUCKETS + bucket
            self.values[place] = max(self.values[place], min(round(figure), _MOST))

    def is_reset(self, fetched: int) -> bool:
        """Whether the stream has fewer events than it began the day with: its state was removed."""
        if self.fetched is None or fetched >= self.fetched:
            return False
        return fetched < self.fetched - sum(self.values[_FETCHED:_ACKED])

    def figures(self, begin: int, step: int = BUCKET) -> Figures:
        """What charts show, by `step` seconds. `begin`: the begin of the day (Unix time)."""
        counts: dict[int, list[int]] = {}
        samples: dict[int, list[float]] = {}
        for bucket in range(BUCKETS):
            lag, waiting, calls, fetched, acked = self.values[bucket::BUCKETS]
            at = begin + bucket * BUCKET // step * step
            if fetched or acked:
                count_in(counts, at, fetched, acked)
            if lag:
                samples[at] = worst_of(samples.get(at), [lag - 1, waiting, calls / 10])
        return Figures([*counts.items()], [*samples.items()])


class Figures(NamedTuple):
    """A stream's figures with their Unix times."""

    counts: Sequence[tuple[int, Sequence[int]]] = ()
    """Fetched and acknowledged events."""
    samples: Sequence[tuple[int, Sequence[float]]] = ()
    """Lag, waiting bytes and calls a minute."""


def _counted(last: int | None, number: int | None) -> tuple[int | None, int]:
    """The number of the last event that is counted now, and how many were not counted before."""
    if number is None:
        return last, 0
    return max(last or 0, number), max(0, number - (last or 0))


def begin_of(day: str) -> int:
    """The Unix time of a day's begin (UTC)."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def _check(day: str) -> None:
    if day_name(begin_of(day)) != day:
        raise ValueError(f"not a day: {day}")


def _bucket(at: float, begin: int) -> int:
    """The bucket of a Unix time; the nearest one for a time outside the day."""
    return min(max(0, int(at - begin) // BUCKET), BUCKETS - 1)


class Count(NamedTuple):
    """The numbers of the last events of a stream that were fetched and acknowledged at a Unix time.

    The stream's first event has the number 1. Counting by numbers counts no event twice, whoever counts it again:
    another connector, or this one after a restart.
    """

    stream: Stream
    at: float
    fetched: int | None = None
    acked: int | None = None


class Samples(NamedTuple):
    """The figures of a minute."""

    minute: int
    integrations: Mapping[str, list[float]]
    streams: Sequence[Stream]
    figures: array[float]
    """Lag, waiting bytes and calls a minute of each stream, one after the other."""


class OpenDay:
    """The day that is counted in now."""

    def __init__(self, day: str, generation: int = ABSENT, until: float = 0.0) -> None:
        self.day = day
        self.begin = begin_of(day)
        self.generation = generation
        """Of the stored day that it began with."""
        self.until = until
        self.is_numbered = False
        """Whether a stream that `streams` does not name has no counted event."""
        self.minutes: dict[str, dict[int, list[int]]] = {}
        self.samples: dict[int, dict[str, list[float]]] = {}
        self.streams: dict[Stream, StreamFigures] = {}

    @classmethod
    def of(cls, stored: Day, generation: int) -> OpenDay:
        """The stored day, to be continued; DamagedError."""
        day = cls(stored.day, generation, stored.until)
        day.is_numbered = stored.numbered
        day.minutes = {name: {**minutes} for name, minutes in stored.minutes.items()}
        day.samples = {minute: {**by_name} for minute, by_name in stored.samples.items()}
        for integration, places in stored.streams.items():
            for place, figures in places.items():
                tenant, _, kind = place.rpartition("/")
                day.streams[Stream(integration, tenant, kind)] = StreamFigures.of(figures)
        return day

    def stored(self, following: str | None = None) -> Day:
        """As it is stored. `following`: the day that is counted in from now on."""
        streams: dict[str, dict[str, StoredStream]] = {}
        for stream, figures in self.streams.items():
            streams.setdefault(stream.integration, {})[_place(stream)] = figures.stored()
        return Day(self.day, self.until, self.minutes, streams, self.samples, self.is_numbered, following)

    def after(self, day: str) -> OpenDay:
        """A later day, which counts from where this one ended."""
        later = OpenDay(day, until=self.until)
        later.is_numbered = self.is_numbered
        later.streams = {stream: StreamFigures(ended.fetched, ended.acked) for stream, ended in self.streams.items()}
        return later

    def begin_with(self, stream: Stream, fetched: int, acked: int) -> None:
        """Count only later events of the stream than these many."""
        figures = self._of(stream)
        figures.fetched, figures.acked = fetched, acked

    def _of(self, stream: Stream) -> StreamFigures:
        figures = self.streams.get(stream)
        if figures is None:
            figures = self.streams[stream] = StreamFigures()
        return figures

    def count(self, counted: Count) -> Pair:
        """Count those of the events that are not counted yet; how many they were."""
        news = self._of(counted.stream).count(counted.fetched, counted.acked)
        if any(news):
            self.add(counted.stream, counted.at, *news)
        return news

    def add(self, stream: Stream, at: float, fetched: int = 0, acked: int = 0) -> None:
        """Add so many events at a Unix time."""
        count_in(self.minutes.setdefault(stream.integration, {}), int(at) // MINUTE, fetched, acked)
        self._of(stream).add(_bucket(at, self.begin), fetched, acked)

    def sample(self, samples: Samples) -> None:
        """Keep the figures of a minute: the highest, if the minute has some already."""
        by_name = self.samples.setdefault(samples.minute, {})
        for name, sample in samples.integrations.items():
            by_name[name] = worst_of(by_name.get(name), sample)
        bucket = _bucket(samples.minute * MINUTE, self.begin)
        for at, stream in enumerate(samples.streams):
            self._of(stream).sample(bucket, samples.figures[3 * at : 3 * at + 3])


def together(streams: Iterable[Iterable[tuple[int, Sequence[float]]]]) -> Iterator[tuple[int, list[float]]]:
    """The samples of several streams by their time: the highest lag, and the sums of waiting bytes and calls."""
    by_time: dict[int, list[Sequence[float]]] = {}
    for samples in streams:
        for at, sample in samples:
            by_time.setdefault(at, []).append(sample)
    for at, of_all in by_time.items():
        lags, waiting, calls = zip(*of_all, strict=True)
        yield at, [max(lags), sum(waiting), sum(calls)]
