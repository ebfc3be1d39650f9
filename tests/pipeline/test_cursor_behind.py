"""Several batches are stored before the cursor moves past them: whoever comes between, nothing is lost or doubled.

The clock stands still, so no page is slow: the cursor moves with a stream's first batch, then once for
BATCHES_A_CURSOR batches, and when a call ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Fault, Settings
from emulator.central.clock import Clock
from emulator.engine import StandInEngine
from lib.errors import StoreError
from lib.pipeline.held_checkpoint import BATCHES_A_CURSOR
from lib.pipeline.read_stream import SLOW_SECONDS
from lib.sophos.pages import event_fields
from lib.state.advance import adopt
from lib.state.gaps import BATCH_DAMAGED, BATCH_MISSING
from tests.audited import audit
from tests.fakes.dying import Died
from tests.pipeline.test_page_ahead import PAGE, Reader, expect_all
from tests.site import until

PAGES = 2 * BATCHES_A_CURSOR + 2
FIRST = 1 + BATCHES_A_CURSOR
"""The batches that the second write of the cursor passes: the first one is there with the first batch."""
NOW = 1.8e9
"""Unix seconds."""


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer(clock=Clock(start=NOW), settings=Settings(page_cap=PAGE)) as server:
        server.fill(PAGES * PAGE)
        yield server


@pytest.fixture
def reader(tmp_path: Path, central: CentralServer) -> Reader:
    return another(tmp_path, central)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StandInEngine]:
    with StandInEngine(tmp_path / "engine.sock") as found:
        yield found


def another(tmp_path: Path, central: CentralServer) -> Reader:
    """A process over the store of this folder."""
    return Reader(tmp_path, central.url, central.clock)


def killed(tmp_path: Path, reader: Reader, central: CentralServer, dies_at: int) -> Reader:
    """Have the process die at that write of a batch or the cursor; returns the next process."""
    write, writes = reader.store.write, []

    def dying(key: str, body: bytes, *, expected: int) -> int:
        if key.startswith(("batches/", "cursors/")):
            writes.append(key)
            if len(writes) >= dies_at:
                raise Died
        return write(key, body, expected=expected)

    reader.store.write = dying  # type: ignore[method-assign]
    with pytest.raises(Died):
        reader.fetch()
    return another(tmp_path, central)


def forward(reader: Reader) -> None:
    reader.app.forward_batch.run(deadline=reader.monotonic() + 50)


def number(reader: Reader) -> int:
    """The number of the stream's next batch, as the store has it."""
    (stream,) = reader.app.state.checkpoints.streams()
    return reader.app.state.checkpoints.read(stream).checkpoint.sequence


def natives(engine: StandInEngine) -> list[str]:
    return [json.loads(log.raw)["id"] for log in engine.received if log.dataType == "sophos-central"]


def at(reader: Reader, batch: int, do: Callable[[], object]) -> None:
    """Do something right before that batch is stored, once."""

    def hook(stored: int) -> None:
        if stored == batch:
            reader.store.before_batch = lambda _: None
            do()

    reader.store.before_batch = hook


def cursor_writes(reader: Reader) -> list[int]:
    """How many batches are stored at each write of the cursor, from now on."""
    counts: list[int] = []
    write, stored = reader.store.write, []

    def counting(key: str, body: bytes, *, expected: int) -> int:
        generation = write(key, body, expected=expected)
        if key.startswith("batches/"):
            stored.append(key)
        if key.startswith("cursors/"):
            counts.append(len(stored))
        return generation

    reader.store.write = counting  # type: ignore[method-assign]
    return counts


def test_the_cursor_moves_once_for_several_batches(reader: Reader, central: CentralServer) -> None:
    counts = cursor_writes(reader)
    assert reader.fetch()["pages"] == PAGES
    assert counts == [1, FIRST, FIRST + BATCHES_A_CURSOR, PAGES]
    expect_all(reader, central)


def test_the_cursor_is_what_it_is_if_it_moves_with_each_batch(
    tmp_path: Path, reader: Reader, central: CentralServer
) -> None:
    apart = another(tmp_path / "apart", central)
    reader.fetch()
    while apart.fetch(max_pages=1)["has_more"]:
        continue
    (stream,) = reader.app.state.checkpoints.streams()
    one, other = (each.app.state.checkpoints.read(stream).checkpoint for each in (reader, apart))
    assert (one.recent, one.newest, one.counts) == (other.recent, other.newest, other.counts)
    assert len(one.recent.marks_by_key()) == PAGES * PAGE


def test_an_event_that_comes_again_with_another_text_is_counted(reader: Reader, central: CentralServer) -> None:
    raws = [b'{"id":"again-%d","text":"%d"}' % (number % 15, number) for number in range(3 * PAGE)]
    central.append(central.default_tenant, "events", raws)
    reader.fetch()
    (stream,) = reader.app.state.checkpoints.streams()
    counts = reader.app.state.checkpoints.read(stream).checkpoint.counts
    assert (counts.repeats, counts.changed) == (15, 15)


def test_the_cursor_moves_with_each_batch_while_a_page_is_slow(
    tmp_path: Path, reader: Reader, central: CentralServer
) -> None:
    first, source = [True], reader.app.integrations["acme"].source
    page = source.page

    def slow(*arguments: Any, **named: Any) -> Any:
        if first:  # The first page alone is asked for by the thread that waits for it.
            first.clear()
            central.clock.advance(2 * SLOW_SECONDS)
        return page(*arguments, **named)

    source.page = slow  # type: ignore[method-assign]
    counts = cursor_writes(reader)
    reader.fetch(max_pages=3)
    assert counts == [1, 3]
    another(tmp_path, central).fetch()
    expect_all(reader, central)


@pytest.mark.parametrize("dies_at", range(1, PAGES + 5))
def test_a_crash_at_any_write_loses_and_doubles_nothing(
    tmp_path: Path, reader: Reader, central: CentralServer, dies_at: int
) -> None:
    again = killed(tmp_path, reader, central, dies_at)
    asked = len(again.stored())
    assert again.fetch()["pages"] == max(1, PAGES - asked // PAGE)
    expect_all(again, central)


def test_the_cursor_is_past_all_batches_before_an_error_is_noted(reader: Reader, central: CentralServer) -> None:
    central.faults.add(Fault("status", status=429, retry_after=30, with_cursor=True, skip=2))
    line = reader.fetch()
    assert (line["outcome"], line["pages"], line["problem"]["code"]) == ("rate_limited", 3, "rate_limited")
    assert number(reader) == 4
    central.clock.advance(40)
    reader.fetch()
    expect_all(reader, central)


@pytest.mark.parametrize("batch", [2, 3, FIRST, FIRST + 1, PAGES])
def test_a_delivery_meanwhile_moves_the_cursor_and_reading_goes_on(
    reader: Reader, central: CentralServer, engine: StandInEngine, batch: int
) -> None:
    at(reader, batch, lambda: forward(reader))
    line = reader.fetch()
    assert (line["outcome"], line["pages"]) == ("fetched", PAGES)
    assert number(reader) == PAGES + 1
    forward(reader)
    assert natives(engine) == central.ids(central.default_tenant)
    assert audit(reader.app.state)["ok"]


def test_a_429_counts_though_another_call_has_moved_the_cursor(
    tmp_path: Path, reader: Reader, central: CentralServer
) -> None:
    other, asked = another(tmp_path, central), []
    source = reader.app.integrations["acme"].source
    page = source.page

    def overtaken(*arguments: Any, **named: Any) -> Any:
        asked.append(named)
        if len(asked) == 3:
            until(lambda: len(reader.stored()) == 2 * PAGE, "the second batch")
            assert other.fetch(max_pages=1)["outcome"] == "fetched"
            central.faults.add(Fault("status", status=429, retry_after=30))
        return page(*arguments, **named)

    source.page = overtaken  # type: ignore[method-assign]
    line = reader.fetch()
    assert (line["outcome"], line["problem"]["code"]) == ("rate_limited", "rate_limited")
    assert number(reader) == 4


def test_a_run_that_adopts_meanwhile_and_reads_on_is_not_overwritten(
    tmp_path: Path, reader: Reader, central: CentralServer
) -> None:
    other = another(tmp_path, central)
    at(reader, 4, lambda: other.fetch(max_pages=3))
    assert reader.fetch()["outcome"] == "busy"
    assert number(reader) == 7
    assert other.fetch()["pages"] == PAGES - 6
    expect_all(reader, central)


def test_an_event_of_the_connectors_own_takes_a_number_behind_what_was_left(
    tmp_path: Path, reader: Reader, central: CentralServer, engine: StandInEngine
) -> None:
    left = BATCHES_A_CURSOR - 1
    again = killed(tmp_path, reader, central, FIRST + 2 + left + 1)
    assert len(again.stored()) == (FIRST + left) * PAGE
    assert number(again) == FIRST + 1
    central.clock.advance(30 * 3600)  # What Sophos had is gone: the next call announces a gap.
    central.fill(PAGE)
    again.fetch()
    forward(again)
    ids = central.ids(central.default_tenant)
    assert natives(engine)[: (FIRST + left) * PAGE] == ids[: (FIRST + left) * PAGE]
    assert natives(engine)[-PAGE:] == ids[-PAGE:]
    (gap,) = again.app.state.gaps.all()
    assert gap.sequence == FIRST + left + 1
    assert audit(again.app.state)["ok"]


@pytest.mark.parametrize("delivers_first", [False, True])
def test_a_damaged_batch_among_those_that_were_left_is_a_gap_and_the_others_arrive(
    tmp_path: Path, reader: Reader, central: CentralServer, engine: StandInEngine, *, delivers_first: bool
) -> None:
    again = killed(tmp_path, reader, central, FIRST + 2 + 3 + 1)
    *_, damaged, last = again.app.state.batches.waiting()
    assert last.sequence == number(again) + 2
    path = tmp_path / "store" / damaged.entry.key
    path.write_bytes(path.read_bytes()[:-10])
    if delivers_first:
        forward(again)
    assert again.fetch()["outcome"] == "fetched"
    forward(again)
    ids = central.ids(central.default_tenant)
    assert natives(engine) == ids[: (damaged.sequence - 1) * PAGE] + ids[damaged.sequence * PAGE :]
    (gap,) = again.app.state.gaps.all()
    assert (gap.reason, gap.sequence) == (BATCH_DAMAGED, damaged.sequence)
    assert audit(again.app.state)["ok"]


def test_a_delivery_that_moves_the_cursor_before_each_batch_stops_nobody(
    reader: Reader, central: CentralServer
) -> None:
    state = reader.app.state

    def move(_: int) -> None:
        for stream in state.checkpoints.streams():
            saved = state.checkpoints.read(stream)
            batch = state.batches.read(stream, saved.checkpoint.sequence)
            if batch is not None:
                adopt(state.checkpoints, saved, batch, event_fields)

    reader.store.before_batch = move
    assert (reader.fetch()["outcome"], number(reader)) == ("fetched", PAGES + 1)
    expect_all(reader, central)


def test_a_run_whose_batch_was_delivered_under_the_same_number_is_not_overwritten(
    tmp_path: Path, reader: Reader, central: CentralServer, engine: StandInEngine
) -> None:
    central.fill(PAGE // 2)
    other = another(tmp_path, central)

    def overtake() -> None:
        """Read more than the page that waits to be stored has, deliver it, and so free its number."""
        central.clock.advance(120)
        central.fill(3, hours=0.02)
        central.clock.advance(120)
        other.fetch()
        forward(other)

    at(reader, PAGES + 1, overtake)
    assert reader.fetch()["outcome"] == "busy"
    other.fetch()
    forward(other)
    assert sorted(natives(engine)) == sorted(central.ids(central.default_tenant))
    assert audit(other.app.state)["ok"]


@pytest.mark.parametrize("removed", [0, 1])
def test_a_batch_that_was_removed_among_those_that_were_left_is_a_gap_and_no_other_is_read_again(
    tmp_path: Path, reader: Reader, central: CentralServer, engine: StandInEngine, *, removed: int
) -> None:
    again = killed(tmp_path, reader, central, FIRST + 2 + 3 + 1)
    gone = list(again.app.state.batches.waiting())[FIRST + removed]
    (tmp_path / "store" / gone.entry.key).unlink()
    forward(again)
    again.fetch()
    forward(again)
    ids = central.ids(central.default_tenant)
    assert natives(engine) == ids[: (gone.sequence - 1) * PAGE] + ids[gone.sequence * PAGE :]
    (gap,) = again.app.state.gaps.all()
    assert (gap.reason, gap.sequence) == (BATCH_MISSING, gone.sequence)


def test_a_batch_of_a_new_stream_that_was_stored_and_delivered_though_storing_it_failed_keeps_its_number(
    reader: Reader, central: CentralServer, engine: StandInEngine
) -> None:
    write = reader.store.write

    def failing(key: str, body: bytes, *, expected: int) -> int:
        generation = write(key, body, expected=expected)
        if key.startswith("batches/acme/") and key.endswith("4.ndjson"):
            reader.store.write = write  # type: ignore[method-assign]
            forward(reader)
            raise StoreError("the answer was lost", remedy="")
        return generation

    reader.store.write = failing  # type: ignore[method-assign]
    reader.fetch()
    assert number(reader) == 5
    reader.fetch()
    forward(reader)
    assert natives(engine) == central.ids(central.default_tenant)
    assert audit(reader.app.state)["ok"]
