"""What of a device's record makes another version, and what is kept of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import DamagedError
from lib.model.inventory import GONE, KEPT_LOOKS, Inventory, known_of
from lib.state.inventories import INVENTORY

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries({"id": st.sampled_from("abcd"), "hostname": st.text(max_size=5)}, optional={"x": JSON})


def raw(record: Any) -> bytes:
    return json.dumps(record).encode()


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(each) for each in reversed(value)] if isinstance(value, list) else value


@given(RECORDS)
def test_order_presence_and_nulls_are_no_change(record: dict[str, Any]) -> None:
    seen = {"lastSeenAt": "2026-11-25T00:00:00Z", "online": True, "lockdown": None}
    assert known_of(raw(record), 1) == known_of(raw({**reordered(record), **seen}), 1)


@given(RECORDS, st.sampled_from(["hostname", "y"]))
def test_anything_else_is_a_change(record: dict[str, Any], name: str) -> None:
    other = {**record, name: f"{record.get(name)} "}
    assert known_of(raw(record), 1)[1].digest != known_of(raw(other), 1)[1].digest


@settings(max_examples=40)
@given(st.lists(st.lists(RECORDS, max_size=4), max_size=6))
def test_what_is_sent_last_of_each_device_is_what_was_shown_last(looks: list[list[dict[str, Any]]]) -> None:
    inventory = Inventory()
    sent: dict[str, str] = {}
    for look in looks:
        shown = [raw(record) for record in look]
        inventory, changed = inventory.begun(0).shown(shown)
        sent |= {id_: known.digest for id_, known in (known_of(each, 0) for each in changed)}
        assert INVENTORY.decode(INVENTORY.encode(inventory)) == inventory
        for id_, known in dict(known_of(each, 0) for each in shown).items():
            assert sent[id_] == known.digest
        assert inventory.shown(reversed(changed[-1:]))[1] == []


@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_folding_a_batch_twice_is_folding_it_once(records: list[dict[str, Any]]) -> None:
    raws = [raw(record) for record in records]
    once = Inventory(look=3).folding(7, raws)
    assert once.folding(7, raws) is once
    assert once.shown(raws[-1:])[1] == []


@pytest.mark.parametrize("odd", [b"", b"[1]", b"7", b'{"id":""}', b'{"id":null}', b'{"id":"\\ud800"}', b"\xff", b"{"])
def test_an_odd_record_is_sent_once(odd: bytes) -> None:
    inventory, changed = Inventory().begun(0).shown([odd, odd])
    assert changed == [odd]
    assert INVENTORY.decode(INVENTORY.encode(inventory)) == inventory


def test_a_device_that_is_gone_for_long_is_forgotten() -> None:
    inventory, _ = Inventory().begun(0).shown([raw({"id": "a", "hostname": "A"})])
    told = 0
    for _ in range(2 + KEPT_LOOKS):
        inventory = inventory.begun(0)
        inventory, gone = inventory.shown(inventory.gone())
        told += len(gone)
    assert told == 1
    assert inventory.devices["a"].digest == GONE
    assert inventory.begun(0).devices == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"layout":1,"look":1}', b'{"layout":1,"devices":{"a":1}}'])
def test_a_damaged_inventory_is_told_from_a_whole_one(body: bytes) -> None:
    with pytest.raises(DamagedError):
        INVENTORY.decode(body)
