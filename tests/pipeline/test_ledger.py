"""Receipts of days that are over are packed, old ones removed, and the chain stays whole throughout."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from emulator.central import CentralServer
from emulator.engine import StandInEngine
from lib.app import App
from lib.config.loading import parse
from lib.errors import StoreError
from lib.model.batch import Cursors
from lib.model.checkpoint import Checkpoint
from lib.model.clock import day_of
from lib.model.receipt import DELIVERED, LastReceipt, NotAcknowledged
from lib.model.stream import Stream
from lib.parts import Parts
from lib.pipeline.attest import counted
from lib.pipeline.expiry import Expiry
from lib.state.damage import damaged
from lib.state.ledger import LOOKED_OVER
from lib.state.state import State
from lib.store.base import Entry, Stored
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Life, live
from tests.fakes.headers import header_at

STREAM = Stream("acme", "894af375-a52f-4d5a-a92d-9d9c279b1489", "events")
START = datetime(2026, 3, 10, tzinfo=UTC)
DAYS, A_DAY, IDS = 4, 7, 3


class Failing:
    """A store whose changes fail once so many are made."""

    def __init__(self, store: DirectoryStore, changes: int) -> None:
        self._store = store
        self._left = changes

    def _change(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreError("the disk is full")

    def read(self, key: str) -> Stored | None:
        return self._store.read(key)

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        self._change()
        return self._store.write(key, body, expected=expected)

    def delete(self, key: str, *, expected: int) -> None:
        self._change()
        self._store.delete(key, expected=expected)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._store.list(prefix, after=after)

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        return self._store.folders(prefix, depth)


def always() -> bool:
    return True


def never() -> bool:
    return False


def fill(state: State) -> LastReceipt:
    """Seven receipts on each of four days, the twelfth batch being lost; the last one."""
    tail, cursor = LastReceipt(), "c0"
    for number in range(1, DAYS * A_DAY + 1):
        moment = START + timedelta(days=(number - 1) // A_DAY)
        previous = cursor if number > 1 else None
        header = header_at(moment, STREAM, number, cursors=Cursors(cursor, f"c{number}", previous=previous), count=IDS)
        cursor = f"c{number}"
        keys = [f"{number:020x}{each:04x}" for each in range(IDS)]
        tail = state.ledger.write(
            header, keys, tail, acked_at=moment, set_aside=0, not_acknowledged=NotAcknowledged(), outcome=DELIVERED
        )
    state.checkpoints.write(STREAM, Checkpoint(sequence=DAYS * A_DAY + 1, cursor=cursor), expected=0)
    return tail


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    found = DirectoryStore(tmp_path / "store")
    fill(State.of(found))
    return found


def bodies(store: DirectoryStore) -> list[bytes]:
    return [body for _, body in State.of(store).ledger.bodies(STREAM)]


def objects(store: DirectoryStore) -> list[str]:
    return [entry.key.split("/", 4)[4] for entry in store.list(f"ledger/{STREAM.path}/")]


def day(number: int) -> str:
    return day_of(START + timedelta(days=number - 1))


def test_a_day_that_is_over_becomes_one_object_that_holds_the_same_receipts(store: DirectoryStore) -> None:
    before, told = bodies(store), audit(State.of(store))
    keys = State.of(store).ledger.known_since(STREAM, day(2)).keys
    assert State.of(store).ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    assert len(objects(store)) == DAYS - 1 + A_DAY
    assert bodies(store) == before
    assert audit(State.of(store)) == told
    assert told["ok"], told
    assert told["streams"][0]["events"] == DAYS * A_DAY * IDS
    assert State.of(store).ledger.known_since(STREAM, day(2)).keys == keys
    assert len(keys) == 3 * A_DAY * IDS
    assert State.of(store).ledger.tail(STREAM, LastReceipt()).sequence == DAYS * A_DAY


def test_the_newest_receipts_are_those_at_the_end_packed_or_not(store: DirectoryStore) -> None:
    ledger, every = State.of(store).ledger, bodies(store)

    def newest(since: str, most: int | None = None, written: datetime | None = None) -> list[bytes]:
        return [body for _, body in ledger.newest(STREAM, since, most=most, written=written)]

    assert newest("", most=5) == every[-5:]
    assert newest(day(3)) == every[-2 * A_DAY :]
    assert newest("", written=datetime.now(UTC) + timedelta(hours=1)) == []
    assert ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    assert newest("", most=A_DAY + 2) == every[-A_DAY - 2 :]
    assert newest("", written=START) == every


def test_out_of_time_it_stops_after_a_day_and_goes_on_later(store: DirectoryStore) -> None:
    ledger, before = State.of(store).ledger, bodies(store)
    assert not ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=never)
    assert len(objects(store)) == 1 + 3 * A_DAY
    assert ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    assert len(objects(store)) == DAYS - 1 + A_DAY
    assert bodies(store) == before


def test_stopped_at_any_change_the_receipts_stay_the_same(tmp_path: Path) -> None:
    for changes in range(DAYS * (A_DAY + 1)):
        store = DirectoryStore(tmp_path / str(changes))
        fill(State.of(store))
        before = bodies(store)
        with pytest.raises(StoreError) if changes < 3 * (A_DAY + 1) else memoryview(b""):
            State.of(Failing(store, changes)).ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
        assert bodies(store) == before
        assert audit(State.of(store))["ok"]
        State.of(store).ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
        assert bodies(store) == before
        assert len(objects(store)) == DAYS - 1 + A_DAY


def test_stopped_at_any_change_removal_leaves_a_chain_that_holds(tmp_path: Path) -> None:
    for changes in range(2 * (A_DAY + 1)):
        store = DirectoryStore(tmp_path / str(changes))
        fill(State.of(store))
        with pytest.raises(StoreError):
            State.of(Failing(store, changes)).ledger.tidy(STREAM, closed=day(4), oldest=day(3), goes_on=always)
        assert audit(State.of(store))["ok"], changes
        State.of(store).ledger.tidy(STREAM, closed=day(4), oldest=day(3), goes_on=always)
        (line,) = audit(State.of(store))["streams"]
        assert (line["ok"], line["receipts"], line["removed_until"]) == (True, 2 * A_DAY, day(2))
        assert objects(store)[0] == "0-removed.json"


def test_days_that_were_packed_are_removed_as_well(store: DirectoryStore) -> None:
    ledger = State.of(store).ledger
    ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    ledger.tidy(STREAM, closed=day(4), oldest=day(3), goes_on=always)
    ledger.tidy(STREAM, closed=day(4), oldest=day(4), goes_on=always)
    (line,) = audit(State.of(store))["streams"]
    assert (line["ok"], line["receipts"], line["removed_until"]) == (True, A_DAY, day(3))
    assert len(objects(store)) == 1 + A_DAY


def remove(store: DirectoryStore, key: str) -> None:
    (entry,) = [each for each in store.list("ledger/") if key in each.key]
    store.delete(entry.key, expected=entry.generation)


def alter(store: DirectoryStore, key: str) -> None:
    (entry,) = [each for each in store.list("ledger/") if key in each.key]
    stored = store.read(entry.key)
    assert stored is not None
    store.write(entry.key, stored.body[:-20] + b"x" * 20, expected=entry.generation)


@pytest.mark.parametrize(
    ("deed", "key", "finding"),
    [
        (remove, "0-removed.json", ("receipt_missing", 1)),
        (alter, "0-removed.json", ("receipt_damaged", None)),
        (remove, f"{day(2)}/", ("receipt_missing", 8)),
        (alter, f"{day(2)}/", ("receipt_damaged", 8)),
    ],
)
def test_what_is_done_to_a_pack_is_found_by_its_name(
    store: DirectoryStore, deed: object, key: str, finding: tuple[str, int]
) -> None:
    ledger = State.of(store).ledger
    ledger.tidy(STREAM, closed=day(4), oldest=day(2), goes_on=always)
    assert audit(State.of(store))["ok"]
    assert callable(deed)
    deed(store, key)
    (line,) = audit(State.of(store))["streams"]
    assert finding in [(each["code"], each["sequence"]) for each in line["findings"]]


def test_a_day_with_a_damaged_receipt_is_left_as_it_is(store: DirectoryStore) -> None:
    (entry,) = [each for each in store.list("ledger/") if each.key.endswith(f"{10:020d}.json")]
    store.write(entry.key, b"{", expected=entry.generation)
    ledger = State.of(store).ledger
    assert ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    assert ledger.tidy(STREAM, closed=day(4), oldest=day(4), goes_on=always)
    assert [name[:10] for name in objects(store)] == ["0-removed.", *[day(2)] * A_DAY, day(3), *[day(4)] * A_DAY]
    (line,) = audit(State.of(store))["streams"]
    assert [(each["code"], each["sequence"]) for each in line["findings"]] == [
        ("receipt_damaged", 10),
        ("receipt_altered", 10),
    ]


def test_a_reader_that_meets_the_packing_misses_nothing(store: DirectoryStore) -> None:
    before = bodies(store)
    reading = State.of(store).ledger.bodies(STREAM)
    found = [next(reading)[1] for _ in range(3)]
    State.of(store).ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    assert found + [body for _, body in reading] == before


def test_forward_batch_packs_once_a_day_and_removes_after_90_days(tmp_path: Path) -> None:
    with CentralServer() as central, StandInEngine(tmp_path / "s"):
        for day_number in range(95):
            for _ in range(2 if day_number < 3 else 1):
                central.emit(2)
                live(Life(str(tmp_path / "store"), str(tmp_path / "s"), central.url, ahead=day_number * 86_400))
                central.clock.advance(60)
            central.clock.advance(86_400 - 120 if day_number < 3 else 86_400 - 60)
        store = DirectoryStore(tmp_path / "store")
        (line,) = audit(State.of(store))["streams"]
        assert line["ok"], line
        assert 90 <= len(line["days"]) <= 92
        assert line["removed_until"] is not None
        assert not [key for key in objects(store)[:-2] if key.endswith(".json") and key[0] == "2"]


def test_receipts_of_a_stream_that_nothing_comes_in_are_removed_after_90_days(store: DirectoryStore) -> None:
    calls: list[str] = []

    class Told(Failing):
        def _change(self) -> None:
            calls.append("change")

    told = Told(store, 0)
    config = parse("observe: on\nutmstack: {workdir: /none}")
    parts = Parts(now=lambda: START + timedelta(days=92), monotonic=lambda: 0.0, store=lambda _: told)
    forward = App(lambda: config, parts).forward_batch
    forward.run(deadline=1.0)
    (line,) = audit(State.of(store))["streams"]
    assert (line["ok"], line["receipts"], line["removed_until"]) == (True, 2 * A_DAY, day(2))
    changes = len(calls)
    for fresh in (forward, replace(forward, expiry=Expiry())):
        fresh.run(deadline=1.0)
    assert len(calls) == changes


@pytest.mark.parametrize("packed", [False, True])
def test_whoever_reads_a_damaged_receipt_names_it(store: DirectoryStore, packed: bool) -> None:
    state = State.of(store)
    if packed:
        assert state.ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always)
    key = next(entry.key for entry in store.list("ledger/") if f"{day(2)}/" in entry.key)
    stored = store.read(key)
    assert stored is not None
    store.write(key, stored.body[:-20], expected=stored.generation)
    readers: dict[str, Callable[[], object]] = {
        "duplicates and reconciliation": lambda: state.ledger.known_since(STREAM, day(1)),
        "observe mode": lambda: list(state.ledger.receipts(STREAM)),
        "audit": lambda: audit(state),
        "attest": lambda: counted(state, [day(2)], [STREAM]),
        "the page": lambda: [state.ledger.receipt(STREAM, *each) for each in state.ledger.newest(STREAM, day(1))],
        "packing": lambda: state.ledger.tidy(STREAM, closed=day(4), oldest="", goes_on=always),
        "expiry": lambda: state.ledger.tidy(STREAM, closed=day(4), oldest=day(4), goes_on=always),
        "looking over": lambda: list(map(partial(state.ledger.look_over, STREAM, turns=7), range(7))),
    }
    if packed:
        del readers["packing"]  # It does not read packs.
    for reader, read in readers.items():
        read()
        read()
        assert [damage.key for damage in damaged(store)] == [key], reader
        (copy,) = store.list("dead/")
        store.delete(copy.key, expected=copy.generation)


def test_seven_turns_read_every_receipt_and_each_a_part(store: DirectoryStore) -> None:
    keys = [entry.key for entry in store.list("ledger/")]
    for key in keys:
        stored = store.read(key)
        assert stored is not None
        store.write(key, b"{", expected=stored.generation)
    before = 0
    for turn in range(7):
        State.of(store).ledger.look_over(STREAM, turn, LOOKED_OVER.days)
        named = len(damaged(store))
        assert named - before in (0, A_DAY), "one day in seven"
        before = named
    assert [damage.key for damage in damaged(store)] == keys
