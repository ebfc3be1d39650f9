"""Up to when all is read, by Sophos's clock."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lib.model.checkpoint import HORIZON
from lib.model.page import Page
from lib.model.served import answer_times, read_up_to

MOMENTS = st.timedeltas(timedelta(0), timedelta(days=365)).map(lambda after: datetime(2026, 1, 1, tzinfo=UTC) + after)
SETTLES = st.timedeltas(timedelta(0), timedelta(hours=2))


def page(*, has_more: bool, cursor: str = "c", served_at: datetime | None = None) -> Page:
    return Page((), cursor, has_more=has_more, served_at=served_at)


@given(
    served_at=MOMENTS,
    newest=MOMENTS | st.none(),
    as_of=MOMENTS | st.none(),
    settle=SETTLES,
    has_more=st.booleans(),
)
def test_nothing_is_read_up_to_a_time_that_is_not_settled(
    served_at: datetime, newest: datetime | None, as_of: datetime | None, settle: timedelta, *, has_more: bool
) -> None:
    assert read_up_to(page(has_more=has_more), served_at, newest, as_of, settle) <= served_at - settle


@given(MOMENTS, MOMENTS | st.none(), MOMENTS | st.none(), SETTLES)
def test_a_last_page_reaches_the_present(
    served_at: datetime, newest: datetime | None, as_of: datetime | None, settle: timedelta
) -> None:
    assert read_up_to(page(has_more=False), served_at, newest, as_of, settle) == served_at - settle


@given(MOMENTS, MOMENTS, MOMENTS | st.none(), SETTLES)
def test_another_page_reaches_its_newest_item_and_without_times_stays(
    served_at: datetime, newest: datetime, as_of: datetime | None, settle: timedelta
) -> None:
    more = page(has_more=True)
    assert read_up_to(more, served_at, newest, as_of, settle) in (newest, served_at - settle)
    assert read_up_to(more, served_at, None, None, settle) == served_at - settle - HORIZON
    if as_of is not None and as_of <= served_at - settle:
        assert read_up_to(more, served_at, None, as_of, settle) == as_of


@given(served_at=MOMENTS | st.none(), moment=MOMENTS, has_more=st.booleans())
def test_a_last_pages_cursor_tells_its_time(served_at: datetime | None, moment: datetime, *, has_more: bool) -> None:
    cursor = b64encode(f"V2_CURSOR|{moment.isoformat()}".encode()).decode()
    told = answer_times(page(has_more=has_more, cursor=cursor, served_at=served_at))
    assert told == [*([served_at] if served_at else []), *([] if has_more else [moment])]


@given(st.text(), MOMENTS)
def test_a_cursor_of_any_form_is_no_error(cursor: str, served_at: datetime) -> None:
    assert answer_times(page(has_more=False, cursor=cursor, served_at=served_at))[0] == served_at
