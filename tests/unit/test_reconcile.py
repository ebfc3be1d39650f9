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
