"""When a lease counts as held, on clocks that differ, jump and stand."""

from datetime import UTC, datetime, timedelta

import pytest

from lib.model.lease import SKEW, TERM, Lease

NOW = datetime(2026, 3, 10, tzinfo=UTC)
LONGEST_STALL = timedelta(seconds=30)


@pytest.mark.parametrize(
    ("left", "is_held"),
    [
        (timedelta(0), False),
        (timedelta(seconds=1), True),
        (TERM, True),
        (TERM + SKEW, True),
        (TERM + SKEW + timedelta(seconds=1), False),
        (timedelta(days=1), False),
    ],
)
def test_a_lease_is_held_until_its_end_unless_that_is_farther_off_than_clocks_differ(
    left: timedelta, is_held: bool
) -> None:
    assert Lease(holder="somebody", until=NOW + left).is_held(NOW) == is_held


def test_nobody_waits_longer_than_half_a_minute_for_a_dead_holder() -> None:
    assert TERM + SKEW <= LONGEST_STALL


def test_what_nobody_holds_is_free() -> None:
    assert not Lease(until=NOW + TERM).is_held(NOW)
