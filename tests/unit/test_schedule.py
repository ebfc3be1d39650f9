"""Which streams a tick asks, over many ticks on a modelled clock."""

import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from lib.model.schedule import BUSY_WEIGHT, Asked, choose

TICK = 60.0


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(1, 20), st.sets(st.integers(0, 59), max_size=10))
def test_every_stream_is_asked_and_those_that_speak_more_often(count: int, most: int, busy: set[int]) -> None:
    streams = [f"s{number:02}" for number in range(count)]
    speaks = {f"s{number:02}" for number in busy if number < count}
    asked: dict[str, Asked] = {}
    gaps: dict[str, list[float]] = {name: [] for name in streams}
    for tick in range(4 * BUSY_WEIGHT * (count // most + 1)):
        now = 1_000_000.0 + TICK * tick
        chosen = choose(streams, asked, now, most)
        assert len(chosen) == min(most, count)
        assert len(set(chosen)) == len(chosen)
        for name in chosen:
            if name in asked:
                gaps[name].append(now - asked[name].at)
            one = asked.get(name, Asked(now)).again(now)
            asked[name] = Asked(one.at, one.every, now if name in speaks else 0.0)
    # Half of the calls are for those that have waited longest, counted six times for one that speaks.
    turns = -(-most // 2)
    longest = TICK * (-(-count // turns) + BUSY_WEIGHT * (-(-len(speaks) // turns) + 2))
    for name in streams:
        assert gaps[name], "never asked again"
        assert max(gaps[name]) <= longest
    quiet = [max(gaps[name]) for name in streams if name not in speaks]
    for name in speaks if quiet else ():
        assert statistics.median(gaps[name]) <= max(quiet) / 3 + 2 * TICK


@given(st.integers(0, 5), st.integers(1, 5))
def test_a_stream_that_was_never_asked_comes_before_all_that_are_quiet(known: int, most: int) -> None:
    asked = {f"old{number}": Asked(0.0) for number in range(known)}
    assert choose([*asked, "new"], asked, 1e6, most)[0] == "new"


@given(st.integers(0, 9), st.integers(1, 9))
def test_however_many_speak_a_new_stream_is_asked(known: int, most: int) -> None:
    asked = {f"old{number}": Asked(0.0, spoke_at=1e6) for number in range(known)}
    assert "new" in choose([*asked, "new"], asked, 1e6, most)


def test_a_clock_that_jumped_back_forgets_no_stream() -> None:
    asked = {"ahead": Asked(2_000_000.0), "other": Asked(999_000.0)}
    assert choose(list(asked), asked, 1_000_000.0, 1) == ["ahead"]


def test_a_stream_that_spoke_in_the_future_counts_as_quiet() -> None:
    assert Asked(1e6, spoke_at=1e6 - 60.0).speaks(1e6)
    assert not Asked(1e6, spoke_at=1e6 + 200 * 86_400.0).speaks(1e6)
