"""What was fetched and acknowledged before, for the charts: receipts, added up once, and what has happened since."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from emulator.web.charts import DAY, Day, Mark, Range, bucketed, day_name, days_of, within
from lib.errors import ConflictError, ConnectorError
from lib.model.clock import from_text
from lib.model.receipt import DELIVERED, Receipt
from lib.model.stream import Stream
from lib.state.batches import HEADER
from lib.state.codec import UNREADABLE
from lib.state.receipts import RECEIPT
from lib.state.state import State
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)

PREFIX = "charts/"
MARKS_KEY = f"{PREFIX}marks.json"
SAVE_SECONDS = 300.0
SAMPLE_SECONDS = 60.0
FIRST_SAMPLE_SECONDS = 5.0
DOWN_SECONDS = 2 * SAVE_SECONDS
"""A connector that has saved nothing for so long was not running."""
MOST_MARKS = 500
MOST_BATCHES = 2_000
"""Waiting batches whose headers are read at the start."""


class History:
    """Days of counts and samples, kept below `charts/`.

    A day's object says up to when it has counted. Behind that time receipts are read, once, after a start; from then on
    the functions' answers are counted. All of it can be made again from the receipts: losing it loses the samples of
    lag, bytes and calls only.
    """

    def __init__(
        self,
        store: Callable[[], ObjectStore],
        status: Callable[[], Mapping[str, Any]],
        now: Callable[[], float],
        every: float = SAMPLE_SECONDS,
    ) -> None:
        """`every`: seconds between two samples."""
        self._store = store
        self._status = status
        self._now = now
        self._every = every
        self._lock = threading.Lock()
        self._days: dict[str, Day] = {}
        self._read: dict[str, Day] = {}
        """Days that are over, as they lie in the store."""
        self._marks: list[Mark] = []
        self._outage: tuple[float, str] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self.is_complete = False
        """Whether the past has been read."""

    def start(self) -> None:
        """Read the past, then take samples and save."""
        self._thread.start()

    def stop(self) -> None:
        """Save, and end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            self._save()

    def heard(self, name: str, results: Sequence[Mapping[str, Any]]) -> None:
        """Count what a function answered."""
        now = self._now()
        for line in results:
            fetched = line.get("events", 0) if name == "fetch-page" else 0
            acked = line.get("acked", 0) if name == "forward-batch" and line["outcome"] == "delivered" else 0
            if line.get("tenant") is not None and (fetched or acked):
                with self._lock:
                    self._day(now).add(line["integration"], line["tenant"], now, fetched=fetched, acked=acked)

    def chart(self, chosen: Range, integration: str | None = None, tenant: str | None = None) -> dict[str, Any]:
        """The range's columns, and what happened in it."""
        now = self._now()
        days = list(self._known(days_of(chosen, now)))
        with self._lock:
            columns = bucketed(days, chosen, now, integration, tenant)
            marks = [*self._marks, *self._ongoing(now)]
        gaps = _gaps(self._status(), integration, tenant)
        return {
            **columns,
            "range": chosen.name,
            "marks": [each.fields() for each in within([*marks, *gaps], chosen, now)],
            "complete": self.is_complete,
        }

    def _day(self, at: float) -> Day:
        name = day_name(at)
        if name not in self._days:
            self._days[name] = Day(name)
        return self._days[name]

    def _known(self, names: Sequence[str]) -> Iterator[Day]:
        for name in names:
            day = self._days.get(name) or self._read.get(name)
            if day is None:
                day = self._stored(name) or Day(name)
                self._read[name] = day
                while len(self._read) > 100:
                    del self._read[next(iter(self._read))]
            yield day

    def _stored(self, name: str) -> Day | None:
        with suppress(ValueError, KeyError, TypeError, AttributeError, ConnectorError):
            stored = self._store().read(f"{PREFIX}{name}.json")
            return None if stored is None else Day.of(json.loads(stored.body))
        return None  # It is made again from the receipts.

    def _run(self) -> None:
        began = self._now()
        saved = began
        with suppress(ConnectorError):
            self._load(began)
            self._load_marks(began)
        self.is_complete = True
        pause = FIRST_SAMPLE_SECONDS
        while not self._over.wait(pause):
            pause = self._every
            with suppress(ConnectorError):
                self._sample()
                if self._now() - saved >= SAVE_SECONDS:
                    saved = self._now()
                    self._save()

    def _load(self, began: float) -> None:
        """Today and yesterday, and once the days before that no object tells of."""
        for back in range(2):
            name = day_name(began - back * DAY)
            stored = self._stored(name)
            if stored is not None:
                with self._lock:
                    self._days[name] = _sum(stored, self._days.get(name))
        self._count_receipts(began, began - 2 * DAY)
        if self._store().read(MARKS_KEY) is None:
            self._rebuild(State.of(self._store()), day_name(began - 90 * DAY), began)

    def _rebuild(self, state: State, oldest: str, began: float) -> None:
        """Add up the days that an older version left, once."""
        made: dict[str, Day] = {}
        last = day_name(began - DAY)
        for stream in state.ledger.streams():
            for place, body in state.ledger.bodies(stream, oldest):
                if self._over.is_set():
                    return
                if place.day >= last:
                    break
                with suppress(*UNREADABLE):
                    _count(RECEIPT.decode(body), stream, lambda at: made.setdefault(day_name(at), Day(day_name(at))))
        for name, day in made.items():
            if name < last:
                day.until = began
                self._write(day)
                self._read[name] = day

    def _count_receipts(self, began: float, since: float) -> None:
        """Count the receipts that were written before this process began, and what waits."""
        state = State.of(self._store())
        with self._lock:
            until = {name: day.until for name, day in self._days.items()}
        written = datetime.fromtimestamp(min([*(until.values() or [since]), began]), UTC) - timedelta(seconds=1)
        first = day_name(since)

        def is_new(at: float) -> bool:
            return until.get(day_name(at), 0.0) <= at < began

        for stream in state.checkpoints.streams():
            for body in state.ledger.newest(stream, first, written=max(written, datetime.fromtimestamp(since, UTC))):
                if self._over.is_set():
                    return
                with suppress(*UNREADABLE), self._lock:
                    _count(RECEIPT.decode(body), stream, self._day, is_new)
        for number, waiting in enumerate(state.batches.waiting()):
            stored = state.store.read(waiting.entry.key) if number < MOST_BATCHES else None
            with suppress(*UNREADABLE):
                if stored is not None:
                    header = HEADER.decode(stored.body.partition(b"\n")[0])
                    at = header.fetched_at.timestamp()
                    if is_new(at):
                        with self._lock:
                            self._day(at).add(
                                waiting.stream.integration, waiting.stream.tenant, at, fetched=header.events
                            )

    def _sample(self) -> None:
        now, status = self._now(), self._status()
        sample: dict[str, list[float]] = {
            line["name"]: [0.0, 0, line.get("calls", {}).get("last_minute", 0)] for line in status["integrations"]
        }
        for line in status["streams"]:
            one = sample.get(line["integration"])
            if one is not None and line["state"] != "retired":
                one[0] = max(one[0], round(line["lag_seconds"] or 0.0, 1))
                one[1] += line["pending_bytes"]
        with self._lock:
            self._day(now).samples[int(now) // 60] = sample
            problem = status.get("engine_problem")
            if problem is not None and self._outage is None:
                self._outage = (now, problem["detail"])
            elif problem is None and self._outage is not None:
                self._marks.append(
                    Mark("outage", self._outage[0], now, f"The engine took no events: {self._outage[1]}")
                )
                self._outage = None

    def _ongoing(self, now: float) -> list[Mark]:
        return [] if self._outage is None else [Mark("outage", self._outage[0], now, "The engine takes no events")]

    def _load_marks(self, began: float) -> None:
        stored = self._store().read(MARKS_KEY)
        marks, seen = [], None
        with suppress(ValueError, KeyError, TypeError):
            fields = json.loads(stored.body) if stored else {"marks": []}
            marks = [Mark(each["kind"], each["from"], each["to"], each["text"]) for each in fields["marks"]]
            seen = fields.get("seen")
        if seen is not None and began - seen > DOWN_SECONDS:
            marks.append(Mark("outage", seen, began, "The connector was not running"))
        if seen is not None:
            marks.append(Mark("restart", began, began, "The connector was started"))
        with self._lock:
            self._marks = marks
        self._save()

    def _save(self) -> None:
        now = self._now()
        with self._lock:
            fresh = [day for day in self._days.values() if day.samples or day.minutes]
            for day in fresh:
                day.until = now
            oldest = day_name(now - DAY)
            bodies = [(day.day, json.dumps(day.fields()).encode()) for day in fresh]
            for name in [name for name in self._days if name < oldest]:
                self._read[name] = self._days.pop(name)
            kept = [each for each in self._marks if each.end > now - 90 * DAY][-MOST_MARKS:]
            told = {"layout": 1, "seen": now, "marks": [each.fields() for each in [*kept, *self._ongoing(now)]]}
        with suppress(ConnectorError):
            for name, body in bodies:
                self._replace(f"{PREFIX}{name}.json", body)
            self._replace(MARKS_KEY, json.dumps(told, ensure_ascii=False).encode())

    def _write(self, day: Day) -> None:
        self._replace(f"{PREFIX}{day.day}.json", json.dumps(day.fields()).encode())

    def _replace(self, key: str, body: bytes) -> None:
        store = self._store()
        stored = store.read(key)
        with suppress(ConflictError):
            store.write(key, body, expected=stored.generation if stored else ABSENT)


def _count(
    receipt: Receipt, stream: Stream, day: Callable[[float], Day], is_new: Callable[[float], bool] = lambda _: True
) -> None:
    """Count a receipt in, on the day of its fetching and on that of its acknowledgement."""
    fetched_at, acked_at = receipt.fetched_at.timestamp(), receipt.acked_at.timestamp()
    if is_new(fetched_at):
        day(fetched_at).add(stream.integration, stream.tenant, fetched_at, fetched=receipt.events)
    acked = receipt.events - receipt.set_aside if receipt.outcome == DELIVERED else 0
    if is_new(acked_at):
        day(acked_at).add(stream.integration, stream.tenant, acked_at, acked=acked)


def _sum(stored: Day, heard: Day | None) -> Day:
    """What lies in the store, with what was heard since this process began."""
    if heard is not None:
        for integration, tenants in heard.hours.items():
            for tenant, hours in tenants.items():
                for hour, (fetched, acked) in hours.items():
                    bucket = stored.hours.setdefault(integration, {}).setdefault(tenant, {}).setdefault(hour, [0, 0])
                    bucket[0] += fetched
                    bucket[1] += acked
        for integration, minutes in heard.minutes.items():
            for minute, (fetched, acked) in minutes.items():
                bucket = stored.minutes.setdefault(integration, {}).setdefault(minute, [0, 0])
                bucket[0] += fetched
                bucket[1] += acked
        stored.samples |= heard.samples
    return stored


def _gaps(status: Mapping[str, Any], integration: str | None, tenant: str | None) -> Iterator[Mark]:
    for line in status["streams"]:
        if integration in (None, line["integration"]) and tenant in (None, line["tenant"]):
            for gap in line["gaps"]:
                begin, end = (gap["from"] or gap["to"]), (gap["to"] or gap["from"])
                if begin is not None:
                    yield Mark(
                        "gap",
                        from_text(begin).timestamp(),
                        from_text(end).timestamp(),
                        f"Gap: {line['integration']} · {line['tenant_name'] or line['tenant'][:8]} · {line['stream']}",
                    )
