"""A function's process as the emulator runs it: whose port it is, who can shut it out, how it ends, when it rests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse

import psutil
import pytest
import requests

from emulator.runtime.functions import Function, FunctionDownError
from tests.site import Emulator, Site, site, until

GRABBER = """
import socket, sys
port = int(sys.argv[1])
print("begun", flush=True)
while True:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            continue
        print("taken", flush=True)
        taken.accept()
"""
"""Takes the port as soon as nobody has it, and then every call that was meant for somebody else."""


@pytest.fixture
def own() -> Iterator[Site]:
    with site() as found:
        yield found


@contextmanager
def function(found: Site, name: str, *, idle: float | None = None) -> Iterator[Function]:
    """A function of the site's, started."""
    made = Function(name, found.env, timeout=100, idle=idle)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_a_function_is_one_process(own: Site) -> None:
    with function(own, "fetch-page") as fetch:
        assert fetch.is_up(60)
        assert fetch.pid is not None
        assert psutil.Process(fetch.pid).children(recursive=True) == []


def test_nobody_else_gets_a_call_while_the_process_is_started_again(own: Site) -> None:
    with function(own, "fetch-page") as fetch:
        assert fetch.is_up(60)
        command = [sys.executable, "-I", "-c", GRABBER, str(fetch.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as grabber:
            try:
                assert grabber.stdout is not None
                assert grabber.stdout.readline() == "begun\n"
                for restarts in range(1, 4):
                    assert fetch.pid is not None
                    os.kill(fetch.pid, signal.SIGKILL)
                    until(lambda count=restarts: fetch.restarts == count, "another process")  # type: ignore[misc]
                    assert json.loads(fetch.call(b"{}").body)["results"][0]["tenant"] == own.central.default_tenant
            finally:
                grabber.kill()
            assert grabber.stdout.read() == ""


def test_connections_that_say_nothing_or_half_a_call_shut_nobody_out(own: Site) -> None:
    with function(own, "fetch-page") as fetch, ExitStack() as stack:
        assert fetch.is_up(60)
        half = [stack.enter_context(socket.create_connection(("127.0.0.1", fetch.port))) for _ in range(150)]
        for each in half[::2]:
            each.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        assert fetch.call(b'{"integration": "nobody"}').status == 404
        half[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # it did not have to make room first
            half[0].recv(1)


def test_a_large_body_is_refused_before_it_is_taken_in(own: Site) -> None:
    with function(own, "fetch-page") as fetch:
        assert fetch.is_up(60)
        with socket.create_connection(("127.0.0.1", fetch.port), timeout=60) as caller:
            caller.sendall(b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 500000000\r\n\r\n")
            answer = HTTPResponse(caller)
            answer.begin()
            assert (answer.status, answer.headers["Content-Type"]) == (413, "application/problem+json")
            told = json.loads(answer.read())
            assert (told["status"], told["code"]) == (413, "too_large")
            assert "2097152" in told["detail"]


def test_a_call_that_has_begun_is_answered_before_the_process_ends(own: Site) -> None:
    own.central.emit(40)
    own.results("fetch-page", {"max_pages": 5})
    own.engine.faults["delay"] = "0.15"  # longer in all than the server gives its threads to end
    with function(own, "forward-batch") as forward, ThreadPoolExecutor() as pool:
        call = pool.submit(forward.call, b"{}")
        until(lambda: own.engine.count > 0, "a delivery under way")
        assert forward.pid is not None
        os.kill(forward.pid, signal.SIGTERM)
        (line,) = json.loads(call.result(60).body)["results"]
        assert line["outcome"] == "delivered"
        assert (line["pending"], line["acked"]) == (0, own.engine.count)


def test_nothing_is_called_after_the_end(own: Site) -> None:
    with function(own, "fetch-page") as fetch:
        assert fetch.is_up(60)
        fetch.stop()
        with pytest.raises(FunctionDownError):
            fetch.call(b"{}")


def test_a_function_sleeps_until_it_is_called_and_again_when_nobody_calls(own: Site) -> None:
    with function(own, "test-connection", idle=0.2) as test:
        for _ in range(2):
            assert (test.state, test.pid, test.is_up()) == ("asleep", None, True)
            assert test.call(b'{"integration": "acme"}').status == 200
            until(lambda: test.state == "asleep", "rest")
        assert test.restarts == 0


def test_a_function_that_is_under_way_is_not_put_to_sleep(own: Site) -> None:
    own.central.emit(40)
    own.results("fetch-page", {"max_pages": 5})
    own.engine.faults["delay"] = "0.02"
    with function(own, "forward-batch", idle=0.05) as forward:
        assert json.loads(forward.call(b"{}").body)["results"][0]["outcome"] == "delivered"
        until(lambda: forward.state == "asleep", "rest")


def test_many_calls_at_once_each_get_their_answer_however_soon_it_falls_asleep(own: Site) -> None:
    with function(own, "fetch-page", idle=0.001) as fetch, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: fetch.call(b'{"integration": "nobody"}').status, range(40)))
        assert answers == [404] * 40
        assert fetch.restarts == 0


def test_an_end_by_itself_is_a_restart_also_where_it_may_sleep(own: Site) -> None:
    with function(own, "test-connection", idle=600) as test:
        test.call(b'{"integration": "acme"}')
        assert test.pid is not None
        os.kill(test.pid, signal.SIGKILL)
        until(lambda: test.restarts == 1 and test.state == "up", "another process")


def test_what_is_asleep_is_well() -> None:
    with site() as found, Emulator(found) as running:
        until(lambda: is_healthy(running), "its functions")
        (test,) = (each for each in (running.status() or {})["functions"] if each["name"] == "test-connection")
        assert test == {"name": "test-connection", "up": True, "state": "asleep", "pid": None, "restarts": 0}
        assert 'function_up{function="test-connection"} 1.0' in requests.get(running.url("/metrics"), timeout=30).text
        assert "asleep" in requests.get(running.url("/settings"), timeout=30).text
        assert requests.post(running.url("/test-connection"), json={"integration": "acme"}, timeout=60).ok
        until(lambda: states(running)["test-connection"] == "up", "its process")


def is_healthy(running: Emulator) -> bool:
    """Whether `/healthz` says that all is well."""
    try:
        return requests.get(running.url("/healthz"), timeout=10).ok
    except requests.ConnectionError:
        return False


def states(running: Emulator) -> dict[str, str]:
    """Each function's state as `/status` tells it."""
    return {each["name"]: each["state"] for each in (running.status() or {})["functions"]}
