"""Answers that the real Sophos Central has not been seen to give, and that must do no harm."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lib.errors import ProxyDownError
from lib.model.families import FAMILIES, LONGEST, NEEDED
from lib.model.stream import Stream
from lib.sophos.reach import SophosNetworkPath
from tests.fakes.sophos import PAGE_PATH, TENANT, TOKEN_PATH, Sophos
from tests.site import SECRET, Site

EMPTY: dict[str, Any] = {"has_more": False, "items": []}


@pytest.fixture
def sophos() -> Iterator[Sophos]:
    with Sophos() as server:
        yield server


@pytest.fixture
def own(sophos: Sophos) -> Iterator[Site]:
    with Site(sophos={"auth_url": sophos.url, "api_url": sophos.url}) as found:
        yield found


def everything(own: Site, capfd: pytest.CaptureFixture[str]) -> str:
    """All that the functions answer, log and store."""
    names = ("fetch-page", "test-connection")
    told = [own.post(name).body.decode() for name in names]
    for name in names:
        own.end(name)
    told += [file.read_text() for file in Path(own.folder, "store").rglob("*") if file.is_file()]
    return "".join([*told, *capfd.readouterr()])


def test_a_secret_that_the_token_host_echoes_is_repeated_nowhere(
    own: Site, sophos: Sophos, capfd: pytest.CaptureFixture[str]
) -> None:
    sophos.says[TOKEN_PATH] = lambda form, _: (401, {"errorCode": form["client_secret"], "error": "oauth.invalid"})
    told = everything(own, capfd)
    assert "credentials_refused" in told
    assert "(oauth.invalid)" in told
    assert SECRET not in told


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_a_token_that_an_api_echoes_is_repeated_nowhere(
    own: Site, sophos: Sophos, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    sophos.says[PAGE_PATH] = lambda _, token: (
        status,
        {"error": f"Bearer.{token}", "correlationId": token[:12], "requestId": "r-1"},
    )
    told = everything(own, capfd)
    assert str(status) in told
    assert ("(r-1)" in told) == (status in (403, 404))
    assert sophos.tokens
    assert not [token for token in sophos.tokens if token[:12] in told]


def test_an_event_with_nan_is_set_aside_alone_and_a_byte_order_mark_is_passed_over(own: Site, sophos: Sophos) -> None:
    page = b'{"has_more": false, "next_cursor": "c", "items": [{"id": "1"}, {"id": "2", "x": NaN}, {"id": "3"}]}'
    sophos.says[PAGE_PATH] = lambda *_: (200, b"\xef\xbb\xbf" + page)
    (line,) = own.results("fetch-page")
    assert (line["events"], "problem" in line) == (3, False)
    (line,) = own.results("forward-batch")
    assert (line["acked"], line["set_aside"]) == (2, 1)
    assert own.raws() == [b'{"id": "1"}', b'{"id": "3"}']
    (aside,) = [file.read_text() for file in Path(own.folder, "store", "dead").rglob("*") if file.is_file()]
    assert json.loads(aside)["raw"] == '{"id": "2", "x": NaN}'


def test_a_password_that_the_proxy_echoes_is_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            connection, _ = proxy.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 407 {SECRET}\r\n\r\n".encode())

        thread = threading.Thread(target=refuse)
        thread.start()
        way = SophosNetworkPath(
            "https://id.sophos.com", f"http://user:{SECRET}@127.0.0.1:{proxy.getsockname()[1]}", verify=True
        )
        with pytest.raises(ProxyDownError) as refused:
            way.secure()
        thread.join()
    assert "407" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_event_is_nested_too_deep(own: Site, sophos: Sophos) -> None:
    deep = b'{"id": "2", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    page = b'{"has_more": false, "next_cursor": "c", "items": [{"id": "1"}, %s, {"id": "3"}]}' % deep
    sophos.says[PAGE_PATH] = lambda *_: (200, page)
    (line,) = own.results("fetch-page")
    assert (line["events"], "problem" in line) == (3, False)
    (line,) = own.results("forward-batch")
    assert (line["acked"], line["set_aside"]) == (2, 1)
    assert own.raws() == [b'{"id": "1"}', b'{"id": "3"}']
    (aside,) = [file.read_text() for file in Path(own.folder, "store", "dead").rglob("*") if file.is_file()]
    assert json.loads(aside)["raw"] == deep.decode()
    assert own.command("audit")["ok"]


@pytest.mark.parametrize("cursor", ["x" * 100_000, "\\ud800"])
def test_a_cursor_cannot_be_sent_back(own: Site, sophos: Sophos, cursor: str) -> None:
    page = b'{"has_more": false, "next_cursor": "%s", "items": [{"id": "%s"}]}'

    def say(query: Mapping[str, str], _: str) -> tuple[int, bytes]:
        if "cursor" in query:
            return 200, page % (cursor.encode(), b"2")
        return 200, page % (b"good", b"1" if not own.state.checkpoints.read(stream).checkpoint.cursor else b"3")

    stream = Stream("acme", TENANT, "events")
    sophos.says[PAGE_PATH] = say
    own.results("fetch-page")
    (line,) = own.results("fetch-page")
    assert (line["outcome"], line["events"], "problem" in line) == ("fetched", 1, False)
    assert own.state.checkpoints.read(stream).checkpoint.cursor == "good"


def test_one_record_in_the_list_of_tenants_is_odd(own: Site, sophos: Sophos, capfd: pytest.CaptureFixture[str]) -> None:
    odd: list[object] = [
        {"id": None, "apiHost": sophos.url},
        {"apiHost": sophos.url},
        {"id": "odd-host", "apiHost": 5},
        {"id": "odd-name", "name": {}, "apiHost": sophos.url},
        {"id": "nul\0", "apiHost": sophos.url},
        None,
    ]
    good: list[object] = [{"id": f"t-{number}", "name": "", "apiHost": sophos.url} for number in range(3)]
    sophos.says["/whoami/v1"] = lambda *_: (200, {"id": "p", "idType": "partner", "apiHosts": {"global": sophos.url}})
    sophos.says["/partner/v1/tenants"] = lambda *_: (200, {"items": [*odd[:4], *good, *odd[4:]], "pages": {"total": 1}})
    lines = own.results("fetch-page")
    assert [(line["tenant"], line["outcome"]) for line in lines] == [(f"t-{n}", "up_to_date") for n in range(3)]
    own.end("fetch-page")
    told = capfd.readouterr()
    for who in ("number 1 ", "number 2 ", "odd-host", "odd-name", "nul", "number 9 "):
        assert f"tenant {who}" in told.out + told.err


@pytest.mark.parametrize("harm", ["removed", "cut", "edited"])
def test_a_cursor_that_was_made_again_is_stored_though_nothing_is_new(own: Site, sophos: Sophos, harm: str) -> None:
    pages = [{"has_more": False, "next_cursor": "a", "items": [{"id": "1"}]}]
    sophos.says[PAGE_PATH] = lambda *_: (200, pages.pop() if pages else {**EMPTY, "next_cursor": "b"})
    own.results("fetch-page")
    own.results("forward-batch")
    (cursor,) = Path(own.folder, "store/cursors").rglob("*.json")
    text = cursor.read_text()
    cursor.write_text(text[:50] if harm == "cut" else text.replace('"a"', '"c"'))
    if harm == "removed":
        cursor.unlink()
    (line,) = own.results("fetch-page")
    assert (line["outcome"], line["events"]) == ("up_to_date", 0)
    saved = own.state.checkpoints.read(Stream("acme", TENANT, "events"))
    assert (saved.is_sound, saved.checkpoint.cursor) == (True, "b")


def test_a_tenant_is_listed_twice_on_a_page_and_its_name_is_cut_within_a_character(own: Site, sophos: Sophos) -> None:
    twice = [{"id": "t-1", "name": "Ac\ud83d", "apiHost": sophos.url}] * 2
    sophos.says["/whoami/v1"] = lambda *_: (200, {"id": "p", "idType": "partner", "apiHosts": {"global": sophos.url}})
    sophos.says["/partner/v1/tenants"] = lambda *_: (200, {"items": twice, "pages": {"total": 1}})
    page = {"has_more": False, "next_cursor": "c", "items": [{"id": "1"}]}
    sophos.says[PAGE_PATH] = lambda *_: (200, page)
    assert [(line["tenant"], line["outcome"]) for line in own.results("fetch-page")] == [("t-1", "fetched")]
    (line,) = own.results("forward-batch")
    assert (line["outcome"], own.engine.received[0].dataSource) == ("delivered", "acme/Ac?")


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "中", "a b"])
def test_a_token_that_no_header_can_hold_is_an_unexpected_answer(own: Site, sophos: Sophos, token: str) -> None:
    sophos.says[TOKEN_PATH] = lambda *_: (200, {"access_token": token, "expires_in": 3600})
    (line,) = own.results("fetch-page")
    assert line["problem"]["code"] == "protocol_error"


def test_types_that_the_address_has_no_room_for_are_left_out_all_the_same(own: Site, sophos: Sophos) -> None:
    names = [name for family in FAMILIES.values() for name in sorted(family - NEEDED)]
    asked: list[str] = []

    def say(query: Mapping[str, str], _: str) -> tuple[int, Any]:
        asked.append(query["exclude_types"])
        items = [{"id": str(at), "type": name} for at, name in enumerate([*names, "Event::New"])]
        left = [item for item in items if item["type"] not in query["exclude_types"].split(",")]
        return 200, {"has_more": False, "next_cursor": "c", "items": left}

    sophos.says[PAGE_PATH] = say
    one = {"name": "acme", "client_id": "c", "client_secret": "s", "exclude_types": [f"family:{n}" for n in FAMILIES]}
    own.write_config(integrations=[one])
    (line,) = own.results("fetch-page")
    assert (line["outcome"], line["events"]) == ("fetched", 1)
    assert 4000 < len(asked[0]) <= LONGEST


def test_events_name_another_customer(own: Site, sophos: Sophos) -> None:
    customers = [TENANT, TENANT.upper(), None, 7, "22222222-2222-4333-8444-555555555555", "elsewhere"]
    items = [{"id": str(at), "customer_id": customer} for at, customer in enumerate(customers)]
    sophos.says[PAGE_PATH] = lambda *_: (200, {"has_more": False, "next_cursor": "c", "items": items})
    (line,) = own.results("fetch-page")
    assert (line["events"], line["other_customers"], "problem" in line) == (6, 2, False)
    (line,) = own.results("fetch-page")
    assert (line["events"], line["other_customers"]) == (0, 0), "a repeat is not counted again"
    assert own.state.checkpoints.read(Stream("acme", TENANT, "events")).checkpoint.counts.other_customers == 2
    told = own.command("status", status=1)
    assert [(each["code"], each["count"]) for each in told["reasons"]] == [("wrong_customer", 1)]
    assert "2 events of another customer" in told["reasons"][0]["detail"]


def test_an_event_comes_again_with_another_text(own: Site, sophos: Sophos) -> None:
    pages = [
        [{"id": "1", "name": "first"}, {"id": "2", "name": "same"}],
        [{"id": "1", "name": "changed"}, {"id": "2", "name": "same"}, {"id": "3"}, {"id": "3", "name": "twice"}],
        [{"id": "1", "name": "first"}],
    ]
    found = []
    for items in pages:
        sophos.says[PAGE_PATH] = lambda *_, items=items: (200, {"has_more": False, "next_cursor": "c", "items": items})
        (line,) = own.results("fetch-page")
        found.append((line["events"], line["changed"]))
    assert found == [(2, 0), (1, 2), (0, 0)]
    checkpoint = own.state.checkpoints.read(Stream("acme", TENANT, "events")).checkpoint
    counts = checkpoint.counts
    assert (counts.events, counts.repeats, counts.changed) == (3, 4, 2)


@pytest.mark.parametrize("count", [200, 0], ids=["the same items", "no items"])
def test_pages_without_end_tell_nothing_new(own: Site, sophos: Sophos, count: int) -> None:
    asked: list[str] = []

    def say(query: Mapping[str, str], _: str) -> tuple[int, Any]:
        asked.append(query.get("cursor", ""))
        items = [{"id": str(at)} for at in range(count)]
        return 200, {"has_more": True, "next_cursor": f"c{len(asked)}", "items": items}

    sophos.says[PAGE_PATH] = say
    (line,) = own.results("fetch-page")
    assert (line["events"], line["pages"], line["has_more"]) == (count, 6 if count else 5, True)
    assert line["problem"]["code"] == "protocol_error"
    assert "nothing new, 5 pages in a row" in line["problem"]["detail"]
    pages = len(asked)
    (line,) = own.results("fetch-page")
    assert (asked[pages], line["events"], "problem" in line) == (f"c{pages}", 0, True), "the next call goes on"


def test_many_pages_of_different_repeats_are_read_to_their_end(own: Site, sophos: Sophos) -> None:
    def say(query: Mapping[str, str], _: str) -> tuple[int, Any]:
        number = int(query.get("cursor", "0")) % 9
        items = [{"id": f"{number}-{at}"} for at in range(10)]
        return 200, {"has_more": number < 8, "next_cursor": str(number + 1), "items": items}

    sophos.says[PAGE_PATH] = say
    (line,) = own.results("fetch-page")
    assert (line["pages"], line["events"]) == (9, 90)
    (line,) = own.results("fetch-page")
    assert (line["pages"], line["events"], line["has_more"], "problem" in line) == (9, 0, False, False)


def old(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.mark.parametrize("pages_a_call", [None, 1])
def test_a_page_that_lies_inside_a_gap_shows_that_there_is_none(
    own: Site, sophos: Sophos, pages_a_call: int | None
) -> None:
    answers = {"": (3, True), "c1": (2, True), "c2": (0.1, False)}

    def say(query: Mapping[str, str], _: str) -> tuple[int, Any]:
        cursor = query.get("cursor", "")
        days, has_more = answers[cursor]
        items = [{"id": cursor, "created_at": old(days)}]
        return 200, {"has_more": has_more, "next_cursor": f"c{int(cursor[1:] or 0) + 1}", "items": items}

    sophos.says[PAGE_PATH] = say
    body = {"integration": "acme"} | ({"max_pages": pages_a_call} if pages_a_call else {})
    for _ in range(2 if pages_a_call else 1):
        own.results("fetch-page", body)
    assert list(own.state.gaps.all()) == []


def test_a_cursor_that_was_left_for_days_still_shows_a_gap(own: Site, sophos: Sophos) -> None:
    answers = {"": (3, True), "c1": (0.1, False)}

    def say(query: Mapping[str, str], _: str) -> tuple[int, Any]:
        days, has_more = answers[query.get("cursor", "")]
        return 200, {"has_more": has_more, "next_cursor": "c1", "items": [{"id": str(days), "created_at": old(days)}]}

    sophos.says[PAGE_PATH] = say
    for _ in range(2):
        own.results("fetch-page", {"integration": "acme", "max_pages": 1})
    assert len(list(own.state.gaps.all())) == 1
