"""When the next reconciliation is due."""

from datetime import UTC, datetime, timedelta

import pytest

from lib.model.reconciliation import Progress

NOW = datetime(2026, 3, 10, tzinfo=UTC)
EVERY = timedelta(hours=6)


@pytest.mark.parametrize(
    ("ago", "due"),
    [
        (timedelta(0), False),
        (EVERY - timedelta(seconds=1), False),
        (EVERY, True),
        # The clock jumped back: it is not waited for.
        (timedelta(seconds=-1), True),
        (timedelta(days=-30), True),
    ],
)
def test_the_next_one_is_due_after_its_interval_whatever_the_clock_does(ago: timedelta, due: bool) -> None:
    assert Progress(ended_at=NOW - ago).due(EVERY, NOW) == due


def test_where_none_has_ended_one_is_due() -> None:
    assert Progress().due(EVERY, NOW)


@pytest.mark.parametrize(
    ("asked", "goes_on"),
    [
        (timedelta(hours=12), True),  # the same duration, ten minutes later
        (timedelta(hours=12, minutes=10), True),  # the same time
        (timedelta(hours=11, minutes=50), False),
        (timedelta(hours=12, minutes=20), False),
        (None, False),
    ],
)
def test_a_window_goes_on_where_it_is_asked_for_again(asked: timedelta | None, goes_on: bool) -> None:
    begun = Progress(began_at=NOW - timedelta(minutes=10), window=12 * 3600)
    assert begun.goes_on(NOW, timedelta(hours=24), asked) == goes_on


def test_what_began_too_long_ago_or_not_at_all_begins_anew() -> None:
    day = timedelta(hours=24)
    assert Progress(began_at=NOW - day).goes_on(NOW, day, None)
    assert not Progress(began_at=NOW - day - EVERY).goes_on(NOW, day, None)
    assert not Progress(began_at=NOW + EVERY).goes_on(NOW, day, None)
    assert not Progress().goes_on(NOW, day, None)
