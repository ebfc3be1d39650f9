"""`raw` is exactly what Sophos sent, however oddly that is written."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import ProtocolError
from lib.sophos import pages
from lib.sophos.http import TooLargeError

SAMPLES = Path(__file__).resolve().parents[1] / "data"
SPACE = st.text(" \t\r\n", max_size=4).map(str.encode)
TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ['{"a": [1, 2}', '"}],{"', "\\", "\\u007b", "𝄞"]
)
NUMBERS = st.from_regex(rb"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
ESCAPES = st.sampled_from([rb'"\ud834\udd1e"', rb'"\ud800"', rb'"\/\b\f\n\r\t\\"', rb'"\u0000"', rb'"\"}"'])


def written(value: Any) -> st.SearchStrategy[bytes]:
    """JSON texts of one value, with white space between tokens and some characters as escapes."""
    return st.booleans().map(lambda ascii_: json.dumps(value, ensure_ascii=ascii_).encode())


STRINGS = TEXT.flatmap(written) | ESCAPES
SCALARS = STRINGS | NUMBERS | st.sampled_from([b"true", b"false", b"null"])


def joined(parts: list[bytes], spaces: bytes) -> bytes:
    return (spaces + b"," + spaces).join(parts)


def containers(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    members = st.tuples(STRINGS, SPACE, inner).map(lambda each: each[0] + each[1] + b":" + each[1] + each[2])
    objects = st.tuples(st.lists(members, max_size=4), SPACE).map(
        lambda each: b"{" + each[1] + joined(*each) + each[1] + b"}"
    )
    arrays = st.tuples(st.lists(inner, max_size=4), SPACE).map(
        lambda each: b"[" + each[1] + joined(*each) + each[1] + b"]"
    )
    return objects | arrays


VALUES = st.recursive(SCALARS, containers, max_leaves=12)


@given(st.lists(VALUES, max_size=6), SPACE, st.permutations(["items", "has_more", "next_cursor"]), st.booleans())
def test_items_are_the_bytes_between_the_commas(
    items: list[bytes], space: bytes, order: list[str], has_more: bool
) -> None:
    values = {
        "items": b"[" + space + joined(items, space) + space + b"]",
        "has_more": b"true" if has_more else b"false",
        "next_cursor": b'"c2"',
    }
    members = [b'"%s"%s:%s%s' % (name.encode(), space, space, values[name]) for name in order]
    page = pages.split(space + b"{" + joined(members, space) + b"}" + space, None)
    assert (list(page.items), page.has_more, page.next_cursor) == (items, has_more, "c2")


@pytest.mark.parametrize("name", ["sample-events.jsonl", "sample-alerts.jsonl"])
def test_samples_go_through_unchanged(name: str) -> None:
    lines = (SAMPLES / name).read_bytes().splitlines()
    page = pages.split(b'{"has_more":false,"next_cursor":"c","items":[' + b", ".join(lines) + b"]}", None)
    assert list(page.items) == lines
    for line in lines:
        fields, read = json.loads(line), pages.event_fields(line)
        assert (read.id, read.type) == (fields["id"], fields["type"])
        assert read.created_at == datetime.fromisoformat(fields["created_at"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'{"items": []}',
        b'{"items": [{}], "has_more": false, "next_cursor": null}',
        b'{"items": [], "has_more": false, "next_cursor": ""}',
        b'{"items": [], "pages": {"nextKey": "k"}}',
        b'{"items": {}, "has_more": false, "next_cursor": "c"}',
        b'{"has_more": false, "next_cursor": "c", "items": [{"id": "1"}, {"id": ',
        b'{"has_more": false, "next_cursor": "c", "items": [{"id": "1"}]',
        b'{"has_more": false, "next_cursor": "c", "items": [}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_page_is_refused_whole(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        pages.split(body, None)


CONSTANTS = [b"NaN", b"Infinity", b"-Infinity"]


@pytest.mark.parametrize("constant", CONSTANTS)
def test_an_event_that_is_no_json_keeps_no_other_from_being_read(constant: bytes) -> None:
    items = [b'{"id": "1"}', b'{"id": "2", "deep": [{"x": %s }]}' % constant, constant, b'{"id": "NaN"}']
    page = pages.split(b'{"has_more": true, "items": [' + b" , ".join(items) + b'], "next_cursor": "c"}', None)
    assert (list(page.items), page.has_more, page.next_cursor) == (items, True, "c")
    assert [pages.event_fields(item).is_object for item in page.items] == [True, False, False, True]
    with pytest.raises(ProtocolError):
        pages.split(b'{"has_more": %s, "items": [], "next_cursor": "c"}' % constant, None)


def test_a_byte_order_mark_is_no_part_of_a_page() -> None:
    body = b'\xef\xbb\xbf{"has_more": false, "items": [{"id": "1"}], "next_cursor": "c", "pages": {}}'
    assert pages.split(body, None).items == (b'{"id": "1"}',)
    assert pages.split_devices(body, None).items == (b'{"id": "1"}',)


@given(st.data())
def test_a_cut_page_is_never_taken_for_a_whole_one(data: st.DataObject) -> None:
    items = (SAMPLES / "sample-events.jsonl").read_bytes().splitlines()[:3]
    body = b'{"has_more": false, "next_cursor": "c", "items": [' + b",".join(items) + b"]}"
    end = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ProtocolError):
        pages.split(body[:end], None)


@pytest.mark.parametrize(
    ("raw", "event_fields"),
    [
        (b"{}", pages.Fields()),
        (b"[]", pages.NO_OBJECT),
        (b'"text"', pages.NO_OBJECT),
        (b'{"id": 7, "created_at": 1, "type": null}', pages.Fields()),
        (b'{"id": ""}', pages.Fields()),
        (b'{"customer_id": "", "is_object": false}', pages.Fields()),
        (b'{"id": "a", "id": "b"}', pages.Fields(id="b")),
        (b'{"id": "a", "name": "\\ud800"}', pages.Fields(id="a")),
        (b'{"id": "\\ud800"}', pages.Fields(id="\ud800")),
        (b'{"id": "a", "name": "\xff"}', pages.Fields(id="a")),
        (b'{"created_at": "yesterday"}', pages.Fields()),
        (
            b'{"created_at": "2026-03-10T01:02:03Z"}',
            pages.Fields(created_at=datetime(2026, 3, 10, 1, 2, 3, tzinfo=UTC)),
        ),
        (
            b'{"created_at": "2026-03-10T02:02:03.5+01:00"}',
            pages.Fields(created_at=datetime(2026, 3, 10, 1, 2, 3, 500_000, UTC)),
        ),
    ],
)
def test_odd_fields_count_as_missing(raw: bytes, event_fields: pages.Fields) -> None:
    assert pages.event_fields(raw) == event_fields
    assert pages.event_fields(raw).is_object == event_fields.is_object


TIMES = st.from_regex(
    r"(0001|2026|9999)-(03|12)-(01|31)[Tt ](00|23|24):(00|59):(00|59|60)(\.[0-9]{1,9})?([Zz]|[+-](00|14):(00|30))?",
    fullmatch=True,
)


@given(st.none() | st.integers() | st.text(max_size=8) | TIMES | st.datetimes().map(datetime.isoformat), st.text())
def test_a_field_is_read_alike_by_the_fast_reader_and_by_the_one_for_odd_events(value: object, native_id: str) -> None:
    fast = json.dumps({"id": native_id, "created_at": value, "type": value}).encode()
    odd = fast[:-1] + b', "name": "\\ud800"}'  # which msgspec does not read
    assert pages.event_fields(fast) == pages.event_fields(odd)


@pytest.mark.parametrize("depth", [499, 501, 1_000, 200_000])
def test_an_event_nested_deep_keeps_no_other_from_being_read(depth: int) -> None:
    deep = b'{"id": "2", "x": %s1%s}' % (b'[{"y":' * (depth // 2), b"}]" * (depth // 2))
    items = [b'{"id": "1"}', deep, b'{"id": "3"}']
    page = pages.split(b'{"items": [' + b", ".join(items) + b'], "has_more": true, "next_cursor": "c"}', None)
    assert (list(page.items), page.has_more, page.next_cursor) == (items, True, "c")
    assert [pages.event_fields(item).is_object for item in page.items] == [True, depth < pages.MAX_DEPTH, True]


def test_a_deep_page_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ProtocolError):
        pages.split(b'{"has_more": false, "next_cursor": "c", "items": [' + b"[" * 5000 + b"]" * 4999 + b"]}", None)


def test_brackets_and_commas_in_strings_are_text() -> None:
    odd = b'{"x": %s, "name": "]}\\\\\\"[{,"}' % (b"[" * 2000 + b"]" * 2000)
    page = pages.split(b'{"has_more": false, "next_cursor": "c", "items": [%s, {"id": "1"}]}' % odd, None)
    assert page.items == (odd, b'{"id": "1"}')


@pytest.mark.parametrize("item", [b"{}", b"1", b'{"a": 1, "b": [1, 2]}'])
def test_a_page_of_too_many_items_is_refused_before_they_are_made(item: bytes) -> None:
    body = b'{"has_more": false, "next_cursor": "c", "pages": {}, "items": [%s]}'
    assert len(pages.split(body % b",".join([item] * 10_000), None).items) == 10_000
    for count in (10_001, 300_000):
        for split in (pages.split, pages.split_devices):
            with pytest.raises(TooLargeError, match="more than 10000 items"):
                split(body % b",".join([item] * count), None)


def test_a_large_page_of_few_items_is_read() -> None:
    item = b'{"id": "1", "x": [%s]}' % b",".join([b"{}"] * 300_000)
    assert pages.split(b'{"has_more": false, "next_cursor": "c", "items": [%s]}' % item, None).items == (item,)
