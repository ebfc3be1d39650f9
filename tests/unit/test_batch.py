"""A batch gives back exactly what it was made from, or says that it is damaged."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import DamagedError, LayoutError
from lib.model.batch import Cursors, Envelope, Header
from lib.model.stream import Stream
from lib.state.batches import HEADER, from_body, from_line, to_body, to_line

MOMENTS = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy wants naive bounds
NAMES = st.text(min_size=1, max_size=40)
ITEMS = (
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda inner: b'{"a":\n"' + inner + b'"}')
    | st.just(b'{"id":"1"}')
)


def headers() -> st.SearchStrategy[Header]:
    return st.builds(
        Header,
        stream=st.builds(Stream, NAMES, NAMES, st.sampled_from(["events", "alerts"])),
        envelope=st.builds(Envelope, NAMES, NAMES, NAMES),
        sequence=st.integers(1, 10**15),
        cursors=st.builds(Cursors, st.none() | st.text(max_size=60), st.text(max_size=60), st.booleans()),
        fetched_at=MOMENTS,
        as_of=MOMENTS,
        day=st.just("2026-11-24"),
        newest=st.none() | MOMENTS,
        count=st.just(0),
        repeats=st.integers(0, 1000),
    )


@given(headers(), st.lists(ITEMS, max_size=8))
def test_a_batch_gives_back_header_and_the_exact_bytes_of_each_item(header: Header, items: list[bytes]) -> None:
    written, body = to_body(header, items)
    assert from_body(body) == (written, items)
    assert written.count == len(items)


@given(headers(), st.lists(ITEMS, max_size=5))
def test_the_same_page_makes_the_same_batch(header: Header, items: list[bytes]) -> None:
    assert to_body(header, items) == to_body(header, items)


@given(ITEMS)
def test_an_item_is_one_line(item: bytes) -> None:
    line = to_line(item)
    assert b"\n" not in line
    assert from_line(line) == item


@given(headers(), st.lists(ITEMS | st.sampled_from([b"", b"\n{", b"{\n{", b"{}"]), max_size=5))
def test_a_batch_holds_each_item_as_its_line(header: Header, items: list[bytes]) -> None:
    _, body = to_body(header, items)
    assert body.split(b"\n")[1:] == [*map(to_line, items), b""]


@given(headers(), st.lists(ITEMS, min_size=1, max_size=4), st.data())
def test_a_changed_byte_below_the_header_is_noticed(header: Header, items: list[bytes], data: st.DataObject) -> None:
    _, body = to_body(header, items)
    start = body.index(b"\n") + 1
    place = data.draw(st.integers(start, len(body) - 1))
    changed = bytearray(body)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError):
        from_body(bytes(changed))


@given(headers(), st.lists(ITEMS, min_size=1, max_size=4), st.data())
def test_a_cut_batch_is_noticed(header: Header, items: list[bytes], data: st.DataObject) -> None:
    _, body = to_body(header, items)
    with pytest.raises(DamagedError):
        from_body(body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize("line", [b"", b"null", b"[]", b"7", b"{}", b'{"layout":1}', b'{"layout":"1"}', b"\xff"])
def test_what_is_no_header_is_damaged(line: bytes) -> None:
    with pytest.raises(DamagedError):
        HEADER.decode(line)


def test_a_newer_layout_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match="layout 2"):
        HEADER.decode(b'{"layout":2}')
