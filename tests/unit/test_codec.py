"""The codec of stored objects: groups of fields that are stored flat, and many threads."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from lib.errors import DamagedError
from lib.state.codec import Codec
from tests.site import ROOT


@dataclass(frozen=True, slots=True)
class Times:
    seen: datetime
    told: datetime | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    times: Times
    events: int
    resent: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    counts: Counts
    parts: tuple[int, ...] = ()


RECORD = Codec(
    Record,
    "a record",
    later=("resent", "told_at", "shares"),
    names={"counts": {"times": {"seen": "seen_at", "told": "told_at"}, "events": "sum"}, "parts": "shares"},
)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
STORED = {"layout": 1, "name": "a", "seen_at": "2026-03-10T12:00:00.000000Z", "sum": 3}


def read(**changes: object) -> Record:
    return RECORD.decode(json.dumps(STORED | changes).encode())


def test_a_group_of_fields_is_stored_among_the_fields_of_its_object() -> None:
    value = Record("a", Counts(Times(NOON, NOON), 3, 1), (4, 5))
    written = json.loads(RECORD.encode(value))
    more = {"told_at": STORED["seen_at"], "resent": 1, "shares": [4, 5]}
    assert written == STORED | more
    assert list(written) == ["layout", "name", "seen_at", "told_at", "sum", "resent", "shares"], "as the fields stand"
    assert RECORD.decode(RECORD.encode(value)) == value


def test_a_later_field_of_a_group_has_its_default_and_is_not_stored_while_it_is_none() -> None:
    value = Record("a", Counts(Times(NOON), 3))
    assert read() == read(unknown=1) == value
    assert json.loads(RECORD.encode(value)) == STORED | {"shares": []}


@pytest.mark.parametrize("name", ["name", "seen_at", "sum"])
def test_a_missing_field_of_a_group_is_damage_under_its_stored_name(name: str) -> None:
    body = json.dumps({key: value for key, value in STORED.items() if key != name}).encode()
    with pytest.raises(DamagedError, match=f"a record cannot be read: {name} is missing"):
        RECORD.decode(body)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"sum": "3"}, "sum"),
        ({"told_at": 3}, "told_at"),
        ({"seen_at": "2026-03-10T12:00:00"}, "seen_at"),
        ({"seen_at": "9999-12-31T23:59:59-12:00"}, "seen_at"),
        ({"told_at": "0001-01-01T00:00:00+14:00"}, "told_at"),
        ({"resent": 1.5}, "resent"),
        ({"shares": [1, "2"]}, "shares[1]"),
    ],
)
def test_a_wrong_value_in_a_group_is_named_as_it_is_stored(changes: dict[str, object], place: str) -> None:
    with pytest.raises(DamagedError) as damage:
        read(**changes)
    assert f"`$.{place}`" in str(damage.value)


@pytest.mark.parametrize(
    ("names", "later"), [({"counts": {"events": "name"}}, ()), ({"name": "layout"}, ()), ({}, ("nothing",))]
)
def test_a_codec_that_would_lose_a_field_cannot_be_made(names: dict[str, str], later: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a record: two fields"):
        Codec(Record, "a record", names=names, later=later)


TWO_THREADS_AT_ONCE = """
import threading
from dataclasses import dataclass

from lib.state.codec import Codec

learns, go = threading.Event(), threading.Event()


def number():
    \"\"\"The type of a field, which a thread needs its time to learn.\"\"\"
    if threading.current_thread() is not threading.main_thread():
        learns.set()
        assert go.wait(60)
    return int


@dataclass(frozen=True, slots=True)
class Inner:
    x: "number()"


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner
    name: str


codec, found = Codec(Outer, "an object"), []


def read():
    found.append(codec.decode(b'{"layout": 1, "inner": {"x": 1}, "name": "a"}').inner.x)


first, second = threading.Thread(target=read), threading.Thread(target=read)
first.start()
while first.is_alive() and not learns.wait(0.01):
    continue
second.start()
second.join(1)
go.set()
first.join()
second.join()
print(found)
"""


def test_two_threads_read_the_first_objects_of_a_kind_at_the_same_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS_AT_ONCE],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[1, 1]\n"), done.stderr
