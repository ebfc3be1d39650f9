"""The engine client over real sockets: nothing counts as delivered that the engine did not acknowledge.

The other side is the stand-in engine, an engine in Go, or one whose acknowledgements the test hands out one by one.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.engine import StandInEngine
from lib.errors import EngineDownError, EngineRefusedError, LogRefusedError
from lib.model.log import MAX_LOG_BYTES, Log
from lib.utmstack.engine import CLOSE_SECONDS, GrpcEngine
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc
from tests.fakes.go_engine import ROOT, go_engine
from tests.fakes.listening import listening
from tests.fakes.picky import PickyEngine

Failure = TypeVar("Failure", bound=BaseException)
PATIENCE = 60.0
"""Seconds that something which must happen may take on a busy machine."""
SOON = 10.0
"""Seconds within which what needs no waiting is told."""
STALL = 1.0
"""Seconds for which a busy machine may hold up what takes no time: no silence of the engine."""
FOR_EVER = 100.0
"""A jitter that makes of the pause before another try what no machine is ever held up for."""
QUIET = 0.3
"""Seconds for which something that must not happen is watched for."""


# Logs


def log(number: int, raw: bytes = b'{"id":"1"}', log_id: str | None = None) -> Log:
    return Log(
        id=log_id or f"log-{number}",
        data_type="sophos-central",
        data_source=f"host-{number % 7}",
        timestamp=f"2026-11-24T10:00:{number % 60:02d}.000000Z",
        tenant_id="ce66672c-e36d-4761-a8c8-90058fee1a24",
        raw=raw,
    )


def logs_to(count: int, start: int = 1) -> list[Log]:
    return [log(number) for number in range(start, start + count)]


def ids(logs: list[Log]) -> list[str]:
    return [each.id for each in logs]


def as_taken(message: plugins_pb2.Log) -> Log:
    return Log(
        message.id, message.dataType, message.dataSource, message.timestamp, message.tenantId, message.raw.encode()
    )


def first_arrivals(taken: list[str]) -> list[str]:
    return list(dict.fromkeys(taken))


class Source:
    """An iterator of logs that knows how many were read."""

    def __init__(self, logs: Iterator[Log]) -> None:
        self._logs = logs
        self.read: list[Log] = []

    def __iter__(self) -> Iterator[Log]:
        return self

    def __next__(self) -> Log:
        each = next(self._logs)
        self.read.append(each)
        return each


# Engines


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own folder: a socket's path ends at 107 bytes.
    with short_folder() as path:
        yield path


@contextmanager
def short_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="e"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def client(
    path: Path,
    *,
    ack_timeout: float = PATIENCE,
    window_logs: int = 500,
    window_bytes: int = 8 << 20,
    tries: int = 4,
    jitter: float = 0.0,
) -> Iterator[GrpcEngine]:
    engine = GrpcEngine(
        f"unix:{path}",
        ack_timeout=ack_timeout,
        window_logs=window_logs,
        window_bytes=window_bytes,
        tries=tries,
        jitter=lambda: jitter,
    )
    with closing(engine):
        yield engine


@pytest.fixture
def stand_in(folder: Path) -> Iterator[StandInEngine]:
    with StandInEngine(folder / "e.sock") as engine:
        yield engine


def taken_ids(engine: StandInEngine) -> list[str]:
    return [each.id for each in engine.received]


class HeldEngine(plugins_pb2_grpc.EngineServicer):
    """Takes logs as they come; acknowledges what the test names, and ends the stream politely at None."""

    def __init__(self, *, lingers: bool = False) -> None:
        self.arrived: queue.Queue[str] = queue.Queue()
        self.acks: queue.Queue[str | None] = queue.Queue()
        self.gone = threading.Event()
        self._lingers = lingers

    def Input(self, request_iterator: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        context.add_callback(self.gone.set)
        threading.Thread(target=self._take, args=(request_iterator,), daemon=True).start()
        while (ack := self.acks.get(timeout=PATIENCE)) is not None:
            yield plugins_pb2.Ack(lastId=ack)
        if self._lingers:
            self.gone.wait(PATIENCE)

    def next_arrivals(self, count: int) -> list[str]:
        return [self.arrived.get(timeout=PATIENCE) for _ in range(count)]

    def _take(self, request_iterator: Iterator[plugins_pb2.Log]) -> None:
        try:
            for each in request_iterator:
                self.arrived.put(each.id)
        except Exception:  # noqa: BLE001 - gRPC's own way to say that the stream is over
            return


def serving(path: Path, servicer: plugins_pb2_grpc.EngineServicer | None) -> AbstractContextManager[None]:
    """A gRPC server with that engine, or with no service at all."""

    def add(server: grpc.Server) -> None:
        if servicer is not None:
            plugins_pb2_grpc.add_EngineServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]

    return listening(path, add)


@contextmanager
def held(path: Path, *, lingers: bool = False) -> Iterator[HeldEngine]:
    engine = HeldEngine(lingers=lingers)
    with serving(path, engine):
        yield engine


@contextmanager
def aside(work: Callable[[], None]) -> Iterator[threading.Thread]:
    """Work in a thread of its own, whose failure is the test's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def failed(
    engine: GrpcEngine, logs: Iterator[Log], error: type[Failure], *, deadline: float | None = None
) -> tuple[list[int], Failure]:
    """What a delivery counted before it failed, and how it failed."""
    counts: list[int] = []

    def count_all() -> None:
        for count in engine.deliver(logs, deadline=deadline):
            counts.append(count)  # noqa: PERF402 - what came before the error counts

    with pytest.raises(error) as caught:
        count_all()
    return counts, caught.value


def close(delivery: Iterator[int]) -> None:
    assert isinstance(delivery, Generator)
    delivery.close()


# What arrives


def test_every_log_arrives_once_in_order_and_the_count_rises_to_their_number(stand_in: StandInEngine) -> None:
    sent = logs_to(1200)
    with client(stand_in.socket) as engine:
        counts = list(engine.deliver(iter(sent)))
    assert [as_taken(each) for each in stand_in.received] == sent
    assert counts == list(range(1, 1201))
    assert stand_in.streams == 1
    assert engine.counts == {"streams": 1}


@pytest.mark.parametrize(
    "raw",
    [
        "Zürich, Łódź, 東京, العربية, 😀\u200d🔥 e\u0301 \ufeff\uffff".encode(),
        b'{"controls":"\x00\x01\x1b\x7f\r\n\t \\u0000 \\\\ <&>"}  \n',
        "\u2028\u2029\u0085".encode(),
        b"{}",
        "é漢😀".encode() * (3_000_000 // 9),
    ],
    ids=["scripts", "controls", "line separators", "an empty object", "3 MB"],
)
def test_the_raw_text_arrives_byte_for_byte(stand_in: StandInEngine, raw: bytes) -> None:
    with client(stand_in.socket) as engine:
        assert list(engine.deliver(iter([log(1, raw)]))) == [1]
    assert [each.raw.encode() for each in stand_in.received] == [raw]


def test_large_logs_pass_a_window_that_is_smaller_than_one_of_them(stand_in: StandInEngine) -> None:
    sent = [log(number, b"x" * 300_000) for number in range(12)]
    with client(stand_in.socket, window_bytes=1000) as engine:
        assert list(engine.deliver(iter(sent)))[-1] == 12
    assert [as_taken(each) for each in stand_in.received] == sent


def test_no_logs_open_no_stream(stand_in: StandInEngine) -> None:
    with client(stand_in.socket) as engine:
        assert list(engine.deliver(iter([]))) == []
    assert stand_in.streams == 0
    assert engine.counts == {}


def test_no_logs_need_no_engine(folder: Path) -> None:
    with client(folder / "nothing.sock") as engine:
        assert list(engine.deliver(iter([]))) == []


def test_one_engine_serves_delivery_after_delivery(stand_in: StandInEngine) -> None:
    with client(stand_in.socket) as engine:
        for start in (1, 11, 21):
            assert list(engine.deliver(iter(logs_to(10, start))))[-1] == 10
    assert taken_ids(stand_in) == ids(logs_to(30))


def test_a_closed_engine_opens_again_when_it_is_used(stand_in: StandInEngine) -> None:
    with client(stand_in.socket) as engine:
        engine.probe()
        engine.close()
        engine.close()
        assert list(engine.deliver(iter(logs_to(2)))) == [1, 2]


def test_parallel_deliveries_keep_each_its_order_and_its_count(stand_in: StandInEngine) -> None:
    work = [[log(number, log_id=f"{name}-{number}") for number in range(300)] for name in "abcd"]
    together = threading.Barrier(4)

    with client(stand_in.socket, window_logs=20) as engine:

        def deliver(logs: list[Log]) -> list[int]:
            together.wait(PATIENCE)
            return list(engine.deliver(iter(logs)))

        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(deliver, work))
    assert counts == [list(range(1, 301))] * 4
    for logs in work:
        name = logs[0].id[0]
        assert [taken for taken in taken_ids(stand_in) if taken[0] == name] == ids(logs)
    assert stand_in.streams == 4


# Acknowledgements


@pytest.mark.parametrize(
    "faults",
    [
        {"delay": "0.002"},
        {"empty_ids": "1"},
        {"twice": "1"},
        {"odd": "3"},
        {"odd": "1", "twice": "1"},
        {"shuffle": "7"},
        {"shuffle": "5", "twice": "1", "odd": "2"},
        {"odd": "2", "empty_ids": "1", "delay": "0.001"},
    ],
    ids=str,
)
def test_late_nameless_doubled_odd_and_disordered_acknowledgements_settle_every_log_once(
    stand_in: StandInEngine, faults: dict[str, str]
) -> None:
    stand_in.faults = faults
    sent = logs_to(100)
    with client(stand_in.socket, window_logs=30) as engine:
        counts = list(engine.deliver(iter(sent)))
    assert taken_ids(stand_in) == ids(sent)
    assert counts == sorted(counts)
    assert counts[-1] == 100
    assert "shuffle" in faults or counts == list(range(1, 101))


def test_acknowledgements_that_name_no_log_in_flight_are_counted(stand_in: StandInEngine) -> None:
    stand_in.faults = {"odd": "3", "twice": "1"}
    with client(stand_in.socket) as engine:
        list(engine.deliver(iter(logs_to(9))))
    assert engine.counts["odd_acks"] == 3 + 9


def test_the_count_waits_for_the_first_log_that_is_not_acknowledged(folder: Path) -> None:
    with held(folder / "e.sock") as other, client(folder / "e.sock") as engine:

        def answer() -> None:
            assert other.next_arrivals(4) == ["log-1", "log-2", "log-3", "log-4"]
            for log_id in ("log-3", "log-1", "log-4", "log-2", None):
                other.acks.put(log_id)

        with aside(answer):
            assert list(engine.deliver(iter(logs_to(4)))) == [0, 1, 1, 4]


def test_only_what_was_not_acknowledged_is_sent_again(folder: Path) -> None:
    with held(folder / "e.sock") as other, client(folder / "e.sock") as engine:

        def answer() -> None:
            assert other.next_arrivals(5) == ["log-1", "log-2", "log-3", "log-4", "log-5"]
            for log_id in ("log-2", "log-4", None):
                other.acks.put(log_id)
            assert other.next_arrivals(3) == ["log-1", "log-3", "log-5"]
            for log_id in ("log-1", "log-3", "log-5", None):
                other.acks.put(log_id)

        with aside(answer):
            assert list(engine.deliver(iter(logs_to(5)))) == [0, 0, 2, 4, 5]
        assert other.arrived.empty()
    assert engine.counts == {"streams": 2, "resent": 3}


def test_doubled_and_odd_acknowledgements_settle_no_other_log(folder: Path) -> None:
    with held(folder / "e.sock") as other, client(folder / "e.sock") as engine:

        def answer() -> None:
            assert other.next_arrivals(3) == ["log-1", "log-2", "log-3"]
            for log_id in ("log-1", "log-1", "an-id-that-nobody-sent", None):
                other.acks.put(log_id)
            assert other.next_arrivals(2) == ["log-2", "log-3"]
            for log_id in ("log-2", "log-3", None):
                other.acks.put(log_id)

        with aside(answer):
            assert list(engine.deliver(iter(logs_to(3)))) == [1, 2, 3]
    assert engine.counts == {"streams": 2, "resent": 2, "odd_acks": 2}


def test_an_acknowledgement_of_an_earlier_stream_settles_nothing_on_a_later_one(folder: Path) -> None:
    with held(folder / "e.sock") as other, client(folder / "e.sock", window_logs=1) as engine:

        def answer() -> None:
            assert other.next_arrivals(1) == ["log-1"]
            other.acks.put("log-1")
            assert other.next_arrivals(1) == ["log-2"]
            other.acks.put(None)
            assert other.next_arrivals(1) == ["log-2"]
            for log_id in ("log-1", "log-2", None):
                other.acks.put(log_id)

        with aside(answer):
            assert list(engine.deliver(iter(logs_to(2)))) == [1, 2]
    assert engine.counts["odd_acks"] == 1


def test_two_logs_of_one_id_are_never_in_flight_together(folder: Path) -> None:
    sent = [log(1, b'{"n":1}', "same"), log(2, b'{"n":2}', "same"), log(3, log_id="other")]
    with held(folder / "e.sock") as other, client(folder / "e.sock") as engine:

        def answer() -> None:
            assert other.next_arrivals(1) == ["same"]
            with pytest.raises(queue.Empty):
                other.arrived.get(timeout=QUIET)
            other.acks.put("same")
            assert other.next_arrivals(2) == ["same", "other"]
            for log_id in ("same", "other", None):
                other.acks.put(log_id)

        with aside(answer):
            assert list(engine.deliver(iter(sent))) == [1, 2, 3]


def test_logs_of_one_id_all_arrive_though_acknowledgements_are_late(stand_in: StandInEngine) -> None:
    stand_in.faults = {"delay": "0.05"}
    sent = [log(number, b'{"n":%d}' % number, "same") for number in range(4)] + logs_to(2)
    with client(stand_in.socket) as engine:
        assert list(engine.deliver(iter(sent))) == [1, 2, 3, 4, 5, 6]
    assert [as_taken(each) for each in stand_in.received] == sent


def test_an_engine_that_keeps_a_settled_stream_open_does_not_hold_the_delivery(folder: Path) -> None:
    with held(folder / "e.sock", lingers=True) as other, client(folder / "e.sock", ack_timeout=STALL) as engine:

        def answer() -> None:
            assert other.next_arrivals(2) == ["log-1", "log-2"]
            for log_id in ("log-1", "log-2", None):
                other.acks.put(log_id)

        began = time.monotonic()
        with aside(answer):
            assert list(engine.deliver(iter(logs_to(2)))) == [1, 2]
        assert time.monotonic() - began < CLOSE_SECONDS + SOON
        assert other.gone.wait(PATIENCE)
    assert engine.counts == {"streams": 1}


# Streams that end early


@pytest.mark.parametrize("fault", ["hang_up_after", "abort_after"])
@pytest.mark.parametrize("after", [2, 5, 13])
def test_a_stream_that_ends_early_repeats_exactly_what_was_not_acknowledged_in_order(
    stand_in: StandInEngine, fault: str, after: int
) -> None:
    stand_in.faults = {fault: str(after)}
    sent = logs_to(30)
    with client(stand_in.socket, window_logs=20) as engine:
        counts = list(engine.deliver(iter(sent)))
    # Each stream takes `after` logs and acknowledges all of them but the last, with which the next one begins.
    expected: list[str] = []
    for start in itertools.count(0, after - 1):
        expected += ids(sent)[start : start + after]
        if start + after > len(sent):
            break
    assert taken_ids(stand_in) == expected
    assert counts == list(range(1, 31))


@pytest.mark.parametrize("fault", ["hang_up_after", "abort_after"])
def test_the_end_of_a_stream_polite_or_not_is_never_an_acknowledgement(stand_in: StandInEngine, fault: str) -> None:
    stand_in.faults = {fault: "1"}
    with client(stand_in.socket, tries=3) as engine:
        counts, _ = failed(engine, iter(logs_to(1)), EngineDownError)
    assert counts == []
    assert taken_ids(stand_in) == ["log-1"] * 3


def test_a_polite_end_says_how_many_logs_are_unacknowledged(stand_in: StandInEngine) -> None:
    stand_in.faults = {"hang_up_after": "3"}
    with client(stand_in.socket, tries=1) as engine:
        counts, error = failed(engine, iter(logs_to(3)), EngineDownError)
    assert counts == [1, 2]
    assert str(error) == "the engine ended the stream but had not acknowledged 1 log"


def test_streams_that_bring_an_acknowledgement_do_not_use_up_the_tries(stand_in: StandInEngine) -> None:
    stand_in.faults = {"abort_after": "2"}
    with client(stand_in.socket, tries=2) as engine:
        assert list(engine.deliver(iter(logs_to(12))))[-1] == 12
    assert engine.counts["streams"] == 12
    assert engine.counts["resent"] >= 11


def test_an_engine_that_restarts_in_the_middle_gets_every_log(stand_in: StandInEngine) -> None:
    sent = logs_to(400)
    counts: list[int] = []

    def logs() -> Iterator[Log]:
        yield from sent[:150]
        # The window has let log 151 be read: some are acknowledged, others in flight. Now the stream breaks.
        assert taken_ids(stand_in)
        stand_in.stop()
        stand_in.start()
        yield from sent[150:]

    with client(stand_in.socket, tries=50, jitter=0.2, window_logs=100) as engine:
        for count in engine.deliver(logs()):
            counts.append(count)  # noqa: PERF402 - what came before counts
    assert counts == list(range(1, 401))
    assert first_arrivals(taken_ids(stand_in)) == ids(sent)
    assert engine.counts["streams"] >= 2


FAULTS = st.one_of(
    st.tuples(st.sampled_from(["hang_up_after", "abort_after"]), st.integers(2, 9)),
    st.tuples(st.just("odd"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["twice", "empty_ids"]), st.just(1)),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(FAULTS, st.integers(1, 25)), min_size=1, max_size=4), st.integers(1, 12))
def test_whatever_the_engine_does_each_log_arrives_and_first_in_the_order_sent(
    deliveries: list[tuple[tuple[str, int], int]], window_logs: int
) -> None:
    with short_folder() as folder, StandInEngine(folder / "e.sock") as other, client(other.socket) as engine:
        start = 1
        for (name, value), count in deliveries:
            other.faults = {name: str(value)}
            assert list(engine.deliver(iter(logs_to(count, start)))) == list(range(1, count + 1))
            start += count
        assert first_arrivals(taken_ids(other)) == ids(logs_to(start - 1))


# Engines that keep silent


def endless() -> Source:
    """More logs than any window holds, so that the client never ends a stream from its side."""
    return Source(log(number) for number in itertools.count(1))


def test_one_log_that_is_never_acknowledged_ends_the_delivery_in_time_and_holds_the_count(
    stand_in: StandInEngine,
) -> None:
    # Of every three the third gets lost: log 3 at first, and again as the sixth that arrives.
    stand_in.faults = {"lose": "3"}
    with client(stand_in.socket, ack_timeout=STALL, window_logs=3, tries=2) as engine:
        began = time.monotonic()
        counts, error = failed(engine, endless(), EngineDownError)
        took = time.monotonic() - began
    assert "did not acknowledge a log within" in str(error)
    assert max(counts) == 2
    assert counts == sorted(counts)
    # Log 3 holds the window, so that logs 4 and 5 are the last; then it goes out again, ahead of anything else.
    assert taken_ids(stand_in)[:6] == ["log-1", "log-2", "log-3", "log-4", "log-5", "log-3"]
    assert 2 * STALL <= took < 2 * STALL + SOON


def test_a_log_that_is_never_acknowledged_is_not_settled_by_the_end_of_all_logs(stand_in: StandInEngine) -> None:
    stand_in.faults = {"lose": "3"}
    with client(stand_in.socket, tries=2) as engine:
        counts, _ = failed(engine, iter(logs_to(5)), EngineDownError)
    assert counts == [1, 2, 2, 2]
    assert taken_ids(stand_in) == ["log-1", "log-2", "log-3", "log-4", "log-5", "log-3"]


def test_a_lost_acknowledgement_is_made_good_by_sending_that_one_log_again(stand_in: StandInEngine) -> None:
    stand_in.faults = {"lose": "4"}
    with client(stand_in.socket) as engine:
        assert list(engine.deliver(iter(logs_to(6))))[-1] == 6
    assert taken_ids(stand_in) == [*ids(logs_to(6)), "log-4"]


def test_a_silent_engine_is_given_up_after_as_many_streams_as_there_are_tries(stand_in: StandInEngine) -> None:
    stand_in.faults = {"silent_after": "0"}
    with client(stand_in.socket, ack_timeout=STALL, window_logs=2, tries=3) as engine:
        began = time.monotonic()
        counts, error = failed(engine, endless(), EngineDownError)
        took = time.monotonic() - began
    assert counts == []
    assert "did not acknowledge a log within" in str(error)
    assert str(stand_in.socket) in str(error)
    assert taken_ids(stand_in) == ["log-1", "log-2"] * 3
    assert 3 * STALL <= took < 3 * STALL + SOON


def test_an_engine_that_falls_silent_later_leaves_the_count_of_what_it_acknowledged(stand_in: StandInEngine) -> None:
    stand_in.faults = {"silent_after": "7"}
    with client(stand_in.socket, ack_timeout=STALL, tries=1) as engine:
        counts, _ = failed(engine, endless(), EngineDownError)
    assert counts == [1, 2, 3, 4, 5, 6, 7]


def test_slow_acknowledgements_are_not_silence(stand_in: StandInEngine) -> None:
    # All of them take longer than the timeout, none of them does from when the window let it go.
    stand_in.faults = {"delay": "0.2"}
    with client(stand_in.socket, ack_timeout=2 * STALL, window_logs=2, tries=1) as engine:
        assert list(engine.deliver(iter(logs_to(12))))[-1] == 12
    assert stand_in.streams == 1


def test_a_source_that_pauses_is_not_silence_of_the_engine(folder: Path) -> None:
    # The test's own wait stands for a slow source: the engine owes nothing meanwhile.
    never = threading.Event()

    def logs() -> Iterator[Log]:
        yield log(1)
        never.wait(1.5 * STALL)
        yield log(2)

    with (
        StandInEngine(folder / "e.sock") as other,
        client(other.socket, ack_timeout=STALL, tries=1) as engine,
    ):
        assert list(engine.deliver(logs())) == [1, 2]
        assert other.streams == 1


@pytest.mark.parametrize("window_logs", [1, 10])
def test_a_silent_engine_has_no_more_logs_read_than_the_window_holds(stand_in: StandInEngine, window_logs: int) -> None:
    stand_in.faults = {"silent_after": "0"}
    source = endless()
    with client(stand_in.socket, ack_timeout=STALL, window_logs=window_logs, tries=2) as engine:
        failed(engine, source, EngineDownError)
    assert len(source.read) == window_logs
    assert taken_ids(stand_in) == ids(logs_to(window_logs)) * 2


def test_a_silent_engine_has_no_log_read_once_the_window_of_bytes_is_full(stand_in: StandInEngine) -> None:
    stand_in.faults = {"silent_after": "0"}
    source = Source(log(number, b"x" * 1000) for number in itertools.count(1))
    with client(stand_in.socket, ack_timeout=STALL, window_bytes=3500, tries=2) as engine:
        failed(engine, source, EngineDownError)
    assert len(source.read) == 4


def test_the_window_counts_from_the_first_log_that_is_not_acknowledged(folder: Path) -> None:
    source = endless()
    with held(folder / "e.sock") as other, client(folder / "e.sock", window_logs=3) as engine:

        def answer() -> None:
            assert other.next_arrivals(3) == ["log-1", "log-2", "log-3"]
            other.acks.put("log-2")
            with pytest.raises(queue.Empty):
                other.arrived.get(timeout=QUIET)
            other.acks.put("log-1")
            assert other.next_arrivals(2) == ["log-4", "log-5"]
            with pytest.raises(queue.Empty):
                other.arrived.get(timeout=QUIET)
            assert len(source.read) == 5

        delivery = engine.deliver(source)
        with aside(answer):
            assert [next(delivery), next(delivery)] == [0, 2]
        close(delivery)
        other.acks.put(None)


def test_the_deadline_ends_waiting_for_a_silent_engine(stand_in: StandInEngine) -> None:
    stand_in.faults = {"silent_after": "2"}
    with client(stand_in.socket, ack_timeout=60) as engine:
        began = time.monotonic()
        counts, _ = failed(engine, endless(), EngineDownError, deadline=began + STALL)
        took = time.monotonic() - began
    assert counts == [1, 2]
    assert STALL <= took < STALL + SOON
    assert stand_in.streams == 1


def test_the_deadline_leaves_no_pause_before_another_try(stand_in: StandInEngine) -> None:
    stand_in.faults = {"status": "UNAVAILABLE"}
    with client(stand_in.socket, jitter=FOR_EVER) as engine:
        began = time.monotonic()
        failed(engine, iter(logs_to(1)), EngineDownError, deadline=began + SOON)
        assert time.monotonic() - began < SOON
    assert stand_in.streams == 1


# The source of logs


class SourceError(Exception):
    pass


def failing(count: int) -> Iterator[Log]:
    yield from logs_to(count)
    raise SourceError("no more")


@pytest.mark.parametrize("faults", [{}, {"delay": "0.01"}, {"hang_up_after": "3"}], ids=str)
def test_what_the_source_raises_comes_out_once_all_before_it_is_acknowledged(
    stand_in: StandInEngine, faults: dict[str, str]
) -> None:
    stand_in.faults = faults
    with client(stand_in.socket) as engine:
        counts, error = failed(engine, failing(8), SourceError)
    assert str(error) == "no more"
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8]
    assert first_arrivals(taken_ids(stand_in)) == ids(logs_to(8))


def test_a_source_that_raises_at_once_opens_no_stream(stand_in: StandInEngine) -> None:
    with client(stand_in.socket) as engine:
        failed(engine, failing(0), SourceError)
    assert stand_in.streams == 0


def test_a_delivery_closed_early_ends_its_stream_and_reads_no_further_log(folder: Path) -> None:
    source = endless()
    with held(folder / "e.sock") as other, client(folder / "e.sock", window_logs=4) as engine:
        delivery = engine.deliver(source)

        def answer() -> None:
            assert other.next_arrivals(4) == ["log-1", "log-2", "log-3", "log-4"]
            other.acks.put("log-1")
            assert other.next_arrivals(1) == ["log-5"]

        with aside(answer):
            assert next(delivery) == 1
        close(delivery)
        assert other.gone.wait(PATIENCE)
        assert ids(source.read) == ids(logs_to(5))
        assert next(source).id == "log-6"
        assert other.arrived.empty()
        other.acks.put(None)


def test_logs_are_read_by_nobody_else_than_who_asks_for_the_next_count(folder: Path) -> None:
    readers = set()

    def logs() -> Iterator[Log]:
        for number in itertools.count(1):
            readers.add(threading.get_ident())
            yield log(number)

    source = logs()
    with StandInEngine(folder / "e.sock") as other, client(other.socket, window_logs=3) as engine:
        delivery = engine.deliver(source)
        for expected in range(1, 20):
            assert next(delivery) == expected
            assert inspect.getgeneratorstate(source) == inspect.GEN_SUSPENDED  # type: ignore[arg-type]
        close(delivery)
        assert readers == {threading.get_ident()}
        # Its owner may go on with it.
        following = int(next(source).id.removeprefix("log-"))
    # The counts of a few acknowledgements that came together are taken one by one.
    assert 20 <= following <= 19 + 2 * 3 + 1
    assert taken_ids(other) == ids(logs_to(len(other.received)))
    assert len(other.received) < following


def test_a_delivery_cannot_be_closed_while_a_log_is_read(folder: Path) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def logs() -> Iterator[Log]:
        yield log(1)
        reading.set()
        assert go_on.wait(PATIENCE)
        yield log(2)
        yield log(3)

    source = logs()
    with StandInEngine(folder / "e.sock") as other, client(other.socket, window_logs=2) as engine:
        delivery = engine.deliver(source)

        def ask() -> None:
            assert next(delivery) == 1

        with aside(ask):
            assert reading.wait(PATIENCE)
            with pytest.raises(ValueError, match="already executing"):
                close(delivery)
            go_on.set()
        close(delivery)
        assert next(source, log(4)).id in {"log-3", "log-4"}


# Sockets that cannot be used


def missing(path: Path) -> None:
    assert not path.exists()


def left_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()


def plain_file(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.mkdir()


UNUSABLE: Mapping[Callable[[Path], None], tuple[str, str]] = {
    missing: ("is missing", "mount its sockets folder"),
    left_over: ("no process listens on", "Start UTMStack's event processor"),
    plain_file: ("is not a socket", "Set `engine` to the engine's socket"),
    a_folder: ("is not a socket", "Set `engine` to the engine's socket"),
}


@pytest.mark.parametrize("use", ["deliver", "probe"])
@pytest.mark.parametrize("make", UNUSABLE, ids=lambda make: make.__name__)
def test_what_is_wrong_with_the_socket_is_told_at_once_with_its_own_remedy(
    folder: Path, make: Callable[[Path], None], use: str
) -> None:
    path = folder / "e.sock"
    make(path)
    text, remedy = UNUSABLE[make]
    source = Source(iter(logs_to(5)))
    with client(path, jitter=FOR_EVER) as engine:
        began = time.monotonic()
        with pytest.raises(EngineDownError) as caught:
            engine.probe() if use == "probe" else next(engine.deliver(source))
        assert time.monotonic() - began < SOON
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert remedy in caught.value.remedy
    assert caught.value.code == "engine_unavailable"
    assert len(source.read) <= 1


def test_a_path_through_a_file_counts_as_missing(folder: Path) -> None:
    plain_file(folder / "sockets")
    with client(folder / "sockets" / "e.sock") as engine, pytest.raises(EngineDownError, match="is missing"):
        engine.probe()


AS_NOBODY = """
import os, sys, time
import grpc
from lib.errors import EngineDownError
from lib.utmstack.engine import GrpcEngine
from tests.contract.test_engine import FOR_EVER, log

engine = GrpcEngine("unix:" + sys.argv[1], jitter=lambda: FOR_EVER)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for use in (engine.probe, lambda: next(engine.deliver(iter([log(1)])))):
    began = time.monotonic()
    try:
        use()
    except EngineDownError as error:
        print(time.monotonic() - began)
        print(error)
        print(error.remedy)
"""


def test_a_socket_without_permission_is_told_at_once_with_its_own_remedy(stand_in: StandInEngine) -> None:
    stand_in.socket.parent.chmod(0o755)
    stand_in.socket.chmod(0)
    # Permissions do not bind root, so a user without any asks.
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(stand_in.socket)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done.stdout + done.stderr
    for took, text, remedy in (lines[:3], lines[3:]):
        assert float(took) < SOON
        assert text == f"no permission to connect to the engine's socket {stand_in.socket}"
        assert remedy.startswith("Run as root or as the socket's owner")
    assert stand_in.streams == 0


def test_the_ways_to_miss_a_socket_have_different_texts_and_remedies(folder: Path) -> None:
    told = set()
    for number, make in enumerate((missing, left_over, plain_file)):
        path = folder / str(number)
        make(path)
        with client(path) as engine, pytest.raises(EngineDownError) as caught:
            engine.probe()
        told.add((str(caught.value).replace(str(path), ""), caught.value.remedy))
    assert len({text for text, _ in told}) == len({remedy for _, remedy in told}) == 3


def test_a_socket_that_appears_later_is_found(folder: Path) -> None:
    with client(folder / "e.sock") as engine:
        with pytest.raises(EngineDownError):
            engine.probe()
        with StandInEngine(folder / "e.sock") as other:
            engine.probe()
            assert list(engine.deliver(iter(logs_to(3)))) == [1, 2, 3]
        assert taken_ids(other) == ids(logs_to(3))
        with pytest.raises(EngineDownError):
            engine.probe()


# Engines that refuse


def test_probing_sends_no_log(stand_in: StandInEngine) -> None:
    with client(stand_in.socket) as engine:
        engine.probe()
    assert (stand_in.streams, stand_in.count) == (1, 0)


def test_a_probe_ends_in_time_though_the_engine_keeps_the_stream_open(folder: Path) -> None:
    with held(folder / "e.sock", lingers=True) as other, client(folder / "e.sock") as engine:
        began = time.monotonic()
        with suppress(EngineDownError):
            engine.probe(timeout=2)  # Enough for a busy machine to open the stream.
        assert time.monotonic() - began < 2 + SOON
        assert other.gone.wait(PATIENCE)
        other.acks.put(None)
        assert other.arrived.empty()


@pytest.mark.parametrize("use", ["deliver", "probe"])
def test_a_server_without_the_service_is_refusing_and_not_tried_again(folder: Path, use: str) -> None:
    with (
        serving(folder / "e.sock", None),
        client(folder / "e.sock", jitter=1.0) as engine,
        pytest.raises(EngineRefusedError, match="UNIMPLEMENTED") as caught,
    ):
        engine.probe() if use == "probe" else next(engine.deliver(iter(logs_to(3))))
    assert caught.value.code == "engine_refused"
    assert engine.counts["streams"] == (use == "deliver")


@pytest.mark.parametrize("status", ["PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"])
@pytest.mark.parametrize("use", ["deliver", "probe"])
def test_a_refusal_is_not_tried_again(stand_in: StandInEngine, use: str, status: str) -> None:
    stand_in.faults = {"status": status}
    refused = pytest.raises(EngineRefusedError, match=f"{status}: a scripted fault")
    with client(stand_in.socket, jitter=1.0) as engine, refused:
        engine.probe() if use == "probe" else next(engine.deliver(iter(logs_to(3))))
    assert stand_in.streams == 1
    assert stand_in.count == 0


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"])
def test_any_other_status_is_a_failure_that_passes(stand_in: StandInEngine, status: str) -> None:
    stand_in.faults = {"status": status}
    with client(stand_in.socket, tries=3) as engine:
        with pytest.raises(EngineDownError, match=f"{status}: a scripted fault"):
            next(engine.deliver(iter(logs_to(3))))
        assert stand_in.streams == 3
        with pytest.raises(EngineDownError, match=f"{status}: a scripted fault"):
            engine.probe()
        stand_in.faults = {}
        assert list(engine.deliver(iter(logs_to(3)))) == [1, 2, 3]


# Logs that are refused


@pytest.mark.parametrize("place", [1, 6, 10])
def test_a_log_that_is_too_large_is_named_once_all_before_it_are_acknowledged(folder: Path, place: int) -> None:
    sent = logs_to(10)
    sent[place - 1] = log(place, b"x" * 3000, "large")
    with StandInEngine(folder / "e.sock", faults={"max_bytes": "2000"}) as other, client(other.socket) as engine:
        counts, error = failed(engine, iter(sent), LogRefusedError)
        assert error.log_id == "large"
        assert error.code == "log_refused"
        assert "larger than max" in str(error)
        assert counts[-1:] == ([place - 1] if place > 1 else [])
        assert first_arrivals(taken_ids(other)) == ids(sent[: place - 1])
        # Without it the rest gets through.
        assert list(engine.deliver(iter(sent[place:])))[-1:] == ([10 - place] if place < 10 else [])
        assert first_arrivals(taken_ids(other)) == ids([each for each in sent if each.id != "large"])


def test_a_log_that_is_invalid_is_named_once_all_before_it_are_acknowledged(folder: Path) -> None:
    sent = [log(number, b'{"id": "%d"}' % number) for number in range(1, 7)]
    refuses = lambda native: "INVALID_ARGUMENT" if native == "4" else None  # noqa: E731
    with PickyEngine(folder / "e.sock", refuses) as other, client(other.socket) as engine:
        counts, error = failed(engine, iter(sent), LogRefusedError)
    assert error.log_id == "log-4"
    assert counts[-1] == 3


def test_a_log_over_4_mib_is_refused_by_name_by_the_engine_in_go(folder: Path) -> None:
    record = folder / "record"
    sent = [*logs_to(5), log(6, b"x" * MAX_LOG_BYTES, "large"), *logs_to(5, 7)]
    with go_engine(folder / "e.sock", record), client(folder / "e.sock") as engine:
        counts, error = failed(engine, iter(sent), LogRefusedError)
        assert error.log_id == "large"
        assert counts[-1] == 5
        assert list(engine.deliver(iter(sent[6:])))[-1] == 5
        assert first_arrivals([each.id for each in recorded(record)]) == ids([*sent[:5], *sent[6:]])


def test_the_largest_log_that_is_allowed_arrives_at_the_engine_in_go(folder: Path) -> None:
    record = folder / "record"
    largest = log(1, b"x" * (MAX_LOG_BYTES - log(1, b"x" * (MAX_LOG_BYTES - 200)).wire_size() + MAX_LOG_BYTES - 200))
    assert largest.wire_size() == MAX_LOG_BYTES
    with go_engine(folder / "e.sock", record), client(folder / "e.sock") as engine:
        assert list(engine.deliver(iter([largest]))) == [1]
        assert recorded(record) == [largest]
        _, error = failed(engine, iter([log(1, largest.raw + b"x")]), LogRefusedError)
        assert error.log_id == "log-1"


class FullEngine(HeldEngine):
    """Answers RESOURCE_EXHAUSTED, in words of its own, to logs over a size, and to all once it has taken so many."""

    def __init__(self, largest: int, room: int = 1_000_000) -> None:
        super().__init__()
        self.taken: list[str] = []
        self._largest, self._room = largest, room

    def Input(self, request_iterator: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        for each in request_iterator:
            if len(each.raw) > self._largest or len(self.taken) >= self._room:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "message too large")
            self.taken.append(each.id)
            yield plugins_pb2.Ack(lastId=each.id)


@pytest.mark.parametrize("place", [1, 2, 6, 9])
def test_a_log_that_is_too_large_in_other_words_is_named_once_a_small_one_has_passed(folder: Path, place: int) -> None:
    sent = logs_to(10)
    sent[place - 1 : place] = [log(place, b"x" * 100_000, "large"), log(place, b"x" * 90_000, "large too")]
    other = FullEngine(80_000)
    with serving(folder / "e.sock", other), client(folder / "e.sock") as engine:
        for name in ("large", "large too"):
            _, error = failed(engine, iter(sent), LogRefusedError)
            assert error.log_id == name
            assert "message too large" in str(error)
            sent = [each for each in sent if each.id != name]
        assert list(engine.deliver(iter(sent)))[-1] == 9
    assert set(other.taken) == set(ids(sent))


@pytest.mark.parametrize("room", [0, 4, 5])
def test_a_full_engine_is_a_failure_that_passes_however_large_the_log(folder: Path, room: int) -> None:
    sent = logs_to(10)
    sent[4] = log(5, b"x" * 100_000)
    with serving(folder / "e.sock", FullEngine(1_000_000, room)), client(folder / "e.sock", tries=9) as engine:
        counts, _ = failed(engine, iter(sent), EngineDownError)
    assert counts[-1:] == ([room] if room else [])


def test_a_large_log_that_no_small_one_follows_is_kept(folder: Path) -> None:
    with serving(folder / "e.sock", FullEngine(80_000)), client(folder / "e.sock") as engine:
        failed(engine, iter([*logs_to(3), log(4, b"x" * 100_000)]), EngineDownError)


# The engine in Go


def recorded(record: Path) -> list[Log]:
    # By line feeds alone: the text holds other characters that end lines.
    items = [json.loads(line) for line in record.read_text(encoding="utf-8").split("\n") if line]
    return [as_taken(plugins_pb2.Log(**item)) for item in items]


def test_3000_logs_arrive_at_the_engine_in_go_with_identical_fields(folder: Path) -> None:
    texts = ["plain", "Zürich 東京 😀", "\x00\x01\x1b\x7f\r\n\t", "\u2028\u2029\u0085\ufeff", '<&> "quoted" \\ \\u0041']
    sent = [log(number, json.dumps({"n": number}).encode() + texts[number % 5].encode()) for number in range(3000)]
    record = folder / "record"
    with go_engine(folder / "e.sock", record), client(folder / "e.sock") as engine:
        engine.probe()
        assert list(engine.deliver(iter(sent))) == list(range(1, 3001))
        assert engine.counts == {"streams": 1}
    assert recorded(record) == sent


def test_an_engine_in_go_that_is_replaced_in_the_middle_gets_every_log(folder: Path) -> None:
    sent, record = logs_to(300), folder / "record"
    counts: list[int] = []
    with ExitStack() as first, ExitStack() as second, client(folder / "e.sock", tries=50, window_logs=50) as engine:
        first.enter_context(go_engine(folder / "e.sock", record))

        def logs() -> Iterator[Log]:
            yield from sent[:100]
            # The window has let log 101 be read: 51 are acknowledged.
            first.close()
            second.enter_context(go_engine(folder / "e.sock", record))
            yield from sent[100:]

        for count in engine.deliver(logs()):
            counts.append(count)  # noqa: PERF402 - what came before counts
    assert counts == list(range(1, 301))
    assert engine.counts["streams"] >= 2
    assert first_arrivals([each.id for each in recorded(record)]) == ids(sent)
