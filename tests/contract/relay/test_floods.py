"""Frames that bring nothing are counted, before a token is shown and after; streams under way outlive a farewell."""

from __future__ import annotations

import queue
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import grpc
import h2.errors
import h2.events
import pytest
from h2.connection import H2Connection
from hyperframe import frame as frames

from emulator.engine import StandInEngine
from emulator.relay import Relay
from tests.fakes.authority import Authority
from tests.fakes.js_engine import install_js_engine, js_engine
from tests.fakes.raw_http2 import RawCaller, RawEngine
from tests.fakes.relay import PATIENCE, TOKEN, Open, caller, client, delivers, field, log, relay, stream
from tests.site import until

AUTHORIZED = ("authorization", f"Bearer {TOKEN}")


@pytest.fixture
def relayed(folder: Path, server: tuple[Path, Path], tokens: Path, engine: StandInEngine) -> Iterator[Relay]:
    with relay(folder, server, tokens=tokens) as found:
        yield found


def framed(message: bytes) -> bytes:
    return bytes(1) + len(message).to_bytes(4, "big") + message


def test_callers_that_vanish_while_the_relay_rests_are_no_error(
    relayed: Relay, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    # Among so many, some vanish between a turn and the end of its rest.
    for _ in range(60):
        with closing(RawCaller(relayed.port, authority.ca)) as raw, suppress(OSError):
            raw.ask(1, AUTHORIZED)
            while raw.h2.local_flow_control_window(1) >= 16_000:
                raw.h2.send_data(1, (framed(field(1, b"abc")) * 1600)[:16_000])
                raw.flush()
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: not relayed.gate.streams, "the end of all streams")
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


# Floods

FLOODS = {
    "settings": frames.SettingsFrame(0, {4: 65_535}).serialize(),
    "large settings": (10 * 6).to_bytes(3, "big") + b"\4\0\0\0\0\0" + b"\0\4\0\0\xff\xff" * 10,
    "pings": frames.PingFrame(0, bytes(8)).serialize(),
    "priorities": frames.PriorityFrame(1, depends_on=0, stream_weight=1).serialize(),
    "windows of the connection": frames.WindowUpdateFrame(0, 1).serialize(),
    "unknown frames": b"\0\0\0\xee\0\0\0\0\0",
    "farewells": frames.GoAwayFrame(0, 0).serialize(),
}
OF_A_STREAM = {
    "empty data": frames.DataFrame(1, b"").serialize(),
    "padding": frames.DataFrame(1, b"", pad_length=200, flags=["PADDED"]).serialize(),
    "a byte at a time": frames.DataFrame(1, b"\0").serialize(),
    "windows of a stream": frames.WindowUpdateFrame(1, 1).serialize(),
}


def is_cut_off(raw: RawCaller, flood: bytes) -> bool:
    """Whether the relay hangs up, within some thousands of these; that is its reason, where it still arrives."""
    with suppress(OSError):
        for _ in range(100):
            raw.send(flood * 100)
    told = raw.hear(h2.events.ConnectionTerminated)
    if told is not None:
        assert told.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM  # type: ignore[attr-defined]
    return raw.is_hung_up_on()


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_bring_nothing_end_their_connection_before_a_token_is_shown(
    relayed: Relay, authority: Authority, engine: StandInEngine, name: str
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        until(lambda: bool(relayed._callers), "the relay takes the connection")
        (only,) = relayed._callers
        assert is_cut_off(raw, FLOODS[name])
        # Of 10,000 no more than the first few hundred were looked at.
        assert only._idle._level < 1000
    delivers(relayed.port, authority, engine)


@pytest.mark.parametrize("name", FLOODS | OF_A_STREAM)
def test_frames_that_bring_nothing_end_the_connection_of_a_known_caller_too(
    relayed: Relay, authority: Authority, engine: StandInEngine, name: str
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.tell(1, framed(field(1, b"a")))
        assert raw.hear(h2.events.DataReceived)
        raw.tell(1, (1 << 20).to_bytes(5, "big"))
        flood = (FLOODS | OF_A_STREAM)[name]
        assert is_cut_off(raw, flood * 3)
    delivers(relayed.port, authority, engine)


def test_a_busy_caller_may_ask_and_answer_as_much_as_it_sends(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    control = FLOODS["pings"] + FLOODS["windows of the connection"] + FLOODS["settings"]
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        for number in range(2000):
            raw.tell(1, framed(field(1, b"%d" % number)))
            raw.send(control)
            if number % 100 == 99:
                assert raw.hear(h2.events.DataReceived)
        raw.h2.end_stream(1)
        raw.flush()
        assert raw.hear(h2.events.TrailersReceived)
    assert len(engine.received) == 2000


def test_connections_of_one_address_on_which_nobody_shows_a_token_are_few(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, streams=2) as relayed:
        most = relayed.gate.bounds.strangers
        assert most == 17
        with ExitStack() as known, caller(relayed.port, authority) as channel, closing(Open(channel)) as held:
            held.send(field(1, b"a"))
            strangers = [known.enter_context(closing(RawCaller(relayed.port, authority.ca))) for _ in range(most + 5)]
            assert all(each.is_hung_up_on() for each in strangers[:5])
            # The newest stay; who has shown a token does, too.
            strangers[-1].ask(1, AUTHORIZED, ends=True)
            strangers[-1].flush()
            assert strangers[-1].hear(h2.events.StreamEnded)
            assert held.send(field(1, b"b")) == field(1, b"b")
        delivers(relayed.port, authority, engine)


def test_headers_over_many_frames_end_the_connection_of_a_known_caller_too(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.tell(1, framed(field(1, b"a")))
        assert raw.hear(h2.events.DataReceived)
        raw.send(frames.HeadersFrame(3, b"").serialize() + frames.ContinuationFrame(3, b"").serialize() * 4)
        assert raw.is_hung_up_on()
    delivers(relayed.port, authority, engine)


def test_an_engine_is_not_read_from_while_its_caller_takes_nothing(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    taken: queue.Queue[int] = queue.Queue()

    def script(talk: H2Connection, connection: socket.socket) -> None:
        talk.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        connection.sendall(talk.data_to_send())
        acks = frames.DataFrame(1, framed(field(1, b"a")) * 1000).serialize()
        sent = 0
        connection.settimeout(1)
        with suppress(TimeoutError):
            while sent < 64 << 20:
                sent += connection.send(acks[sent % len(acks) :])
        taken.put(sent)

    with (
        closing(RawEngine(folder / "e.sock", script)),
        relay(folder, server, tokens=tokens) as relayed,
        closing(RawCaller(relayed.port, authority.ca)) as raw,
    ):
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.tell(1, framed(field(1, b"a")))
        assert taken.get(timeout=PATIENCE) < 8 << 20


# Farewells


def test_a_stream_under_way_goes_on_after_its_callers_farewell(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.tell(1, framed(field(1, b"before")))
        assert raw.hear(h2.events.DataReceived)
        raw.send(frames.GoAwayFrame(0, 0).serialize())
        raw.tell(1, framed(field(1, b"after")))
        assert raw.hear(h2.events.DataReceived)
        raw.h2.end_stream(1)
        raw.flush()
        trailers = raw.hear(h2.events.TrailersReceived)
        assert isinstance(trailers, h2.events.TrailersReceived)
        assert [tuple(each) for each in trailers.headers or ()] == [(b"grpc-status", b"0")]
    assert [each.id for each in engine.received] == ["before", "after"]


def test_a_channel_that_is_closed_with_a_stream_under_way_leaves_it_its_end(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    # grpc-js says farewell when a client is closed, and lets its calls come to their end.
    script = Path(__file__).parent / "leaving_caller.js"
    done = subprocess.run(
        ["node", str(script), f"127.0.0.1:{relayed.port}", str(authority.ca), TOKEN, str(install_js_engine())],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["before", "after", "0", ""][:3]
    assert [each.id for each in engine.received] == ["before", "after"]


def test_a_stream_goes_on_when_the_engine_wants_its_connection_back(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    record = folder / "record"
    record.unlink(missing_ok=True)
    options = {"grpc.max_connection_age_ms": 500, "grpc.max_connection_age_grace_ms": 60_000}
    with (
        js_engine(folder / "e.sock", record, options),
        relay(folder, server, tokens=tokens) as relayed,
        caller(relayed.port, authority) as channel,
    ):
        messages: queue.Queue[bytes | None] = queue.Queue()
        call = stream(channel, iter(messages.get, None))
        got = []
        # An age of 450 to 550 ms is over long before the last.
        for number in range(20):
            messages.put(field(1, b"%d" % number))
            got.append(next(call))
            with suppress(queue.Empty):
                queue.Queue[None]().get(timeout=0.05)
        messages.put(None)
        assert list(call) == []
        assert call.code() == grpc.StatusCode.OK
        assert call.details() == ""
    assert got == [field(1, b"%d" % number) for number in range(20)]


def test_a_stream_of_an_old_connection_comes_to_its_end(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, age=1.5) as relayed, client(relayed.port, authority, tries=1) as remote:
        engine.faults["delay"] = "0.05"
        # Over three seconds: the farewell comes in the midst of it.
        assert list(remote.deliver(log(number) for number in range(60)))[-1] == 60
        assert remote.counts == {"streams": 1}
        del engine.faults["delay"]
