"""A cursor that was damaged is made again from what lies beside it: nothing is lost or doubled, and the chain holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emulator.central import CentralServer
from lib.model.batch import POLL, RECONCILE, Cursors
from lib.model.stream import Stream
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Died, Life, live
from tests.fakes.headers import header_at
from tests.fakes.memory_store import MemoryStore
from tests.fakes.picky import PickyEngine

DAY_AND_MORE = 30 * 3600
LEASE_SECONDS = 13


class Works:
    """One store, a Sophos and an engine; each call is a run of its own."""

    def __init__(self, folder: Path, central: CentralServer, engine: PickyEngine) -> None:
        self.central = central
        self.engine = engine
        self.store = folder / "store"
        self.ahead = 0.0

    @property
    def state(self) -> State:
        return State.of(DirectoryStore(self.store))

    def run(self, *steps: str, dies_at_call: str = "") -> None:
        with suppress(Died):
            live(
                Life(
                    str(self.store),
                    str(self.engine.socket),
                    self.central.url,
                    ahead=self.ahead,
                    steps=steps,
                    dies_at_call=dies_at_call,
                    kills=False,
                    calls_per_minute=100_000,
                )
            )
        self.ahead += LEASE_SECONDS

    def damage_cursor(self) -> None:
        (cursor,) = self.store.glob("cursors/*/*/*.json")
        cursor.write_bytes(b"[]")

    def arrived(self) -> list[str]:
        return [json.loads(log.raw)["id"] for log in self.engine.received]


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    with CentralServer() as central, PickyEngine(tmp_path / "e") as engine:
        central.fill(20)
        found = Works(tmp_path, central, engine)
        found.run("fetch", "forward")
        yield found


@pytest.mark.parametrize("steps", [("fetch", "forward"), ("reconcile", "forward"), ("reconcile",)])
def test_after_any_batch_the_chain_of_cursors_holds(works: Works, steps: tuple[str, ...]) -> None:
    works.central.insert_late(works.central.default_tenant, "events", 3, seconds=600)
    works.central.emit(1)
    works.run(*steps)
    works.damage_cursor()
    works.central.emit(2)
    works.run("fetch", "forward")
    works.run("reconcile", "forward")
    assert sorted(works.arrived()) == sorted(works.central.ids(works.central.default_tenant)), "each, and once"
    told = audit(works.state)
    assert told["ok"], told


def test_a_cursor_that_is_made_again_counts_what_was_stored_before(works: Works) -> None:
    """Otherwise `status` would say that more was acknowledged than was ever fetched."""
    works.central.emit(4)
    works.run("fetch")
    works.damage_cursor()
    works.central.emit(2)
    works.run("fetch", "forward")
    (stream,) = works.state.checkpoints.streams()
    assert works.state.checkpoints.read(stream).checkpoint.counts.events == 26
    (cursor,) = works.store.glob("cursors/*/*/*.json")
    cursor.unlink()
    works.run("forward")
    assert works.state.checkpoints.read(stream).checkpoint.counts.events == 26


@pytest.mark.parametrize("is_delivered", [False, True], ids=["waits", "delivered"])
def test_a_gap_that_was_told_and_not_written_down_is_told_once(works: Works, is_delivered: bool) -> None:
    works.central.clock.advance(DAY_AND_MORE)
    works.ahead += DAY_AND_MORE
    works.central.emit(1)
    works.run("fetch", dies_at_call="write gaps/")
    if is_delivered:
        works.run("forward")
    works.damage_cursor()
    works.run("fetch", "forward")
    gaps = [log for log in works.engine.received if log.dataType == "gaps"]
    assert (len(gaps), len(list(works.state.gaps.all()))) == (1, 1)
    assert audit(works.state)["ok"]


def test_a_gap_is_told_once_though_a_thousand_events_came_since(works: Works) -> None:
    """The batch is missing: forward-batch tells so, dies, and fetch-page goes on while the engine is down."""
    works.central.emit(2)
    works.run("fetch")
    (batch,) = works.store.glob("batches/*/*/*/*.ndjson")
    batch.unlink()
    works.central.emit(1)
    works.run("fetch")
    works.run("forward", dies_at_call="write gaps/")
    works.central.emit(1500)
    works.run("fetch")
    works.run("forward", "forward")
    assert len([log for log in works.engine.received if log.dataType == "gaps"]) == 1
    assert len(list(works.state.gaps.all())) == 1


def test_an_event_that_was_dated_ahead_is_looked_up() -> None:
    """The position remembers no event: none up to the newest one that was ever stored may count as new."""
    now, stream = datetime(2026, 3, 10, tzinfo=UTC), Stream("acme", "t", "events")
    state, ahead = State.of(MemoryStore()), now + timedelta(hours=3)
    for number, (newest, origin) in enumerate([(ahead, POLL), (now, POLL), (now - timedelta(hours=5), RECONCILE)], 1):
        moment = now + timedelta(minutes=number)
        cursor = f"c{number}" if origin == POLL else None
        header = header_at(moment, stream, number, cursors=Cursors(next=cursor), count=1)
        state.batches.create(replace(header, newest=newest, origin=origin), [b'{"id": "1"}'])
    checkpoint = state.checkpoints.read(stream).checkpoint
    assert (checkpoint.sequence, checkpoint.cursor, checkpoint.batch_cursor) == (4, "c2", "c2")
    assert checkpoint.newest.at == ahead
    assert not checkpoint.recent.remembers(ahead, now + timedelta(hours=4))
    assert checkpoint.recent.remembers(ahead + timedelta(seconds=1), now + timedelta(hours=4))
