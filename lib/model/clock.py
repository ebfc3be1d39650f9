"""Times as text (RFC 3339, UTC, microseconds, `Z`), and which of the times that another clock tells are believed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

FARTHEST = timedelta(days=7)
"""How far ahead of this machine's clock another clock is believed; what it tells beyond that is a fault of it."""
CLOSE = timedelta(hours=1)
"""Two clocks that differ by less tell the same time."""
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""The API is younger: no answer was given before."""


def to_text(moment: datetime) -> str:
    """The moment as `2026-03-10T01:02:03.456000Z`: fixed width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """The moment that `to_text` (or any RFC 3339 writer with a zone) wrote; ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time without zone: {text!r}")
    return _utc(moment)


def from_http_date(text: str | None) -> datetime | None:
    """The moment that a `Date` or `Retry-After` header names, in any form of RFC 9110; None where it names none.

    Every such form is UTC, also asctime's, which says so nowhere, and `-0000`.
    """
    try:
        moment = parsedate_to_datetime(text or "")
        return _utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, TypeError, OverflowError):
        return None


def believed(told: Iterable[datetime], here: datetime, before: datetime | None) -> datetime | None:
    """Sophos's time of an answer: the latest that is believed of the times that the answer tells; None where none is.

    `here` is this machine's time, `before` Sophos's time up to which all was read before. Nothing that lies farther
    ahead of this machine's clock than FARTHEST is believed, unless `before` does as well and agrees: then it is this
    machine's clock that is behind. Where the times differ, one that agrees with this machine's clock outdoes one that
    agrees with `before`, and this one any other.
    """
    limit = here + FARTHEST
    is_behind = before is not None and before > limit
    found = [each for each in told if each >= EARLIEST and (each <= limit or (is_behind and _follows(each, before)))]
    close = [each for each in found if abs(each - here) <= CLOSE] or [each for each in found if _follows(each, before)]
    return max(close or found, default=None)


def _follows(moment: datetime, before: datetime | None) -> bool:
    return before is not None and -CLOSE <= moment - before <= timedelta(days=1)


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"a time that has no UTC: {moment}") from None


def text_or_none(moment: datetime | None) -> str | None:
    """`to_text`, for a moment that may be missing."""
    return None if moment is None else to_text(moment)


def day_of(moment: datetime) -> str:
    """The ledger's day of the moment."""
    return moment.strftime("%Y-%m-%d")


def day_before(moment: datetime) -> str:
    """The ledger's day a day earlier."""
    return day_of(moment - timedelta(days=1))
