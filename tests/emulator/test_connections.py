"""The web server's connections: those that ask for nothing shut nobody out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import requests
from flask import Flask, Response, request

from emulator.runtime.wsgi import CONNECTIONS, THREADS
from emulator.web.connections import KEPT, listening


@pytest.fixture
def served() -> Iterator[tuple[int, threading.Event]]:
    """A server's port, and what its slow answer waits for."""
    app, go = Flask("test"), threading.Event()

    @app.get("/healthz")
    def _healthz() -> Response:
        return Response("well")

    @app.get("/slow")
    def _slow() -> Response:
        assert go.wait(60)
        return Response(f"late, to {request.args['who']}")

    server = listening(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.effective_port, go
    finally:
        go.set()
        server.close()
        thread.join(30)


def connected(port: int, said: bytes) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout=60)
    link.sendall(said)
    return link


def is_open(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return link.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTT", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"])
def test_connections_that_ask_for_nothing_shut_nobody_out(served: tuple[int, threading.Event], said: bytes) -> None:
    port, go = served
    waiting = connected(port, b"GET /slow?who=me HTTP/1.0\r\n\r\n")
    half_open = [connected(port, said) for _ in range(CONNECTIONS + 50)]
    assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=60).text == "well"
    # Had it waited for their time to be up, few of them would be left.
    assert all(map(is_open, half_open[-KEPT // 2 :]))
    assert not is_open(half_open[0])
    go.set()
    with waiting.makefile("rb") as answer:
        assert any(b"late, to me" in line for line in answer)
    for link in (waiting, *half_open):
        link.close()


def test_a_call_that_waits_for_a_thread_has_no_line_in_the_log(
    served: tuple[int, threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    port, go = served
    busy = [connected(port, b"GET /slow?who=me HTTP/1.0\r\n\r\n") for _ in range(THREADS + 4)]
    go.set()
    for link in busy:
        with link.makefile("rb") as answer:
            assert any(b"late, to me" in line for line in answer)
        link.close()
    assert "queue" not in caplog.text
