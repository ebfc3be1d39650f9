"""Answers that the real Sophos Central has not been seen to give, and that must do no harm."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.errors import ProxyDownError
from lib.sophos.reach import Way
from tests.fakes.sophos import PAGE_PATH, TOKEN_PATH, Sophos
from tests.site import SECRET, Site


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
        way = Way("https://id.sophos.com", f"http://user:{SECRET}@127.0.0.1:{proxy.getsockname()[1]}", verify=True)
        with pytest.raises(ProxyDownError) as refused:
            way.secure()
        thread.join()
    assert "407" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_event_nested_a_thousand_deep_is_set_aside_and_the_others_go_on(own: Site, sophos: Sophos) -> None:
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
