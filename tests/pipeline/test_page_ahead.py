"""The next page is asked for while the one before is stored, and nothing else is another for it.

Each test holds a page's batch back until Sophos was asked for the next page, so that there always is one ahead.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Fault, Settings
from emulator.central.clock import Clock
from lib import answers
from lib.app import App
from lib.config import loading as configuration
from lib.errors import StoreError
from lib.pipeline.page_ahead import LARGEST_BYTES, PageAhead
from lib.store.base import ABSENT
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Died
from tests.fakes.simulated_time import parts_on
from tests.fakes.sophos import PAGE_PATH, Sophos
from tests.site import until

PAGE = 10
Line = dict[str, Any]


class HookedStore(DirectoryStore):
    """A store that does something before it stores a batch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.before_batch: Callable[[int], object] = lambda _number: None

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        if key.startswith("batches/acme/"):
            self.before_batch(int(key.rpartition("/")[2].partition(".")[0]))
        return super().write(key, body, expected=expected)


class Reader:
    """fetch-page in this process, over a Sophos on loopback; its time moves when somebody waits."""

    def __init__(self, folder: Path, url: str, clock: Clock, **limits: Any) -> None:
        integration = {"name": "acme", "client_id": "demo-client", "client_secret": "demo-secret", "reconcile": "off"}
        per_minute = {name: limits.pop(name) for name in ("calls_per_minute",) if name in limits}
        settings = {
            "store": f"file:{folder}/store",
            "engine": f"unix:{folder}/engine.sock",
            "sophos": {"auth_url": url, "api_url": url},
            "limits": limits,
            "integrations": [integration | per_minute],
        }
        config = configuration.parse(json.dumps(settings))
        self.clock = clock
        self.store = HookedStore(folder / "store")
        self.app = App(lambda: config, parts_on(clock, store=lambda _: self.store))
        self.monotonic = self.app.parts.monotonic

    def fetch(self, *, seconds: float = 50.0, max_pages: int | None = None) -> Line:
        fetched = self.app.fetch_page.run(max_pages=max_pages, deadline=self.monotonic() + seconds)
        (line,) = answers.fetched(fetched)["results"]
        found: Line = line
        return found

    def stored(self) -> list[str]:
        """The ids of the events in all batches, in order."""
        state = self.app.state
        batches = [state.batches.read(each.stream, each.sequence) for each in state.batches.waiting()]
        return [json.loads(raw)["id"] for batch in batches if batch is not None for raw in batch.items]


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer(clock=Clock(), settings=Settings(page_cap=PAGE)) as server:
        server.fill(4 * PAGE)
        yield server


@pytest.fixture
def reader(tmp_path: Path, central: CentralServer) -> Reader:
    return hold_back(Reader(tmp_path, central.url, central.clock), central)


def pages_asked(central: CentralServer) -> int:
    return sum(seen.path == PAGE_PATH for seen in central.requests)


def hold_back(reader: Reader, central: CentralServer) -> Reader:
    """Have the first page's batch stored once the second page was answered."""

    def wait(number: int) -> None:
        if number == 1:
            until(lambda: pages_asked(central) >= 2, "the request for the next page")

    reader.store.before_batch = wait
    return reader


def expect_all(reader: Reader, central: CentralServer) -> None:
    """Every event is stored, once, in order."""
    assert reader.stored() == central.ids(central.default_tenant)
    assert audit(reader.app.state)["ok"]


def test_the_next_page_is_asked_for_while_this_one_is_stored(reader: Reader, central: CentralServer) -> None:
    line = reader.fetch()
    pages = line["pages"]
    assert (line["outcome"], line["has_more"], pages) == ("fetched", False, pages_asked(central))
    assert pages >= 4
    expect_all(reader, central)


def test_a_crash_with_a_page_asked_ahead_costs_one_call(tmp_path: Path, reader: Reader, central: CentralServer) -> None:
    hold = reader.store.before_batch

    def die(number: int) -> None:
        hold(number)
        raise Died

    reader.store.before_batch = die
    with pytest.raises(Died):
        reader.fetch()
    assert reader.stored() == []
    again = Reader(tmp_path, central.url, central.clock)
    line = again.fetch()
    assert pages_asked(central) == line["pages"] + 2
    expect_all(again, central)


def test_a_store_that_fails_is_told_whatever_was_asked_ahead(reader: Reader, central: CentralServer) -> None:
    hold = reader.store.before_batch

    def fail(number: int) -> None:
        hold(number)
        raise StoreError("the store cannot do that")

    central.faults.add(Fault("status", status=400, with_cursor=True))
    reader.store.before_batch = fail
    line = reader.fetch()
    assert (line["outcome"], line["problem"]["code"]) == ("failed", StoreError.code)
    reader.store.before_batch = lambda _number: None
    reader.fetch()
    expect_all(reader, central)


def test_a_429_to_the_page_ahead_keeps_the_page_before_and_ends_the_call(
    reader: Reader, central: CentralServer
) -> None:
    central.faults.add(Fault("status", status=429, retry_after=30, with_cursor=True))
    line = reader.fetch()
    assert (line["pages"], line["events"], line["outcome"]) == (1, PAGE, "rate_limited")
    assert line["problem"]["code"] == "rate_limited"
    assert reader.stored() == central.ids(central.default_tenant)[:PAGE]
    assert reader.fetch()["outcome"] == "rate_limited"
    assert pages_asked(central) == 2
    central.clock.advance(40)
    assert reader.fetch()["outcome"] == "fetched"
    expect_all(reader, central)


def test_calls_that_are_used_up_put_the_page_ahead_off(tmp_path: Path, central: CentralServer) -> None:
    central.fill(50 * PAGE)
    reader = hold_back(Reader(tmp_path, central.url, central.clock, calls_per_minute=10), central)
    line = reader.fetch()
    assert (line["outcome"], line["has_more"], "problem" in line, "retry_at" in line) == ("fetched", True, False, True)
    assert 2 <= line["pages"] == pages_asked(central) < 40
    assert len(reader.stored()) == line["pages"] * PAGE
    while reader.fetch()["has_more"]:
        central.clock.advance(60)
    expect_all(reader, central)


def test_a_cursor_that_is_refused_ahead_has_reading_go_on_from_a_date(reader: Reader, central: CentralServer) -> None:
    central.faults.add(Fault("status", status=400, with_cursor=True))
    line = reader.fetch()
    assert (line["outcome"], line["has_more"]) == ("fetched", False)
    assert line["events"] == 4 * PAGE
    expect_all(reader, central)


def test_a_token_that_is_refused_ahead_is_replaced(reader: Reader, central: CentralServer) -> None:
    central.faults.add(Fault("revoke_tokens", with_cursor=True))
    line = reader.fetch()
    assert (line["outcome"], line["has_more"], "problem" in line) == ("fetched", False, False)
    assert [seen.status for seen in central.requests if seen.path == PAGE_PATH].count(401) == 1
    expect_all(reader, central)


def test_credentials_that_are_refused_ahead_keep_the_page_before(reader: Reader, central: CentralServer) -> None:
    central.faults.add(Fault("revoke_tokens", with_cursor=True))
    central.faults.add(Fault("status", path="/api/v2/oauth2/token", status=400, skip=1, times=None))
    line = reader.fetch()
    assert (line["outcome"], line["pages"], line["events"]) == ("failed", 1, PAGE)
    assert line["problem"]["code"] == "credentials_refused"
    assert reader.stored() == central.ids(central.default_tenant)[:PAGE]


def test_no_page_is_asked_ahead_for_which_there_will_be_no_room(tmp_path: Path, central: CentralServer) -> None:
    reader = Reader(tmp_path, central.url, central.clock, max_pending_bytes=1_000)
    line = reader.fetch()
    assert (line["outcome"], line["pages"], line["has_more"]) == ("paused", 1, True)
    assert pages_asked(central) == 1


def test_a_page_ahead_is_dropped_where_others_have_used_the_room_up(tmp_path: Path, central: CentralServer) -> None:
    reader = Reader(tmp_path, central.url, central.clock, max_pending_bytes=1_000_000)
    others = "batches/others/t-1/events/00000000000000000001.ndjson"

    def fill(number: int) -> None:
        if number == 1:
            until(lambda: pages_asked(central) >= 2, "the request for the next page")
            reader.store.write(others, b"x" * 1_000_000, expected=ABSENT)
            central.clock.advance(700)  # Old enough for another look at what waits.

    reader.store.before_batch = fill
    line = reader.fetch(seconds=1_000)
    assert (line["outcome"], line["pages"], line["has_more"]) == ("paused", 1, True)
    assert pages_asked(central) == 2
    stored = reader.store.read(others)
    assert stored is not None
    reader.store.delete(others, expected=stored.generation)
    assert reader.fetch()["has_more"] is False
    expect_all(reader, central)


def test_a_page_ahead_is_dropped_where_the_time_is_over(reader: Reader, central: CentralServer) -> None:
    hold = reader.store.before_batch

    def take_long(number: int) -> None:
        hold(number)
        central.clock.advance(60)

    reader.store.before_batch = take_long
    line = reader.fetch(seconds=50.0)
    assert (line["outcome"], line["pages"], line["has_more"], "problem" in line) == ("fetched", 1, True, False)
    assert pages_asked(central) == 2
    assert reader.stored() == central.ids(central.default_tenant)[:PAGE]
    while reader.fetch(seconds=50.0)["has_more"]:
        continue
    expect_all(reader, central)


def test_a_page_ahead_is_dropped_where_another_run_was_quicker(
    tmp_path: Path, reader: Reader, central: CentralServer
) -> None:
    hold, other = reader.store.before_batch, Reader(tmp_path, central.url, central.clock)

    def be_overtaken(number: int) -> None:
        hold(number)
        assert other.fetch()["outcome"] == "fetched"

    reader.store.before_batch = be_overtaken
    assert reader.fetch()["outcome"] == "busy"
    expect_all(reader, central)


def test_no_page_is_asked_ahead_beyond_those_that_were_asked_for(reader: Reader, central: CentralServer) -> None:
    reader.store.before_batch = lambda _number: None
    for pages in range(1, 3):
        assert reader.fetch(max_pages=1)["pages"] == 1
        assert pages_asked(central) == pages
    assert reader.fetch(max_pages=2)["pages"] == 2
    assert pages_asked(central) == 4


@pytest.mark.parametrize("fault", ["same_cursor", "empty_page", "two_cursors"])
def test_a_run_that_goes_nowhere_costs_no_call_ahead(reader: Reader, central: CentralServer, fault: str) -> None:
    reader.store.before_batch = lambda _number: None
    central.faults.add(Fault(fault, times=None))
    line = reader.fetch()
    assert (line["problem"]["code"], line["pages"]) == ("protocol_error", pages_asked(central))


@pytest.mark.parametrize(("size", "asked"), [(LARGEST_BYTES // 16, 2), (LARGEST_BYTES // 8, 1)])
def test_a_large_page_is_stored_before_the_next_is_asked_for(tmp_path: Path, size: int, asked: int) -> None:
    clock, requests = Clock(), []
    second = threading.Event()

    def say(query: Any, _token: str) -> tuple[int, Any]:
        requests.append(query)
        if len(requests) == 2:
            second.set()
        items = [{"id": f"{len(requests)}-{number}", "x": "x" * size} for number in range(8)]
        return 200, {"has_more": True, "next_cursor": f"c{len(requests)}", "items": items}

    with Sophos() as sophos:
        sophos.says[PAGE_PATH] = say
        reader = Reader(tmp_path, sophos.url, clock)

        def take_long(_number: int) -> None:
            if asked == 2:
                assert second.wait(60)
            clock.advance(60)

        reader.store.before_batch = take_long
        line = reader.fetch(seconds=50.0)
    assert (line["pages"], line["has_more"]) == (1, True)
    assert len(requests) == asked


def test_a_page_is_stored_while_sophos_takes_its_time_over_the_next(tmp_path: Path) -> None:
    def say(query: Any, _token: str) -> tuple[int, Any]:
        if "cursor" not in query:
            return 200, {"has_more": True, "next_cursor": "c1", "items": [{"id": "1"}]}
        until(lambda: slow.stored() == ["1"], "the batch of the page before", 30)
        return 200, {"has_more": False, "next_cursor": "c2", "items": [{"id": "2"}]}

    with Sophos() as sophos:
        sophos.says[PAGE_PATH] = say
        slow = Reader(tmp_path, sophos.url, Clock())
        line = slow.fetch()
    assert (line["pages"], line["events"], line["has_more"]) == (2, 2, False)


def test_a_page_ahead_of_another_cursor_is_not_taken() -> None:
    with PageAhead[str]() as ahead:
        ahead.begin("c1", lambda: "one")
        assert ahead.take("c2") is None
        ahead.begin("c2", lambda: "two")
        assert (ahead.take("c2"), ahead.take("c2")) == ("two", None)
