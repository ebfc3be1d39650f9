"""The past for the charts: counts of fetched and acknowledged events, samples of lag and waiting bytes, and marks."""

from __future__ import annotations

import logging
import re
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain, groupby, islice
from typing import Any

from emulator.web.chart_days import (
    BUCKET,
    CHART_DAY,
    Count,
    Day,
    Figures,
    OpenDay,
    Samples,
    StreamFigures,
    begin_of,
    day_from_body,
    streams_from_body,
    together,
)
from emulator.web.chart_objects import TRIES, load_object, read_object, update_object
from emulator.web.charts import (
    DAY,
    HOUR,
    MARKS,
    MINUTE,
    ONGOING,
    OUTAGE,
    RECENT,
    Mark,
    Marks,
    Range,
    Scope,
    StreamSamples,
    bucketed,
    count_in,
    counts_of,
    day_name,
    days_of,
    joined,
    marks_from_body,
    samples_of,
    within,
)
from emulator.web.formatting import plural
from emulator.web.health_changes import HealthChanges
from emulator.web.snapshot import Taken
from emulator.web.status import StreamRecord, read_record
from lib.errors import ConflictError, ConnectorError, KeptError
from lib.model.batch import Header
from lib.model.receipt import DELIVERED, Receipt
from lib.model.stream import Stream
from lib.state.batches import HEADER, Waiting
from lib.state.codec import UNREADABLE
from lib.state.state import State
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)

PREFIX = "charts/"
DAY_NAME = re.compile(r"\d{4}-\d\d-\d\d")
MARKS_KEY = f"{PREFIX}marks.json"
SAVE_SECONDS = 300.0
SAMPLE_SECONDS = 60.0
FIRST_SAMPLE_SECONDS = 5.0
DOWN_SECONDS = 2 * SAVE_SECONDS
"""A connector that has not saved for this long was not running."""
MOST_MARKS = 500
MOST_BATCHES = 2_000
"""The most waiting batches whose headers are read at the start."""
MOST_RECEIPTS = 2_000
"""The most receipts of a stream that are read for the minutes before the start."""
KEPT_STREAM_DAYS = 1_000
"""The most past days of streams in memory, of 12 KB each."""
MOST_CHANGES = 300
"""The most changes that are counted again if another connector has written the day. A sample takes 100 KB with 5,000
streams. What is left out is counted with the next sample."""

_Columns = Iterable[tuple[int, Sequence[float]]]
"""Figures with their Unix times."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What is added to the open day at a time."""

    counts: Sequence[Count] = ()
    samples: Samples | None = None

    def apply(self, day: OpenDay) -> list[tuple[Count, list[int]]]:
        """Add it; the counts with their numbers of events that were not counted before."""
        news = [(count, day.count(count)) for count in self.counts]
        if self.samples is not None:
            day.sample(self.samples)
        return news


class History:
    """Days of counts and samples, stored below `charts/`.

    Events are counted by their numbers within the stream, which functions, receipts and checkpoints tell. The stored
    day holds the number of each stream's last counted event, and changes with compare-and-set. So each event counts
    once, also with two connectors on one store, and after a crash: the next one to see a higher number counts the rest.
    A day is closed before the next one begins with its numbers.

    At start, receipts since the last write are read once. So only samples of lag, bytes and calls can be lost.

    The minutes of a single stream are not saved. Its counts from before the start are read from its receipts when
    needed; its samples from before the start have ten minutes.
    """

    def __init__(
        self,
        store: Callable[[], ObjectStore],
        taken: Callable[[], Taken],
        now: Callable[[], float],
        every: float = SAMPLE_SECONDS,
    ) -> None:
        """`every`: seconds between two samples."""
        self._store = store
        self._taken = taken
        self._now = now
        self._every = every
        self._lock = threading.Lock()
        self._open = OpenDay(day_name(now()))
        self._unsaved: list[_Change] = []
        """Changes of the open day."""
        self._made = 0
        """The number of changes made so far."""
        self._read: dict[str, Day] = {}
        """Past days without their streams, as they are in the store."""
        self._read_streams: dict[tuple[str, Stream], Figures] = {}
        """Past days of streams."""
        self._recent: dict[Stream, dict[int, list[int]]] = {}
        """Counts of the last three hours, by minute."""
        self._begun: set[Stream] = set()
        """Streams whose minutes before the start have been read."""
        self._samples = StreamSamples()
        self._calls: Counter[Stream] = Counter()
        """Calls since the last sample."""
        self._sampled = now()
        self._marks: Sequence[Mark] = ()
        """As they were last read or written."""
        self._new_marks: list[Mark] = []
        self._outage: float | None = None
        """The start of the engine's outage."""
        self._began = now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self.changes = HealthChanges(store)
        self.answered: set[str] = set()
        """The functions that have answered."""
        self._is_loaded = False
        """Whether the stored day is the open one. Before that, nothing is added to it."""
        self.is_complete = False
        """Whether the past has been read."""
        self.known_since: float | None = None
        """The time from which there is data (Unix time); None until the past has been read."""

    def start(self) -> None:
        """Read the past, then take samples and save."""
        self._began = self._now()
        self._thread.start()

    def stop(self) -> None:
        """Save, and end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            if self.is_complete:
                with suppress(ConnectorError):
                    self.save()
                with suppress(ConnectorError):
                    self.changes.save()

    def add_results(self, name: str, results: Sequence[Mapping[str, Any]]) -> None:
        """Count the events in a function's answer, and note the start and the end of an outage of the engine."""
        now = self._now()
        self.answered.add(name)
        outcomes = {line["outcome"] for line in results} if name == "forward-batch" else set()
        with self._lock:
            if "engine_unavailable" in outcomes:
                self._begin_outage(now)
            elif "delivered" in outcomes:
                self._end_outage(now)
        lines = [(Stream.of(line), line) for line in results if line.get("tenant") is not None]
        with self._lock:
            self._calls.update({stream: line["pages"] for stream, line in lines if line.get("pages")})
        numbered = (Count(stream, now, line.get("events_total"), line.get("acked_total")) for stream, line in lines)
        counts = [count for count in numbered if (count.fetched, count.acked) != (None, None)]
        if counts:
            self._add(_Change(counts))

    def chart(self, chosen: Range, scope: Scope = Scope()) -> dict[str, Any]:  # noqa: B008 - it is frozen
        """The columns and the marks of the range."""
        now = self._now()
        is_fine = bool(scope.streams) and chosen.seconds <= RECENT
        if is_fine:
            self._read_minutes(scope.streams, now)
        names = days_of(chosen, now)
        days = [] if scope.streams else list(self._past_days(names, now))
        past = list(self._past_streams(names, scope.streams, now))
        with self._lock:
            columns = bucketed(
                *(
                    self._of_streams(past, scope.streams, now, is_fine=is_fine)
                    if scope.streams
                    else self._of(days, scope)
                ),
                chosen=chosen,
                now=now,
                known_since=self.known_since or 0.0,
            )
            marks = joined(self._marks, [*self._new_marks, *self._ongoing(now)])
        return {
            **columns,
            "range": chosen.name,
            "marks": [mark.fields() for mark in within([*marks, *happened(self._taken(), scope)], chosen, now)],
            "health": self.changes.spans(scope, now - chosen.seconds, now),
            "complete": self.is_complete,
        }

    def _of(self, days: Sequence[Day], scope: Scope) -> tuple[_Columns, _Columns]:
        """Counts and samples of an integration or of all, with their times."""
        counts = counts_of([*(day.minutes for day in days), self._open.minutes], scope.integration)
        return counts, samples_of([*(day.samples for day in days), self._open.samples], scope.integration)

    def _of_streams(
        self, past: Sequence[Figures], streams: Sequence[Stream], now: float, *, is_fine: bool
    ) -> tuple[_Columns, _Columns]:
        """Counts and samples of streams, with their times. `past`: of the days before the open one."""
        today = (day for stream in streams if (day := self._open.streams.get(stream)) is not None)
        days = [*past, *(day.figures(self._open.begin) for day in today)]
        if not is_fine:
            return chain.from_iterable(day.counts for day in days), together(day.samples for day in days)
        minutes = ((minute * MINUTE, pair) for stream in streams for minute, pair in self._minutes(stream, now).items())
        since = self._samples.since
        older = (
            [(minute, sample) for at, sample in day.samples for minute in range(at, at + BUCKET, MINUTE)]
            for day in days
        )
        before = ([(at, sample) for at, sample in samples if at < min(since, now)] for samples in older)
        return minutes, together([*before, *(self._samples.of(stream) for stream in streams)])

    def _minutes(self, stream: Stream, now: float) -> dict[int, list[int]]:
        """A stream's counts by minute, without those that are too old to be shown."""
        first = int(now - RECENT) // MINUTE
        minutes = self._recent.setdefault(stream, {})
        for minute in [number for number in minutes if number < first]:
            del minutes[minute]
        return minutes

    def _read_minutes(self, streams: Sequence[Stream], now: float) -> None:
        """Count the receipts of the last hours from before this process, once for each stream."""
        state, since = State.of(self._store()), now - RECENT
        for stream in [candidate for candidate in streams if candidate not in self._begun and self._began > since]:
            # Waiting batches are read before receipts: a batch delivered in between is in both, and counts once.
            headers = _headers(state, state.batches.waiting(stream))
            counted = {header.sequence: [(header.fetched_at.timestamp(), header.events, 0)] for header in headers}
            written = datetime.fromtimestamp(since, UTC)
            for place, body in state.ledger.newest(stream, day_name(since), most=MOST_RECEIPTS, written=written):
                receipt = state.ledger.readable(stream, place, body)
                if receipt is not None:
                    counted[receipt.header.sequence] = [*_counts(receipt)]
            with self._lock:
                if stream not in self._begun:
                    self._begun.add(stream)
                    for at, fetched, acked in chain(*counted.values()):
                        if since <= at < self._began:
                            count_in(self._minutes(stream, now), int(at) // MINUTE, fetched, acked)

    def _add(self, change: _Change) -> None:
        """Make the change of the open day, now or when it has been read."""
        with self._lock:
            self._unsaved = [*self._unsaved, change][-MOST_CHANGES:]
            self._made += 1
            if self._is_loaded:
                self._apply(change)

    def _apply(self, change: _Change) -> None:
        for count, (fetched, acked) in change.apply(self._open):
            if fetched or acked:
                count_in(self._minutes(count.stream, count.at), int(count.at) // MINUTE, fetched, acked)

    def _past_days(self, names: Iterable[str], now: float) -> Iterator[Day]:
        """The days before the open one. Those before yesterday are by the hour."""
        for name in (name for name in names if name < self._open.day):
            day = self._read.get(name)
            if day is None:
                stored = self._stored(name) or Day(name)
                day = Day(name, stored.until, stored.minutes, {}, stored.samples)
            self._read[name] = day if name >= day_name(now - DAY) else day.coarse()
            while len(self._read) > 100:
                del self._read[next(iter(self._read))]
            yield day

    def _past_streams(self, names: Iterable[str], streams: Sequence[Stream], now: float) -> Iterator[Figures]:
        """The streams' days before the open one. Those before yesterday are by the hour."""
        for name in (name for name in names if name < self._open.day):
            if any((name, stream) not in self._read_streams for stream in streams):
                step = BUCKET if name >= day_name(now - DAY) else HOUR
                for stream, day in zip(streams, self._stored_streams(name, streams), strict=True):
                    self._read_streams[name, stream] = day.figures(begin_of(name), step)
            yield from [self._read_streams[name, stream] for stream in streams]
        while len(self._read_streams) > KEPT_STREAM_DAYS:
            del self._read_streams[next(iter(self._read_streams))]

    def _stored_streams(self, name: str, streams: Sequence[Stream]) -> Sequence[StreamFigures]:
        with suppress(ConnectorError):
            stored_days = read_object(self._store(), _key(name), partial(streams_from_body, streams=streams))
            if stored_days is not None:
                return stored_days
        return [StreamFigures() for _ in streams]

    def _stored(self, name: str) -> Day | None:
        with suppress(ConnectorError):
            return read_object(self._store(), _key(name), day_from_body)
        return None

    def _run(self) -> None:
        saved = self._began
        with suppress(ConnectorError):
            self.load()
        if self._over.is_set():
            return
        self.is_complete = True
        pause = FIRST_SAMPLE_SECONDS
        while not self._over.wait(pause):
            pause = self._every
            with suppress(ConnectorError):
                self.load()
                self.sample()
                self.changes.save()
                if self._now() - saved >= SAVE_SECONDS or day_name(self._now()) > self._open.day:
                    saved = self._now()
                    self.save()

    def load(self) -> None:
        """Read the past, once."""
        if not self.changes.is_loaded:
            # Before the marks are written again: they tell when the connector ran last.
            seen = self._stored_marks().seen
            self.changes.load(seen if seen is not None and self._began - seen > DOWN_SECONDS else None)
        if not self._is_loaded:
            self._load(self._began)

    def _stored_marks(self) -> Marks:
        with suppress(KeptError):
            return read_object(self._store(), MARKS_KEY, marks_from_body) or Marks()
        return Marks()

    def _load(self, began: float) -> None:
        """Open the stored day, count what it lacks, and rebuild earlier days once if an older version left them."""
        stored_marks = self._stored_marks()
        self._open = self._newest_day(began)
        missing = sorted(self._missing(self._open, began), key=lambda count: count.at)
        for name, counts in groupby(missing, key=lambda count: max(self._open.day, day_name(count.at))):
            if name > self._open.day:
                self._write(name)
            for count in counts:
                self._open.count(count)
        if day_name(began) > self._open.day:
            self._write(day_name(began))
        since = stored_marks.known_since
        if since is None:
            since = self._rebuild(State.of(self._store()), day_name(began - 90 * DAY), began)
        if self._over.is_set():
            return
        self.known_since = float(since)
        with self._lock:
            self._marks = stored_marks.marks
            self._new_marks = [*_starts(stored_marks.seen, began), *self._new_marks]
            for change in self._unsaved:
                self._apply(change)
            self._is_loaded = True
        self.save()

    def _newest_day(self, began: float) -> OpenDay:
        """The day that is counted in, by the store; today if there is none."""
        names = (entry.key.removeprefix(PREFIX).removesuffix(".json") for entry in self._store().list(PREFIX))
        # A day after tomorrow was written when a clock was wrong.
        days = [name for name in names if DAY_NAME.fullmatch(name) and name <= day_name(began + DAY)]
        name = max(days, default=day_name(began))
        with suppress(KeptError):
            day, generation = self._stored_open(name, began)
            return day or OpenDay(name, generation)
        return OpenDay(day_name(began))

    def _stored_open(self, name: str, now: float) -> tuple[OpenDay | None, int]:
        """The stored day, or the one that follows if it is closed, with its generation; KeptError."""
        day: OpenDay | None = None
        while True:
            stored, generation = load_object(self._store(), _key(name), _opened)
            if stored is None:
                if day is not None:
                    day = day.after(name)
                    day.generation = generation
                return day, generation
            day, following = stored
            day.generation = generation
            if following is None or not name < following <= day_name(now + DAY):
                return day, generation
            name = following

    def _rebuild(self, state: State, oldest: str, began: float) -> float:
        """Count the days of an older version from the receipts; the time of the first event."""
        made: dict[str, OpenDay] = {}
        first = today = day_name(began)
        for stream in state.ledger.streams():
            for place, body in state.ledger.bodies(stream, oldest):
                if self._over.is_set():
                    return began
                first = min(first, place.day)
                receipt = state.ledger.readable(stream, place, body)
                for at, fetched, acked in _counts(receipt) if receipt is not None else ():
                    if day_name(at) < today:
                        made.setdefault(day_name(at), OpenDay(day_name(at))).add(stream, at, fetched, acked)
        for name, day in made.items():
            self._write_rebuilt(name, day)
        with self._lock:
            minutes = [min(counts) for day in (*made.values(), self._open) for counts in day.minutes.values()]
        # A receipt's folder is a day by Sophos's clock; the counts are by this machine's clock.
        filed = begin_of(first)
        return min([*(minute * MINUTE for minute in minutes), filed if first < today else began])

    def _write_rebuilt(self, name: str, day: OpenDay) -> None:
        def counted(stored: Day | None) -> Day | None:
            if stored is not None and stored.until > 0.0:
                return None  # It has its counts.
            day.until = float(day.begin + DAY)
            return replace(day.stored(), samples=stored.samples if stored is not None else {})

        update_object(self._store(), _key(name), CHART_DAY, counted, day_from_body)

    def _missing(self, day: OpenDay, began: float) -> Iterator[Count]:
        """The events of receipts and waiting batches from before this process that the stored day may lack.

        If the day has no numbers, its streams begin with those of its end.
        """
        state = State.of(self._store())
        since = max(day.until, day.begin, began - 2 * DAY)
        is_numbered = day.is_numbered and day.until >= began - 2 * DAY
        waiting = {batch.stream for batch in state.batches.waiting()}
        for stream in state.checkpoints.streams():
            if self._over.is_set():
                return
            # In this order no batch is missed: one that moves on meanwhile is met again.
            record = read_record(state, datetime.now(UTC), stream) if not is_numbered or stream in waiting else None
            headers = [*_headers(state, state.batches.waiting(stream))] if record is not None else []
            written = datetime.fromtimestamp(since - 1.0, UTC)
            receipts = [
                receipt
                for place, body in state.ledger.newest(stream, day_name(began - 2 * DAY), written=written)
                if (receipt := state.ledger.readable(stream, place, body)) is not None
            ]
            fetches, acks = _numbered(record, headers, receipts)
            if not is_numbered and record is not None:
                totals = _totals(record)
                fetched = min((first for at, first, _ in fetches if at >= since), default=totals[0])
                acked = min((first for at, first, _ in acks if at >= since), default=totals[1])
                day.begin_with(stream, fetched, acked)
            yield from (Count(stream, at, fetched=last) for at, _, last in fetches if at < began)
            yield from (Count(stream, at, acked=last) for at, _, last in acks if at < began)
        day.is_numbered = True

    def sample(self) -> None:
        """Take a sample of the status."""
        now, taken = self._now(), self._taken()
        site, status = taken.site, taken.status
        integrations: dict[str, list[float]] = {
            line["name"]: [0.0, 0, line.get("calls", {}).get("last_minute", 0)] for line in status["integrations"]
        }
        streams: list[Stream] = []
        figures = array("f")
        counts: list[Count] = []
        with self._lock:
            calls, self._calls = self._calls, Counter()
            minutes = max(1.0, (now - self._sampled) / MINUTE)
            self._sampled = now
            open_streams = self._open.streams if self._is_loaded else {}
            # An older status may tell less than what the day began with.
            is_current = site.now.timestamp() > max(self._open.begin, self._began) + SAVE_SECONDS
        for line in status["streams"]:
            stream = Stream.of(line)
            day = open_streams.get(stream)
            if day is not None and is_current and day.is_reset(line["events"]):
                day.fetched, day.acked = line["events"], line["acked"]
            if day is None or (day.fetched, day.acked) != (line["events"], line["acked"]):
                counts.append(Count(stream, now, line["events"], line["acked"]))
            if line["state"] == "retired":
                continue
            lag = line["lag_seconds"] or 0.0
            streams.append(stream)
            figures.extend((round(lag), line["pending_bytes"], round(calls[stream] / minutes, 1)))
            of_all = integrations.get(line["integration"])
            if of_all is not None:
                of_all[0] = max(of_all[0], round(lag, 1))
                of_all[1] += line["pending_bytes"]
        samples = Samples(int(now) // MINUTE, integrations, streams, figures)
        with self._lock:
            self._samples.take(samples.minute, streams, figures)
        self._add(_Change(counts, samples))
        with self._lock:
            if site.engine is None:
                self._end_outage(now)
            else:
                self._begin_outage(site.engine.since.timestamp())

    def _begin_outage(self, at: float) -> None:
        if self._outage is None:
            self._outage = at

    def _end_outage(self, now: float) -> None:
        if self._outage is not None:
            self._new_marks.append(Mark("outage", self._outage, now, OUTAGE))
            self._outage = None

    def _ongoing(self, now: float) -> list[Mark]:
        return [] if self._outage is None else [Mark("outage", self._outage, now, ONGOING)]

    def save(self) -> None:
        """Write the open day and the marks. The first write of a day closes the day before."""
        if not self._is_loaded:
            return
        today = day_name(self._now())
        try:
            self._write(today if today > self._open.day else None)
        except KeptError as error:
            log.warning("%s is not written: %s", _key(self._open.day), error)
            if today > self._open.day:
                with self._lock:
                    self._open = self._open.after(today)
        self._save_marks()

    def _write(self, following: str | None = None) -> None:
        """Write the open day. With `following`, close it, and open and write that one."""
        for left in reversed(range(TRIES)):
            with self._lock:
                day, made = self._open, self._made
                day.until = self._now()
                body = CHART_DAY.encode(day.stored(following))
                later = None if following is None else day.after(following)
            try:
                generation = self._store().write(_key(day.day), body, expected=day.generation)
            except ConflictError:
                if not left:
                    raise
                self._merge(day)
                following = following if following is not None and following > self._open.day else None
                continue
            with self._lock:
                day.generation = generation
                if self._is_loaded:
                    self._unsaved = self._unsaved[len(self._unsaved) - (self._made - made) :]
                if later is None:
                    return
                self._read[day.day] = Day(day.day, day.until, day.minutes, {}, day.samples)
                for change in self._unsaved if self._is_loaded else ():
                    change.apply(later)
                self._open, following = later, None

    def _merge(self, day: OpenDay) -> None:
        """Continue with the stored day, which another connector has written, and count in it what is not saved."""
        stored, generation = self._stored_open(day.day, self._now())
        with self._lock:
            if stored is None:
                day.generation = generation  # It was removed or damaged.
                return
            if not stored.is_numbered:
                # An older version wrote it, which counts otherwise: what is counted here already counts as counted.
                for stream, figures in day.streams.items():
                    stored.begin_with(stream, figures.fetched or 0, figures.acked or 0)
                stored.is_numbered = True
            for change in self._unsaved:
                change.apply(stored)
            self._open = stored

    def _save_marks(self) -> None:
        now = self._now()
        with self._lock:
            new = [*self._new_marks]
            marks = Marks(now, [*new, *self._ongoing(now)], self.known_since)
        kept: Sequence[Mark] = joined(self._marks, marks.marks)

        def add(stored: Marks | None) -> Marks:
            nonlocal kept
            before = stored or Marks()
            kept = [mark for mark in joined(before.marks, marks.marks) if mark.end > now - 90 * DAY][-MOST_MARKS:]
            begins = [since for since in (before.known_since, marks.known_since) if since is not None]
            return Marks(now, kept, min(begins, default=None))

        update_object(self._store(), MARKS_KEY, MARKS, add, marks_from_body)
        with self._lock:
            self._marks = kept
            self._new_marks = self._new_marks[len(new) :]


def _key(day: str) -> str:
    return f"{PREFIX}{day}.json"


def _opened(body: bytes) -> tuple[OpenDay, str | None]:
    """A stored day, and the one that follows if it is closed; DamagedError, LayoutError."""
    stored = day_from_body(body)
    return OpenDay.of(stored, ABSENT), stored.following


def _starts(seen: float | None, began: float) -> Iterator[Mark]:
    """The marks of a start. `seen`: when the connector ran last."""
    if seen is not None and began - seen > DOWN_SECONDS:
        yield Mark("outage", seen, began, "The connector was not running")
    if seen is not None:
        yield Mark("restart", began, began, "The connector was started")


def _totals(record: StreamRecord) -> tuple[int, int]:
    """The numbers of the stream's last fetched and last acknowledged event."""
    counted = record.counted
    return max(
        record.checkpoint.counts.events, record.tail.total
    ), record.tail.total - counted.set_aside - counted.observed


def _headers(state: State, waiting: Iterable[Waiting]) -> Iterator[Header]:
    """The headers of the first MOST_BATCHES waiting batches."""
    for batch in islice(waiting, MOST_BATCHES):
        with suppress(*UNREADABLE):
            stored = state.store.read(batch.entry.key)
            if stored is not None:
                yield HEADER.decode(stored.body.partition(b"\n")[0])


def _counts(receipt: Receipt) -> Iterator[tuple[float, int, int]]:
    """The times of fetching and of acknowledgement of a receipt, each with its two counts."""
    header = receipt.header
    yield header.fetched_at.timestamp(), header.events, 0
    yield receipt.acked_at.timestamp(), 0, header.events - receipt.set_aside if receipt.outcome == DELIVERED else 0


_Numbered = Sequence[tuple[float, int, int]]
"""Times, with the number of the last event before, and of the last one at that time."""


def _numbered(
    record: StreamRecord | None, headers: Sequence[Header], receipts: Sequence[Receipt]
) -> tuple[_Numbered, _Numbered]:
    """Fetching and acknowledgement of batches, the oldest first.

    `record`: of before the others were read; None: there are no headers.
    """
    fetches: list[tuple[float, int, int]] = []
    acks: list[tuple[float, int, int]] = []
    settled = {receipt.header.sequence for receipt in receipts}
    waiting = [header for header in headers if header.sequence not in settled]
    fetched = acked = 0
    if record is not None:
        fetched, acked = _totals(record)
        fetched -= sum(header.events for header in waiting if header.sequence < record.checkpoint.sequence)
        settled_before = (receipt for receipt in receipts if receipt.header.sequence <= record.tail.sequence)
        acked -= sum(numbers for receipt in settled_before for _, _, numbers in _counts(receipt))
    for receipt in receipts:
        (fetched_at, events, _), (acked_at, _, numbers) = _counts(receipt)
        fetched, acked = receipt.total, _acked_total(receipt) or acked + numbers
        fetches.append((fetched_at, fetched - events, fetched))
        acks.append((acked_at, acked - numbers, acked))
    for header in waiting:
        fetches.append((header.fetched_at.timestamp(), fetched, fetched + header.events))
        fetched += header.events
    return fetches, acks


def _acked_total(receipt: Receipt) -> int:
    """The number of the stream's last acknowledged event, with this receipt; 0 if an older version wrote it."""
    if receipt.set_aside_total is None or receipt.observed_total is None:
        return 0
    return receipt.total - receipt.set_aside_total - receipt.observed_total


def happened(taken: Taken, scope: Scope) -> Iterator[Mark]:
    """Marks of the scope's gaps, and of the late events that the last reconciliation found."""
    for stream in {**taken.site.gaps, **taken.site.reconciled}:
        line = taken.by_stream.get(stream)
        if line is None or not scope.holds(line):
            continue
        name = f"{line['label']} · {stream.kind}"
        for recorded in taken.site.gaps.get(stream, ()):
            begin, end = (at or recorded.gap.noticed_at for at in (recorded.gap.start, recorded.gap.end))
            yield Mark("gap", begin.timestamp(), end.timestamp(), f"Gap: {name}")
        sums = taken.site.reconciled.get(stream)
        if sums is not None and sums.missing and sums.ended_at is not None:
            at = sums.ended_at.timestamp()
            yield Mark("late", at, at, f"{plural(sums.missing, 'late event')} found: {name}")
