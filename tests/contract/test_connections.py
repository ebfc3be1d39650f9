"""Answers that come in a form in which the next request could take them for its own, over real connections."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import parse_headers

import pytest

from lib.errors import SophosDownError
from tests.contract.test_central import client


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def token(name: bytes) -> bytes:
    return answer(b'{"access_token": "%s", "expires_in": 0}' % name)


Serve = Callable[[int, int], bytes]
"""What is sent to the so-manieth request of the so-manieth connection, both from 1."""


@contextmanager
def server(serve: Serve, drip: bytes = b"") -> Iterator[str]:
    """A server on loopback; where there is a `drip`, each answer is followed by it, over and over."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def talk(connection: socket.socket, number: int) -> None:
            request = 0
            with connection, connection.makefile("rb") as stream:
                while stream.readline():
                    stream.read(int(parse_headers(stream).get("Content-Length", 0)))
                    request += 1
                    connection.sendall(serve(number, request))
                    while drip and not over.wait(0.05):
                        connection.sendall(drip)

        def quiet(connection: socket.socket, number: int) -> None:
            try:
                talk(connection, number)
            except OSError:
                return  # The client has gone.

        def accept() -> None:
            number = 0
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                number += 1
                connection.settimeout(30)
                threads.append(threading.Thread(target=quiet, args=(connection, number), daemon=True))
                threads[-1].start()

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            threads[0].join()


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_answers_of_status_1xx_are_read_over(status: bytes) -> None:
    interim = b"HTTP/1.1 %s\r\nLink: </x>\r\n\r\n" % status
    with server(lambda _, request: interim * 2 + token(b"t%d" % request)) as url:
        source = client(url)
        assert [source._tokens.current() for _ in range(3)] == ["t1", "t2", "t3"]


@pytest.mark.parametrize("interim", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
def test_answers_of_status_1xx_without_end_are_none(interim: bytes) -> None:
    with server(lambda *_: interim * 30 + token(b"t")) as url, pytest.raises(SophosDownError):
        client(url).authenticate()


@pytest.mark.parametrize("extra", [b"x", token(b"stale")], ids=["a byte", "an answer"])
def test_a_byte_that_nobody_waits_for_ends_the_connection(extra: bytes) -> None:
    seen: list[tuple[int, int]] = []

    def serve(connection: int, request: int) -> bytes:
        seen.append((connection, request))
        return token(b"t%d" % len(seen)) + (extra if len(seen) == 1 else b"")

    with server(serve) as url:
        source = client(url)
        assert [source._tokens.current() for _ in range(3)] == ["t1", "t2", "t3"]
    assert seen == [(1, 1), (2, 1), (2, 2)]


def test_headers_that_drip_are_given_up_in_time() -> None:
    with server(lambda *_: b"HTTP/1.1 200 OK\r\nX-Slow: ", drip=b"x") as url:
        began = time.monotonic()
        with pytest.raises(SophosDownError, match="no answer in time"):
            client(url).authenticate(deadline=began + 1)
        assert time.monotonic() - began < 20
