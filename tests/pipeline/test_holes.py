"""A hole is an event too: never silent, never claimed where nothing was lost, never a reason for doubles."""

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.central import Fault
from tests.audited import audit
from tests.site import Site, site

HOUR = 3600


def read(found: Site) -> None:
    """Fetch and forward until Sophos has no more."""
    while found.results("fetch-page")[0]["has_more"]:
        continue
    found.results("forward-batch")


def natives(found: Site) -> list[str]:
    """The native ids that the engine has taken, in order."""
    return [json.loads(log.raw)["id"] for log in found.engine.received if log.dataType == "sophos-central"]


def gaps(found: Site) -> list[tuple[str, datetime, datetime]]:
    return [
        (gap.reason, gap.start, gap.end)
        for gap in found.state.gaps.all()
        if gap.start is not None and gap.end is not None
    ]


def told(found: Site) -> list[dict[str, Any]]:
    """What the engine was told of gaps."""
    return [json.loads(log.raw) for log in found.engine.received if log.dataType == "sophos-central-gaps"]


def test_a_cursor_that_sophos_silently_ignores_doubles_nothing_and_claims_no_gap() -> None:
    with site() as found:
        found.central.fill(2600)
        read(found)
        found.central.expire_cursors()
        new = found.central.emit(30)
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant)
        assert natives(found)[-30:] == new
        assert not gaps(found)
        assert not told(found)
        checkpoint = found.state.checkpoints.read(next(iter(found.state.checkpoints.streams()))).checkpoint
        assert (checkpoint.counts.events, checkpoint.counts.repeats) == (2630, 2600)


@pytest.mark.parametrize("status", [400, 410])
def test_a_refused_cursor_doubles_nothing_and_claims_no_gap(status: int) -> None:
    with site() as found:
        found.central.fill(1500)
        read(found)
        new = found.central.emit(30)
        found.central.faults.add(Fault("status", status=status, with_cursor=True))
        read(found)
        assert natives(found)[-30:] == new
        assert sorted(natives(found)) == sorted(found.central.ids(found.central.default_tenant))
        assert gaps(found) == []


def test_a_rest_of_less_than_24_hours_loses_nothing() -> None:
    with site() as found:
        found.central.fill(100, hours=1)
        read(found)
        for _ in range(3):
            found.central.clock.advance(7 * HOUR)
            found.central.emit(10)
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant)
        assert gaps(found) == []


def test_what_a_longer_rest_lost_is_written_down_with_its_bounds_and_told_to_the_engine_once() -> None:
    with site() as found:
        found.central.fill(100, hours=1)
        read(found)
        rested_at = datetime.fromtimestamp(found.central.clock.now() / 1000).astimezone()
        before = natives(found)
        found.central.clock.advance(2 * HOUR)
        lost = found.central.emit(20)
        found.central.clock.advance(28 * HOUR)
        new = found.central.emit(20)
        served_at = datetime.fromtimestamp(found.central.clock.now() / 1000).astimezone()
        read(found)
        read(found)
        assert natives(found) == before + new
        assert not set(lost) & set(natives(found))
        ((reason, start, end),) = gaps(found)
        assert reason == "cursor_expired"
        assert abs(start - rested_at) < timedelta(minutes=1)
        assert abs(end - (served_at - timedelta(hours=24))) < timedelta(minutes=1)
        (event,) = told(found)
        assert (event["type"], event["reason"], event["integration"]) == ("Connector::Gap", reason, "acme")
        assert datetime.fromisoformat(event["from"]) == start
        assert event["estimated_events"] is None, "an hour's reading says too little"
        line = audit(found.state)["streams"][0]
        assert (line["ok"], line["events"], len(line["gaps"])) == (True, 120, 1)


def test_the_engine_is_not_told_where_that_is_not_wanted() -> None:
    with site(gap_data_type=False) as found:
        found.central.fill(10, hours=1)
        read(found)
        found.central.clock.advance(30 * HOUR)
        found.central.emit(5)
        read(found)
        assert len(gaps(found)) == 1
        assert len(found.engine.received) == 15


def test_a_crash_between_the_gaps_event_and_its_record_repeats_neither() -> None:
    with site() as found:
        found.central.fill(10, hours=1)
        read(found)
        found.central.clock.advance(30 * HOUR)
        found.central.faults.add(Fault("status", status=503, times=None, path="/siem/v1/events"))
        found.results("fetch-page")
        found.central.faults.clear()
        found.results("fetch-page", {"max_pages": 1})
        for path in (found.folder / "store/gaps").rglob("*.json"):
            path.unlink()  # as if the process had died before the record
        read(found)
        found.central.clock.advance(60)
        read(found)
        assert len(told(found)) == 1


def test_a_damaged_batch_whose_cursor_did_not_move_is_fetched_again() -> None:
    with site() as found:
        found.central.fill(50)
        (line,) = found.results("fetch-page")
        (found.folder / "store" / line["batches"][0]).write_bytes(b"{")
        for path in (found.folder / "store/cursors").rglob("*.json"):
            path.unlink()  # as if the process had died between the two writes
        found.results("forward-batch")
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant)
        assert gaps(found) == []


@pytest.mark.parametrize("lose", [lambda path: path.write_bytes(b"rubbish"), Path.unlink], ids=["damaged", "removed"])
def test_what_a_lost_batch_held_is_read_again_at_once(lose: Callable[[Path], object]) -> None:
    with site() as found:
        found.central.emit(3)
        read(found)
        found.central.emit(2)
        (line,) = found.results("fetch-page")
        lose(found.folder / "store" / line["batches"][0])
        found.central.clock.advance(60)
        found.central.emit(1)
        read(found)
        assert len(natives(found)) == 4
        read(found)
        assert sorted(natives(found)) == sorted(found.central.ids(found.central.default_tenant))


@pytest.mark.parametrize("number", [1, 2])
def test_a_cursor_that_was_edited_by_hand_gives_no_number_twice(number: int) -> None:
    with site() as found:
        for _ in range(2):
            found.central.emit(3)
            read(found)
        (path,) = (found.folder / "store/cursors").rglob("*.json")
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"sequence": number}))
        found.central.emit(2)
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant)


@pytest.mark.parametrize("rounds", [2, 4])
def test_an_older_copy_of_the_cursor_that_is_put_back_loses_nothing(rounds: int) -> None:
    with site() as found:
        found.central.emit(3)
        read(found)
        (path,) = (found.folder / "store/cursors").rglob("*.json")
        old = path.read_bytes()
        for _ in range(rounds):
            found.central.emit(3)
            read(found)
        path.write_bytes(old)
        found.central.emit(2)
        read(found)
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant), "each once, and in order"
        found.central.emit(2)
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant)


def test_a_damaged_batch_whose_number_has_a_receipt_is_kept_and_its_events_come_again() -> None:
    with site() as found:
        found.central.emit(3)
        read(found)
        (path,) = (found.folder / "store/cursors").rglob("*.json")
        old = path.read_bytes()
        found.central.emit(3)
        read(found)
        path.write_bytes(old)
        found.central.emit(2)
        (key,) = found.results("fetch-page")[0]["batches"]
        damaged = (found.folder / "store" / key).read_bytes()[:-9]
        (found.folder / "store" / key).write_bytes(damaged)
        found.results("forward-batch")
        assert not (found.folder / "store" / key).exists()
        assert (found.folder / "store/dead" / key).read_bytes() == damaged
        for _ in range(2):
            read(found)
        assert sorted(natives(found)) == sorted(found.central.ids(found.central.default_tenant))
        assert [each["key"] for each in found.command("status", status=1)["damaged"]] == [key]


@pytest.mark.parametrize("prefix", ["batches", "cursors", "leases", "ledger"])
def test_a_pipe_in_place_of_an_object_stops_nothing_and_is_named(prefix: str) -> None:
    with site() as found:
        for _ in range(2):
            found.central.emit(3)
            found.results("fetch-page")
            if prefix != "batches":
                found.results("forward-batch")
        path = min(path for path in (found.folder / "store" / prefix).rglob("*") if path.is_file())
        path.unlink()
        os.mkfifo(path)
        for _ in range(3):
            found.central.emit(1)
            read(found)
        assert set(natives(found)) == set(found.central.ids(found.central.default_tenant))
        found.command("audit", status=1 if prefix == "ledger" else 0)
        damaged = [each["key"] for each in found.command("status", status=1)["damaged"]]
        assert damaged == [str(path.relative_to(found.folder / "store"))]


def test_a_gap_says_how_many_events_the_day_before_it_would_have_brought() -> None:
    with site() as found:
        found.central.emit(10)
        read(found)
        for _ in range(12):
            found.central.clock.advance(HOUR)
            found.central.emit(10)
            read(found)
        found.central.clock.advance(24 * HOUR + 6 * HOUR)
        found.central.emit(1)
        read(found)
        (gap,) = found.state.gaps.all()
        assert gap.estimated == 60
        assert told(found)[0]["estimated_events"] == 60


def test_a_lost_batch_says_how_many_events_it_held() -> None:
    with site() as found:
        keys = []
        for count in (20, 13, 20, 7, 20):
            found.central.emit(count)
            keys.append(found.results("fetch-page")[0]["batches"][0])
        (found.folder / "store" / keys[1]).unlink()
        found.results("forward-batch")
        found.central.emit(5)
        keys.append(found.results("fetch-page")[0]["batches"][0])
        found.central.emit(5)
        found.results("fetch-page")
        (found.folder / "store" / keys[-1]).write_bytes(b"{")
        found.results("forward-batch")
        assert [gap.estimated for gap in found.state.gaps.all()] == [13, 5]
