"""The past for the charts: counts of fetched and acknowledged events, samples of lag and waiting bytes, and marks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

from emulator.web.chart_objects import read_object, replace_object
from emulator.web.charts import (
    CHART_DAY,
    DAY,
    MARKS,
    MINUTE,
    RECENT,
    Counts,
    Day,
    Mark,
    Marks,
    Range,
    Scope,
    StreamSamples,
    bucketed,
    count_in,
    counts_of,
    day_from_body,
    day_name,
    days_of,
    marks_from_body,
    samples_of,
    within,
)
from emulator.web.formatting import plural
from emulator.web.health_changes import HealthChanges
from emulator.web.snapshot import Taken
from lib.errors import ConnectorError, KeptError
from lib.model.batch import Header
from lib.model.receipt import DELIVERED, Receipt
from lib.model.stream import Stream
from lib.state.batches import HEADER, Waiting
from lib.state.codec import UNREADABLE
from lib.state.state import State
from lib.store.base import ObjectStore

log = logging.getLogger(__name__)

PREFIX = "charts/"
MARKS_KEY = f"{PREFIX}marks.json"
SAVE_SECONDS = 300.0
SAMPLE_SECONDS = 60.0
FIRST_SAMPLE_SECONDS = 5.0
DOWN_SECONDS = 2 * SAVE_SECONDS
"""A connector that has not saved for this long was not running."""
MOST_MARKS = 500
MOST_BATCHES = 2_000
"""The most waiting batches whose headers are read at the start."""
OUTAGE = "The engine took no events"
MOST_RECEIPTS = 2_000
"""The most receipts of a stream that are read for the minutes before the start."""


class History:
    """Days of counts and samples, stored below `charts/`.

    A day's object says up to which time its events are counted. At start, later receipts are read once. From then on,
    the functions' answers are counted. The counts can be rebuilt from the receipts: only samples of lag, bytes and
    calls can be lost.

    The minutes of a single stream are not saved. Those before the start are read from its receipts when needed.
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
        self._days: dict[str, Day] = {}
        self._read: dict[str, Day] = {}
        """Past days, as they are in the store."""
        self._recent: dict[Stream, dict[int, list[int]]] = {}
        """Counts of the last three hours, by minute."""
        self._begun: set[Stream] = set()
        """Streams whose minutes before the start have been read."""
        self._samples = StreamSamples()
        self._marks: list[Mark] = []
        self._outage: float | None = None
        """The start of the engine's outage."""
        self._began = now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self.changes = HealthChanges(store)
        self.answered: set[str] = set()
        """The functions that have answered."""
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
                self._save()
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
        for line in results:
            fetched = line.get("events", 0) if name == "fetch-page" else 0
            acked = line.get("acked", 0) if name == "forward-batch" and line["outcome"] == "delivered" else 0
            if line.get("tenant") is not None and (fetched or acked):
                stream = Stream.of(line)
                with self._lock:
                    self._day(now).add(stream, now, fetched=fetched, acked=acked)
                    count_in(self._minutes(stream, now), int(now) // MINUTE, fetched, acked)

    def chart(self, chosen: Range, scope: Scope = Scope()) -> dict[str, Any]:  # noqa: B008 - it is frozen
        """The columns and the marks of the range."""
        now = self._now()
        step = scope.step(chosen)
        is_fine = bool(scope.streams) and step == MINUTE
        if is_fine:
            self._read_minutes(scope.streams, now)
        days = [] if is_fine else list(self._past_days(days_of(chosen, now)))
        with self._lock:
            recent = [pair for stream in scope.streams if is_fine for pair in self._minutes(stream, now).items()]
            counts = [(minute * MINUTE, pair) for minute, pair in recent]
            samples = [(minute * MINUTE, pair) for minute, pair in self._samples.of(scope.streams)]
            columns = bucketed(
                counts if is_fine else counts_of(days, scope),
                samples if scope.streams else samples_of(days, scope.integration),
                chosen=chosen,
                step=step,
                now=now,
                known_since=self.known_since or 0.0,
            )
            marks = [*self._marks, *self._ongoing(now)]
        return {
            **columns,
            "range": chosen.name,
            "marks": [mark.fields() for mark in within([*marks, *happened(self._taken(), scope)], chosen, now)],
            "health": self.changes.spans(scope, now - chosen.seconds, now),
            "complete": self.is_complete,
        }

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
            headers = (header for _, header in _headers(state, state.batches.waiting(stream)))
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

    def _day(self, at: float) -> Day:
        name = day_name(at)
        if name not in self._days:
            self._days[name] = Day(name)
        return self._days[name]

    def _past_days(self, names: Sequence[str]) -> Iterator[Day]:
        for name in names:
            day = self._days.get(name) or self._read.get(name)
            if day is None:
                day = (self._stored(name) or Day(name)).coarse()
                self._read[name] = day
                while len(self._read) > 100:
                    del self._read[next(iter(self._read))]
            yield day

    def _stored(self, name: str) -> Day | None:
        with suppress(ConnectorError):
            return read_object(self._store(), f"{PREFIX}{name}.json", day_from_body)
        return None  # It is rebuilt from the receipts.

    def _run(self) -> None:
        saved = began = self._began
        with suppress(ConnectorError):
            self._load_changes(began)
            self._load(began)
        if self._over.is_set():
            return
        self.is_complete = True
        pause = FIRST_SAMPLE_SECONDS
        while not self._over.wait(pause):
            pause = self._every
            with suppress(ConnectorError):
                self._load_changes(began)
                self._sample()
                self.changes.save()
                if self._now() - saved >= SAVE_SECONDS:
                    saved = self._now()
                    self._save()

    def _load_changes(self, began: float) -> None:
        """Once, before the marks are written again: they tell when the connector ran last."""
        if not self.changes.is_loaded:
            seen = self._stored_marks().seen
            self.changes.load(seen if seen is not None and began - seen > DOWN_SECONDS else None)

    def _stored_marks(self) -> Marks:
        with suppress(KeptError):
            return read_object(self._store(), MARKS_KEY, marks_from_body) or Marks()
        return Marks()

    def _load(self, began: float) -> None:
        """Load today and yesterday, and rebuild earlier days once if an older version left them."""
        for back in range(2):
            name = day_name(began - back * DAY)
            stored = self._stored(name)
            if stored is not None:
                with self._lock:
                    self._days[name] = _sum(stored, self._days.get(name))
        self._count_receipts(began, began - 2 * DAY)
        stored_marks = self._stored_marks()
        since = stored_marks.known_since
        if since is None:
            since = self._rebuild(State.of(self._store()), day_name(began - 90 * DAY), began)
        if not self._over.is_set():
            self.known_since = float(since)
            self._load_marks(stored_marks, began)

    def _rebuild(self, state: State, oldest: str, began: float) -> float:
        """Count the days of an older version from the receipts; the time of the first event."""
        made: dict[str, Day] = {}
        last, first = day_name(began - DAY), day_name(began)
        for stream in state.ledger.streams():
            for place, body in state.ledger.bodies(stream, oldest):
                if self._over.is_set():
                    return began
                first = min(first, place.day)
                if place.day >= last:
                    break
                receipt = state.ledger.readable(stream, place, body)
                if receipt is not None:
                    _count(receipt, stream, lambda at: made.setdefault(day_name(at), Day(day_name(at))))
        for name, day in made.items():
            if name < last:
                day.until = began
                day.samples = (self._stored(name) or day).samples
                self._write(day)
                self._read[name] = day.coarse()
        with self._lock:
            minutes = [min(counts) for day in (*made.values(), *self._days.values()) for counts in day.minutes.values()]
        # A receipt's folder is a day by Sophos's clock; the counts are by this machine's clock.
        filed = datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp()
        return min([*(minute * MINUTE for minute in minutes), filed if first < day_name(began) else began])

    def _count_receipts(self, began: float, since: float) -> None:
        """Count the receipts and the waiting batches from before this process that no stored day contains."""
        state = State.of(self._store())
        with self._lock:
            until = {name: day.until for name, day in self._days.items()}
        written = datetime.fromtimestamp(min([*(until.values() or [since]), began]), UTC) - timedelta(seconds=1)
        first = day_name(since)

        def is_new(at: float) -> bool:
            return until.get(day_name(at), 0.0) <= at < began

        for stream in state.checkpoints.streams():
            newest = state.ledger.newest(stream, first, written=max(written, datetime.fromtimestamp(since, UTC)))
            for place, body in newest:
                if self._over.is_set():
                    return
                receipt = state.ledger.readable(stream, place, body)
                if receipt is not None:
                    with self._lock:
                        _count(receipt, stream, self._day, is_new)
        for stream, header in _headers(state, state.batches.waiting()):
            at = header.fetched_at.timestamp()
            if is_new(at):
                with self._lock:
                    self._day(at).add(stream, at, fetched=header.events)

    def _sample(self) -> None:
        now, site = self._now(), self._taken().site
        status = site.fields
        sample: dict[str, list[float]] = {
            line["name"]: [0.0, 0, line.get("calls", {}).get("last_minute", 0)] for line in status["integrations"]
        }
        for line in status["streams"]:
            figures = sample.get(line["integration"])
            if figures is not None and line["state"] != "retired":
                figures[0] = max(figures[0], round(line["lag_seconds"] or 0.0, 1))
                figures[1] += line["pending_bytes"]
        with self._lock:
            self._day(now).samples[int(now) // MINUTE] = sample
            self._samples.take(int(now) // MINUTE, status["streams"])
            if site.engine is None:
                self._end_outage(now)
            else:
                self._begin_outage(site.engine.since.timestamp())

    def _begin_outage(self, at: float) -> None:
        if self._outage is not None:
            return
        last = self._marks[-1] if self._marks else None
        if last is not None and last.text == OUTAGE and at - last.end < MINUTE:
            at = self._marks.pop().begin  # A break of less than a minute does not split an outage.
        self._outage = at

    def _end_outage(self, now: float) -> None:
        if self._outage is not None:
            self._marks.append(Mark("outage", self._outage, now, OUTAGE))
            self._outage = None

    def _ongoing(self, now: float) -> list[Mark]:
        return [] if self._outage is None else [Mark("outage", self._outage, now, "The engine takes no events")]

    def _load_marks(self, stored: Marks, began: float) -> None:
        marks, seen = [*stored.marks], stored.seen
        if seen is not None and began - seen > DOWN_SECONDS:
            marks.append(Mark("outage", seen, began, "The connector was not running"))
        if seen is not None:
            marks.append(Mark("restart", began, began, "The connector was started"))
        with self._lock:
            self._marks = [*marks, *self._marks]
        self._save()

    def _save(self) -> None:
        now = self._now()
        with self._lock:
            fresh = [day for day in self._days.values() if day.samples or day.minutes]
            for day in fresh:
                day.until = now
            oldest = day_name(now - DAY)
            bodies = [(day.day, CHART_DAY.encode(day)) for day in fresh]
            for name in [name for name in self._days if name < oldest]:
                self._read[name] = self._days.pop(name).coarse()
            kept = [mark for mark in self._marks if mark.end > now - 90 * DAY][-MOST_MARKS:]
            marks = Marks(now, [*kept, *self._ongoing(now)], self.known_since)
        with suppress(ConnectorError):
            for name, body in bodies:
                replace_object(self._store(), f"{PREFIX}{name}.json", CHART_DAY, body)
            replace_object(self._store(), MARKS_KEY, MARKS, MARKS.encode(marks))

    def _write(self, day: Day) -> None:
        replace_object(self._store(), f"{PREFIX}{day.day}.json", CHART_DAY, CHART_DAY.encode(day))


def _headers(state: State, waiting: Iterable[Waiting]) -> Iterator[tuple[Stream, Header]]:
    """The headers of the first MOST_BATCHES waiting batches."""
    for batch in islice(waiting, MOST_BATCHES):
        with suppress(*UNREADABLE):
            stored = state.store.read(batch.entry.key)
            if stored is not None:
                yield batch.stream, HEADER.decode(stored.body.partition(b"\n")[0])


def _counts(receipt: Receipt) -> Iterator[tuple[float, int, int]]:
    """The times of fetching and of acknowledgement of a receipt, each with its two counts."""
    header = receipt.header
    yield header.fetched_at.timestamp(), header.events, 0
    yield receipt.acked_at.timestamp(), 0, header.events - receipt.set_aside if receipt.outcome == DELIVERED else 0


def _count(
    receipt: Receipt, stream: Stream, day: Callable[[float], Day], is_new: Callable[[float], bool] = lambda _: True
) -> None:
    """Count a receipt on the day of its fetching and on the day of its acknowledgement."""
    for at, fetched, acked in _counts(receipt):
        if is_new(at):
            day(at).add(stream, at, fetched=fetched, acked=acked)


def _sum(stored: Day, counted: Day | None) -> Day:
    """The stored day plus the counts since this process began."""
    if counted is not None:
        for integration, minutes in counted.minutes.items():
            _add(stored.minutes.setdefault(integration, {}), minutes)
        for integration, places in counted.hours.items():
            for place, hours in places.items():
                _add(stored.hours.setdefault(integration, {}).setdefault(place, {}), hours)
        stored.samples |= counted.samples
    return stored


def _add(counts: dict[int, list[int]], more: Counts) -> None:
    for number, (fetched, acked) in more.items():
        count_in(counts, number, fetched, acked)


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
