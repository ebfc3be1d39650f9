"""A caller that makes every call that the quota allows, on a modelled clock."""

from bisect import bisect_right
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.model.rate_policy import BURST, FIRSTS, KEPT_SECONDS, RatePolicy

PER_MINUTE = st.sampled_from([10, 25, 60])
RESTS = st.lists(st.tuples(st.floats(0, 300), st.integers(1, 80)), min_size=1, max_size=4)
"""Seconds of rest, then so many calls."""


def greedy(quota: RatePolicy, rests: Sequence[tuple[float, int]], kept_free: int = 0) -> list[float]:
    """When the calls go, each as early as it may."""
    now, made = 1_000.0, list[float]()
    for rest, calls in rests:
        now += rest
        for _ in range(calls):
            kept = made[bisect_right(made, now - KEPT_SECONDS) :]
            while (wait := quota.wait(kept, (), now, kept_free=kept_free)) > 0:
                now += max(wait, 0.001)
            made.append(now)
    return made


def most(made: list[float], seconds: float) -> int:
    """The most calls within any window."""
    return max(bisect_right(made, at + seconds - 1e-6) - index for index, at in enumerate(made))


@settings(max_examples=30, deadline=None)
@given(PER_MINUTE, RESTS)
@example(100, [(0.0, 900)])
def test_a_quiet_credential_may_burst_and_then_keeps_to_the_average(
    per_minute: int, rests: list[tuple[float, int]]
) -> None:
    made = greedy(RatePolicy(per_minute), rests)
    for minutes in (1, 2, 10):
        assert most(made, 60.0 * minutes) <= (BURST - 1 + minutes) * per_minute


@settings(max_examples=30, deadline=None)
@given(PER_MINUTE, RESTS)
@example(100, [(0.0, 900)])
def test_once_refused_no_minute_holds_more_than_its_calls(per_minute: int, rests: list[tuple[float, int]]) -> None:
    assert most(greedy(RatePolicy(per_minute, strict=True), rests), 60.0) <= per_minute


@settings(max_examples=30, deadline=None)
@given(per_minute=PER_MINUTE, rests=RESTS, strict=st.booleans())
def test_no_second_holds_more_than_a_tenth_of_a_minutes_calls(
    per_minute: int, rests: list[tuple[float, int]], *, strict: bool
) -> None:
    assert most(greedy(RatePolicy(per_minute, strict=strict), rests), 1.0) <= max(1, round(per_minute * 0.1))


@settings(max_examples=6, deadline=None)
@given(per_minute=PER_MINUTE, strict=st.booleans())
@example(per_minute=100, strict=True)
def test_catching_up_uses_at_least_95_of_100_allowed_calls(per_minute: int, *, strict: bool) -> None:
    made = greedy(RatePolicy(per_minute, strict=strict), [(0.0, per_minute * 13)])
    assert bisect_right(made, made[0] + 600.0) >= 0.95 * per_minute * 10


@settings(max_examples=20, deadline=None)
@given(per_minute=PER_MINUTE, strict=st.booleans(), share=st.integers(1, 99))
def test_what_is_kept_free_is_there_for_others_at_once(per_minute: int, share: int, *, strict: bool) -> None:
    quota, free = RatePolicy(per_minute, strict=strict), per_minute * share // 100
    made = greedy(quota, [(0.0, per_minute * 4)], free)
    for _ in range(free):
        assert quota.wait((), made, made[-1], instances=0) == 0
        made.append(made[-1])


@given(st.integers(1, 300), st.floats(1, 86_400))
def test_a_tick_always_asks_one_stream_and_leaves_some_calls(per_minute: int, every: float) -> None:
    firsts = RatePolicy(per_minute).firsts(every)
    assert 1 <= firsts <= max(1, FIRSTS * per_minute * every / 60.0)
