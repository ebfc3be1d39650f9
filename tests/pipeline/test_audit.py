"""The audit finds what was done to a store behind the product's back, each by its name."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.model.stream import Stream
from tests.audited import audit
from tests.site import Site, site


@pytest.fixture(scope="module")
def whole() -> Iterator[Site]:
    """Five delivered batches and two that wait."""
    with site(every="1h") as found:
        for _ in range(5):
            found.central.emit(20)
            found.results("fetch-page")
            found.results("fetch-page")  # an idle one between: the cursor moves on without a batch
            found.results("forward-batch")
        for _ in range(2):
            found.central.emit(20)
            found.results("fetch-page")
        yield found


@pytest.fixture
def store(whole: Site) -> Iterator[Site]:
    """The same, put back after the test."""
    folder = whole.folder / "store"
    before = {path: path.read_bytes() for path in folder.rglob("*.*json") if path.is_file()}
    yield whole
    for path in folder.rglob("*.*json"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, body in before.items():
        path.write_bytes(body)


def receipts(found: Site) -> list[Path]:
    return sorted((found.folder / "store/ledger").rglob("*.json"))


def batches(found: Site) -> list[Path]:
    return sorted((found.folder / "store/batches").rglob("*.ndjson"))


def cursor(found: Site) -> Path:
    (path,) = (found.folder / "store/cursors").rglob("*.json")
    return path


def findings(found: Site) -> list[tuple[str, int | None]]:
    told = audit(found.state)
    assert told["ok"] == (not any(line["findings"] for line in told["streams"]))
    return [(each["code"], each["sequence"]) for line in told["streams"] for each in line["findings"]]


def test_a_whole_chain_adds_up(store: Site) -> None:
    (line,) = audit(store.state)["streams"]
    assert (line["ok"], line["findings"], line["receipts"], line["events"]) == (True, [], 5, 100)
    assert sum(day["events"] for day in line["days"].values()) == 100
    assert Stream.of(line).kind == "events"


def changed(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields, ensure_ascii=False) + "\n")


def swap(found: Site) -> None:
    one, two = receipts(found)[1:3]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    at = body.index(b'"ids": ["') + 9
    body[at] = ord("0") if body[at] != ord("0") else ord("1")
    path.write_bytes(body)


DEEDS: dict[str, tuple[Callable[[Site], object], tuple[str, int | None]]] = {
    "a removed receipt": (lambda found: receipts(found)[2].unlink(), ("receipt_missing", 3)),
    "the first receipt removed": (lambda found: receipts(found)[0].unlink(), ("receipt_missing", 1)),
    "the last receipt removed": (lambda found: receipts(found)[4].unlink(), ("receipt_missing", 5)),
    "a changed byte in a receipt": (lambda found: flip(receipts(found)[2]), ("receipt_altered", 3)),
    "a changed byte in the last receipt": (lambda found: flip(receipts(found)[4]), ("receipt_altered", 5)),
    "a receipt that is no JSON": (lambda found: receipts(found)[2].write_text("{"), ("receipt_damaged", 3)),
    "two swapped receipts": (swap, ("receipt_misplaced", 2)),
    "a waiting batch deleted": (lambda found: batches(found)[0].unlink(), ("batch_missing", 6)),
    "the last waiting batch deleted": (lambda found: batches(found)[1].unlink(), ("batch_missing", 7)),
    "a waiting batch altered": (
        lambda found: batches(found)[0].write_bytes(batches(found)[0].read_bytes()[:-9]),
        ("batch_damaged", 6),
    ),
    "a cursor edited": (lambda found: changed(cursor(found), sequence=3), ("cursor_edited", None)),
    "a cursor moved": (lambda found: changed(cursor(found), cursor="x"), ("cursor_edited", None)),
    "a cursor removed": (lambda found: cursor(found).unlink(), ("cursor_missing", None)),
    "a cursor that is no JSON": (lambda found: cursor(found).write_text("x"), ("cursor_damaged", None)),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_deed_is_found_by_its_name(store: Site, deed: str) -> None:
    do, expected = DEEDS[deed]
    assert findings(store) == []
    do(store)
    assert expected in findings(store)


def test_a_damaged_receipt_stops_neither_fetching_nor_forwarding() -> None:
    with site(every="1h") as found:
        found.central.emit(20)
        found.results("fetch-page")
        found.results("forward-batch")
        receipts(found)[0].write_text("{")
        found.central.emit(20)
        assert found.results("fetch-page")[0]["events"] == 20
        assert found.results("forward-batch")[0]["acked"] == 20
        assert found.raws() == found.central.raws(found.central.default_tenant)
        assert [code for code, _ in findings(found)] == ["receipt_damaged"]


def test_an_edited_cursor_is_remembered_when_the_product_writes_it_again(store: Site) -> None:
    changed(cursor(store), events=1)
    store.central.emit(5)
    store.results("fetch-page")
    assert ("cursor_edited", None) in findings(store)


def test_a_receipt_that_was_removed_beside_a_named_gap_is_named_by_itself() -> None:
    with site(every="1h") as found:
        for _ in range(6):
            found.central.emit(20)
            found.results("fetch-page")
        for number in (3, 2):
            batches(found)[number].unlink()
        found.results("forward-batch")
        assert findings(found) == []
        paths = {int(path.stem): path for path in receipts(found)}
        assert {1, 2, 5, 6} <= paths.keys()
        paths[5].unlink()
        assert findings(found) == [("receipt_missing", 4)]
        (line,) = audit(found.state)["streams"]
        assert line["findings"][0]["detail"] == "receipts 4 to 5 are missing"
        paths[2].unlink()
        assert findings(found) == [("receipt_missing", 2)]


def test_a_lost_batch_becomes_a_named_gap_once_the_next_one_is_delivered() -> None:
    with site(every="1h") as found:
        for _ in range(3):
            found.central.emit(20)
            found.results("fetch-page")
        batches(found)[1].unlink()
        assert findings(found) == [("batch_missing", 2)]
        found.results("forward-batch")
        assert findings(found) == []
        (line,) = audit(found.state)["streams"]
        assert [(gap["reason"], gap["sequence"]) for gap in line["gaps"]] == [("batch_missing", 2)]
