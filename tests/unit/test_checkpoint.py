"""A position never goes back, remembers what it vouches for, and survives its own text."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.errors import CredentialsError, DamagedError
from lib.model.batch import Cursors, Envelope, Header
from lib.model.checkpoint import (
    HORIZON,
    OLDEST_REQUEST,
    RECENT,
    SLOWEST,
    Checkpoint,
    Counts,
    NewestEvent,
    Problem,
    Recent,
    lost_interval,
    newest_believed,
    oldest_request,
    problem_after,
)
from lib.model.stream import Stream
from lib.state.checkpoints import from_body, to_body

STREAM = Stream("acme", "894af375-a52f-4d5a-a92d-9d9c279b1489", "events")
START = datetime(2026, 3, 10, tzinfo=UTC)
MOMENTS = st.integers(0, 10**6).map(lambda seconds: START + timedelta(seconds=seconds))


def header(sequence: int, newest: datetime | None, count: int = 1) -> Header:
    return Header(
        stream=STREAM,
        envelope=Envelope("sophos-central", "acme", "t"),
        sequence=sequence,
        cursors=Cursors("a", "b"),
        fetched_at=START,
        as_of=newest or START,
        day="2026-03-10",
        newest=newest,
        count=count,
        repeats=0,
    )


@given(
    st.builds(
        Checkpoint,
        sequence=st.integers(1, 10**9),
        cursor=st.none() | st.text(),
        as_of=st.none() | MOMENTS,
        newest=st.builds(NewestEvent, st.none() | MOMENTS, st.none() | st.floats(0, 10**6)),
        recent=st.builds(
            Recent,
            st.lists(st.text("0123456789abcdef", min_size=24, max_size=24), max_size=3).map(tuple),
            st.none() | MOMENTS,
        ),
        counts=st.builds(Counts, st.integers(0, 9), st.integers(0, 9), other_customers_at=st.none() | MOMENTS),
        problem=st.none()
        | st.builds(Problem, st.text(), st.text(), st.text(), MOMENTS, st.integers(1, 9), st.none() | MOMENTS),
    )
)
def test_a_position_survives_its_own_text(checkpoint: Checkpoint) -> None:
    assert from_body(to_body(STREAM, checkpoint)) == checkpoint


# Over 1,000 events each, or nothing is ever forgotten.
PAGES = st.lists(
    st.tuples(st.integers(300, 1200), st.randoms(use_true_random=False)).map(
        lambda drawn: [START + timedelta(seconds=drawn[1].randrange(10**6)) for _ in range(drawn[0])]
    ),
    min_size=2,
    max_size=6,
)


@settings(max_examples=30)
@given(PAGES)
def test_whatever_it_vouches_for_it_really_remembers(pages: list[list[datetime]]) -> None:
    checkpoint = Checkpoint()
    stored: dict[str, datetime] = {}
    for number, times in enumerate(pages, 1):
        keys = [f"{number}-{place}" for place in range(len(times))]
        stored.update(zip(keys, times, strict=True))
        dropped = times[: max(0, len(times) - RECENT)]
        checkpoint = checkpoint.after(header(number, max(times), len(times)), keys, max(dropped, default=None))
    assert len(checkpoint.recent.keys) <= RECENT
    forgotten = set(stored) - set(checkpoint.recent.keys)
    assert len(forgotten) == max(0, len(stored) - RECENT)
    assert not any(checkpoint.recent.remembers(stored[key], max(stored.values())) for key in forgotten)


@pytest.mark.parametrize("newest", [None, START])
@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(days=30_000), timedelta(days=-200)])
def test_of_events_that_are_dated_wrongly_none_is_vouched_for_once_it_is_forgotten(
    newest: datetime | None, wrong: timedelta
) -> None:
    checkpoint, stored = Checkpoint(newest=NewestEvent(newest)), START + wrong
    for number in range(1, 4):
        keys = [f"{number}-{place}" for place in range(700)]
        bound = newest_believed(START)
        told = replace(header(number, START, len(keys)), newest=stored if stored <= bound else None)
        checkpoint = checkpoint.after(told, keys, told.newest if number > 1 else None)
    assert "1-0" not in checkpoint.recent.keys
    assert not checkpoint.recent.remembers(stored, START)
    assert checkpoint.recent.remembers(START + timedelta(minutes=1), START)


@given(st.lists(MOMENTS, min_size=1, max_size=8))
def test_sequence_and_times_only_go_forward(times: list[datetime]) -> None:
    checkpoint = Checkpoint()
    for number, moment in enumerate(times, 1):
        moved = checkpoint.after(header(number, moment), [str(number)], None)
        assert moved.sequence == checkpoint.sequence + 1
        assert moved.as_of is not None
        assert checkpoint.as_of is None or moved.as_of >= checkpoint.as_of
        checkpoint = moved


def test_a_batch_read_by_the_side_leaves_the_cursor_alone() -> None:
    checkpoint = Checkpoint(cursor="live", as_of=START)
    aside = header(1, START + timedelta(days=1))
    moved = checkpoint.after(replace(aside, origin="reconcile"), ["k"], None)
    assert (moved.cursor, moved.as_of, moved.sequence) == ("live", START, 2)


@given(MOMENTS, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_no_request_looks_back_farther_than_the_api_allows(now: datetime, lookback: timedelta) -> None:
    assert now - oldest_request(now, lookback) == min(lookback, OLDEST_REQUEST) < HORIZON


@given(MOMENTS, MOMENTS)
def test_a_hole_is_claimed_only_beyond_the_horizon(as_of: datetime, served_at: datetime) -> None:
    lost = lost_interval(as_of, served_at)
    assert (lost is not None) == (served_at - as_of > HORIZON)
    if lost:
        assert lost == (as_of, served_at - HORIZON)


def test_a_new_stream_has_no_hole() -> None:
    assert lost_interval(None, START) is None


def test_the_same_trouble_keeps_its_beginning_and_counts() -> None:
    error = CredentialsError("refused")
    first = problem_after(None, error, START, timedelta(minutes=1))
    second = problem_after(first, error, START + timedelta(minutes=1), timedelta(minutes=2))
    assert (second.since, second.failures) == (START, 2)
    assert first.holds_back(START + timedelta(seconds=59))
    assert not first.holds_back(START + timedelta(seconds=60))


@example(timedelta(minutes=20), timedelta(0))
@given(st.timedeltas(timedelta(seconds=-40), timedelta(hours=2)), st.timedeltas(timedelta(0), timedelta(hours=1)))
def test_a_try_is_held_back_up_to_twice_the_longest_wait_and_no_longer(wait: timedelta, later: timedelta) -> None:
    """Sophos may ask for more than our own longest wait; what lies beyond twice of it is a clock that jumped."""
    problem = replace(problem_after(None, CredentialsError("refused"), START, wait), tried_at=None)
    assert problem.holds_back(START + later) == (timedelta(0) < wait - later <= 2 * SLOWEST)


@given(st.none() | MOMENTS, MOMENTS, st.none() | st.text(), st.integers(0, 9))
def test_a_page_without_news_moves_cursor_and_time(
    before: datetime | None, as_of: datetime, cursor: str | None, repeats: int
) -> None:
    idle = Checkpoint(cursor="a", as_of=before, counts=Counts(repeats=1)).idle(cursor, as_of, repeats)
    assert (idle.cursor, idle.counts.repeats) == (cursor, 1 + repeats)
    assert idle.as_of == max(as_of, before or as_of)


def test_a_clock_that_jumped_back_does_not_hold_a_stream_for_ever() -> None:
    problem = problem_after(None, CredentialsError("refused"), START, timedelta(minutes=15))
    assert not problem.holds_back(START - timedelta(days=1))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"layout":1}', b"\xff\xfe"])
def test_what_is_no_position_is_damaged(body: bytes) -> None:
    with pytest.raises(DamagedError):
        from_body(body)


@given(st.lists(st.integers(1, 7200), min_size=60, max_size=120), st.integers(0, 10**6))
def test_only_a_stream_that_usually_speaks_is_silent_and_only_after_its_own_pace(steps: list[int], quiet: int) -> None:
    checkpoint, now = Checkpoint(), START
    for number, step in enumerate(steps, 1):
        now += timedelta(seconds=step)
        checkpoint = checkpoint.after(header(number, now), [f"{number:024x}"], None)
    since = checkpoint.silent_since(now + timedelta(seconds=quiet))
    assert since in (None, now)
    if quiet <= 3600 or quiet <= 20 * min(steps):
        assert since is None
    if quiet > 3600 and quiet > 20 * max(steps):
        assert since == now
    seldom = Checkpoint(newest=NewestEvent(now, 1.0), counts=Counts(events=9))
    assert seldom.silent_since(now + timedelta(days=1)) is None
