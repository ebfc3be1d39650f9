"""The times in a page of events, by Sophos's clock."""

from __future__ import annotations

from base64 import b64decode
from contextlib import suppress
from datetime import datetime, timedelta

from lib.model.checkpoint import HORIZON
from lib.model.clock import from_text
from lib.model.page import Page


def answer_times(page: Page) -> list[datetime]:
    """Sophos's times of the answer: that of its Date header, and that in a last page's cursor.

    The cursor's form (`V2_CURSOR|time` in base64) is not documented. A cursor of another form gives no time.
    """
    times = [page.served_at] if page.served_at else []
    if not page.has_more:
        with suppress(ValueError):
            times.append(from_text(b64decode(page.next_cursor, validate=True).decode("ascii").rpartition("|")[2]))
    return times


def read_up_to(
    page: Page, served_at: datetime, newest: datetime | None, as_of: datetime | None, settle: timedelta
) -> datetime:
    """The time up to which everything is read, with this page.

    A last page reaches the present less `settle`. Any other page reaches its newest item. If its items have no time,
    `as_of` (the value before the page) stays.
    """
    settled = served_at - settle
    if not page.has_more:
        return settled
    return min(newest or as_of or settled - HORIZON, settled)
