"""Any order of appends, ticks, crashes, restarts and expiries: nothing is lost, and first deliveries keep their order.

The simulator, the store and the engine are the real ones; only the clock is modelled, so that leases and cursors age.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from emulator.central import CentralServer, Fault, Settings
from lib.pipeline.expiry import EXPIRED_A_CALL
from lib.state.checkpoints import from_body
from lib.state.ledger import KEPT
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Died, Life, live
from tests.fakes.picky import PickyEngine

LEASE_SECONDS = 13.0
ARCHIVE_DAYS = 2
"""As `live` configures it."""
COUNTS = st.integers(0, 60)
SOPHOS_FAULTS = ["close", "cut", "not_json", "same_cursor", "empty_page", "repeat", "revoke_tokens"]
ENGINE_FAULTS = [
    {"hang_up_after": "7"},
    {"abort_after": "5"},
    {"empty_ids": "1"},
    {"odd": "3"},
    {"twice": "1"},
    {"shuffle": "4"},
]
FORWARD = [
    "",
    "",
    "write leases/",
    "ack ",
    "write cursors/",
    "write ledger/",
    "write archive/",
    "delete batches/",
    "delete archive/",
    "delete ledger/",
]
CHANGES = {
    "fetch": ["", "write batches/", "write cursors/"],
    "forward": FORWARD,
    "event": FORWARD,
    "reconcile": ["", "write batches/", "write cursors/"],
}
"""Where each call is killed, if it is."""
LIVES = st.lists(
    st.sampled_from(
        [(step, call, after) for step, calls in CHANGES.items() for call in calls for after in (True, False)]
    )
    | st.sampled_from([("fetch", "write batches/", True), ("forward", "", False), ("event", "", False)]),
    max_size=10,
)
REFUSAL_FAULTS = st.sampled_from([{}, {"hang_up_after": "3"}, {"abort_after": "1"}])


class Protocol(RuleBasedStateMachine):
    """Runs of fetch-page and forward-batch, whole and broken, over one store."""

    @initialize(cap=st.integers(3, 40))
    def begin(self, cap: int) -> None:
        self.folder = TemporaryDirectory(prefix="p-")
        path = Path(self.folder.name)
        self.central = CentralServer(settings=Settings(page_cap=cap))
        self.engine = PickyEngine(path / "s")
        self.engine.start()
        self.store = str(path / "store")
        self.central.fill(20)
        self.ahead = 0.0
        self.is_calm = True
        self.as_of = self.sequence = 0.0

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self.end_well()
        finally:
            self.close()

    def close(self) -> None:
        self.engine.close()
        self.central.close()
        self.folder.cleanup()

    def life(self, dies_at: int = 0, *, after: bool = False) -> Life:
        return Life(
            self.store,
            str(self.engine.socket),
            self.central.url,
            ahead=self.ahead,
            dies_at=dies_at,
            after=after,
            kills=False,
            # Turns are waited for in real time, which has tests with a modelled one.
            calls_per_minute=100_000,
        )

    @rule(count=COUNTS, step=st.sampled_from(["forward", "event"]))
    def tick(self, count: int, step: str) -> None:
        self.central.emit(count)
        live(replace(self.life(), steps=["fetch", step]))

    @rule(count=COUNTS)
    def two_at_once(self, count: int) -> None:
        self.central.emit(count)
        with ThreadPoolExecutor(2) as both:
            # A platform's doubles: neither loses or repeats anything, whoever is first.
            list(both.map(live, [replace(self.life(), holder=holder) for holder in ("one", "other")]))

    @rule(count=COUNTS, at=st.integers(1, 50), after=st.booleans(), waits=st.booleans())
    def crash(self, count: int, at: int, *, after: bool, waits: bool) -> None:
        self.central.emit(count)
        self.is_calm = False
        with suppress(Died):
            live(self.life(at, after=after))
        if waits:
            self.ahead += LEASE_SECONDS

    @rule(count=COUNTS, lives=LIVES, faults=st.sampled_from([{}, {}, {"abort_after": "5"}]))
    def calls_in_any_order(self, count: int, lives: list[tuple[str, str, bool]], faults: dict[str, str]) -> None:
        """Each call alone and in any order, some killed before or after a change; at last a tick."""
        self.is_calm = False
        self.engine.faults = dict(faults)
        for step, call, after in lives:
            self.central.emit(count)
            with suppress(Died):
                live(replace(self.life(after=after), steps=[step], dies_at_call=call))
            self.ahead += LEASE_SECONDS
        self.engine.faults = {}
        live(self.life())

    @rule(count=st.integers(1, 60), again=st.booleans(), step=st.sampled_from(["forward", "event"]))
    def an_overtaken_run_writes_a_receipt_late(self, count: int, *, again: bool, step: str) -> None:
        """The lease that was given back does not tell of it; the run dies before it removes the batch, or after."""
        live(self.life())
        leases = {path: path.read_bytes() for path in Path(self.store).glob("leases/*/*/*.json")}
        self.central.emit(count)
        self.is_calm = False
        live(replace(self.life(), steps=["fetch"]))
        batches = {path: path.read_bytes() for path in Path(self.store).glob("batches/*/*/*/*.ndjson")}
        live(replace(self.life(), steps=["forward"]))
        for path, body in {**leases, **(batches if again else {})}.items():
            path.write_bytes(body)
        self.central.emit(count)
        live(replace(self.life(), steps=["fetch", step]))

    @rule(count=st.integers(1, 60), forwards=st.booleans())
    def a_batch_is_damaged_before_its_cursor_moved(self, count: int, *, forwards: bool) -> None:
        """Nothing is lost: Sophos is asked for the page again, and another batch gets the number."""
        live(self.life())
        self.central.emit(count)
        self.is_calm = False
        with suppress(Died):  # between batch and cursor
            live(replace(self.life(after=True), steps=["fetch"], dies_at_call="write batches/"))
        if forwards:
            self.engine.faults = {"abort_after": "2"}
            with suppress(Died):
                live(replace(self.life(), steps=["forward"], dies_at_call="write cursors/"))
            self.engine.faults = {}
            self.ahead += LEASE_SECONDS
        for path in Path(self.store).glob("batches/*/*/*/*.ndjson"):
            (cursor,) = Path(self.store).glob("cursors/*/*/*.json")
            if int(path.stem) >= from_body(cursor.read_bytes()).sequence:
                path.write_bytes(b"rubbish\n")
        live(replace(self.life(), steps=["forward"]))
        self.central.emit(1)
        live(self.life())
        # What the damaged batch is kept as holds no event that anybody misses.
        for path in Path(self.store).glob("dead/batches/**/*.ndjson*"):
            path.unlink()

    @rule(count=COUNTS, faults=st.sampled_from(ENGINE_FAULTS))
    def the_engine_errs(self, count: int, faults: dict[str, str]) -> None:
        self.central.emit(count)
        self.is_calm = False
        self.engine.faults = dict(faults)
        live(self.life())
        self.engine.faults = {}

    @rule(count=COUNTS, digits=st.sets(st.sampled_from("0123456789abcdef"), max_size=3), faults=REFUSAL_FAULTS)
    def the_engine_refuses(self, count: int, digits: set[str], faults: dict[str, str]) -> None:
        self.central.emit(count)
        self.is_calm = False
        self.engine.status = lambda native: "INVALID_ARGUMENT" if native[-1] in digits else None
        self.engine.faults = dict(faults)
        live(self.life())
        self.engine.faults = {}
        self.engine.status = lambda _: None

    @rule(count=COUNTS)
    def the_engine_goes_and_comes(self, count: int) -> None:
        self.central.emit(count)
        self.engine.stop()
        live(self.life())
        self.engine.start()

    @rule(count=COUNTS, waits=st.booleans())
    def cursors_expire(self, count: int, *, waits: bool) -> None:
        self.central.expire_cursors()
        self.central.emit(count)
        if not waits:
            live(self.life())

    @rule(count=COUNTS, status=st.sampled_from([400, 410, 500, 503]), times=st.integers(1, 5))
    def sophos_fails(self, count: int, status: int, times: int) -> None:
        self.central.emit(count)
        self.central.faults.add(Fault("status", status=status, times=times, with_cursor=True))
        live(self.life())

    @rule(count=COUNTS, name=st.sampled_from(SOPHOS_FAULTS), skip=st.integers(0, 2))
    def sophos_is_odd(self, count: int, name: str, skip: int) -> None:
        self.central.emit(count)
        self.central.faults.add(Fault(name, skip=skip))
        live(self.life())

    @rule(count=COUNTS, seconds=st.sampled_from([60, 3600, 6 * 3600]))
    def time_passes(self, count: int, seconds: int) -> None:
        # Always within 24 hours of the last reading: longer rests lose events, and have tests of their own.
        self.central.faults.clear()
        self.central.emit(count)
        live(self.life())
        self.central.clock.advance(seconds)
        self.ahead += seconds
        self.central.emit(count)
        live(self.life())

    @rule(count=COUNTS, days=st.sampled_from([1, 3]), at=st.integers(0, 60), after=st.booleans())
    def days_pass(self, count: int, days: int, at: int, *, after: bool) -> None:
        """Each with a run that packs the receipts of days gone by, and removes what was kept too long; it may die."""
        self.is_calm = self.is_calm and not at
        for _ in range(days):
            live(self.life())
            self.pass_day(count)
            with suppress(Died):
                live(self.life(at, after=after))
            self.ahead += LEASE_SECONDS
        for _ in range(1 + self.archived() // EXPIRED_A_CALL):
            live(self.life())
        days_kept = {path.parent.name for path in Path(self.store).glob("archive/*/*/*/*/*")}
        assert len(days_kept) <= 1 + ARCHIVE_DAYS

    def archived(self) -> int:
        return sum(1 for _ in Path(self.store).glob("archive/*/*/*/*/*"))

    def pass_day(self, count: int) -> None:
        """Nothing is lost: Sophos serves what is not older than a day."""
        self.central.faults.clear()
        self.central.clock.advance(23 * 3600)
        self.ahead += 23 * 3600
        self.central.emit(count)

    @invariant()
    def the_cursor_never_moves_back(self) -> None:
        for path in Path(self.store).glob("cursors/*/*/*.json"):
            checkpoint = from_body(path.read_bytes())
            as_of = checkpoint.as_of.timestamp() if checkpoint.as_of else 0.0
            assert as_of >= self.as_of
            assert checkpoint.sequence >= self.sequence
            self.as_of, self.sequence = as_of, checkpoint.sequence

    def end_well(self) -> None:
        """Left alone, everything arrives; nothing but repeats of what was in flight."""
        self.engine.faults = {}
        self.central.faults.clear()
        self.ahead += LEASE_SECONDS
        for _ in range(2):
            live(self.life())
        arrived = [json.loads(log.raw)["id"] for log in self.engine.received]
        first = list(dict.fromkeys(arrived))
        state = State.of(DirectoryStore(Path(self.store)))
        lines = [line for path in Path(self.store).glob("dead/**/*.ndjson*") for line in path.read_text().splitlines()]
        dead = [json.loads(json.loads(line)["raw"])["id"] for line in lines]
        # What was set aside never arrived, but for what the engine took without a word before it refused it.
        held = self.central.ids(self.central.default_tenant)
        assert first == [native for native in held if native in set(first) or native not in dead]
        receipts = [receipt for stream in state.ledger.streams() for _, receipt, _ in state.ledger.receipts(stream)]
        assert sum(receipt.set_aside for receipt in receipts) == len(dead) == len(set(dead))
        assert len({log.id for log in self.engine.received}) == len(first)
        if self.is_calm:
            assert arrived == first, "where neither a process nor the engine failed, nothing is repeated"
        told = audit(state)
        assert told["ok"], told
        for day in {receipt.header.day for receipt in receipts} | {"2199-01-01"}:
            assert audit(state, day)["ok"], (day, audit(state, day))
        assert not list(state.batches.waiting())
        assert not list(state.gaps.all())


Protocol.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestProtocol = Protocol.TestCase


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cap=st.integers(3, 40), count=st.integers(1, 20), lives=LIVES)
@example(cap=30, count=6, lives=[("fetch", "", False), ("fetch", "write batches/", True), ("forward", "", False)])
def test_calls_in_any_order_lose_nothing(cap: int, count: int, lives: list[tuple[str, str, bool]]) -> None:
    protocol = Protocol()
    protocol.begin(cap=cap)
    try:
        protocol.calls_in_any_order(count=count, lives=lives, faults={})
        protocol.central.emit(1)
    finally:
        protocol.teardown()


@pytest.fixture
def aged() -> Iterator[Protocol]:
    """A store 92 days old, with events of its first two days and its last, that is about to be tidied."""
    protocol = Protocol()
    protocol.begin(cap=40)
    try:
        live(protocol.life())
        protocol.pass_day(3)
        live(protocol.life())
        for _ in range(int((KEPT.days + 1) * 24 / 23)):
            protocol.pass_day(0)
            live(replace(protocol.life(), steps=["fetch"]))
        protocol.pass_day(3)
        yield protocol
    finally:
        protocol.close()


def test_what_is_old_goes_wherever_the_run_dies_that_removes_it(aged: Protocol) -> None:
    store, tenant = Path(aged.store), aged.central.default_tenant
    template = store.rename(store.with_name("template"))
    shutil.copytree(template, store)
    calls, _ = live(aged.life())
    changes = [number for number, name in enumerate(calls, 1) if name.startswith(("write ", "delete "))]
    assert {"write ledger", "delete ledger", "delete archive"} <= {name.partition("/")[0] for name in calls}
    for number, after in itertools.product(changes, (False, True)):
        shutil.rmtree(store)
        shutil.copytree(template, store)
        aged.engine.received.clear()
        with suppress(Died):
            live(aged.life(number, after=after))
        live(replace(aged.life(), ahead=aged.ahead + LEASE_SECONDS))
        state = State.of(DirectoryStore(store))
        where = (calls[number - 1], after)
        assert {json.loads(log.raw)["id"] for log in aged.engine.received} == set(aged.central.ids(tenant)[-3:]), where
        (stream,) = state.ledger.streams()
        assert [receipt.header.sequence for _, receipt, _ in state.ledger.receipts(stream)] == [3], where
        assert [key.rpartition("/")[2] for key in state.batches.archived()] == [f"{3:020d}.ndjson.gz"], where
        assert audit(state)["ok"], (where, audit(state))
        assert audit(state, "2026-01-01")["ok"], where
        live(replace(aged.life(), ahead=aged.ahead + 2 * LEASE_SECONDS))
        assert not list(state.batches.waiting()), where
