"""What a page of events tells of times, by Sophos's clock."""

from __future__ import annotations

from base64 import b64decode
from contextlib import suppress
from datetime import datetime, timedelta

from lib.model.checkpoint import HORIZON
from lib.model.clock import from_text
from lib.model.page import Page


def times_told(page: Page) -> list[datetime]:
    """Sophos's time of the answer as the answer tells it: in its Date header, and in a last page's cursor.

    The cursor's form (`V2_CURSOR|time` in base64) is not documented; what cannot be read so is no hint.
    """
    told = [page.served_at] if page.served_at else []
    if not page.has_more:
        with suppress(ValueError):
            told.append(from_text(b64decode(page.next_cursor, validate=True).decode("ascii").rpartition("|")[2]))
    return told


def read_up_to(
    page: Page, served_at: datetime, newest: datetime | None, as_of: datetime | None, settle: timedelta
) -> datetime:
    """Up to when all is read: a last page reaches the present, less `settle`, and another one its newest item.

    Where the items have no time, `as_of` stays: up to when all was read before the page.
    """
    settled = served_at - settle
    if not page.has_more:
        return settled
    return min(newest or as_of or settled - HORIZON, settled)
