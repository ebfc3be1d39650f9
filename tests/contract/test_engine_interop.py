"""The engine client against three makers' servers: grpc-go, grpcio (gRPC's C core), @grpc/grpc-js (Node's HTTP/2).

Each asks for signs of life, lets a connection become only so old, has small windows and a limit of 4 MiB a message.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from lib.errors import LogRefusedError
from lib.model.log import MAX_LOG_BYTES, Log
from lib.utmstack.engine import GrpcEngine
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc
from tests.fakes.go_engine import go_engine
from tests.fakes.js_engine import js_engine
from tests.fakes.listening import listening

AGE, GRACE = 1, 60
"""Seconds; grpc-go takes none under one."""
Server = Callable[..., AbstractContextManager[object]]
"""Serves on a socket, and records what it takes: `(socket, record, age=…, grace=…, keepalive=…)`, in seconds."""


def log(number: int, raw: bytes = b'{"id":"1"}') -> Log:
    return Log(f"log-{number}", "sophos-central", "a host", "2026-11-25T10:00:00.000000Z", "tenant", raw)


def on_go(socket: Path, record: Path, **seconds: float) -> AbstractContextManager[object]:
    options = [f"-{name}={value}s" for name, value in seconds.items()]
    return go_engine(socket, record, "-window=65536", *options)


class Recording(plugins_pb2_grpc.EngineServicer):
    def __init__(self, record: Path) -> None:
        self._record = record

    def Input(self, request_iterator: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        with self._record.open("a", encoding="utf-8") as out:
            for each in request_iterator:
                out.write(json.dumps({"id": each.id, "raw": each.raw}) + "\n")
                out.flush()
                yield plugins_pb2.Ack(lastId=each.id)


def milliseconds(seconds: dict[str, float]) -> dict[str, int]:
    names = {"age": "max_connection_age_ms", "grace": "max_connection_age_grace_ms", "keepalive": "keepalive_time_ms"}
    return {names[name]: int(value * 1000) for name, value in seconds.items()}


def on_grpcio(socket: Path, record: Path, **seconds: float) -> AbstractContextManager[object]:
    def add(server: grpc.Server) -> None:
        plugins_pb2_grpc.add_EngineServicer_to_server(Recording(record), server)  # type: ignore[no-untyped-call]

    small = {"http2.lookahead_bytes": 1024, "http2.bdp_probe": 0}
    return listening(socket, add, **small, **milliseconds(seconds))


def on_grpc_js(socket: Path, record: Path, **seconds: float) -> AbstractContextManager[object]:
    if "age" in seconds:
        # Its next sign of life would destroy a connection that has become too old, with the streams under way.
        seconds.pop("keepalive", None)
    return js_engine(socket, record, {f"grpc.{name}": value for name, value in milliseconds(seconds).items()})


@pytest.fixture(params=[on_go, on_grpcio, on_grpc_js], ids=lambda server: server.__name__)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.param
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own folder: a socket's path ends at 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="i"))
    yield path
    shutil.rmtree(path)


@contextmanager
def client(folder: Path, **options: Any) -> Iterator[GrpcEngine]:
    with closing(GrpcEngine(f"unix:{folder}/e", tries=50, jitter=lambda: 0.0, **options)) as engine:
        yield engine


def arrived(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "record").read_text(encoding="utf-8").split("\n") if line]


def for_seconds(seconds: float, sent: list[Log]) -> Iterator[Log]:
    """One log after the other, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sent.append(log(len(sent) + 1))
        yield sent[-1]


def test_many_logs_arrive_once_and_in_order(server: Server, folder: Path) -> None:
    sent = [log(number, b'{"n":%d,"x":"%s"}' % (number, b"\xc3\xa9" * (number % 700))) for number in range(1, 3001)]
    with server(folder / "e", folder / "record"), client(folder) as engine:
        engine.probe()
        assert list(engine.deliver(iter(sent))) == list(range(1, 3001))
        assert engine.counts == {"streams": 1}
    assert [(each["id"], each["raw"].encode()) for each in arrived(folder)] == [(each.id, each.raw) for each in sent]


def test_a_stream_goes_on_over_signs_of_life_and_a_connection_that_becomes_too_old(
    server: Server, folder: Path
) -> None:
    sent: list[Log] = []
    with server(folder / "e", folder / "record", age=AGE, grace=GRACE, keepalive=1), client(folder) as engine:
        # Each takes up to a tenth more for its age, and tells of it; both sides have things to say all the time.
        counts = list(engine.deliver(for_seconds(3 * AGE, sent)))
        assert counts == list(range(1, len(sent) + 1))
        assert engine.counts == {"streams": 1}
    assert [each["id"] for each in arrived(folder)] == [each.id for each in sent]


def test_a_quiet_source_keeps_its_stream_over_signs_of_life(server: Server, folder: Path) -> None:
    def logs() -> Iterator[Log]:
        yield log(1)
        # It is asked meanwhile, and answers as soon as it looks again.
        time.sleep(2.5)
        yield log(2)

    with server(folder / "e", folder / "record", keepalive=1), client(folder, window_logs=2) as engine:
        assert list(engine.deliver(logs())) == [1, 2]
        assert engine.counts == {"streams": 1}


def test_what_a_connection_leaves_that_is_ended_for_its_age_goes_on_the_next(server: Server, folder: Path) -> None:
    sent: list[Log] = []
    with server(folder / "e", folder / "record", age=AGE, grace=0.2), client(folder) as engine:
        counts = list(engine.deliver(for_seconds(4 * AGE, sent)))
        assert counts == list(range(1, len(sent) + 1))
        assert engine.counts["streams"] >= 2
    assert list(dict.fromkeys(each["id"] for each in arrived(folder))) == [each.id for each in sent]


def test_large_logs_pass_small_windows(server: Server, folder: Path) -> None:
    sent = [log(number, b"x" * 700_000) for number in range(1, 13)]
    with server(folder / "e", folder / "record"), client(folder) as engine:
        assert list(engine.deliver(iter(sent)))[-1] == 12
    assert [(each["id"], len(each["raw"])) for each in arrived(folder)] == [(each.id, 700_000) for each in sent]


def test_the_largest_message_arrives_and_one_byte_more_is_refused_by_name(server: Server, folder: Path) -> None:
    overhead = log(1, b"x" * 4_000_000).wire_size() - 4_000_000
    largest = log(1, b"x" * (MAX_LOG_BYTES - overhead))
    assert largest.wire_size() == MAX_LOG_BYTES
    with server(folder / "e", folder / "record"), client(folder) as engine:
        assert list(engine.deliver(iter([largest, log(2)]))) == [1, 2]
        counts: list[int] = []
        with pytest.raises(LogRefusedError, match="larger than max") as caught:
            counts.extend(engine.deliver(iter([log(3), log(4, largest.raw + b"x"), log(5)])))
        assert caught.value.log_id == "log-4"
        assert counts == [1]
    assert {each["id"] for each in arrived(folder)} == {"log-1", "log-2", "log-3"}
