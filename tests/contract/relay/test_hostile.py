"""Callers and engines that keep to no rule: each is answered or hung up on, and nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import h2.errors
import h2.events
import pytest
from h2.connection import H2Connection
from hpack import Encoder
from hyperframe import frame as frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.engine import StandInEngine
from emulator.relay import Relay
from emulator.relay.caller import HEALTH, _HealthCheck
from emulator.relay.http2 import INPUT
from emulator.relay.stream import STREAM_WINDOW
from tests.fakes.authority import Authority
from tests.fakes.raw_http2 import RawCaller, RawEngine
from tests.fakes.relay import PATIENCE, TOKEN, Open, caller, delivers, field, relay, status, stream
from tests.site import until

AUTHORIZED = ("authorization", f"Bearer {TOKEN}")


@pytest.fixture
def relayed(
    folder: Path,
    server: tuple[Path, Path],
    tokens: Path,
    engine: StandInEngine,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Relay]:
    with relay(folder, server, tokens=tokens) as running:
        yield running
    # What an event loop logs of a protocol is an exception that nobody has foreseen.
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


# Who speaks something else


def test_who_speaks_no_http2_is_hung_up_on(relayed: Relay, authority: Authority, engine: StandInEngine) -> None:
    with socket.create_connection(("127.0.0.1", relayed.port), PATIENCE) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        with suppress(ConnectionResetError):
            while plain.recv(1 << 16):
                continue
    for protocols in (("h2",), (), ("http/1.1",)):
        with closing(RawCaller(relayed.port, authority.ca, protocols=protocols, greets=False)) as other:
            with suppress(OSError):
                other.send(b"GET / HTTP/1.1\r\nHost: relay.example.com\r\n\r\n")
            assert other.is_hung_up_on()
    delivers(relayed.port, authority, engine)


BLOCKS = st.one_of(
    st.binary(max_size=60),
    # `:path: INPUT` and the like by HPACK's static table, as literals without an index.
    st.sampled_from([b"\x83\x87\x04\x15" + INPUT.encode(), b"\x83\x87\x84", b"\x82\x87\x84", b"\x00" * 40]),
)
NUMBERS = st.sampled_from([0, 1, 1, 1, 2, 3, 5, 1 << 30])
FLAGS = st.sets(st.sampled_from(["END_HEADERS", "END_STREAM", "ACK", "PADDED"]), max_size=2)


@st.composite
def any_frame(draw: st.DrawFn) -> bytes:
    """A frame such as no well-meaning caller sends, or one that it might."""
    number = draw(NUMBERS)
    made: frames.Frame
    match draw(st.integers(0, 9)):
        case 0 | 1:
            made = frames.HeadersFrame(number or 1, data=draw(BLOCKS))
        case 2 | 3:
            made = frames.DataFrame(number or 1, data=draw(st.binary(max_size=100)))
        case 4:
            made = frames.RstStreamFrame(number or 1, error_code=draw(st.integers(0, 20)))
        case 5:
            made = frames.WindowUpdateFrame(number, window_increment=draw(st.sampled_from([1, 65535, 0x7FFFFFFF])))
        case 6:
            made = frames.SettingsFrame(0, settings={draw(st.integers(1, 8)): draw(st.integers(0, 0xFFFFFFFF))})
        case 7:
            made = frames.ContinuationFrame(number or 1, data=draw(BLOCKS))
        case 8:
            made = frames.GoAwayFrame(0, last_stream_id=number, error_code=draw(st.integers(0, 20)))
        case _:
            made = frames.PingFrame(0, opaque_data=bytes(8))
    for flag in draw(FLAGS):
        with suppress(ValueError):
            made.flags.add(flag)
    data = bytearray(made.serialize())
    if draw(st.integers(0, 5)) == 0:
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@given(sent=st.lists(any_frame(), max_size=15), is_let_in=st.booleans(), at_once=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames_at_all_are_answered_or_end_their_connection_alone(
    relayed: Relay, authority: Authority, engine: StandInEngine, *, sent: list[bytes], is_let_in: bool, at_once: bool
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        if is_let_in:
            raw.ask(1, AUTHORIZED)
            raw.flush()
        with suppress(OSError):
            for part in [b"".join(sent)] if at_once else sent:
                raw.send(part)
            raw.socket.shutdown(socket.SHUT_WR)
        raw.is_hung_up_on()
    until(lambda: not relayed.gate.streams, "the streams' end", PATIENCE)
    delivers(relayed.port, authority, engine, 3)


@pytest.mark.parametrize(
    "begun",
    [
        (100 << 10).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big"),  # a frame of 100 KiB
        frames.HeadersFrame(1, data=bytes(16_384)).serialize(),  # headers of many frames
    ],
)
def test_no_more_of_a_frame_or_of_headers_is_held_than_is_allowed(
    relayed: Relay, authority: Authority, engine: StandInEngine, begun: bytes
) -> None:
    more = frames.ContinuationFrame(1, data=bytes(16_384)).serialize()
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        with suppress(OSError):
            raw.send(begun)
            for _ in range(5):
                raw.send(more)
        assert raw.is_hung_up_on()
    delivers(relayed.port, authority, engine)


def requests(raw: RawCaller, numbers: range, *more: tuple[str, str], path: str, is_reset: bool) -> None:
    for number in numbers:
        raw.ask(number, *more, path=path)
        if is_reset:
            raw.h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
    with suppress(OSError):
        raw.flush()


@pytest.mark.parametrize(
    ("is_reset", "more", "path"),
    [
        (True, (AUTHORIZED,), INPUT),
        *((is_reset, (), path) for is_reset in (True, False) for path in (INPUT, HEALTH, "/x/y")),
    ],
)
def test_too_many_requests_that_come_to_nothing_end_their_connection(
    relayed: Relay, authority: Authority, *, is_reset: bool, more: tuple[tuple[str, str], ...], path: str
) -> None:
    if more == (AUTHORIZED,) and not is_reset:
        pytest.skip("those are let in")
    began = time.monotonic()
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        requests(raw, range(1, 1201, 2), *more, path=path, is_reset=is_reset)
        farewell = raw.hear(h2.events.ConnectionTerminated)
        assert isinstance(farewell, h2.events.ConnectionTerminated)
        assert farewell.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert raw.is_hung_up_on()
        took = time.monotonic() - began
    until(lambda: not relayed.gate.streams, "the streams' end", PATIENCE)
    # A hundred at once and ten a second: the bound, however slow the machine is.
    assert sum(relayed.gate.ended.values()) <= 101 + 10 * took


def test_streams_that_are_opened_without_end_end_their_connection(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    # Settings that are never acknowledged bind nobody. By hand, since h2 would take longer than the relay.
    common = [(":method", "POST"), (":scheme", "https"), ("content-type", "application/grpc")]
    for more in ([(":path", HEALTH)], [(":path", INPUT), AUTHORIZED]):
        encoder = Encoder()
        blocks = [encoder.encode([*common, *more]) for _ in range(2)]
        sent = b"".join(
            frames.HeadersFrame(number, data=blocks[number > 1], flags=["END_HEADERS"]).serialize()
            for number in range(1, 4001, 2)
        )
        with closing(RawCaller(relayed.port, authority.ca)) as raw:
            with suppress(OSError):
                raw.send(sent)
            assert raw.is_hung_up_on()
        delivers(relayed.port, authority, engine)


def test_what_nobody_has_shown_a_token_for_takes_no_memory(relayed: Relay, authority: Authority) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        for number in range(1, 41, 2):
            raw.ask(number, path=HEALTH)
            raw.tell(number, bytes(STREAM_WINDOW))
        raw.h2.ping(b"answered")
        raw.flush()
        assert raw.hear(h2.events.PingAckReceived)
        held = next(iter(relayed._callers)).streams.values()
        assert len(held) == 20
        assert all(len(each._request) <= 64 for each in held if isinstance(each, _HealthCheck))


def test_connections_that_never_begin_end_soon_and_are_few(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, streams=1, handshake=2.0) as relayed:
        silent = [socket.create_connection(("127.0.0.1", relayed.port), PATIENCE) for _ in range(100)]
        # 66 at the most; those that came first are hung up on at once, the others when their time is over.
        until(lambda: len(relayed._greetings) <= 66, "the oldest to go", PATIENCE)
        delivers(relayed.port, authority, engine)
        assert all(hung_up(each) for each in silent)
        until(lambda: not relayed._greetings, "the end of all greetings", PATIENCE)


def hung_up(connection: socket.socket) -> bool:
    with closing(connection), suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def test_an_old_connection_takes_no_new_streams_and_its_caller_makes_another(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with (
        relay(folder, server, tokens=tokens, age=1.5) as relayed,
        closing(RawCaller(relayed.port, authority.ca)) as raw,
        caller(relayed.port, authority) as channel,
    ):
        raw.ask(1, AUTHORIZED)
        raw.flush()
        assert raw.hear(h2.events.ConnectionTerminated)
        assert len(relayed.gate.streams) == 1
        assert list(stream(channel, iter([field(1, b"a")]))) == [field(1, b"a")]


def test_tls_leaves_no_ticket_that_would_outlive_a_certificate(relayed: Relay, authority: Authority) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        assert raw.socket.session is None or not raw.socket.session.has_ticket


def test_a_stream_that_ends_within_a_message_is_told_so_at_once(relayed: Relay, authority: Authority) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.ask(1, AUTHORIZED)
        raw.h2.send_data(1, bytes(3), end_stream=True)
        raw.flush()
        assert raw.refusal() == b"13"
    assert not relayed.gate.streams


def test_a_request_that_is_no_grpc_is_refused(relayed: Relay, authority: Authority) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        for number, headers in enumerate(
            (
                [(":method", "GET"), (":scheme", "https"), (":path", INPUT), ("content-type", "application/grpc")],
                [(":method", "POST"), (":scheme", "https"), (":path", INPUT), ("content-type", "text/plain")],
                [(":method", "POST"), (":scheme", "https"), (":path", INPUT)],
                [("content-type", "application/grpc")],
            )
        ):
            raw.h2.send_headers(2 * number + 1, headers)
            raw.flush()
            reset = raw.hear(h2.events.StreamReset)
            assert isinstance(reset, h2.events.StreamReset)
            assert reset.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        raw.ask(21, AUTHORIZED, ("grpc-encoding", "snappy"))
        raw.flush()
        assert raw.refusal() == b"12"


def test_a_caller_that_does_not_read_is_not_read_from_and_then_hung_up_on(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with (
        relay(folder, server, tokens=tokens, keepalive=1.5) as relayed,
        closing(RawCaller(relayed.port, authority.ca)) as raw,
    ):
        raw.socket.settimeout(PATIENCE)
        flood = frames.PingFrame(0, opaque_data=bytes(8)).serialize() * 4096

        def send_without_end() -> None:
            for _ in range((64 << 20) // len(flood)):
                raw.send(flood)

        with pytest.raises(OSError):
            send_without_end()
        delivers(relayed.port, authority, engine)


def test_what_a_refused_stream_goes_on_sending_takes_no_room_from_others(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with (
        relay(folder, server, tokens=tokens, streams=1) as relayed,
        closing(RawCaller(relayed.port, authority.ca)) as raw,
    ):
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.hear(h2.events.WindowUpdated)
        window = raw.h2.outbound_flow_control_window
        raw.ask(1, AUTHORIZED)
        # Half a message is held, and given back when its stream is reset.
        raw.tell(1, (1 << 20).to_bytes(5, "big") + bytes(100_000))
        sent = 0
        for number in range(3, 1000, 2):
            if sent > 2 * window:
                break
            raw.ask(number, AUTHORIZED)
            for _ in range(12):
                raw.h2.send_data(number, bytes(16_384))
                sent += 16_384
            raw.flush()
            assert raw.refusal() == b"8", sent
        raw.h2.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
        raw.ask(2001, AUTHORIZED)
        raw.tell(2001, framed(field(1, b"still-ok")) + bytes(3))
        assert raw.hear(h2.events.DataReceived)
        (connection,) = relayed._callers
        inbound = connection.h2._inbound_flow_control_window_manager
        until(lambda: inbound.current_window_size + inbound._bytes_processed == inbound.max_window_size, "all room")
        raw.h2.reset_stream(2001, h2.errors.ErrorCodes.CANCEL)
        raw.flush()
        passed = 5 + 100_000 + len(framed(field(1, b"still-ok"))) + 3
        until(lambda: connection._window._passed == passed, "what was held is given back too")


def test_a_caller_that_sends_more_than_its_window_is_hung_up_on(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with (
        relay(folder, server, tokens=tokens, bytes_in_flight=1, streams=1) as relayed,
        closing(RawCaller(relayed.port, authority.ca)) as raw,
    ):
        engine.faults["silent_after"] = "0"  # so that the first message is in flight, and nothing else is passed on
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.flush()
        most = STREAM_WINDOW - 10 * len(framed(field(1, b"0")))
        raw.send(b"".join(frames.DataFrame(1, framed(field(1, b"%d" % number))).serialize() for number in range(10)))
        raw.send(b"".join(frames.DataFrame(1, bytes(16_384)).serialize() for _ in range(most // 16_384)))
        raw.send(frames.DataFrame(1, bytes(most % 16_384)).serialize())
        until(lambda: len(relayed.gate.streams) == 1, "the stream")
        raw.h2.ping(b"answered")
        raw.flush()
        assert raw.hear(h2.events.PingAckReceived), "so much is allowed"
        raw.send(frames.DataFrame(1, bytes(20)).serialize())
        told = raw.hear(h2.events.ConnectionTerminated)
        assert isinstance(told, h2.events.ConnectionTerminated)
        assert told.error_code == h2.errors.ErrorCodes.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\0\0\1\0\x08\0\0\0\1\x05", "PROTOCOL_ERROR"),  # five bytes of padding in a frame of one
        (b"\0\0\0\0\x08\0\0\0\1", "PROTOCOL_ERROR"),
        (frames.HeadersFrame(3, b"").serialize() + frames.DataFrame(1, b"within").serialize(), "PROTOCOL_ERROR"),
        (frames.HeadersFrame(3, b"").serialize() + frames.WindowUpdateFrame(1, 1).serialize(), "PROTOCOL_ERROR"),
    ],
    ids=["padding alone", "no padding", "within headers", "a window within headers"],
)
def test_data_that_is_none_ends_its_connection(relayed: Relay, authority: Authority, sent: bytes, code: str) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.tell(1, framed(field(1, b"first")))
        assert raw.hear(h2.events.DataReceived)
        raw.send(sent)
        told = raw.hear(h2.events.ConnectionTerminated)
        assert isinstance(told, h2.events.ConnectionTerminated)
        assert told.error_code == h2.errors.ErrorCodes[code]


def test_padded_data_and_an_end_with_data_are_passed_on_and_data_after_the_end_is_refused(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.ask(1, AUTHORIZED)
        raw.flush()
        raw.send(frames.DataFrame(1, framed(field(1, b"padded")), pad_length=200, flags=["PADDED"]).serialize())
        raw.send(frames.DataFrame(1, framed(field(1, b"last")), flags=["END_STREAM"]).serialize())
        assert raw.hear(h2.events.StreamEnded)
        assert [log.id for log in engine.received] == ["padded", "last"]
        raw.send(frames.DataFrame(1, framed(field(1, b"late"))).serialize())
        raw.h2.ping(b"answered")
        with suppress(OSError):
            raw.flush()
            raw.hear(h2.events.PingAckReceived)
        assert [log.id for log in engine.received] == ["padded", "last"]


@pytest.mark.parametrize("full", [1, None], ids=["stream", "connection"])
def test_acknowledgements_wait_for_a_caller_with_a_small_window_and_go_on_once_it_has_room(
    relayed: Relay, authority: Authority, full: int | None
) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        if full is None:
            raw.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        else:
            raw.h2.increment_flow_control_window(1 << 20)
        raw.ask(1, AUTHORIZED)
        sent = b"".join(framed(field(1, bytes([65 + at]) * 40_000)) for at in range(3))
        raw.tell(1, sent)
        got = bytearray()
        while len(got) < len(sent):
            ack = raw.hear(h2.events.DataReceived)
            assert isinstance(ack, h2.events.DataReceived), len(got)
            got += ack.data
            if len(got) >= 65_535:
                raw.h2.increment_flow_control_window(len(sent), full)
                raw.flush()
        assert bytes(got) == sent


def test_what_a_caller_takes_from_its_window_and_not_from_its_connection_is_bounded(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    with closing(RawCaller(relayed.port, authority.ca, buffer=4096)) as raw:
        raw.hear(h2.events.RemoteSettingsChanged)
        raw.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1})
        raw.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
        raw.ask(1, AUTHORIZED)
        raw.flush()
        raw.tell(1, framed(field(1, b"i" * 4_100_000)))
        transport = next(iter(relayed._callers)).transport
        until(lambda: transport.get_write_buffer_size() > 0, "a system that takes no more", PATIENCE)
        delivers(relayed.port, authority, engine)
        assert transport.get_write_buffer_size() < 256 << 10


def framed(message: bytes) -> bytes:
    return bytes(1) + len(message).to_bytes(4, "big") + message


def test_a_health_check_without_room_for_its_answer_is_told_so(relayed: Relay, authority: Authority) -> None:
    with closing(RawCaller(relayed.port, authority.ca)) as raw:
        raw.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        raw.ask(1, path=HEALTH)
        raw.h2.send_data(1, bytes(5), end_stream=True)
        raw.flush()
        assert raw.refusal() == b"8"


def test_connections_without_a_stream_make_room_for_others(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, streams=2) as relayed:
        with caller(relayed.port, authority) as channel, closing(Open(channel)) as held:
            held.send(field(1, b"a"))
            idle = [RawCaller(relayed.port, authority.ca) for _ in range(80)]
            # 68 connections at the most, of which one has a stream.
            assert all(each.is_hung_up_on() for each in idle[: 80 + 1 - 68])
            assert held.send(field(1, b"b")) == field(1, b"b")
            for each in idle:
                each.close()
        delivers(relayed.port, authority, engine)


def test_an_idle_connection_is_told_to_leave_and_its_caller_comes_again(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, idle=1.5) as relayed, caller(relayed.port, authority) as channel:
        with closing(RawCaller(relayed.port, authority.ca)) as raw:
            assert list(stream(channel, iter([field(1, b"a")]))) == [field(1, b"a")]
            assert raw.hear(h2.events.ConnectionTerminated)
            assert raw.is_hung_up_on()
        assert list(stream(channel, iter([field(1, b"b")]))) == [field(1, b"b")]


def test_a_relay_that_ends_lets_open_streams_end_and_opens_none(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens) as relayed, caller(relayed.port, authority) as channel:
        with closing(Open(channel)) as held:
            held.send(field(1, b"a"))
            loop = next(iter(relayed.gate.streams))._connecting.get_loop()
            stopping = asyncio.run_coroutine_threadsafe(relayed.stop(), loop)
            until(relayed._accepting.done, "a closed door", PATIENCE)
            assert held.send(field(1, b"b")) == field(1, b"b")
            assert status(lambda: list(stream(channel, iter([b""]))))[0] == grpc.StatusCode.UNAVAILABLE
        stopping.result(PATIENCE)
    assert [each.id for each in engine.received] == ["a", "b"]


# Engines that keep to no rule

ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
ACK = framed(field(1, b"a"))


def half_an_ack(talk: H2Connection, connection: socket.socket) -> None:
    talk.send_headers(1, ANSWER)
    talk.send_data(1, ACK)
    large = bytes(1) + (700_000).to_bytes(4, "big") + bytes(600_000)
    for at in range(0, len(large), 16_384):
        talk.send_data(1, large[at : at + 16_384])
    connection.sendall(talk.data_to_send())
    # What was passed on makes room.
    while not any(isinstance(each, h2.events.WindowUpdated) for each in talk.receive_data(connection.recv(1 << 16))):
        continue
    connection.shutdown(socket.SHUT_WR)


def a_prefix(talk: H2Connection, connection: socket.socket) -> None:
    talk.send_headers(1, ANSWER)
    talk.send_data(1, ACK + ACK[:3])
    connection.sendall(talk.data_to_send())
    connection.shutdown(socket.SHUT_WR)


def no_status(talk: H2Connection, _: socket.socket) -> None:
    talk.send_headers(1, ANSWER)
    talk.send_data(1, ACK, end_stream=True)


def bare_http(talk: H2Connection, _: socket.socket) -> None:
    talk.send_headers(1, [(":status", "404")], end_stream=True)


def reset(talk: H2Connection, _: socket.socket) -> None:
    talk.send_headers(1, ANSWER)
    talk.send_data(1, ACK)
    talk.reset_stream(1, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)


def farewell(talk: H2Connection, connection: socket.socket) -> None:
    talk.send_headers(1, ANSWER)
    talk.send_data(1, ACK)
    goaway = frames.GoAwayFrame(0, last_stream_id=1, error_code=11, additional_data=b"tired").serialize()
    connection.sendall(talk.data_to_send() + goaway)
    connection.shutdown(socket.SHUT_WR)


def garbage(talk: H2Connection, connection: socket.socket) -> None:
    talk.send_headers(1, ANSWER)
    talk.send_data(1, ACK)
    # Data of stream 0; what came before it counts.
    connection.sendall(talk.data_to_send() + frames.DataFrame(1, data=b"x").serialize().replace(b"\1x", b"\0x"))


def at_once(talk: H2Connection, _: socket.socket) -> None:
    talk.send_headers(1, [*ANSWER, ("grpc-status", "7"), ("grpc-message", "not you")], end_stream=True)


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("script", "acks", "code", "text"),
    [
        (half_an_ack, 1, grpc.StatusCode.INTERNAL, "RST_STREAM"),
        (a_prefix, 1, UNAVAILABLE, "the engine ended the stream: it hung up"),
        (no_status, 1, UNAVAILABLE, "the engine ended the stream: it ended the stream without a status"),
        (bare_http, 0, grpc.StatusCode.UNIMPLEMENTED, "the engine ended the stream: HTTP status 404"),
        (reset, 1, UNAVAILABLE, "it reset the stream: ENHANCE_YOUR_CALM"),
        (farewell, 1, UNAVAILABLE, "it hung up (ENHANCE_YOUR_CALM: tired)"),
        (garbage, 1, UNAVAILABLE, "it broke HTTP/2"),
        (at_once, 0, grpc.StatusCode.PERMISSION_DENIED, "the engine ended the stream: not you"),
    ],
)
def test_however_an_engine_ends_whole_acknowledgements_arrive_and_then_a_status(
    folder: Path,
    authority: Authority,
    server: tuple[Path, Path],
    tokens: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    script: Callable[[H2Connection, socket.socket], None],
    acks: int,
    code: grpc.StatusCode,
    text: str,
) -> None:
    with (
        closing(RawEngine(folder / "e.sock", script)),
        relay(folder, server, tokens=tokens) as relayed,
        caller(relayed.port, authority) as channel,
    ):
        got: list[bytes] = []
        found, told = status(lambda: got.extend(stream(channel, iter([b"x"]))))
        assert (got, found) == ([ACK[5:]] * acks, code)
        assert text in told
        until(lambda: not relayed.gate.streams, "the stream's end", PATIENCE)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_message_that_waited_for_its_turn_goes_on_whole_without_another_word_of_either_side(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    def script(talk: H2Connection, connection: socket.socket) -> None:
        while not any(isinstance(each, h2.events.StreamEnded) for each in talk.receive_data(connection.recv(1 << 16))):
            continue
        talk.send_headers(1, ANSWER)
        talk.send_data(1, ACK * 3)
        talk.send_headers(1, [("grpc-status", "0")], end_stream=True)

    with (
        # The engine has no reason to tell of its window, and the caller has sent all when the message's turn comes.
        closing(RawEngine(folder / "e.sock", script, window=1 << 24)),
        relay(folder, server, tokens=tokens, rate=1) as relayed,
        caller(relayed.port, authority) as channel,
    ):
        assert list(stream(channel, iter([b"x", b"y", bytes(200_000)]))) == [ACK[5:]] * 3


# Much at once


def test_large_messages_and_acknowledgements_pass_unchanged_in_both_directions(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    # The acknowledgement is as large as the id: both exceed every window.
    sent = [field(1, bytes([65 + at]) * (STREAM_WINDOW * at)) for at in (3, 12, 1)]
    with caller(relayed.port, authority) as channel:
        large = grpc.Compression.NoCompression, grpc.Compression.Gzip
        for compression in large:
            opened: Any = channel.stream_stream(INPUT)
            got = opened(iter(sent), metadata=(AUTHORIZED,), compression=compression)
            assert list(got) == sent


def test_many_callers_at_once_each_get_their_own_acknowledgements_in_order(
    relayed: Relay, authority: Authority, engine: StandInEngine
) -> None:
    failures: list[object] = []

    def call(name: int) -> None:
        sent = [field(1, b"%d-%d" % (name, number)) for number in range(400)]
        with caller(relayed.port, authority) as channel:
            got = list(stream(channel, iter(sent)))
        if got != sent:
            failures.append(name)

    threads = [threading.Thread(target=call, args=(name,)) for name in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert not failures
    assert len(engine.received) == 8 * 400
