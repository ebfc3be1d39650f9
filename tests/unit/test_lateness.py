"""What lateness is called, and what it says of the settings."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model.duration import parse_duration
from lib.model.lateness import BOUNDS, MORE, bound_of, in_order, propose

HOURS = timedelta(hours=6)


@given(st.integers(0, 200_000))
def test_a_lateness_is_named_by_the_smallest_bound_that_it_does_not_exceed(seconds: int) -> None:
    name = bound_of(timedelta(seconds=seconds))
    fitting = [each for each, bound in BOUNDS.items() if seconds <= bound]
    assert name == (fitting[0] if fitting else MORE)


@given(st.dictionaries(st.sampled_from([*BOUNDS, MORE]), st.integers(1, 9)))
def test_a_histogram_keeps_its_counts_and_rises(counts: dict[str, int]) -> None:
    told = in_order(counts)
    assert told == counts
    assert list(told) == [name for name in (*BOUNDS, MORE) if name in counts]


@pytest.mark.parametrize(
    ("late", "settle", "proposed"),
    [
        ({}, "0m", ("0m", "6h")),
        ({"5m": 1}, "0m", ("0m", "6h")),  # one of 10,000 is no reason
        ({"1m": 40, "5m": 55, "6h": 5}, "0m", ("5m", "1h")),
        ({"1m": 95, "6h": 5}, "0m", ("1m", "1h")),
        ({"1m": 95, "6h": 5}, "5m", ("5m", "1h")),  # it never proposes to wait less
        ({"1m": 50, "6h": 50}, "0m", ("0m", "1h")),  # waiting a quarter of an hour would catch half of them
    ],
)
def test_both_settings_are_proposed_from_what_was_late(
    late: dict[str, int], settle: str, proposed: tuple[str, str]
) -> None:
    found = propose(late, 10_000, parse_duration(settle), HOURS)
    assert [each.setting for each in found] == ["settle", "reconcile"]
    assert tuple(parse_duration(each.proposed) for each in found) == tuple(map(parse_duration, proposed))
    assert all(f"{sum(late.values())} of 10000" in each.why for each in found)


def test_where_nothing_is_reconciled_nothing_is_known() -> None:
    settle, reconcile = propose({}, 10, timedelta(0), None)
    assert (settle.now, settle.proposed) == ("0s", "0s")
    assert (reconcile.now, reconcile.proposed) == ("off", "6h")


@given(
    st.dictionaries(st.sampled_from([*BOUNDS, MORE]), st.integers(1, 10_000)),
    st.integers(0, 10_000),
    st.integers(0, 120),
    st.integers(1, 24),
)
def test_no_proposal_delays_less_or_reads_again_more_rarely(
    late: dict[str, int], received: int, minutes: int, hours: int
) -> None:
    settle, reconcile = propose(late, received, timedelta(minutes=minutes), timedelta(hours=hours))
    assert parse_duration(settle.proposed) >= timedelta(minutes=minutes)
    assert parse_duration(reconcile.proposed) <= timedelta(hours=hours)
