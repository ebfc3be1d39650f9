"""Bodies of answers: plain or packed, cut anywhere, and never more in memory than they may have."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import DecodeError

from lib.errors import SophosDownError
from lib.sophos.bodies import Body, TooLongError
from lib.sophos.http import MAX_BODY_BYTES, TooLargeError
from tests.contract.test_central import client

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "br": bytes,  # Which nobody asks for: taken as it comes.
    "gzip": gzip.compress,
    " GZIP": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}
PACKED = ("gzip", "deflate")


def in_parts(body: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return (body[start:end] for start, end in pairwise(places))


def unpacked(encoding: str, parts: Iterator[bytes], most: int) -> bytes:
    body = Body(encoding, most)
    for part in parts:
        body.add(part)
    return body.whole()


@given(st.sampled_from(sorted(PACKERS)), st.binary(max_size=500), st.integers(1, 5), st.lists(st.integers(0, 9999)))
def test_a_body_is_what_was_sent_however_it_is_packed_and_cut(
    encoding: str, content: bytes, times: int, cuts: list[int]
) -> None:
    content *= times
    packed = PACKERS[encoding](content)
    assert unpacked(encoding, in_parts(packed, cuts), len(content)) == content
    if content:
        with pytest.raises(TooLongError):
            unpacked(encoding, in_parts(packed, cuts), len(content) - 1)


@given(st.binary(max_size=50), st.binary(max_size=50), st.lists(st.integers(0, 999)))
def test_gzip_may_consist_of_several_parts(one: bytes, other: bytes, cuts: list[int]) -> None:
    packed = gzip.compress(one) + gzip.compress(other)
    assert unpacked("gzip", in_parts(packed, cuts), 100) == one + other


@given(st.sampled_from(PACKED), st.binary(min_size=1, max_size=200), st.data())
def test_a_packed_body_that_is_cut_off_is_not_whole(encoding: str, content: bytes, data: st.DataObject) -> None:
    packed = PACKERS[encoding](content)
    end = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(DecodeError):
        unpacked(encoding, iter([packed[:end]]), len(content))


def test_an_error_without_a_body_may_name_an_encoding() -> None:
    assert Body("gzip", 10).whole() == b""


@pytest.mark.parametrize("encoding", PACKED)
def test_a_body_that_grows_a_thousandfold_never_takes_more_than_it_may(encoding: str) -> None:
    most, bomb = 1 << 20, PACKERS[encoding](bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLongError):
            unpacked(encoding, iter([bomb]), most)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * most


@pytest.fixture
def packed() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A Sophos whose pages are packed; what a page is, and the `Accept-Encoding` that it met."""
    told: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(json.dumps({"access_token": "t", "expires_in": 3600}).encode())

        def do_GET(self) -> None:
            told["accepts"] = self.headers["Accept-Encoding"].encode()
            self._answer(told["page"], "gzip")

        def _answer(self, body: bytes, encoding: str = "identity") -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    thread.join()
    server.server_close()


PAGE = b'{"has_more": false, "next_cursor": "c", "items": [{"id": "1"}]}'


def test_a_packed_page_is_read(packed: tuple[str, dict[str, bytes]]) -> None:
    url, told = packed
    told["page"] = gzip.compress(PAGE)
    page = client(url).page(url, "t", "events", cursor=None, from_date=None)
    assert (page.items, page.next_cursor) == ((b'{"id": "1"}',), "c")
    assert told["accepts"] == b"gzip"


def test_a_packed_page_that_is_cut_off_or_damaged_is_refused(packed: tuple[str, dict[str, bytes]]) -> None:
    url, told = packed
    whole = gzip.compress(PAGE)
    for page in (whole[:-9], whole[:20] + b"\xff" * 20, b"plain"):
        told["page"] = page
        with pytest.raises(SophosDownError, match="cut off"):
            client(url).page(url, "t", "events", cursor=None, from_date=None)


def test_a_page_that_unpacks_to_more_than_any_may_have_is_refused(packed: tuple[str, dict[str, bytes]]) -> None:
    url, told = packed
    told["page"] = gzip.compress(b" " * (4 * MAX_BODY_BYTES))
    with pytest.raises(TooLargeError, match="192 MiB"):
        client(url).page(url, "t", "events", cursor=None, from_date=None)
