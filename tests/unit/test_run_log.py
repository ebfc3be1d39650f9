"""An outage is told at its beginning, now and then, and at its end; what flows is summed up."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from emulator.runtime.run_log import FORGOTTEN_AFTER, GROWN_AFTER, SUMMED_UP_EVERY, TOLD_EVERY, Outages, Summary
from lib.errors import CredentialsError, EngineDownError, OverBudgetError

Line = dict[str, Any]
DOWN = EngineDownError("nobody listens on /run/engine.sock").as_problem()


class Told:
    """Outages and a summary at a time of the test's choosing, and the lines that they log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        self.outages = Outages(lambda _: {f"id-{n}": f"Tenant {n}" for n in range(9)}, lambda: self.now)
        self.summary = Summary(lambda: self.now)
        self._caplog = caplog

    def lines(self) -> list[str]:
        """Those since the last look."""
        found = [each.getMessage() for each in self._caplog.records]
        self._caplog.clear()
        return found

    def forward(self, *tenants: int, problem: Line | None = DOWN, **fields: Any) -> list[str]:
        lines = [line(f"id-{number}", problem, **fields) for number in tenants]
        self.outages.add_results("forward-batch", lines)
        return self.lines()


def line(tenant: str | None, problem: Line | None, outcome: str = "", **fields: Any) -> Line:
    told = {"problem": problem} if problem else {}
    outcome = outcome or ("failed" if problem else "delivered")
    return {"integration": "acme", "tenant": tenant, "stream": "events", "outcome": outcome, **fields, **told}


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    with caplog.at_level(logging.INFO):
        yield Told(caplog)


def test_an_outage_is_told_once_with_what_it_concerns_and_its_end_once(told: Told) -> None:
    (begun,) = told.forward(*range(5))
    assert "engine_unavailable" in begun
    assert "5 streams: acme/Tenant 0 (id-0)/events" in begun
    assert begun.count("Tenant") == 3
    assert "2 more" in begun
    assert DOWN["remedy"] in begun
    for _ in range(100):
        told.now += 2
        assert told.forward(*range(5)) == []
    told.now += 10
    assert told.forward(0, 1, 2, 3, problem=None) == []
    (over,) = told.forward(4, problem=None)
    assert "Resolved" in over
    assert "3 min 30 s" in over
    assert "505 tries" in over
    assert "5 streams" in over
    assert "id-0" not in over
    assert told.forward(0, problem=None) == []


def test_an_outage_that_grows_is_told_when_it_has_doubled(told: Told) -> None:
    assert len(told.forward(0)) == 1
    assert told.forward(1) == []
    told.now += GROWN_AFTER
    (grown,) = told.forward(2)
    assert "3 streams" in grown
    told.now += GROWN_AFTER
    assert told.forward(3) == []


def test_one_that_lasts_or_comes_and_goes_has_a_few_lines_an_hour(told: Told) -> None:
    lasting = []
    for _ in range(720):
        told.now += 5
        lasting += told.forward(0)
    assert 2 <= len(lasting) <= 1 + 3600 / TOLD_EVERY
    assert "for 30 min 0 s" in lasting[1]
    told.now += TOLD_EVERY
    told.forward(0, problem=None)
    flapping = []
    for _ in range(720):
        told.now += 5
        flapping += told.forward(0)
        flapping += told.forward(0, problem=None)
    assert len(flapping) <= 2 * (1 + 3600 / TOLD_EVERY)
    assert told.forward(0, problem=None) == []


def test_an_integration_stands_for_its_streams_and_they_for_it(told: Told) -> None:
    refused = CredentialsError("Sophos refused the client id or secret").as_problem()
    told.outages.add_results("fetch-page", [line("id-0", refused), line("id-1", refused)])
    (begun,) = told.lines()
    assert "2 streams" in begun
    told.outages.add_results("fetch-page", [line(None, refused)])
    assert told.lines() == []
    told.outages.add_results("fetch-page", [line("id-0", None, "up_to_date")])
    (over,) = told.lines()
    assert "credentials_refused" in over


def test_waiting_for_a_turn_and_being_busy_tell_nothing(told: Told) -> None:
    assert told.forward(0, problem=OverBudgetError("calls are used up").as_problem()) == []
    assert len(told.forward(0)) == 1
    assert told.forward(0, problem=None, outcome="busy") == []
    assert told.forward(0, problem=OverBudgetError("calls are used up").as_problem()) == []
    assert len(told.forward(0, problem=None)) == 1


def test_a_stream_that_no_answer_names_any_more_keeps_no_outage_open(told: Told) -> None:
    told.forward(0, 1)
    told.now += FORGOTTEN_AFTER / 2
    told.forward(1)
    told.now += FORGOTTEN_AFTER / 2
    (over,) = told.forward(1, problem=None)
    assert "Resolved" in over


def test_a_part_of_the_connector_has_outages_too(told: Told) -> None:
    told.outages.note("engine", DOWN)
    (begun,) = told.lines()
    assert "stream" not in begun.partition(DOWN["remedy"])[0]
    # Its streams meet the same: that is no second outage.
    assert told.forward(0) == []
    told.outages.note("engine", None)
    assert told.lines() == []
    assert len(told.forward(0, problem=None)) == 1


def test_what_flows_is_summed_up_at_the_first_delivery_and_once_an_hour(told: Told) -> None:
    def minute() -> list[str]:
        told.now += 60
        told.summary.add_results("fetch-page", [line("id-0", None, "fetched", events=7)])
        told.summary.add_results("forward-batch", [line("id-0", None, acked=5, set_aside=2)])
        return told.lines()

    (first,) = minute()
    assert "7 events fetched from 1 stream, 5 acknowledged, 0 observed, 2 dead letters" in first
    hours = [each for _ in range(180) for each in minute()]
    assert len(hours) == 180 * 60 / SUMMED_UP_EVERY
    assert "in 1 h 0 min: 420 events fetched" in hours[0]
