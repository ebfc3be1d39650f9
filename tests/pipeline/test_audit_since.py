"""From any day on, the audit says of a store what it says of all of it, and names whatever was done to the span."""

import gzip
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lib.model.batch import POLL, RECONCILE, Cursors, Header
from lib.model.checkpoint import Checkpoint
from lib.model.clock import day_of
from lib.model.receipt import DELIVERED, LastReceipt, NotAcknowledged
from lib.model.stream import Stream
from lib.pipeline.audit import RECEIPT_DAMAGED, RECEIPT_MISSING, audit
from lib.state.gaps import BATCH_MISSING, Gap
from lib.state.leases import held
from lib.state.ledger import place_of
from lib.state.receipts import pack
from lib.state.state import State
from lib.store.base import Entry
from tests.fakes.headers import header_at
from tests.fakes.memory_store import MemoryStore

STREAM = Stream("acme", "894af375-a52f-4d5a-a92d-9d9c279b1489", "events")
START = datetime(2026, 3, 10, tzinfo=UTC)
KINDS = ("polled", "polled", "polled", "late", "lost", "tidied", "expired", "clock was ahead")


@dataclass
class Run:
    """What a connector has written by now."""

    state: State
    tail: LastReceipt = field(default_factory=LastReceipt)
    sequence: int = 1
    cursor: str = "c0"
    previous: str | None = None
    day: int = 0

    def header(self, origin: str, day: int) -> Header:
        """The next batch's."""
        moment = START + timedelta(days=day)
        is_polled = origin == POLL
        header = header_at(
            moment,
            STREAM,
            self.sequence,
            cursors=Cursors(self.cursor, f"c{self.sequence}", previous=self.previous) if is_polled else Cursors(),
            count=2,
            origin=origin,
        )
        if is_polled:
            self.cursor = self.previous = f"c{self.sequence}"
        self.sequence += 1
        return header

    def step(self, kind: str, days: int) -> None:
        """Let so many days pass, and something happen."""
        self.day += days
        if kind == "tidied":
            self.state.ledger.tidy(STREAM, closed=day_of(self.today), oldest="", goes_on=lambda: True)
        elif kind == "expired":
            oldest = day_of(self.today - timedelta(days=2))
            self.state.ledger.tidy(STREAM, closed=day_of(self.today), oldest=oldest, goes_on=lambda: True)
        elif kind == "lost":
            header = self.header(POLL, self.day)
            self.state.gaps.record(Gap(STREAM, header.sequence, BATCH_MISSING, None, header.as_of, header.as_of))
            self.deliver(POLL, self.day)
        elif kind == "clock was ahead":
            self.deliver(POLL, self.day + 30)
            self.deliver(POLL, self.day)
        else:
            self.deliver(RECONCILE if kind == "late" else POLL, self.day)

    def deliver(self, origin: str, day: int) -> None:
        """Write a receipt."""
        header = self.header(origin, day)
        keys = [f"{header.sequence:020x}{each:04x}" for each in range(header.count)]
        self.tail = self.state.ledger.write(
            header,
            keys,
            self.tail,
            acked_at=header.as_of,
            set_aside=0,
            not_acknowledged=NotAcknowledged(),
            outcome=DELIVERED,
        )

    @property
    def today(self) -> datetime:
        """The time of the last step."""
        return START + timedelta(days=self.day)

    def end(self, waiting: int) -> None:
        """Come to rest, with so many batches undelivered."""
        with held(self.state.store, STREAM, "test", lambda: START) as lease:
            assert lease is not None
            lease.delivered(self.tail, ())
        for _ in range(waiting):
            self.state.batches.create(self.header(POLL, self.day), [b'{"id": "1"}', b'{"id": "2"}'])
        self.state.checkpoints.write(STREAM, Checkpoint(sequence=self.sequence, cursor=self.cursor), expected=0)


RUNS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3)), min_size=1, max_size=12)
WAITING = st.integers(0, 2)
SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def ran(steps: list[tuple[str, int]], waiting: int) -> Run:
    run = Run(State.of(MemoryStore()))
    for kind, days in steps:
        run.step(kind, days)
    run.end(waiting)
    return run


def days_of(run: Run) -> list[str]:
    return [day_of(START + timedelta(days=each)) for each in (*range(-1, run.day + 3), 400)]


@SETTINGS
@given(RUNS, WAITING)
def test_a_sound_store_holds_from_every_day_on(steps: list[tuple[str, int]], waiting: int) -> None:
    run = ran(steps, waiting)
    assert audit(run.state).ok, audit(run.state)
    for day in days_of(run):
        assert audit(run.state, day).ok, (day, audit(run.state, day))


def spanned(run: Run, since: str) -> list[Entry]:
    """The receipts, packs, batches and the cursor of the span."""
    receipts = [
        entry
        for entry in run.state.store.list("ledger/")
        if (place := place_of(entry.key)) is not None and place.day >= since
    ]
    return [*receipts, *run.state.store.list("batches/"), *run.state.store.list("cursors/")]


def contents(body: bytes) -> bytes:
    """What a pack holds; anything else is itself, but for the line's end behind it."""
    with suppress(OSError, EOFError, zlib.error):
        return gzip.decompress(body)
    return body.strip()


@SETTINGS
@given(RUNS, WAITING, st.data())
def test_whatever_is_done_to_an_object_of_the_span_is_named(
    steps: list[tuple[str, int]], waiting: int, data: st.DataObject
) -> None:
    run = ran(steps, waiting)
    assume(run.sequence > 1)  # A stream's cursor alone is nothing that would be missed.
    since = data.draw(st.sampled_from(["", *days_of(run)]))
    entry = data.draw(st.sampled_from(spanned(run, since)))
    stored = run.state.store.read(entry.key)
    assert stored is not None
    deed = data.draw(st.sampled_from(["remove", "cut", "change"]))
    if deed == "remove":
        run.state.store.delete(entry.key, expected=stored.generation)
    else:
        # Of a waiting batch its events are digested, and of its header the cursors are held against the chain.
        begin = stored.body.index(b"\n") + 1 if entry.key.startswith("batches/") else 0
        at = data.draw(st.integers(begin, len(stored.body) - 1))
        changed = bytes([stored.body[at] ^ data.draw(st.integers(1, 255))]) + stored.body[at + 1 :]
        body = stored.body[:at] + (b"" if deed == "cut" else changed)
        assume(contents(body) != contents(stored.body))
        run.state.store.write(entry.key, body, expected=stored.generation)
    assert not audit(run.state, since).ok


def test_a_day_behind_the_last_receipt_is_held_against_it() -> None:
    run = ran([("polled", 1)] * 3, 0)
    assert audit(run.state, "2027-01-01").ok
    last = list(run.state.store.list("ledger/"))[-1]
    run.state.store.delete(last.key, expected=last.generation)
    (line,) = audit(run.state, "2027-01-01").streams
    assert [(each.code, each.sequence) for each in line.findings] == [(RECEIPT_MISSING, 3)]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kinds", [("polled", "polled"), ("polled", "late", "polled")])
def test_a_batch_that_was_not_read_where_the_one_before_the_span_ended_is_named(
    kinds: tuple[str, ...], *, waits: bool
) -> None:
    run = Run(State.of(MemoryStore()))
    for kind in kinds[:-1]:
        run.step(kind, 1)
    run.previous = "another"
    if not waits:
        run.step(kinds[-1], 1)
    run.end(int(waits))
    for since in ("", day_of(run.today)):
        (line,) = audit(run.state, since).streams
        assert [each.code for each in line.findings] == ["cursor_chain_broken"]


@pytest.mark.parametrize("packed", [b"", pack([])], ids=["cut", "empty"])
def test_an_empty_pack_is_damaged_and_read_once(packed: bytes) -> None:
    run = ran([("polled", 0), ("polled", 1), ("tidied", 1), ("polled", 0), ("polled", 1)], 0)
    _, second = [entry for entry in run.state.store.list("ledger/") if entry.key.endswith(".gz")]
    run.state.store.write(second.key, packed, expected=second.generation)
    # It begins the span: its number is none that is expected next.
    (line,) = audit(run.state, day_of(START + timedelta(days=1))).streams
    assert RECEIPT_DAMAGED in {each.code for each in line.findings}
