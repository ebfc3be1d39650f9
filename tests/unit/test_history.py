"""The charts' past: each event counts once, whoever counts it, and a stream's figures outlive the process."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.web.chart_days import CHART_DAY, day_from_body
from emulator.web.charts import RANGES, Scope, day_name
from emulator.web.counted_days import removed_day
from emulator.web.history import MARKS_KEY, History
from emulator.web.snapshot import Taken
from emulator.web.status import SiteStatus, read_record
from lib.errors import ConflictError
from lib.model.checkpoint import Checkpoint, Counts, Problem
from lib.model.receipt import LastReceipt, NotAcknowledged
from lib.model.stream import Stream
from lib.state.batches import Batches
from lib.state.state import State
from lib.store.base import ABSENT
from tests.fakes.headers import header_at
from tests.fakes.memory_store import MemoryStore

STREAMS = [Stream("acme", "t-1", "events"), Stream("acme", "t-1", "alerts"), Stream("msp", "t/2", "events")]
EVENING = datetime(2026, 6, 15, 23, 40, tzinfo=UTC).timestamp()
MINUTE = 60.0
ENGINE = Problem("engine_down", "it is down", "start it", datetime.fromtimestamp(EVENING, UTC), 1, None)


class Refusing(MemoryStore):
    """A store that does not write a key with this end."""

    refused = "nothing"

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        if key.endswith(self.refused):
            raise ConflictError(key)
        return super().write(key, body, expected=expected)


class World:
    """A store with streams, whose functions run for several connectors."""

    def __init__(self, now: float = EVENING) -> None:
        self.store = Refusing()
        self.state = State.of(self.store)
        self.now = now
        self.waiting: dict[Stream, list[int]] = {stream: [] for stream in STREAMS}
        self.tails = dict.fromkeys(STREAMS, LastReceipt())
        self.lag = 30.0
        self.engine: Problem | None = None

    def connector(self, *, read: bool = True) -> Connector:
        """One more connector, which has read the past."""
        connector = Connector(self)
        if read:
            connector.history.load()
        return connector

    def fetched(self, stream: Stream, events: int) -> dict[str, Any]:
        """A page is stored; the line of the answer."""
        saved = self.state.checkpoints.read(stream)
        sequence, total = saved.checkpoint.sequence, saved.checkpoint.counts.events + events
        header = header_at(datetime.fromtimestamp(self.now, UTC), stream, sequence, count=events)
        self.state.batches.create(header, [b"{}"] * events)
        checkpoint = Checkpoint(sequence=sequence + 1, counts=Counts(events=total))
        self.state.checkpoints.write(stream, checkpoint, expected=saved.generation)
        self.waiting[stream].append(sequence)
        return {**_place(stream), "outcome": "fetched", "pages": 1, "events": events, "events_total": total}

    def delivered(self, stream: Stream) -> dict[str, Any]:
        """All that waits is acknowledged; the line of the answer."""
        acked, at = 0, datetime.fromtimestamp(self.now, UTC)
        for sequence in self.waiting[stream]:
            batch = Batches(self.store).read(stream, sequence)
            assert batch is not None
            acked += batch.header.count
            self.tails[stream] = self.state.ledger.write(
                batch.header,
                ["k"] * batch.header.count,
                self.tails[stream],
                acked_at=at,
                set_aside=0,
                not_acknowledged=NotAcknowledged(),
                outcome="delivered",
            )
            self.state.batches.delete(batch)
        self.waiting[stream].clear()
        line = {**_place(stream), "outcome": "delivered" if acked else "idle", "acked": acked}
        return line | ({"acked_total": self.tails[stream].total} if acked else {})

    def taken(self) -> Taken:
        """The status."""
        lines = []
        for stream in STREAMS:
            record = read_record(self.state, datetime.now(UTC), stream)
            lines.append(
                {
                    **_place(stream),
                    "label": stream.tenant,
                    "state": "idle",
                    "lag_seconds": self.lag,
                    "pending_bytes": 1_000 * len(self.waiting[stream]),
                    "events": record.checkpoint.counts.events,
                    "acked": record.tail.total,
                }
            )
        names = [{"name": name, "calls": {"last_minute": 7}} for name in ("acme", "msp")]
        site = SiteStatus({"streams": lines, "integrations": names}, datetime.fromtimestamp(self.now, UTC))
        return Taken(SiteStatus(site.fields, site.now, engine=self.engine), 1, time.monotonic(), 0.0, lines)


def _place(stream: Stream) -> dict[str, str]:
    return {"integration": stream.integration, "tenant": stream.tenant, "stream": stream.kind}


class Connector:
    """A connector of the world's store."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.history = History(lambda: world.store, world.taken, lambda: world.now)

    def fetch(self, stream: Stream, events: int) -> None:
        """Read a page."""
        self.history.add_results("fetch-page", [self.world.fetched(stream, events)])

    def deliver(self, stream: Stream) -> None:
        """Deliver all that waits."""
        self.history.add_results("forward-batch", [self.world.delivered(stream)])

    def chart(self, name: str, *scope: str) -> dict[str, Any]:
        """The chart of a range."""
        return self.history.chart(RANGES[name], Scope(*scope))


def sums(chart: dict[str, Any]) -> tuple[int, int]:
    """Events fetched and acknowledged."""
    minutes = (chart["t"][1] - chart["t"][0]) / 60
    fetched, acked = (sum(filter(None, chart[key])) * minutes for key in ("fetched", "acked"))
    return round(fetched), round(acked)


def totals(world: World, stream: Stream) -> tuple[int, int]:
    """All events of the stream, by the store."""
    record = read_record(world.state, datetime.now(UTC), stream)
    return record.checkpoint.counts.events, record.tail.total


STEPS = st.one_of(
    st.tuples(st.just("fetch"), st.integers(0, 1), st.integers(0, 2), st.integers(1, 50)),
    st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.sampled_from(["sample", "save", "crash"]), st.integers(0, 1)),
    st.tuples(st.just("pass"), st.integers(1, 900)),
    st.tuples(st.just("refuse"), st.sampled_from(["nothing", "15.json", "16.json", "marks.json"])),
)


def make(world: World, connectors: list[Connector], step: str, number: int, *rest: int) -> None:
    """One step of the connector with that number."""
    connector = connectors[number]
    if step == "fetch":
        connector.fetch(STREAMS[rest[0]], rest[1])
    elif step == "deliver":
        connector.deliver(STREAMS[rest[0]])
    elif step == "crash":
        connector = connectors[number] = world.connector(read=False)
    with suppress(ConflictError):
        connector.history.load()
        if step in ("sample", "save"):
            getattr(connector.history, step)()


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_two_connectors_on_one_store_count_each_event_once(steps: list[tuple[Any, ...]]) -> None:
    """Whatever they do, and whenever one crashes or cannot write: also over midnight, when a day is closed."""
    world = World()
    connectors = [world.connector(), world.connector()]
    for step, *numbers in steps:
        if step == "pass":
            world.now += numbers[0]
        elif step == "refuse":
            world.store.refused = numbers[0]
        else:
            make(world, connectors, step, *numbers)
    world.store.refused = "nothing"
    for connector in connectors:
        connector.history.load()
        connector.history.sample()
        connector.history.save()
    wanted = {stream: totals(world, stream) for stream in STREAMS}
    for connector in (world.connector(), connectors[1]):
        for stream, (fetched, acked) in wanted.items():
            assert sums(connector.chart("24h", *_place(stream).values())) == (fetched, acked)
        assert sums(connector.chart("24h")) == tuple(map(sum, zip(*wanted.values(), strict=True)))
        assert sums(connector.chart("7d", "msp")) == wanted[STREAMS[2]]


def test_what_one_connector_counts_is_in_the_chart_of_the_other() -> None:
    world = World()
    first, second = world.connector(), world.connector()
    first.fetch(STREAMS[0], 10)
    second.fetch(STREAMS[0], 5)
    first.history.save()
    second.history.save()
    first.history.sample()
    for connector in (first, second, world.connector()):
        assert sums(connector.chart("3h"))[0] == 15
        assert sums(connector.chart("24h", *_place(STREAMS[0]).values()))[0] == 15


def test_a_crash_between_two_days_leaves_a_closed_day_that_the_next_one_continues() -> None:
    world = World()
    first = world.connector()
    first.fetch(STREAMS[0], 10)
    world.now += 30 * MINUTE
    world.store.refused = "16.json"
    with pytest.raises(ConflictError):
        first.history.save()
    world.store.refused = "nothing"
    stored = world.store.read("charts/2026-06-15.json")
    assert stored is not None
    assert day_from_body(stored.body).following == "2026-06-16"
    assert world.store.read("charts/2026-06-16.json") is None
    second = world.connector()
    second.fetch(STREAMS[0], 3)
    second.history.save()
    assert sums(world.connector().chart("24h", *_place(STREAMS[0]).values()))[0] == 13
    assert world.store.read("charts/2026-06-16.json") is not None


@pytest.mark.parametrize("name", ["1h", "3h", "24h", "7d", "90d"])
def test_lag_waiting_bytes_and_calls_of_a_stream_outlive_a_restart(name: str) -> None:
    world = World()
    first = world.connector()
    for lag in (40.0, 400.0, 50.0):
        world.lag = lag
        first.fetch(STREAMS[0], 1)
        world.now += MINUTE
        first.history.sample()
    first.history.save()
    again = world.connector()
    world.now += MINUTE
    for scope in (_place(STREAMS[0]).values(), ("acme", "t-1")):
        chart = again.chart(name, *scope)
        assert max(filter(None, chart["lag"])) == 400
        assert max(filter(None, chart["waiting"])) == 3_000
        assert max(filter(None, chart["calls"])) == 1
    assert not any(again.chart(name, "acme", "t-3")["lag"])


def test_a_streams_figures_reach_back_over_days_and_a_day_is_ten_minutes_fine() -> None:
    world = World()
    connector = world.connector()
    for day in range(8):
        world.lag = 100.0 + day
        connector.history.sample()
        world.now += 20 * MINUTE
        world.lag = 1.0
        connector.history.sample()
        connector.history.save()
        world.now += 86_400 - 20 * MINUTE
    world.now -= 15 * MINUTE
    again = world.connector()
    scope = _place(STREAMS[2]).values()
    assert [lag for lag in again.chart("90d", *scope)["lag"] if lag is not None] == [*range(100, 108)]
    chart = again.chart("24h", *scope)
    assert chart["t"][1] - chart["t"][0] == 600
    assert [lag for lag in chart["lag"] if lag is not None] == [107, 1]
    assert max(filter(None, again.chart("7d", *scope)["lag"])) == 107


def test_the_marks_and_samples_of_two_connectors_are_both_kept() -> None:
    world = World()
    world.connector()
    world.now += MINUTE
    first = world.connector()
    world.now += MINUTE
    second = world.connector()
    world.engine = ENGINE
    for connector in (first, second):
        connector.history.sample()
        world.now += MINUTE
    for connector in (first, second, first):
        connector.history.save()
    world.engine = None
    for connector in (first, second):
        world.now += MINUTE
        connector.history.sample()
        connector.history.save()
    world.now += MINUTE
    again = world.connector()
    for connector in (again, second):
        marks = [(mark["kind"], mark["to"] - EVENING) for mark in connector.chart("3h")["marks"]]
        assert marks[:3] == [("outage", 6 * MINUTE), ("restart", MINUTE), ("restart", 2 * MINUTE)]
    assert [lag for lag in again.chart("1h")["lag"] if lag is not None] == [30.0] * 4


def test_a_crash_after_the_past_was_rebuilt_counts_nothing_twice() -> None:
    world = World()
    world.fetched(STREAMS[0], 40)
    world.delivered(STREAMS[0])
    world.now += 3_600.0
    world.fetched(STREAMS[0], 2)
    world.now += MINUTE
    world.store.refused = "16.json"
    with pytest.raises(ConflictError):
        world.connector()
    world.store.refused = "nothing"
    connector = world.connector()
    connector.history.sample()
    connector.history.save()
    for again in (connector, world.connector()):
        assert sums(again.chart("24h")) == sums(again.chart("24h", *_place(STREAMS[0]).values())) == (42, 40)


def test_a_day_of_an_older_version_is_continued() -> None:
    world = World()
    world.fetched(STREAMS[0], 7)
    world.delivered(STREAMS[0])
    at = int(world.now)
    older = {
        "layout": 2,
        "day": day_name(at),
        "until": at + 1.0,
        "minutes": {"acme": {str(at // 60): [7, 7]}},
        "hours": {"acme": {"t-1/events": {str(at // 3600): [7, 7]}}},
        "samples": {str(at // 60): {"acme": [41.0, 0, 3]}},
    }
    world.store.write("charts/2026-06-15.json", json.dumps(older).encode(), expected=ABSENT)
    marks = {"layout": 2, "seen": at + 1.0, "known_since": at - 1.0, "marks": []}
    world.store.write(MARKS_KEY, json.dumps(marks).encode(), expected=ABSENT)
    world.now += MINUTE
    world.fetched(STREAMS[0], 2)  # Before the connector of this version was there.
    world.now += MINUTE
    connector = world.connector()
    connector.fetch(STREAMS[0], 1)
    connector.history.sample()
    connector.history.save()
    for again in (connector, world.connector()):
        assert sums(again.chart("24h")) == (10, 7)
        assert sums(again.chart("24h", *_place(STREAMS[0]).values())) == (10, 7)
        assert 41.0 in again.chart("1h")["lag"]
    stored = world.store.read("charts/2026-06-15.json")
    assert stored is not None
    assert CHART_DAY.load(stored.body)["layout"] == 3


def test_the_later_count_of_a_day_stays_unless_it_is_of_the_future() -> None:
    now = datetime.now(UTC)
    earlier, later, ahead = (
        removed_day("2026-06-15", "", now + timedelta(seconds=second)) for second in (-20, -10, 3_600)
    )
    assert [earlier.replaces(None), earlier.replaces(later), later.replaces(earlier)] == [True, False, True]
    assert earlier.replaces(ahead), "a clock was wrong"


def test_a_stream_whose_state_was_removed_counts_anew() -> None:
    world = World()
    connector = world.connector()
    connector.fetch(STREAMS[0], 50)
    world.now += 3600.0
    connector.history.sample()
    connector.history.save()
    for prefix in ("cursors/", "batches/"):
        for entry in [*world.store.list(prefix)]:
            world.store.delete(entry.key, expected=entry.generation)
    world.now += 3600.0
    connector.history.sample()
    connector.fetch(STREAMS[0], 3)
    connector.history.sample()
    assert sums(connector.chart("24h"))[0] == 53
