"""Delivery counts what the engine acknowledged, sends nothing twice for a store's sake, and blames the right one."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer
from emulator.central.clock import Clock
from lib.app import App
from lib.errors import StoreError
from lib.model.stream import Stream
from lib.parts import open_store
from lib.pipeline.deliver_stream import OVERTAKEN_CALLS, REFUSALS
from lib.state import leases, receipts
from lib.state.leases import lease_key
from lib.state.state import State
from lib.store.base import ObjectStore, Stored
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.gcs import Call, FakeGcs, Reply
from tests.fakes.headers import header_at
from tests.fakes.memory_store import MemoryStore
from tests.fakes.picky import PickyEngine
from tests.pipeline.test_faults import Connector
from tests.pipeline.test_unexpected import Broken
from tests.site import site

REFUSED = "INVALID_ARGUMENT"


class Failing(Broken):
    """A store that fails as a full disk does."""

    def _touch(self, what: str, key: str) -> None:
        if self._breaks(what, key):
            raise StoreError(f"{what} {key}")


class Deaf(Broken):
    """A store that writes receipts, but whose answer does not arrive."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, lambda _, __: False)

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        generation = super().write(key, body, expected=expected)
        if key.startswith("ledger/"):
            raise StoreError(f"no answer: {key}")
        return generation


class Torn(Broken):
    """A store whose first answer with a batch is damaged on its way."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, lambda _, __: False)
        self._is_torn = False

    def read(self, key: str) -> Stored | None:
        stored = super().read(key)
        if stored is None or self._is_torn or not key.startswith("batches/"):
            return stored
        self._is_torn = True
        return replace(stored, body=stored.body[:-2])


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Connector]:
    with CentralServer(clock=Clock()) as central:
        yield Connector(tmp_path, central)


def break_store(works: Connector, breaks: Callable[[str, str], bool]) -> None:
    parts = replace(works.app.parts, store=lambda location: Failing(open_store(location), breaks))
    works.app = App(lambda: works.config, parts)


def batches(works: Connector, *sizes: int) -> None:
    for size in sizes:
        works.central.emit(size)
        works.tick()


def test_only_what_the_engine_acknowledged_counts_as_acknowledged() -> None:
    with site() as found:
        tenant = found.central.default_tenant
        large = [b'{"id": "%d", "x": "%s"}' % (number, b"y" * 4_195_000) for number in range(3)]
        found.central.append(tenant, "events", [b'{"id": "small"}', *large])
        found.results("fetch-page")
        (line,) = found.results("forward-batch")
        assert (line["acked"], line["set_aside"], line["observed"]) == (1, 3, 0)
        told = found.command("status", status=1)
        assert (told["events"], told["acked"], told["set_aside"], told["observed"]) == (4, 1, 3, 0)
        found.central.emit(5)
        found.results("fetch-page")
        found.results("forward-batch")
        told = found.command("status", status=1)
        assert (told["events"], told["acked"], told["set_aside"]) == (9, 6, 3)


def test_what_was_only_observed_is_not_acknowledged() -> None:
    with site(observe=True) as found:
        found.central.fill(30)
        found.results("fetch-page")
        (line,) = found.results("forward-batch")
        assert (line["outcome"], line["acked"], line["observed"]) == ("observed", 0, 30)
        told = found.command("status", status=1)
        assert (told["acked"], told["observed"]) == (0, 30)
        assert found.raws() == []


def test_an_older_ledger_is_added_up_and_goes_on(works: Connector) -> None:
    works.central.append(works.central.default_tenant, "events", [b'"no object"', b'{"id": "1"}'])
    works.tick()
    with works.engine:
        works.forward()
        (path,) = (works.folder / "store/ledger").rglob("*.json")
        fields = json.loads(path.read_bytes())
        del fields["set_aside_total"], fields["observed_total"]
        path.write_text(json.dumps(fields) + "\n")
        assert (works.status()["acked"], works.status()["set_aside"]) == (1, 1)
        batches(works, 3)
        works.forward()
    newest = max((works.folder / "store/ledger").rglob("*.json"))
    receipt = receipts.from_body(newest.read_bytes())
    assert (receipt.total, receipt.set_aside_total, receipt.observed_total) == (5, 1, 0)
    assert works.status()["acked"] == 4


def test_a_receipt_that_cannot_be_written_has_nothing_sent_again_and_again(works: Connector) -> None:
    batches(works, 5, 4, 3)
    break_store(works, lambda what, key: what == "write" and key.startswith("ledger/"))
    with works.engine:
        for _ in range(6):
            (line,) = works.forward()
            assert (line["outcome"], line["problem"]["code"]) == ("failed", "store_unavailable")
        sent = Counter(log.id for log in works.engine.received)
        assert max(sent.values()) <= 1, "nothing is sent again while the receipt cannot be written"
        break_store(works, lambda _, __: False)
        (line,) = works.forward()
        assert (line["outcome"], line["pending"]) == ("delivered", 0)
        sent = Counter(log.id for log in works.engine.received)
        assert max(sent.values()) <= 2
        assert works.status()["acked"] == 12


def test_an_engine_that_refuses_everything_is_told_as_such_and_buries_little(works: Connector) -> None:
    batches(works, 200, 100)
    works.engine = PickyEngine(works.folder / "e", lambda _: REFUSED)
    with works.engine:
        for _ in range(3):
            (line,) = works.forward()
            assert (line["outcome"], line["problem"]["code"]) == ("engine_unavailable", "engine_refused")
            assert "in a row" in line["problem"]["detail"]
            assert "replay" in line["problem"]["remedy"]
        assert works.status()["set_aside"] == 0
        works.engine.status = lambda _: None
        (line,) = works.forward()
        assert (line["outcome"], line["pending"]) == ("delivered", 0)
        assert line["acked"] + line["set_aside"] == 300
        assert line["set_aside"] <= REFUSALS


def test_small_batches_that_are_all_refused_are_counted_over_calls(works: Connector) -> None:
    works.engine = PickyEngine(works.folder / "e", lambda _: REFUSED)
    outcomes = []
    with works.engine:
        for _ in range(REFUSALS + 2):
            batches(works, 1)
            (line,) = works.forward()
            outcomes.append(line["outcome"])
        assert outcomes[-1] == "engine_unavailable"
        assert works.status()["set_aside"] == REFUSALS
        works.engine.status = lambda _: None
        (line,) = works.forward()
        assert (line["outcome"], line["pending"]) == ("delivered", 0)
    (stream,) = works.state.checkpoints.streams()
    stored = DirectoryStore(works.folder / "store").read(lease_key(stream))
    assert stored is not None
    assert leases.from_body(stored.body).refused_in_a_row is None


def fetch_but_not_move(works: Connector, count: int) -> None:
    """fetch-page dies between batch and cursor."""
    works.central.emit(count)
    break_store(works, lambda what, key: what == "write" and key.startswith("cursors/"))
    works.tick()
    break_store(works, lambda _, __: False)


def arrived(works: Connector) -> list[str]:
    return [json.loads(log.raw)["id"] for log in works.engine.received]


def test_a_batch_that_is_delivered_before_its_cursor_moved_loses_nothing(works: Connector) -> None:
    """The storage event wakes forward-batch before fetch-page comes again (G1)."""
    with works.engine:
        batches(works, 2)
        works.forward()
        fetch_but_not_move(works, 4)
        works.forward()
        assert len(works.engine.received) == 6
        batches(works, 3)
        works.forward()
        assert arrived(works) == works.central.ids(works.central.default_tenant)


def test_a_batch_that_gets_a_buried_ones_number_is_sent_whole(works: Connector) -> None:
    """How far delivery came into the damaged one tells nothing of the other (G2)."""
    with works.engine:
        batches(works, 2)
        works.forward()
        fetch_but_not_move(works, 4)
        (path,) = (works.folder / "store/batches").rglob("*.ndjson")
        path.write_bytes(b"rubbish\n")
        (lease,) = (works.folder / "store/leases").rglob("*.json")
        halfway = {"acked_sequence": int(path.stem), "acked": 2}  # as a call leaves it whose engine went away
        lease.write_text(json.dumps(json.loads(lease.read_bytes()) | halfway) + "\n")
        works.forward()
        works.tick()
        works.forward()
        assert arrived(works) == works.central.ids(works.central.default_tenant)


def news(works: Connector, size: int) -> int:
    """The number of a new batch with so many events."""
    batches(works, size)
    return [waiting.sequence for waiting in works.state.batches.waiting()][-1]


def forward_event(works: Connector, number: int) -> dict[str, Any]:
    """What forward-batch says of the event of that batch, of the only stream."""
    (stream,) = works.state.checkpoints.streams()
    named = {"integration": stream.integration, "tenant": stream.tenant, "kind": stream.kind}
    (line,) = works.forward(**named, batch=number)
    return line


def holds(works: Connector) -> None:
    """Nothing is missing, nothing is claimed to be, and the chain of receipts is whole."""
    assert list(dict.fromkeys(arrived(works))) == works.central.ids(works.central.default_tenant)
    assert not list(works.state.gaps.all())
    assert audit(works.state)["ok"]
    assert not list(works.state.batches.waiting())


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_receipt_that_an_overtaken_run_writes_late_is_found(works: Connector, *, is_removed: bool) -> None:
    """The lease was given back and does not tell of it; the run removed the batch, or died before that."""
    with works.engine:
        forward_event(works, news(works, 2))
        (lease,) = (works.folder / "store/leases").rglob("*.json")
        given_back = lease.read_bytes()
        second = news(works, 3)
        (path,) = (works.folder / "store/batches").rglob("*.ndjson")
        batch = path.read_bytes()
        forward_event(works, second)
        lease.write_bytes(given_back)
        if not is_removed:
            path.write_bytes(batch)
        third = news(works, 4)
        outcomes = [forward_event(works, third)["outcome"] for _ in range(1 if is_removed else 2)]
        assert outcomes == (["delivered"] if is_removed else ["busy", "delivered"])
        assert len(arrived(works)) == 9 or not is_removed
        holds(works)


def test_a_receipt_whose_answer_is_lost_has_nothing_sent_again(works: Connector) -> None:
    with works.engine:
        forward_event(works, news(works, 2))
        number = news(works, 3)
        parts = replace(works.app.parts, store=lambda location: Deaf(open_store(location)))
        works.app = App(lambda: works.config, parts)
        assert forward_event(works, number)["outcome"] == "failed"
        break_store(works, lambda _, __: False)
        forward_event(works, number)
        assert len(arrived(works)) == 5
        holds(works)


def test_an_event_leads_over_a_hole_to_what_waits_behind_it(works: Connector) -> None:
    with works.engine:
        first, second, third, _ = (news(works, size) for size in (1, 2, 3, 4))
        (path,) = (works.folder / "store/batches").rglob(f"*{second}.ndjson")
        path.unlink()
        line = forward_event(works, third)
        assert (line["outcome"], line["batches"], line["pending"]) == ("delivered", 3 + 1, 0)
        (gap,) = works.state.gaps.all()
        assert (gap.sequence, gap.reason) == (second, "batch_missing")
        assert first < second


def test_a_log_that_is_refused_behind_a_hole_holds_up_nothing(works: Connector) -> None:
    _, second, third = (news(works, size) for size in (1, 2, 3))
    (path,) = (works.folder / "store/batches").rglob(f"*{second}.ndjson")
    path.unlink()
    refused = works.central.ids(works.central.default_tenant)[-2]
    works.engine = PickyEngine(works.folder / "e", lambda native: REFUSED if native == refused else None)
    with works.engine:
        line = forward_event(works, third)
    assert (line["outcome"], line["pending"], line["set_aside"]) == ("delivered", 0, 1)
    assert not list(works.state.batches.waiting())


def test_what_follows_a_damaged_batch_is_sent_by_the_same_call(works: Connector) -> None:
    first, second = news(works, 1), news(works, 2)
    (path,) = (works.folder / "store/batches").rglob(f"*{second}.ndjson")
    path.write_bytes(b"rubbish")
    with works.engine:
        line = forward_event(works, first)
    assert (line["outcome"], line["batches"], line["pending"]) == ("delivered", 1 + 1, 0)
    assert [gap.reason for gap in works.state.gaps.all()] == ["batch_damaged"]
    assert not list(works.state.batches.waiting())


def test_a_batch_that_is_damaged_only_on_its_way_is_no_damaged_batch(works: Connector) -> None:
    number = news(works, 3)
    (stream,) = works.state.checkpoints.streams()
    # As by a run that read it when it was damaged, before another run stored the page again.
    works.state.batches.move_to_dead_letters(stream, number)
    parts = replace(works.app.parts, store=lambda location: Torn(open_store(location)))
    works.app = App(lambda: works.config, parts)
    with works.engine:
        works.forward()
        holds(works)


def test_an_event_of_a_batch_that_was_stored_again_behind_its_receipt_removes_it(works: Connector) -> None:
    with works.engine:
        number = news(works, 2)
        (path,) = (works.folder / "store/batches").rglob("*.ndjson")
        batch = path.read_bytes()
        forward_event(works, number)
        path.write_bytes(batch)
        line = forward_event(works, number)
        assert (line["acked"], line["pending"]) == (0, 0)
        assert len(arrived(works)) == 2
        holds(works)


def stuck(works: Connector, native: str, way: str) -> PickyEngine:
    """An engine that never acknowledges that event, or ends its stream at it with that status."""
    engine = PickyEngine(works.folder / "e", lambda each: way if each == native and way != "silent" else None)
    engine.silent = {native} if way == "silent" else set()
    works.engine = engine
    if way != "silent":
        works.ack_timeout = 30.0  # Nothing is waited for so long, and a busy machine is not taken for a silent engine.
    return engine


def dead(works: Connector) -> list[dict[str, Any]]:
    paths = (works.folder / "store/dead").rglob("*.ndjson*")
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.mark.parametrize("sizes", [[300], [1] * 40, [3, 60, 2]], ids=["one batch", "small batches", "in the second"])
def test_what_is_acknowledged_behind_a_lost_log_is_not_sent_again(works: Connector, sizes: list[int]) -> None:
    batches(works, *sizes)
    ids = works.central.ids(works.central.default_tenant)
    with stuck(works, ids[5], "silent"):
        for _ in range(OVERTAKEN_CALLS):
            (line,) = works.forward()
            assert (line["outcome"] == "engine_unavailable", line["set_aside"]) == (True, 0)
            batches(works, 1)  # What comes anew shows that the engine works.
        assert works.status()["set_aside"] == 0
        (line,) = works.forward()
        sent = Counter(arrived(works))
        held = works.central.ids(works.central.default_tenant)
        assert (line["outcome"], line["set_aside"], line["pending"]) == ("delivered", 1, 0)
        assert set(sent) == set(held)
        assert {native for native, count in sent.items() if count > 1} == {ids[5]}
    (letter,) = dead(works)
    assert json.loads(letter["raw"])["id"] == ids[5]
    assert "5 calls" in letter["reason"]
    assert (works.status()["acked"], works.status()["set_aside"]) == (len(held) - 1, 1)


@pytest.mark.parametrize("sizes", [[30], [1] * 30], ids=["one batch", "small batches"])
def test_a_log_that_is_never_acknowledged_holds_up_no_quiet_stream(works: Connector, sizes: list[int]) -> None:
    batches(works, *sizes)
    ids = works.central.ids(works.central.default_tenant)
    with stuck(works, ids[5], "silent"):
        for _ in range(OVERTAKEN_CALLS):
            (line,) = works.forward()
            assert (line["outcome"], line["set_aside"]) == ("engine_unavailable", 0)
        (line,) = works.forward()
        assert (line["outcome"], line["set_aside"], line["pending"]) == ("delivered", 1, 0)
        again = {native: count for native, count in Counter(arrived(works)).items() if count > 1 and native != ids[5]}
        assert again == {ids[-1]: OVERTAKEN_CALLS}, "one that the engine knows shows in each call that it works"
    (letter,) = dead(works)
    assert json.loads(letter["raw"])["id"] == ids[5]
    assert (works.status()["acked"], works.status()["set_aside"]) == (29, 1)


@pytest.mark.parametrize("status", ["INTERNAL", "ALREADY_EXISTS", "NOT_FOUND", "ABORTED"])
def test_the_engine_never_acknowledges_one_event_or_fails_at_it(works: Connector, status: str) -> None:
    batches(works, 30)
    ids = works.central.ids(works.central.default_tenant)
    with stuck(works, ids[5], status):
        for _ in range(OVERTAKEN_CALLS):
            (line,) = works.forward()
            assert (line["outcome"], line["set_aside"]) == ("engine_unavailable", 0)
        (line,) = works.forward()
        assert (line["outcome"], line["acked"], line["set_aside"]) == ("delivered", 29, 1)
        assert sorted(arrived(works)) == sorted(set(ids) - {ids[5]}), "each arrives, and once"
    (letter,) = dead(works)
    assert status in letter["reason"]


@pytest.mark.parametrize("way", ["INTERNAL", "silent"])
def test_an_engine_that_acknowledges_nothing_makes_no_dead_letters(works: Connector, way: str) -> None:
    batches(works, 20, 3)
    works.engine = PickyEngine(works.folder / "e")
    works.engine.faults = {"silent_after": "0"} if way == "silent" else {"status": way}
    with works.engine:
        for _ in range(OVERTAKEN_CALLS + 2):
            (line,) = works.forward()
            assert (line["outcome"], line["set_aside"]) == ("engine_unavailable", 0)
        works.engine.faults = {}
        (line,) = works.forward()
        assert (line["outcome"], line["acked"], line["set_aside"]) == ("delivered", 23, 0)


def test_what_was_acknowledged_of_another_batch_of_that_number_is_not_believed(works: Connector) -> None:
    with works.engine:
        batches(works, 2)
        works.forward()
        batches(works, 4)
        (path,) = (works.folder / "store/batches").rglob("*.ndjson")
        (lease,) = (works.folder / "store/leases").rglob("*.json")
        number, digest = int(path.stem), "0" * 64
        part = {"sequence": number, "digest": digest, "acked": [[2, 4]]}
        other = {"acked_sequence": number, "acked_digest": digest, "acked": 2, "refused": {}, "parts": [part]}
        lease.write_text(json.dumps(json.loads(lease.read_bytes()) | other) + "\n")
        works.forward()
        assert arrived(works) == works.central.ids(works.central.default_tenant)


def test_many_small_batches_in_a_slow_bucket_are_sent_once_and_nobody_is_blamed(gcs: FakeGcs, bucket: str) -> None:
    """Settling takes several calls of the store for each batch, an acknowledgement none (D1)."""

    in_flight: list[int] = []

    def slow(call: Call, go: Callable[[Call], Reply]) -> Reply:
        time.sleep(0.03)  # the service's own time
        if call.kind == "delete":
            in_flight.append(found.engine.count - len(in_flight))
        return go(call)

    with site(store=bucket) as found:
        found.env["STORAGE_EMULATOR_HOST"] = gcs.url
        found.central.fill(1)
        found.results("fetch-page")
        (stream,) = found.state.checkpoints.streams()
        first = found.state.batches.read(stream, 1)
        assert first is not None
        for number in range(2, 81):
            header = replace(first.header, sequence=number, cursors=replace(first.header.cursors, previous=None))
            found.state.batches.create(header, [b'{"id": "n%d"}' % number])
        use_case = found.app.forward_batch
        outcomes: list[tuple[str, object]] = []
        for kind in ("get", "list", "upload", "delete"):
            gcs.fail(kind, slow, 1000)
        try:
            while list(found.state.batches.waiting(stream)):
                results = use_case.run(deadline=time.monotonic() + 3)
                outcomes += [(result.outcome, result.error) for result in results]
        finally:
            gcs.planned.clear()
        sent = Counter(log.id for log in found.engine.received)
        assert len(sent) == 80
        assert set(sent.values()) == {1}
        assert set(outcomes) == {("delivered", None)}
        assert len(outcomes) > 1, "one call was not enough"
        assert max(in_flight) <= 32, "what a store with 150 ms a call settles in the grace"


def test_no_more_than_32_batches_are_in_flight_however_fast_the_engine_takes_them() -> None:
    with site() as found:
        state, stream = State.of(MemoryStore()), Stream("acme", "t-1", "events")
        for number in range(1, 71):
            header = header_at(datetime(2026, 3, 1, tzinfo=UTC), stream, number, count=1)
            state.batches.create(header, [b'{"id": "n%d"}' % number])
        use_case = found.app.forward_batch
        # It acknowledges nothing before it has taken all of them, or its stream ends.
        found.engine.faults["shuffle"] = "70"
        (result,) = replace(use_case, context=replace(use_case.context, state=state)).run(
            deadline=time.monotonic() + 60
        )
        assert (result.outcome, result.acked, result.pending) == ("delivered", 70, 0)
        assert found.engine.streams == 3, "32, 32 and 6"
