"""Pages of the SIEM API, cut into items without touching a byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

from lib.errors import ProtocolError
from lib.model.event import Facts
from lib.model.page import Page


class _Page(msgspec.Struct, gc=False):
    """The answer's three keys (https://developer.sophos.com/docs/siem-v1)."""

    has_more: bool
    next_cursor: str
    items: list[msgspec.Raw]


class _Facts(msgspec.Struct, gc=False):
    id: object = None
    created_at: object = None
    type: object = None


_pages = msgspec.json.Decoder(_Page)
_facts = msgspec.json.Decoder(_Facts)


def split(body: bytes, served_at: datetime | None) -> Page:
    """The page; each item as the exact bytes between its commas, without the white space around it."""
    try:
        page = _pages.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, msgspec.ValidationError) else "not JSON, or cut off"
        raise ProtocolError(f"the answer is no page of the SIEM API: {reason}") from None
    if not page.next_cursor:
        raise ProtocolError("the answer is no page of the SIEM API: its next_cursor is empty")
    # A copy of each: a view would keep the whole page in memory.
    return Page(tuple([bytes(item) for item in page.items]), page.next_cursor, page.has_more, served_at)


def facts(raw: bytes) -> Facts:
    """What is read of an item; a field of an unexpected type counts as missing."""
    if raw[:1] != b"{":
        return Facts(is_object=False)
    try:
        read = _facts.decode(raw)
        return _made(read.id, read.created_at, read.type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _facts_of_odd(raw)


def _facts_of_odd(raw: bytes) -> Facts:
    """The standard library takes what msgspec does not: lone surrogates in escapes, bytes that are not UTF-8."""
    try:
        fields = json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return Facts()
    return _made(fields.get("id"), fields.get("created_at"), fields.get("type"))


def _made(native_id: object, created_at: object, kind: object) -> Facts:
    return Facts(
        id=native_id if isinstance(native_id, str) and native_id else None,
        created_at=_moment(created_at),
        type=kind if isinstance(kind, str) else None,
    )


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
