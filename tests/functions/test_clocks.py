"""Sophos's clock and this machine's differ: what may be asked for goes by Sophos's."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from emulator.central import CentralServer, Fault
from emulator.central.clock import Clock
from lib.model.checkpoint import OLDEST_REQUEST
from lib.pipeline.count_types import CountTypes
from lib.sophos.pages import event_fields
from tests.functions.test_faults import Connector

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
    (integration,) = works.fetch_page.integrations.values()
    targets = works.accounts.targets(integration.feed, integration.source, integration.client_id(), integration.api_url)
    counted = CountTypes(event_fields, works.now, works.monotonic).run(
        integration, targets, window=timedelta(hours=24), deadline=works.monotonic() + 50
    )
    assert counted["complete"]
    assert abs(asked_from(works)[-1] - oldest(works)) < timedelta(seconds=20)
