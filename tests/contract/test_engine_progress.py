"""What an engine client tells of an engine's pace: slow, silent, out of turn, under ids of its own, or hostile."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.connection import H2Connection
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, RstStreamFrame

from emulator.engine import StandInEngine
from lib.errors import EngineDownError, EngineSlowError
from lib.grpc_stream import framed
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc
from tests.contract.test_engine import PATIENCE, aside, client, close, endless, failed, held, ids, logs_to, serving
from tests.fakes.raw_http2 import RawEngine


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own folder: a socket's path ends at 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="p"))
    yield path
    shutil.rmtree(path)


class PacedEngine(plugins_pb2_grpc.EngineServicer):
    """Acknowledges one log after the other, each after a pause, under an id that begins with `prefix`."""

    def __init__(self, pause: float = 0.0, prefix: str = "") -> None:
        self.taken: list[str] = []
        self._pause, self._prefix = pause, prefix

    def Input(self, request_iterator: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        over = threading.Event()
        context.add_callback(over.set)
        for each in request_iterator:
            self.taken.append(each.id)
            over.wait(self._pause)
            yield plugins_pb2.Ack(lastId=self._prefix + each.id)


# The watchdog


def test_an_engine_that_takes_longer_for_a_window_than_it_may_be_silent_is_not_silent(folder: Path) -> None:
    other = PacedEngine(pause=0.1)
    with serving(folder / "e.sock", other), client(folder / "e.sock", ack_timeout=3, tries=1) as engine:
        # The last of them waits for 4.5 s, and something is acknowledged each 0.1 s.
        assert list(engine.deliver(iter(logs_to(45)))) == list(range(1, 46))
    assert engine.counts == {"streams": 1}
    assert other.taken == ids(logs_to(45))


def test_what_is_acknowledged_out_of_turn_is_told_until_it_is_settled(folder: Path) -> None:
    early: set[int] = set()
    seen = []
    with held(folder / "e.sock") as other, client(folder / "e.sock") as engine:

        def answer() -> None:
            other.next_arrivals(5)
            for log_id in ("log-3", "log-5", "log-1", None):
                other.acks.put(log_id)
            assert other.next_arrivals(2) == ["log-2", "log-4"]
            for log_id in ("log-2", "log-4", None):
                other.acks.put(log_id)

        with aside(answer):
            for count in engine.deliver(iter(logs_to(5)), early=early):
                seen.append((count, max(early, default=0)))  # noqa: PERF401 - one after the other
    assert [count for count, _ in seen] == [0, 0, 1, 3, 5]
    assert seen[2] == (1, 5)
    assert early == set()


def test_what_is_acknowledged_out_of_turn_is_known_after_a_failure(folder: Path) -> None:
    early: set[int] = set()
    with (
        StandInEngine(folder / "e.sock", faults={"lose": "3"}) as other,
        client(other.socket, tries=1) as engine,
        pytest.raises(EngineDownError),
    ):
        list(engine.deliver(iter(logs_to(5)), early=early))
    assert early == {4, 5}


# The deadline


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_the_deadline_tells_a_living_engine_from_a_dead_one(folder: Path, pause: float) -> None:
    with serving(folder / "e.sock", PacedEngine(pause)), client(folder / "e.sock") as engine:
        counts: list[int] = []
        delivery = engine.deliver(endless(), deadline=time.monotonic() + 2)
        # However long the machine takes for the first one.
        with pytest.raises(EngineSlowError, match="at the call's deadline") as caught:
            counts.extend(delivery)
        assert caught.value.code == "engine_slow"
    with StandInEngine(folder / "s.sock", faults={"silent_after": "0"}) as other, client(other.socket) as engine:
        _, error = failed(engine, endless(), EngineDownError, deadline=time.monotonic() + 0.3)
        assert not isinstance(error, EngineSlowError)


# Other ids


@pytest.mark.parametrize("source", [logs_to(5), endless()], ids=["ends", "is endless"])
def test_an_engine_that_acknowledges_under_other_ids_is_told_so(folder: Path, source: Any) -> None:
    with (
        serving(folder / "e.sock", PacedEngine(prefix="x-")),
        client(folder / "e.sock", window_logs=5, ack_timeout=2, tries=2) as engine,
    ):
        counts, error = failed(engine, iter(source), EngineDownError)
    assert counts == []
    assert str(error) == (
        f"the engine at {folder}/e.sock acknowledges unknown ids: "
        "5 acknowledgements have ids that were not sent; the last one is 'x-log-5'"
    )
    assert "acknowledge each log with the id" in error.remedy
    assert engine.counts == {"streams": 2, "odd_acks": 10, "resent": 5}


def test_acknowledgements_that_come_twice_are_not_other_ids(folder: Path) -> None:
    faults = {"twice": "1", "lose": "5"}
    with StandInEngine(folder / "e.sock", faults=faults) as other, client(other.socket, tries=1) as engine:
        _, error = failed(engine, iter(logs_to(5)), EngineDownError)
    assert str(error) == "the engine ended the stream but had not acknowledged 1 log"
    assert engine.counts["odd_acks"] == 4


# Engines that keep to no rule

ODD = framed(plugins_pb2.Ack(lastId="x").SerializeToString())


def floods(frame: bytes) -> Callable[[H2Connection, socket.socket], None]:
    def script(talk: H2Connection, connection: socket.socket) -> None:
        while True:
            connection.sendall(frame * 1000)

    return script


def says(data: bytes) -> Callable[[H2Connection, socket.socket], None]:
    return lambda _, connection: connection.sendall(data)


def answers(talk: H2Connection, connection: socket.socket) -> None:
    talk.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    connection.sendall(talk.data_to_send())


def after_answer(data: bytes, *, forever: bool = False) -> Callable[[H2Connection, socket.socket], None]:
    def script(talk: H2Connection, connection: socket.socket) -> None:
        answers(talk, connection)
        (floods if forever else says)(data)(talk, connection)

    return script


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (floods(PingFrame(0, bytes(8)).serialize()), "did not acknowledge a log|control frames faster|without data"),
        (after_answer(DataFrame(1, b"").serialize(), forever=True), "did not acknowledge a log|without data"),
        (after_answer(DataFrame(1, ODD).serialize(), forever=True), "acknowledges unknown ids"),
        (says(RstStreamFrame(1, 11).serialize()), "reset the stream: ENHANCE_YOUR_CALM"),
        (says(GoAwayFrame(0, 0, 2, b"going").serialize()), r"accepts no more streams \(INTERNAL_ERROR: going\)"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "sent a frame of"),
        (after_answer(DataFrame(1, b"\0\0\0\0\2\xff\xff").serialize()), "sent an invalid acknowledgement"),
        (after_answer(DataFrame(1, b"\1\0\0\0\2\x0a\0").serialize()), "sent an invalid acknowledgement"),
        (after_answer(DataFrame(1, b"\0\0\x10\0\0").serialize()), "sent an invalid acknowledgement"),
        (after_answer(DataFrame(1, b"", flags=["END_STREAM"]).serialize()), "ended the stream without a status"),
    ],
)
def test_an_engine_that_keeps_to_no_rule_fails_with_a_reason_and_in_time(
    folder: Path, script: Callable[[H2Connection, socket.socket], None], told: str
) -> None:
    with closing(RawEngine(folder / "e.sock", script)), client(folder / "e.sock", ack_timeout=2, tries=1) as engine:
        began = time.monotonic()
        with pytest.raises(EngineDownError, match=told):
            list(engine.deliver(iter(logs_to(3))))
        assert time.monotonic() - began < PATIENCE


def test_a_socket_that_says_nothing_is_told(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, client(folder / "e.sock", ack_timeout=0.3, tries=1) as engine:
        listener.bind(str(folder / "e.sock"))
        listener.listen()
        with pytest.raises(EngineDownError, match="did not open a stream in time"):
            list(engine.deliver(iter(logs_to(3))))
        with pytest.raises(EngineDownError, match="did not open a stream"):
            engine.probe(timeout=0.2)


def test_a_delivery_that_nobody_goes_on_with_hangs_up(folder: Path) -> None:
    with held(folder / "e.sock") as other, client(folder / "e.sock", window_logs=1) as engine:
        delivery = engine.deliver(endless())

        def answer() -> None:
            other.next_arrivals(1)
            other.acks.put("log-1")

        with aside(answer):
            assert next(delivery) == 1
        close(delivery)
        assert other.gone.wait(PATIENCE)
        other.acks.put(None)
