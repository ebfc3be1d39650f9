"""The device inventory: one log for each device whose record changed, whatever dies in between."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Fault, Settings
from emulator.engine import StandInEngine
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Died, Life, live

HOURS = 3600.0
LEASE_SECONDS = 13.0


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer(settings=Settings(page_cap=20)) as server:
        yield server


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInEngine]:
    with StandInEngine(tmp_path_factory.mktemp("e", numbered=True) / "s") as server:
        yield server


class Place:
    """One tenant's inventory, looked at again and again."""

    def __init__(self, central: CentralServer, engine: StandInEngine, store: Path) -> None:
        self.central, self.engine, self.store = central, engine, store
        self.hours = 0.0

    def life(self, **more: Any) -> Life:
        return Life(
            str(self.store),
            str(self.engine.socket),
            self.central.url,
            ahead=self.hours * HOURS + more.pop("seconds", 0.0),
            kinds=("endpoints",),
            kills=False,
            **more,
        )

    def look(self) -> dict[str, Any]:
        """What fetch-page answers."""
        return live(self.life())[1][0]

    def sent(self) -> list[dict[str, Any]]:
        """What the engine has taken since this was asked last."""
        logs = [json.loads(log.raw) for log in self.engine.received]
        self.engine.received.clear()
        return logs

    def is_whole(self) -> bool:
        state = State.of(DirectoryStore(self.store))
        return bool(audit(state)["ok"]) and not list(state.batches.waiting()) and not list(state.gaps.all())


@pytest.fixture
def place(central: CentralServer, engine: StandInEngine, tmp_path: Path) -> Place:
    return Place(central, engine, tmp_path / "store")


def ids(devices: list[dict[str, Any]]) -> list[str]:
    return [device["id"] for device in devices]


def test_the_first_look_sends_every_device_once_under_its_own_data_type(place: Place) -> None:
    line = place.look()
    devices = place.central.devices()
    assert (line["stream"], line["outcome"], line["pages"], line["events"]) == ("endpoints", "fetched", 3, len(devices))
    assert {log.dataType for log in place.engine.received} == {"devices"}
    assert len({log.id for log in place.engine.received}) == len(devices)
    assert ids(place.sent()) == ids(devices)
    assert place.is_whole()


def test_only_records_that_changed_are_sent_and_being_seen_is_no_change(place: Place) -> None:
    place.look()
    place.sent()
    place.hours = 7
    place.central.clock.advance(7 * HOURS)  # lastSeenAt moves
    one, other = ids(place.central.devices())[3::30]
    place.central.put_device({"id": one, "online": True, "lastSeenAt": "2026-11-25T10:00:00.000Z"})
    place.central.put_device({"id": other, "hostname": "RENAMED"})
    line = place.look()
    assert (line["pages"], line["events"]) == (3, 1)
    assert [(each["id"], each["hostname"]) for each in place.sent()] == [(other, "RENAMED")]
    place.hours = 14
    assert place.look()["outcome"] == "up_to_date"
    assert place.is_whole()


def test_a_device_that_two_looks_did_not_show_is_told_of_once_and_sent_when_it_comes_back(place: Place) -> None:
    place.look()
    place.sent()
    device = place.central.devices()[5]
    place.central.remove_device(device["id"])
    told = []
    for place.hours in (7, 14, 21, 28):
        place.look()
        told.append([(each["type"], each["id"], each["hostname"]) for each in place.sent()])
    assert told == [[], [("Connector::DeviceGone", device["id"], device["hostname"])], [], []]
    place.central.put_device({"id": device["id"], "hostname": "BACK"})
    place.hours = 35
    place.look()
    assert [(each["id"], each["hostname"]) for each in place.sent()] == [(device["id"], "BACK")]
    assert place.is_whole()


def test_between_two_looks_nothing_is_asked_and_nothing_written(place: Place) -> None:
    place.look()
    place.hours = 5.9
    calls = live(place.life())[0]
    assert "devices" not in calls
    assert not [call for call in calls if call.startswith(("write cursors/", "write devices/"))]


@pytest.mark.parametrize("days", [3, 200])
def test_a_clock_that_was_ahead_costs_one_more_look_and_not_one_at_each_tick(place: Place, days: int) -> None:
    place.look()
    place.hours = days * 24
    assert place.look()["pages"] == 3
    place.hours = 1
    assert place.look()["pages"] == 3
    assert place.look()["pages"] == 0
    place.hours = 8
    assert place.look()["pages"] == 3
    place.engine.received.clear()
    place.central.put_device({"id": ids(place.central.devices())[3], "hostname": "RENAMED"})
    place.hours = 16
    assert place.look()["events"] == len(place.sent()) == 1
    assert place.is_whole()


def test_a_look_that_is_interrupted_goes_on_where_it_was(place: Place) -> None:
    place.central.faults.add(Fault("status", status=403, path="/endpoint/", skip=1, times=9))
    line = place.look()
    assert (line["outcome"], line["pages"], line["has_more"]) == ("failed", 1, True)
    place.central.faults.clear()
    place.hours = 0.1
    line = place.look()
    assert (line["pages"], line["has_more"]) == (2, False)
    assert ids(place.sent()) == ids(place.central.devices())
    assert place.is_whole()


def test_a_look_pauses_where_the_calls_are_used_up_and_goes_on_with_the_next_call(place: Place) -> None:
    line = live(place.life(calls_per_minute=1))[1][0]
    assert (line["outcome"], line["has_more"]) == ("fetched", True)
    assert 0 < line["pages"] < 3
    assert "retry_at" in line
    assert "problem" not in line
    place.hours = 0.1
    assert place.look()["has_more"] is False
    assert ids(place.sent()) == ids(place.central.devices())
    assert place.is_whole()


def test_a_page_key_that_sophos_refuses_begins_the_look_anew(place: Place) -> None:
    place.central.faults.add(Fault("status", status=403, path="/endpoint/", skip=1, times=9))
    place.look()
    place.central.faults.clear()
    place.central.faults.add(Fault("status", status=400, path="/endpoint/"))
    place.hours = 0.1
    assert place.look()["pages"] == 3
    assert ids(place.sent()) == ids(place.central.devices())


def test_a_larger_page_is_asked_for_as_soon_as_sophos_tells_of_one(engine: StandInEngine, tmp_path: Path) -> None:
    with CentralServer() as central:
        for number in range(70):
            central.put_device({"id": f"extra-{number:02}"})
        place = Place(central, engine, tmp_path / "store")
        assert place.look()["events"] == len(central.devices())
        sizes = [seen.query["pageSize"] for seen in central.requests if seen.path.startswith("/endpoint/")]
        assert sizes == ["100", "500"]


def test_a_process_that_dies_at_any_call_loses_no_change_and_sends_none_in_two_versions(place: Place) -> None:
    base = place.store
    calls = live(place.life())[0]
    devices = place.central.devices()
    place.sent()
    assert sum(call == "devices" for call in calls) == 3
    for number, name in enumerate(calls, 1):
        if name.startswith(("read", "list")):
            continue  # It is all the same whether that was called.
        where = f"after call {number}, {name}"
        place.store = base.with_name(str(number))
        with suppress(Died):
            live(place.life(dies_at=number, after=True))
        # `lastSeenAt` has moved meanwhile: a record that was stored twice would have two ids.
        live(place.life(seconds=LEASE_SECONDS))
        received = {log.id for log in place.engine.received}
        told = ids(place.sent())
        assert set(told) == set(ids(devices)), where
        assert len(received) == len(devices), where
        # And the next look knows what was sent.
        live(place.life(seconds=7 * HOURS))
        assert place.sent() == [], where
        assert place.is_whole(), where


def test_an_older_copy_of_the_cursor_that_is_put_back_loses_no_change(place: Place) -> None:
    place.look()
    (cursor,) = (place.store / "cursors").rglob("*.json")
    old = cursor.read_bytes()
    first = ids(place.central.devices())[0]
    for hours, name in ((7, "SECOND"), (14, "THIRD")):
        place.hours = hours
        place.central.clock.advance(7 * HOURS)
        place.central.put_device({"id": first, "hostname": name})
        place.look()
    cursor.write_bytes(old)
    place.sent()
    place.hours = 21
    place.central.clock.advance(7 * HOURS)
    place.central.put_device({"id": first, "hostname": "FOURTH"})
    for _ in range(3):
        place.look()
    assert "FOURTH" in [each["hostname"] for each in place.sent()]
    assert not list(State.of(DirectoryStore(place.store)).batches.waiting())


def test_records_of_a_batch_that_was_lost_are_sent_again(place: Place) -> None:
    place.engine.stop()
    line = place.look()
    (place.store / line["batches"][1]).unlink()
    place.engine.start()
    place.hours = 1
    place.look()
    *sent, gap = place.sent()
    assert len(sent) == len(place.central.devices()) - 20
    assert gap["type"] == "Connector::Gap"
    place.hours = 7
    place.look()
    assert set(ids(place.sent())) >= set(ids(place.central.devices()))
