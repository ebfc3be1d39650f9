"""Sophos's clock and this machine's differ: what may be asked for goes by Sophos's."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Fault
from emulator.central.clock import Clock
from lib.errors import StoreError
from lib.model.batch import Cursors, Envelope, Header
from lib.model.checkpoint import OLDEST_REQUEST, Checkpoint, NewestEvent
from lib.model.integration import UTMSTACK_TENANT
from lib.model.page import Page, SophosTenant
from lib.model.stream import Stream
from lib.sophos.pages import event_fields
from lib.state.advance import advance, item_of
from lib.state.state import State
from tests.audited import audit
from tests.pipeline.test_faults import Connector, Line
from tests.pipeline.test_rate_limiter import Quiet, World, fetch_page

AHEAD = [timedelta(minutes=-10), timedelta(minutes=10), timedelta(hours=-3), timedelta(hours=3)]


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer(clock=Clock()) as server:
        server.fill(20, hours=23)
        yield server


@pytest.fixture(params=AHEAD, ids=str)
def works(request: pytest.FixtureRequest, tmp_path: Path, central: CentralServer) -> Connector:
    class Skewed(Connector):
        def now(self) -> datetime:
            ahead: timedelta = request.param
            return super().now() + ahead

    return Skewed(tmp_path, central)


def asked_from(works: Connector) -> list[datetime]:
    """The dates from which pages were asked for."""
    return [
        datetime.fromtimestamp(int(seen.query["from_date"]), works.now().tzinfo)
        for seen in works.central.requests
        if "from_date" in seen.query
    ]


def oldest(works: Connector) -> datetime:
    """The oldest date that may be asked for, by Sophos's clock."""
    return datetime.fromtimestamp(works.monotonic(), works.now().tzinfo) - OLDEST_REQUEST


def test_a_first_start_and_a_refused_cursor_read_what_sophos_still_has(works: Connector) -> None:
    (line,) = works.tick().values()
    assert (line["events"], line.get("problem")) == (20, None)
    works.central.faults.add(Fault("status", status=410, with_cursor=True))
    works.central.emit(3)
    (line,) = works.tick().values()
    assert (line["events"], line.get("problem")) == (3, None)
    first, second = asked_from(works)
    assert abs(first + timedelta(minutes=1) - oldest(works)) < timedelta(seconds=20)
    assert abs(second - oldest(works)) < timedelta(seconds=20)


def test_reconciliation_reads_what_sophos_still_has(works: Connector) -> None:
    works.tick()
    works.tick()
    works.central.insert_late(works.central.default_tenant, "events", 4, seconds=15 * 3600)
    (line,) = works.tick(minutes=6 * 60 + 1).values()
    assert (line["reconciled"]["missing"], line.get("problem")) == (4, None)
    assert abs(asked_from(works)[-1] - oldest(works)) < timedelta(seconds=20)


def test_types_are_counted_of_the_whole_window(works: Connector) -> None:
    (counted,) = works.app.count_types(None, timedelta(hours=24))
    assert counted.is_complete
    assert abs(asked_from(works)[-1] - oldest(works)) < timedelta(seconds=20)


# Clocks that jump, and times that are wrong. A machine's clock is another than Sophos's; nothing may be lost by it.

JUMPS = [timedelta(seconds=-180), timedelta(days=-2), timedelta(days=3), timedelta(days=4), timedelta(days=200)]


class Jumping(Connector):
    """A connector whose machine's clock is `ahead` of Sophos's; its monotonic time goes on undisturbed."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead

    def restarted(self) -> "Jumping":
        """A new process on the same store."""
        again = Jumping(self.folder, self.central)
        again.ahead = self.ahead
        return again

    def checkpoint(self) -> Checkpoint:
        (stream,) = self.state.checkpoints.streams()
        return self.state.checkpoints.read(stream).checkpoint

    def gaps(self) -> list[tuple[datetime, datetime]]:
        return [(gap.start, gap.end) for gap in self.state.gaps.all() if gap.start is not None and gap.end is not None]

    def natives(self) -> list[str]:
        """The native ids of Sophos's events that the engine was handed, in order."""
        return [json.loads(log.raw)["id"] for log in self.engine.received if log.dataType == "sophos-central"]

    def poll(self) -> Line:
        """A tick, and delivery of what it brought."""
        (line,) = self.tick().values()
        self.forward()
        return line


@pytest.fixture
def jumping(tmp_path: Path, central: CentralServer) -> Iterator[Jumping]:
    works = Jumping(tmp_path, central)
    works.engine.start()
    yield works
    works.engine.close()


@pytest.mark.parametrize("jump", JUMPS, ids=str)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_jumps_and_comes_back_stalls_doubles_and_loses_nothing(
    jumping: Jumping, jump: timedelta, restarts: bool
) -> None:
    works = jumping
    works.poll()
    for ahead in (jump, timedelta(0)):
        works.ahead = ahead
        if restarts:
            fresh = works.restarted()
            fresh.engine, works = works.engine, fresh
        for _ in range(3):
            works.central.emit(3)
            line = works.poll()
            assert (line["outcome"], line["events"], line.get("problem")) == ("fetched", 3, None)
        works.central.expire_cursors()
        works.poll()
        (line,) = works.tick(minutes=6 * 60 + 1).values()
        assert line.get("reconciled", {}).get("missing", 0) == 0
        works.forward()
    assert works.natives() == works.central.ids(works.central.default_tenant)
    assert works.gaps() == []
    assert works.checkpoint().day <= f"{Connector.now(works):%Y-%m-%d}"
    told = audit(works.state)
    assert told["ok"], told


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_stream_with_pages_to_come_goes_on_when_the_clock_is_set_back(jumping: Jumping, jump: timedelta) -> None:
    jumping.central.fill(30_000, hours=20)
    (first,) = jumping.app.fetch_page.run(max_pages=15, deadline=jumping.monotonic() + 50).results
    jumping.ahead = jump
    jumping.clock.advance(1)
    (second,) = jumping.app.fetch_page.run(max_pages=10, deadline=jumping.monotonic() + 50).results
    assert (first.read.pages, second.read.pages, second.outcome) == (15, 10, "fetched")
    jumping.tick()
    assert jumping.checkpoint().counts.events == 30_020


@pytest.mark.parametrize("pages", [1, 5])
def test_one_date_in_the_future_is_not_believed_and_a_real_outage_after_it_is_a_gap(
    jumping: Jumping, pages: int
) -> None:
    jumping.poll()
    jumping.central.faults.add(Fault("date", path="/", times=2 * pages))
    for _ in range(pages):
        jumping.central.emit(2)
        jumping.poll()
    jumping.poll()
    assert jumping.gaps() == []
    rested_at = Connector.now(jumping)
    assert abs(jumping.checkpoint().as_of - rested_at) < timedelta(minutes=16)  # type: ignore[operator]
    assert jumping.checkpoint().day <= f"{rested_at:%Y-%m-%d}"
    assert jumping.status()["streams"][0]["lag_seconds"] < 16 * 60
    before = jumping.natives()
    jumping.clock.advance(2 * 3600)
    jumping.central.emit(4)
    jumping.clock.advance(38 * 3600)
    new = jumping.central.emit(3)
    jumping.poll()
    jumping.poll()
    ((start, end),) = jumping.gaps()
    assert abs(start - rested_at) < timedelta(minutes=16)
    assert abs(end - (Connector.now(jumping) - timedelta(hours=24))) < timedelta(minutes=5)
    assert jumping.natives() == before + new
    assert audit(jumping.state)["ok"]


def test_a_poisoned_first_page_poisons_no_request_either(jumping: Jumping) -> None:
    jumping.central.faults.add(Fault("date", path="/", times=4))
    assert jumping.poll()["events"] == 20
    jumping.poll()
    assert jumping.gaps() == []
    assert jumping.checkpoint().as_of <= jumping.now()  # type: ignore[operator]


def poisoned(works: Jumping, moment: datetime, batches: int = 3) -> None:
    """Make the store what an older version left that believed that moment: position, receipts and all."""
    (stream,) = works.state.checkpoints.streams()
    saved = works.state.checkpoints.read(stream)
    day = f"{moment:%Y-%m-%d}"
    checkpoint = replace(
        saved.checkpoint,
        as_of=moment,
        newest=NewestEvent(moment, 1e9),
        recent=replace(saved.checkpoint.recent, since=moment),
        day=day,
    )
    works.state.checkpoints.write(stream, checkpoint, expected=saved.generation)
    for number in range(batches):
        saved = works.state.checkpoints.read(stream)
        raws = [json.dumps({"id": f"old-{number}-{each}", "type": "t"}).encode() for each in range(2)]
        read = saved.checkpoint.cursor
        header = Header(
            stream=stream,
            envelope=Envelope("sophos-central", "acme", UTMSTACK_TENANT),
            sequence=saved.checkpoint.sequence,
            cursors=Cursors(read, read, previous=saved.checkpoint.batch_cursor),
            fetched_at=works.now(),
            as_of=moment,
            day=day,
            newest=moment,
            count=0,
            repeats=0,
        )
        header, _ = works.state.batches.create(header, raws)
        advance(works.state.checkpoints, saved, header, [item_of(raw, header.id_scope, event_fields) for raw in raws])
        works.forward()


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=200), timedelta(days=26_000)], ids=str)
def test_a_store_whose_times_lie_in_the_future_is_brought_back(jumping: Jumping, ahead: timedelta) -> None:
    jumping.poll()
    poisoned(jumping, jumping.now() + ahead)
    jumping.poll()
    today = f"{jumping.now():%Y-%m-%d}"
    checkpoint = jumping.checkpoint()
    assert checkpoint.as_of is not None
    assert checkpoint.as_of <= jumping.now()
    assert (checkpoint.day <= today, checkpoint.newest.pace_seconds) == (True, None)
    for _ in range(3):
        jumping.central.emit(2)
        assert jumping.poll()["events"] == 2
    (stream,) = jumping.state.checkpoints.streams()
    days = {place.day for place, _ in jumping.state.ledger.bodies(stream)}
    assert max(days) <= f"{jumping.now():%Y-%m-%d}", "midnight may have come meanwhile"
    told = audit(jumping.state)
    assert told["ok"], told
    assert told["streams"][0]["events"] == 20 + 6 + 6
    assert len(jumping.natives()) == len(set(jumping.natives()))
    rested_at = Connector.now(jumping)
    jumping.clock.advance(40 * 3600)
    jumping.central.emit(1)
    jumping.poll()
    ((start, _),) = jumping.gaps()
    assert abs(start - rested_at) < timedelta(minutes=5)


@pytest.mark.parametrize("steps", range(1, 12))
def test_receipts_that_move_to_an_earlier_day_survive_a_death_at_each_step(jumping: Jumping, steps: int) -> None:
    jumping.poll()
    poisoned(jumping, jumping.now() + timedelta(days=200))
    jumping.central.emit(2)
    jumping.tick()
    store, left = jumping.state.store, steps

    class Dying:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def _step(self) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise StoreError("the power is gone")

        def write(self, key: str, body: bytes, *, expected: int) -> int:
            self._step()
            return store.write(key, body, expected=expected)

        def delete(self, key: str, *, expected: int) -> None:
            self._step()
            store.delete(key, expected=expected)

    whole = jumping.state
    jumping.state = State.of(Dying())
    jumping.forward()
    jumping.state = whole
    jumping.clock.advance(60)
    jumping.forward()
    assert not list(jumping.state.batches.waiting())
    told = audit(jumping.state)
    assert told["ok"], told
    assert told["streams"][0]["events"] == 28
    (stream,) = jumping.state.checkpoints.streams()
    assert max(place.day for place, _ in jumping.state.ledger.bodies(stream)) <= f"{jumping.now():%Y-%m-%d}"


def test_an_event_of_2099_hides_no_silence_and_makes_no_tick_read_the_ledger(jumping: Jumping) -> None:
    jumping.central.fill(60, hours=2)
    jumping.poll()
    late = [json.dumps({"id": "far", "type": "t", "created_at": "2099-01-01T00:00:00Z"}).encode()]
    jumping.central.insert_late(jumping.central.default_tenant, "events", late, seconds=-30)
    jumping.central.emit(1)
    jumping.poll()
    assert "far" in jumping.natives()
    checkpoint = jumping.checkpoint()
    assert checkpoint.newest.at is not None
    assert checkpoint.newest.at <= jumping.now()
    assert checkpoint.recent.since is None
    jumping.clock.advance(30 * 3600 / 60 * 30)
    jumping.poll()
    (line,) = jumping.status()["streams"]
    assert line["silent_since"] == line["last_event"] < "2099"


def cursor_of(text: str) -> str:
    return b64encode(f"V2_CURSOR|{text}".encode()).decode()


def test_a_last_pages_cursor_of_2099_is_not_believed_and_a_real_outage_after_it_is_a_gap(tmp_path: Path) -> None:
    class Telling(Quiet):
        cursor = ""

        def page(self, host: str, tenant: str, kind: str, *, deadline: float | None = None, **more: object) -> Page:
            return replace(super().page(host, tenant, kind, deadline=deadline, **more), next_cursor=self.cursor)

    world = World(tmp_path)
    source = Telling(world, [SophosTenant("t", "T", "https://api.example.com")], frozenset({"t"}))
    use_case = fetch_page(world, source)
    for text in ("2099-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "later"):
        source.cursor = cursor_of(text)
        (result,) = use_case.run(deadline=world.monotonic() + 50).results
        assert (result.outcome, result.lag_seconds, result.problem) == ("fetched", 0.0, None)
        world.sleep(60.0)
    (stream,) = use_case.context.state.checkpoints.streams()
    read_at = use_case.context.state.checkpoints.read(stream).checkpoint.as_of
    assert list(use_case.context.state.gaps.all()) == []
    world.sleep(40 * 3600.0)
    use_case.run(deadline=world.monotonic() + 50)
    (gap,) = use_case.context.state.gaps.all()
    assert gap.start == read_at


def old_day(works: Jumping) -> tuple[Stream, str]:
    """The stream, and the first day of its ledger."""
    (stream,) = works.state.checkpoints.streams()
    return stream, next(iter(works.state.ledger.bodies(stream)))[0].day


def test_nothing_expires_while_the_clocks_differ_and_that_is_said(
    jumping: Jumping, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        jumping.central.emit(2)
        jumping.poll()
        jumping.clock.advance(86_400)
    jumping.central.emit(2)
    jumping.poll()
    stream, first = old_day(jumping)
    before = [body for _, body in jumping.state.ledger.bodies(stream)]
    jumping.ahead = timedelta(days=200)
    with caplog.at_level("WARNING"):
        jumping.forward()
    assert "no old batches or receipts are removed" in caplog.text
    jumping.central.emit(1)
    jumping.poll()
    after = [body for _, body in jumping.state.ledger.bodies(stream)]
    assert after[: len(before)] == before
    assert old_day(jumping) == (stream, first)
    told = audit(jumping.state)
    assert told["ok"], told
    jumping.ahead = timedelta(0)
    jumping.clock.advance(95 * 86_400)
    jumping.poll()
    jumping.forward()
    assert old_day(jumping)[1] > first
    assert audit(jumping.state)["ok"]
