"""When a lease counts as held, on clocks that differ, jump and stand."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model.lease import SKEW, TERM, Lease, PartOfBatch, ranges_of
from lib.state.leases import LEASE

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


PLACES = st.sets(st.integers(0, 60))


@given(PLACES, st.integers(0, 20), st.integers(0, 70))
def test_what_is_acknowledged_of_a_batch_is_remembered_to_the_item(places: set[int], acked: int, count: int) -> None:
    part = PartOfBatch(7, "digest", ranges_of(places))
    lease = LEASE.decode(LEASE.encode(Lease(acked_sequence=7, acked_digest="digest", acked=acked, parts=(part,))))
    assert lease.done(7, "digest", count) == {place for place in places | set(range(acked)) if place < count}


@given(PLACES, st.sampled_from([(8, "digest"), (7, "another")]))
def test_of_another_batch_nothing_is_believed(places: set[int], other: tuple[int, str]) -> None:
    part = PartOfBatch(7, "digest", ranges_of(places))
    lease = Lease(acked_sequence=7, acked_digest="digest", acked=5, refused={"id": "why"}, parts=(part,))
    assert lease.done(*other, 100) == set()
    assert lease.refusals(*other) == {}
    assert lease.refusals(7, "digest") == {"id": "why"}


@given(PLACES)
def test_ranges_are_as_few_as_can_be(places: set[int]) -> None:
    ranges = ranges_of(places)
    assert {place for start, end in ranges for place in range(start, end)} == places
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
