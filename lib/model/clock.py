"""Times as text (RFC 3339, UTC, microseconds, `Z`), and which times of another clock are accepted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

FARTHEST = timedelta(days=7)
"""How far ahead of this machine's clock another clock may be. A time beyond that is a fault of the other clock."""
CLOSE = timedelta(hours=1)
"""Two times that differ by at most this agree."""
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""The API is younger than this; an earlier time in an answer is wrong."""


def to_text(moment: datetime) -> str:
    """The time as `2026-03-10T01:02:03.456000Z`. The width is fixed, so text order is time order."""
    # Not `strftime`: its years before 1000 have fewer than four digits.
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The time of an RFC 3339 text with a zone, such as `to_text` writes; ValueError for any other text."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time without zone: {text!r}")
    return _utc(moment)


def from_http_date(text: str | None) -> datetime | None:
    """The time in a `Date` or `Retry-After` header, in any form of RFC 9110; None if the header holds no time.

    Every form of RFC 9110 is UTC, also asctime's form (which names no zone) and `-0000`.
    """
    try:
        moment = parsedate_to_datetime(text or "")
        return _utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, TypeError, OverflowError):
        return None


def believed(times: Iterable[datetime], here: datetime, before: datetime | None) -> datetime | None:
    """Sophos's time of an answer: the latest accepted time of those that the answer holds; None if none is accepted.

    `here` is this machine's time. `before` is Sophos's time up to which everything was read before. A time more than
    FARTHEST ahead of `here` is refused, unless `before` is as far ahead and agrees: then this machine's clock is
    behind. Times that agree with `here` are preferred, then those that agree with `before`, then the others.
    """
    limit = here + FARTHEST
    is_behind = before is not None and before > limit
    accepted = [
        time for time in times if time >= EARLIEST and (time <= limit or (is_behind and _follows(time, before)))
    ]
    close = [time for time in accepted if abs(time - here) <= CLOSE]
    close = close or [time for time in accepted if _follows(time, before)]
    return max(close or accepted, default=None)


def _follows(moment: datetime, before: datetime | None) -> bool:
    return before is not None and -CLOSE <= moment - before <= timedelta(days=1)


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"a time outside the range of UTC: {moment}") from None


def text_or_none(moment: datetime | None) -> str | None:
    """`to_text` for a time that may be missing."""
    return None if moment is None else to_text(moment)


def day_of(moment: datetime) -> str:
    """The ledger's day of a time, `yyyy-mm-dd`."""
    return moment.date().isoformat()


def day_before(moment: datetime) -> str:
    """The ledger's day before that of a time, `yyyy-mm-dd`."""
    return day_of(moment - timedelta(days=1))


def is_turn_of(day: str, turn: int, turns: int) -> bool:
    """Whether a look over each `turns`th day reads this day. Turns that follow each other read all days."""
    return (number_of(day) - turn) % turns == 0


def number_of(day: str) -> int:
    """A number that rises by one from day to day within a month; any digits have one."""
    year, month, in_month = map(int, day.split("-"))
    return (year * 12 + month) * 31 + in_month
