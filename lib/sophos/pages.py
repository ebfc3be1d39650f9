"""Splits pages of the SIEM API and of the endpoint API into items, and keeps each item's exact bytes."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from lib.errors import ProtocolError
from lib.model.event_fields import EventFields
from lib.model.page import DevicePage, Page
from lib.sophos.http import TooLargeError

T = TypeVar("T")

MAX_ITEMS = 10_000
"""The limit of items in a page. Sophos documents at most 1,000. An item takes far more memory than its bytes."""
SHORT_BODY_BYTES = 2 << 20
"""Such a body has room for a million items. The decoder makes them in less memory than the largest body takes."""
MAX_DEPTH = 500
"""The limit of an event's nesting. Common JSON parsers read this depth without reaching their recursion limit."""


class _PageFields(msgspec.Struct, gc=False):
    """The answer's three keys (https://developer.sophos.com/docs/siem-v1)."""

    has_more: bool
    next_cursor: str
    items: list[msgspec.Raw]


class _Keys(msgspec.Struct, gc=False):
    nextKey: object = None  # noqa: N815 - Sophos's name
    maxSize: object = None  # noqa: N815


class _DevicePageFields(msgspec.Struct, gc=False):
    """The endpoint API's answer (https://developer.sophos.com/docs/endpoint-v1)."""

    items: list[msgspec.Raw]
    pages: _Keys


_Named = Annotated[str, msgspec.Meta(min_length=1)]


class Fields(msgspec.Struct, gc=False):
    """EventFields with their usual types. Items with other types are read by the standard library.

    One is made for every event at each step: by msgspec alone, and without work for the garbage collector.
    """

    id: _Named | None = None
    created_at: datetime | None = None
    type: str | None = None
    customer_id: _Named | None = None
    is_object: ClassVar[bool] = True


class _NoObject(Fields):
    """The fields of an item that is not a JSON object, or is nested too deep."""

    is_object: ClassVar[bool] = False


_SPACE = " \t\r\n"
_MARKS = r'"(?:[^"\\]|\\.)*+"|[\[\]{},]'
"""A string, or a character that begins, separates or ends arrays and objects."""
_marks = re.compile(_MARKS, re.DOTALL).finditer
_byte_marks = re.compile(_MARKS.encode(), re.DOTALL).finditer
_pages = msgspec.json.Decoder(_PageFields)
_device_pages = msgspec.json.Decoder(_DevicePageFields)
_fields = msgspec.json.Decoder(Fields)
NO_OBJECT = _NoObject()


def split(body: bytes, served_at: datetime | None) -> Page:
    """The page of a body. Each item is its exact bytes, without surrounding white space.

    Raises ProtocolError if the body is not a page, TooLargeError if it has too many items.
    """
    body = _bounded(body.removeprefix(BOM_UTF8))
    try:
        page = _pages.decode(body)
        # Each item is copied: a view would keep the whole body in memory.
        items, next_cursor, has_more = list(map(bytes, _few(page.items))), page.next_cursor, page.has_more
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the answer is not a page of the SIEM API: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items, fields = _split_odd(body, "the SIEM API")
        cursor, more = fields.get("next_cursor"), fields.get("has_more")
        if not isinstance(cursor, str) or not isinstance(more, bool):
            raise ProtocolError("the answer is not a page of the SIEM API: its keys are wrong") from None
        next_cursor, has_more = cursor, more
    if not next_cursor:
        raise ProtocolError("the answer is not a page of the SIEM API: its next_cursor is empty")
    return Page(tuple(items), next_cursor, has_more, served_at)


def split_devices(body: bytes, served_at: datetime | None) -> DevicePage:
    """The page of devices, each as its exact bytes. Without a next key it is the last page. Raises as `split` does."""
    body = _bounded(body.removeprefix(BOM_UTF8))
    try:
        page = _device_pages.decode(body)
        items = list(map(bytes, _few(page.items)))
        next_key, max_size = page.pages.nextKey, page.pages.maxSize
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the answer is not a page of the endpoint API: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items, fields = _split_odd(body, "the endpoint API")
        keys = fields.get("pages")
        if not isinstance(keys, dict):
            # Without `pages`, the last page cannot be told from the others.
            raise ProtocolError("the answer is not a page of the endpoint API: it has no `pages`") from None
        next_key, max_size = keys.get("nextKey"), keys.get("maxSize")
    return DevicePage(
        tuple(items),
        next_key if isinstance(next_key, str) and next_key else None,
        max_size if isinstance(max_size, int) else None,
        served_at,
    )


def _bounded(body: bytes) -> bytes:
    """The body; TooLargeError if it has too many items. They are counted before any item is created."""
    # A body with fewer commas is cheap; its items are counted later.
    if len(body) > SHORT_BODY_BYTES and body.count(b",") >= 20 * MAX_ITEMS:
        depth = items = 0
        for mark in _byte_marks(body):
            depth += (mark[0] in b"[{") - (mark[0] in b"]}")
            items += mark[0] == b"," and depth == 2
            if items >= MAX_ITEMS:
                raise _too_many()
    return body


def _few(items: list[T]) -> list[T]:
    if len(items) > MAX_ITEMS:
        raise _too_many()
    return items


def _too_many() -> TooLargeError:
    remedy = "Sophos sends at most 1,000 items in a page. Check for a proxy that rewrites answers."
    return TooLargeError(f"the answer has more than {MAX_ITEMS} items", remedy=remedy)


def _split_odd(body: bytes, api: str) -> tuple[list[bytes], dict[str, Any]]:
    """Items and other members of a page that msgspec refuses, read with the standard library's scanner.

    It is slower, but accepts lone surrogates, bytes that are not UTF-8, `NaN`, `Infinity` and any depth. So one such
    event does not make its whole page unreadable.
    """
    text = body.decode("utf-8", "surrogateescape")
    items: list[bytes] | None = None
    fields: dict[str, Any] = {}
    try:
        for name, start, end in _members(text):
            if name == "items":
                places = _few(list(_elements(text, start)))
                items = [text[at:to].encode("utf-8", "surrogateescape") for at, to in places]
            else:
                fields[name] = json.loads(text[start:end])
    except (ValueError, IndexError, RecursionError):
        raise ProtocolError(f"the answer is not a page of {api}: it is not JSON, or is cut off") from None
    if items is None:
        raise ProtocolError(f"the answer is not a page of {api}: it has no items")
    return items, fields


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each member of the object; the object must be the whole text."""
    at = _expect(text, 0, "{")
    while text[at] != "}":
        name, at = _scan(text, at)
        start = _expect(text, at, ":")
        end = _end(text, start) if text[start] in "[{" else _scan(text, start)[1]
        yield str(name), start, end
        at = _next(text, end, "}")
    if text[at + 1 :].strip(_SPACE):
        raise ValueError("something follows")


def _elements(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Start and end of each element of the array that begins there."""
    at = _expect(text, start, "[")
    while text[at] != "]":
        try:
            _, end = _scan(text, at)
        except RecursionError:
            end = _end(text, at)
        yield at, end
        at = _next(text, end, "]")


def _end(text: str, start: int) -> int:
    """The end of the array or object that begins at `start`, at any depth; IndexError if it does not end."""
    depth = 0
    for mark in _marks(text, start):
        depth += (mark[0] in "[{") - (mark[0] in "]}")
        if depth == 0:
            return mark.end()
    raise IndexError("cut off")


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, token: str) -> int:
    """The place of the token after the expected one; ValueError if another token is there."""
    at = _skip(text, at)
    if text[at] != token:
        raise ValueError(f"no {token}")
    return _skip(text, at + 1)


def _next(text: str, at: int, end: str) -> int:
    """The place of the next member or element, or of the end."""
    at = _skip(text, at)
    if text[at] == end:
        return at
    at = _expect(text, at, ",")
    if text[at] == end:
        raise ValueError("a comma before the end")
    return at


# Numbers stay text: Python refuses to convert very long ones.
_scan = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).raw_decode


def event_fields(raw: bytes) -> EventFields:
    """The fields of an item; a field of an unexpected type counts as missing. Raises nothing."""
    # Each opening bracket needs a closing one, so that a shorter item cannot be that deep.
    if raw[:1] != b"{" or (len(raw) > 2 * MAX_DEPTH and _is_deep(raw)):
        return NO_OBJECT
    try:
        read = _fields.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _fields_of_odd(raw)
    moment = read.created_at
    return read if moment is None or moment.tzinfo is UTC else _fields_of_odd(raw)


def _is_deep(raw: bytes) -> bool:
    """Whether the item is nested deeper than MAX_DEPTH."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for mark in _byte_marks(raw):
        depth += (mark[0] in b"[{") - (mark[0] in b"]}")
        if depth > MAX_DEPTH:
            return True
    return False


class _NoJsonError(Exception):
    """`NaN` or `Infinity`, which JSON does not have."""


def _no_constant(_: str) -> None:
    raise _NoJsonError


def _fields_of_odd(raw: bytes) -> EventFields:
    """The fields of an item that msgspec refuses: lone surrogates, bytes that are not UTF-8, other types.

    Times of other zones become UTC here.
    """
    try:
        fields = json.loads(raw.decode("utf-8", "surrogateescape"), parse_constant=_no_constant)
    except _NoJsonError:
        return NO_OBJECT
    except (ValueError, RecursionError):
        return Fields()
    return _made(*(fields.get(name) for name in ("id", "created_at", "type", "customer_id")))


def _made(native_id: object, created_at: object, kind: object, customer_id: object) -> Fields:
    return Fields(
        id=native_id if isinstance(native_id, str) and native_id else None,
        created_at=_moment(created_at),
        type=kind if isinstance(kind, str) else None,
        customer_id=customer_id if isinstance(customer_id, str) and customer_id else None,
    )


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = _time_of(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _time_of(text: str) -> datetime:
    """As it is read of an event that is not odd; forms that are not RFC 3339's by the standard library."""
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return datetime.fromisoformat(text)
