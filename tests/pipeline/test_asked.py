"""What fetch-page does not ask Sophos, or asks again: by the calls that are left, and by clocks that jump."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.central import CentralServer
from emulator.central.clock import Clock
from lib.pipeline.rate_limiter import RateLimiter
from tests.pipeline.test_faults import MINUTE, ONE, Connector


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer(clock=Clock()) as server:
        server.emit(3)
        yield server


def test_reconciliation_uses_calls_that_nothing_else_needs(tmp_path: Path, central: CentralServer) -> None:
    works = Connector(tmp_path, central, ONE | {"calls_per_minute": 10})
    works.tick()
    works.clock.advance(60 * 7 * MINUTE)
    rate_limiter = works.app.integrations["acme"].rate_limiter
    assert isinstance(rate_limiter, RateLimiter)
    while rate_limiter.has_room:
        rate_limiter.acquire("", works.monotonic() + 5)
    (line,) = works.tick(minutes=0.01).values()
    assert (line["outcome"], "reconciled" in line) == ("up_to_date", False)
    (line,) = works.tick().values()
    assert line["reconciled"]["outcome"] == "reconciled"


def test_a_clock_that_jumped_back_has_sophos_asked_again_whose_the_credential_is(
    tmp_path: Path, central: CentralServer
) -> None:
    works = Connector(tmp_path, central)
    works.tick()
    asked = works.asked("/whoami/v1")
    works.tick()
    assert works.asked("/whoami/v1") == asked
    works.clock.advance(-10 * MINUTE)
    works.tick()
    assert works.asked("/whoami/v1") == asked + 1


def test_a_command_waits_for_its_turns_and_leaves_those_of_the_ticks_as_they_were(
    tmp_path: Path, central: CentralServer
) -> None:
    works = Connector(tmp_path, central, ONE | {"calls_per_minute": 10})
    works.tick()
    works.app.reconcile_all()
    works.app.count_types(None, timedelta(hours=1))
    rate_limiter = works.app.integrations["acme"].rate_limiter
    assert isinstance(rate_limiter, RateLimiter)
    calls = 0
    while rate_limiter.has_room and calls < 50:
        rate_limiter.acquire("", works.monotonic() + 120)
        calls += 1
    assert calls < 50
