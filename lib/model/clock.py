"""Times as text: RFC 3339, UTC, microseconds, `Z`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def to_text(moment: datetime) -> str:
    """The moment as `2026-03-10T01:02:03.456000Z`: fixed width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """The moment that `to_text` (or any RFC 3339 writer with a zone) wrote; ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time without zone: {text!r}")
    return moment.astimezone(UTC)


def text_or_none(moment: datetime | None) -> str | None:
    """`to_text`, for a moment that may be missing."""
    return None if moment is None else to_text(moment)


def moment_or_none(text: str | None) -> datetime | None:
    """`from_text`, for a text that may be missing."""
    return None if text is None else from_text(text)


def day_of(moment: datetime) -> str:
    """The ledger's day of the moment."""
    return moment.strftime("%Y-%m-%d")


def day_before(moment: datetime) -> str:
    """The ledger's day a day earlier."""
    return day_of(moment - timedelta(days=1))
