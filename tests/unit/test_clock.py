"""Which times are believed, whatever another clock tells, and that none of them raises."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import CredentialsError
from lib.model.backoff import retry_after
from lib.model.checkpoint import HORIZON, SLOWEST, Checkpoint, NewestEvent, Recent, newest_believed, problem_after
from lib.model.clock import CLOSE, EARLIEST, FARTHEST, believed, from_http_date, from_text

HERE = datetime(2026, 3, 10, 12, tzinfo=UTC)
FUTURE = datetime(2099, 1, 1, tzinfo=UTC)
ANY = st.datetimes(timezones=st.just(UTC))
NEAR = st.timedeltas(timedelta(minutes=-30), timedelta(minutes=30)).map(lambda by: HERE + by)


@pytest.mark.parametrize(
    "text",
    [
        "Tue, 10 Mar 2026 12:00:00 GMT",
        "Tue, 10 Mar 2026 12:00:00 -0000",
        "Tue, 10 Mar 2026 12:00:00",
        "Tue Mar 10 12:00:00 2026",
        "Tuesday, 10-Mar-26 12:00:00 GMT",
        "Tue, 10 Mar 2026 14:00:00 +0200",
    ],
)
def test_a_date_is_utc_in_each_form(text: str) -> None:
    assert from_http_date(text) == HERE


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "yesterday",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 2026 00:00:00 +99999999",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 99 Jan 2026 99:99:99 GMT",
    ],
)
def test_a_date_beyond_every_calendar_is_none(text: str | None) -> None:
    assert from_http_date(text) is None
    assert retry_after(text, HERE) is None


@given(st.text())
def test_no_header_raises(text: str) -> None:
    assert from_http_date(text) is None or from_http_date(text).tzinfo is UTC  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-03-10T00:00:00"])
def test_a_text_without_a_time_in_utc_is_refused_as_any_other(text: str) -> None:
    with pytest.raises(ValueError, match="a time"):
        from_text(text)


@given(st.lists(ANY, max_size=3), ANY.filter(lambda each: each.year < 9990), st.none() | ANY)
def test_what_is_believed_was_told_and_is_not_beyond_the_bound(
    told: list[datetime], here: datetime, before: datetime | None
) -> None:
    found = believed(told, here, before)
    if found is not None:
        assert found in told
        assert found >= EARLIEST
        assert found - here <= FARTHEST or (
            before is not None and before - here > FARTHEST and found - before <= HORIZON
        )


@given(NEAR, ANY, st.none() | ANY)
def test_one_time_that_agrees_with_this_machines_outdoes_any_other(
    right: datetime, wrong: datetime, before: datetime | None
) -> None:
    found = believed([right, wrong], HERE, before)
    assert found is not None
    assert abs(found - HERE) <= CLOSE


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=200), timedelta(days=-2), timedelta(days=-30)])
def test_a_machine_whose_clock_is_wrong_believes_sophos(ahead: timedelta) -> None:
    before = HERE - timedelta(minutes=1)
    assert believed([HERE], HERE + ahead, before) == HERE


def test_a_machine_that_falls_far_behind_goes_on_with_sophos_and_no_clock_that_runs_ahead_is_followed() -> None:
    before = HERE - timedelta(minutes=1)
    assert believed([HERE], HERE - timedelta(days=10), before) == HERE
    for _ in range(20):
        before = believed([before + timedelta(hours=23)], HERE, before) or before
    assert before <= HERE + FARTHEST


def test_nothing_is_believed_of_an_answer_that_tells_2099_alone() -> None:
    assert believed([FUTURE], HERE, None) is None
    assert believed([FUTURE], HERE, HERE - timedelta(minutes=1)) is None


@given(
    st.builds(
        Checkpoint,
        as_of=st.none() | ANY,
        newest=st.builds(NewestEvent, st.none() | ANY),
        recent=st.builds(Recent, since=st.none() | ANY),
        day=st.just("") | ANY.map(lambda each: f"{each:%Y-%m-%d}"),
    ),
    NEAR,
)
def test_no_position_lies_in_the_future_once_it_is_brought_back(checkpoint: Checkpoint, served_at: datetime) -> None:
    right = checkpoint.brought_back(served_at, HERE)
    assert right.as_of is None or right.as_of <= served_at + CLOSE
    assert right.day <= f"{served_at + CLOSE:%Y-%m-%d}"
    assert right.newest.at is None or right.newest.at <= newest_believed(served_at)
    assert right.recent.since is None or right.recent.since <= newest_believed(served_at)
    assert right.brought_back(served_at, HERE) == right
    if checkpoint.as_of is not None and checkpoint.as_of <= served_at:
        assert right.as_of == checkpoint.as_of


def test_a_position_is_not_brought_back_by_a_machine_that_is_two_days_behind() -> None:
    checkpoint = Checkpoint(as_of=HERE, newest=NewestEvent(HERE), day="2026-03-10")
    assert checkpoint.brought_back(HERE, HERE - timedelta(days=2)) == checkpoint


@pytest.mark.parametrize("back", [timedelta(seconds=180), timedelta(days=2), timedelta(days=200)])
def test_refused_credentials_are_tried_again_when_the_clock_was_set_back(back: timedelta) -> None:
    problem = problem_after(None, CredentialsError("refused"), HERE, SLOWEST)
    assert problem.holds_back(HERE)
    assert problem.holds_back(HERE + SLOWEST - timedelta(seconds=1))
    assert not problem.holds_back(HERE - back)
