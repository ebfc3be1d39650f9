"""A call's bytes, cut anywhere, tell the same; whatever a server sends, there is an end with a reason, and a bound."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.grpc_stream import (
    Answered,
    Broken,
    ClientStream,
    Data,
    Ended,
    Event,
    MessageReader,
    MessageTooLargeError,
    Status,
    framed,
)
from lib.grpc_stream.status import MAX_MESSAGE_CHARACTERS, from_header, status_of, status_of_http, to_header
from lib.grpc_stream.stream import MAX_FRAME_BYTES, MAX_IDLE_FRAMES, OUTGOING_BYTES, WINDOW_BYTES

MESSAGES = st.lists(st.binary(max_size=300), max_size=20)
CUTS = st.lists(st.integers(1, 200), min_size=1, max_size=30)
BEGINNING = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK = ((b"grpc-status", b"0"),)
MAX_HELD_BYTES = MAX_FRAME_BYTES + 9


def parts(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The data in pieces of these sizes, over and over."""
    at, number = 0, 0
    while at < len(data):
        size = cuts[number % len(cuts)]
        yield data[at : at + size]
        at, number = at + size, number + 1


class Server:
    """The other end: h2's own server, and any frames beside it."""

    def __init__(self, initial: dict[SettingCodes, int] | None = None) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings = Settings(client=False, initial_values=initial)
        self.h2.initiate_connection()
        self.received = b""
        self.request: dict[bytes, bytes] = {}
        self.has_ended = self.was_reset = False

    def take(self, data: bytes) -> None:
        """What the client sent; h2 raises where that keeps to no rule."""
        for event in self.h2.receive_data(data):
            match event:
                case RequestReceived(headers=headers):
                    self.request = dict(headers)
                case DataReceived(data=data, flow_controlled_length=length):
                    self.received += data
                    self.h2.acknowledge_received_data(length, 1)
                case StreamEnded():
                    self.has_ended = True
                case StreamReset():
                    self.was_reset = True


def call() -> ClientStream:
    return ClientStream("/plugins.Engine/Input", authority="localhost", metadata=((b"authorization", b"Bearer x"),))


def pass_on(client: ClientStream, server: Server, cuts: list[int] | None = None) -> list[Event]:
    """Carry bytes to and fro until nothing moves."""
    events: list[Event] = []
    while True:
        sent = bytes(client.to_send())
        client.sent(len(sent))
        server.take(sent)
        back = server.h2.data_to_send()
        for part in parts(back, cuts or [1 << 20]):
            events += client.receive(part)
        if not sent and not back:
            return events


def opened(server: Server | None = None) -> tuple[ClientStream, Server]:
    client, server = call(), server or Server()
    assert pass_on(client, server) == []
    assert client.is_open
    return client, server


def joined(events: list[Event]) -> list[Event]:
    """The same events with neighbouring data as one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Data) and isinstance(last, Data):
            found[-1] = Data(last.data + event.data)
        else:
            found.append(event)
    return found


def answer(headers: tuple[tuple[bytes, bytes], ...], *, ends: bool = False) -> bytes:
    """A block of headers as a server without a table would send it."""
    block = b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in headers)
    flags = ["END_HEADERS", *(["END_STREAM"] if ends else [])]
    return HeadersFrame(1, block, flags=flags).serialize()


# What a server may send


PIECES = st.one_of(
    st.binary(min_size=1, max_size=400).map(lambda data: DataFrame(1, data).serialize()),
    st.tuples(st.binary(max_size=50), st.integers(1, 50)).map(
        lambda drawn: DataFrame(1, drawn[0], pad_length=drawn[1], flags=["PADDED"]).serialize()
    ),
    st.binary(min_size=8, max_size=8).map(lambda data: PingFrame(0, data).serialize()),
    st.integers(1, 1000).map(lambda size: WindowUpdateFrame(0, size).serialize()),
    st.integers(1, 1000).map(lambda size: WindowUpdateFrame(1, size).serialize()),
    st.integers(16384, 1 << 20).map(lambda size: SettingsFrame(0, {SettingsFrame.MAX_FRAME_SIZE: size}).serialize()),
    st.integers(0, 1 << 20).map(lambda size: SettingsFrame(0, {4: size}).serialize()),
    st.just(GoAwayFrame(0, last_stream_id=0x7FFFFFFF).serialize()),
    st.just(GoAwayFrame(0, last_stream_id=1, additional_data=b"max_age").serialize()),
    st.just(struct.pack(">HBBBL", 0, 3, 0xEE, 0, 1) + b"new"),  # a frame of a kind that nobody knows
)
ENDINGS = st.sampled_from(
    [
        answer(OK, ends=True),
        answer(((b"grpc-status", b"8"), (b"grpc-message", b"f%C3%BCll %25")), ends=True),
        RstStreamFrame(1, 7).serialize(),
        DataFrame(1, b"rest", flags=["END_STREAM"]).serialize(),
    ]
)


@given(st.lists(PIECES, max_size=20), ENDINGS, CUTS)
def test_an_answer_cut_anywhere_tells_the_same(pieces: list[bytes], ending: bytes, cuts: list[int]) -> None:
    whole = answer(BEGINNING) + b"".join(pieces) + ending
    told = []
    for sizes in ([len(whole)], cuts):
        client, _ = opened()
        events = [event for part in parts(whole, sizes) for event in client.receive(part)]
        assert client.is_over
        assert client.receive(b"anything at all") == client.hung_up() == []
        told.append(joined(events))
    assert told[0] == told[1]
    assert told[0][0] == Answered(BEGINNING)
    assert isinstance(told[0][-1], Ended | Broken)


@given(MESSAGES, CUTS, st.integers(0, 20))
def test_messages_and_trailers_arrive_through_h2_as_they_were_sent(
    messages: list[bytes], cuts: list[int], pad: int
) -> None:
    client, server = opened()
    server.h2.send_headers(1, BEGINNING)
    for message in messages:
        server.h2.send_data(1, framed(message), pad_length=pad or None)
    server.h2.send_headers(1, [(b"grpc-status", b"0"), (b"x-more", b"1")], end_stream=True)
    events = joined(pass_on(client, server, cuts))
    reader = MessageReader()
    assert [found for event in events if isinstance(event, Data) for found in reader.feed(event.data)] == messages
    assert not reader.is_within
    assert events[-1] == Ended(Status.OK, "", ((b"grpc-status", b"0"), (b"x-more", b"1")))


def test_more_than_a_window_arrives() -> None:
    client, server = opened()
    server.h2.send_headers(1, BEGINNING)
    total = 0
    for _ in range(5 * WINDOW_BYTES // 16384):
        server.h2.send_data(1, bytes(16384))
        total += sum(len(event.data) for event in pass_on(client, server) if isinstance(event, Data))
    assert total == 5 * WINDOW_BYTES
    # The windows are opened by whole frames: a byte less each time, and a long call would stall.
    assert (WINDOW_BYTES - server.h2.local_flow_control_window(1)) % 16384 == 0


# What is sent


@given(
    MESSAGES,
    st.dictionaries(
        st.sampled_from([SettingCodes.INITIAL_WINDOW_SIZE, SettingCodes.HEADER_TABLE_SIZE]), st.integers(1, 500)
    ),
    st.integers(16384, 1 << 20),
    CUTS,
)
def test_messages_go_out_whole_and_in_order_within_whatever_windows_the_server_has(
    messages: list[bytes], drawn: dict[SettingCodes, int], frame: int, cuts: list[int]
) -> None:
    client, server = call(), Server({**drawn, SettingCodes.MAX_FRAME_SIZE: frame})
    for message in messages:
        client.send(framed(message))
        pass_on(client, server, cuts)
    assert not server.has_ended
    client.end()
    pass_on(client, server, cuts)
    assert server.received == b"".join(map(framed, messages))
    assert server.has_ended
    assert client.backlog == 0
    assert server.request == {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/plugins.Engine/Input",
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": b"Bearer x",
    }


@pytest.mark.parametrize("frame", [16384, (1 << 24) - 1])
def test_many_messages_share_a_frame_and_no_more_is_made_than_is_sent(frame: int) -> None:
    server = Server({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24, SettingCodes.MAX_FRAME_SIZE: frame})
    server.h2.increment_flow_control_window(1 << 24)
    client, _ = opened(server)
    for _ in range(10_000):
        client.send(framed(bytes(95)))
    made = client.to_send()
    assert OUTGOING_BYTES <= len(made) <= OUTGOING_BYTES + MAX_FRAME_BYTES + 9
    # Four or five frames, not one for each message.
    assert len(made) - (1_000_000 - client.backlog) <= 5 * 9
    client.end()
    pass_on(client, server)
    assert server.received == framed(bytes(95)) * 10_000


def test_padding_takes_room_in_the_window_and_is_given_back() -> None:
    client, server = opened()
    server.h2.send_headers(1, BEGINNING)
    for _ in range(2 * WINDOW_BYTES // 256):
        server.h2.send_data(1, b"x", pad_length=254)  # With its length's byte, 256 bytes of the window.
        if server.h2.local_flow_control_window(1) < 1000:
            pass_on(client, server)
    events = pass_on(client, server)
    assert all(isinstance(event, Data) for event in events)


@pytest.mark.parametrize("number", [0, 1])
def test_the_reserved_bit_of_a_window_and_of_a_goaway_is_ignored(number: int) -> None:
    client, server = opened(Server({SettingCodes.INITIAL_WINDOW_SIZE: 65535}))
    client.send(bytes(66_000))
    pass_on(client, server)
    client.receive(GoAwayFrame(0, last_stream_id=1).serialize().replace(b"\0\0\0\x01", b"\x80\0\0\x01"))
    room = {stream: WindowUpdateFrame(stream, 1000).serialize() for stream in (0, 1)}
    room[number] = room[number].replace(b"\0\0\x03\xe8", b"\x80\0\x03\xe8")
    waiting = client.backlog
    assert client.receive(room[0] + room[1]) == []
    client.to_send()
    assert client.backlog == max(0, waiting - 1000)
    assert not client.is_over


def test_a_window_that_closes_and_opens_holds_what_waits() -> None:
    client, server = opened()
    client.send(bytes(1000))
    pass_on(client, server)
    server.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    pass_on(client, server)
    client.send(bytes(100_000))
    pass_on(client, server)
    assert len(server.received) <= 1000
    server.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    pass_on(client, server)
    assert len(server.received) == 101_000


def test_a_ping_is_answered_with_its_bytes_and_an_answer_is_not() -> None:
    client, _ = opened()
    for flags, answered in ((), PingFrame(0, b"12345678", flags=["ACK"]).serialize()), (["ACK"], b""):
        assert client.receive(PingFrame(0, b"12345678", flags=flags).serialize()) == []
        assert bytes(client.to_send()) == answered
        client.sent(len(answered))


def test_the_request_waits_for_a_server_that_takes_no_streams_yet() -> None:
    client, server = call(), Server({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
    client.send(framed(b"early"))
    pass_on(client, server)
    assert not client.is_open
    assert not server.request
    server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    pass_on(client, server)
    assert client.is_open
    assert server.received == framed(b"early")


def test_a_cancelled_call_is_reset() -> None:
    client, server = opened()
    client.send(bytes(10))
    client.cancel()
    pass_on(client, server)
    assert server.was_reset
    assert client.is_over


def test_after_a_graceful_goaway_a_call_goes_on_in_both_directions() -> None:
    client, server = opened()
    server.h2.send_headers(1, BEGINNING)
    events = pass_on(client, server)
    events += client.receive(GoAwayFrame(0, last_stream_id=0x7FFFFFFF).serialize())
    events += client.receive(PingFrame(0, bytes(8)).serialize())
    events += client.receive(GoAwayFrame(0, last_stream_id=1).serialize())
    client.send(framed(b"late"))
    client.end()
    server.h2.send_data(1, framed(b"answer"))
    server.h2.send_headers(1, OK, end_stream=True)
    events += pass_on(client, server)
    assert server.received == framed(b"late")
    assert events == [Answered(BEGINNING), Data(framed(b"answer")), Ended(Status.OK, "", OK)]


# How a call ends


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (((b"grpc-status", b"7"), (b"grpc-message", b"no %E2%82%AC")), (Status.PERMISSION_DENIED, "no €")),
        (((b"grpc-status", b"99"),), (Status.UNKNOWN, "")),
        (((b"grpc-status", b"-1"),), (Status.UNKNOWN, "")),
        (((b"grpc-status", b"x"), (b"grpc-message", b"%zz%E2%82")), (Status.UNKNOWN, "%zz\ufffd")),
    ],
)
def test_trailers_alone_are_an_end(headers: tuple[tuple[bytes, bytes], ...], expected: tuple[Status, str]) -> None:
    for before in ((), (answer(BEGINNING),)):
        client, _ = opened()
        only = headers if before else (*BEGINNING, *headers)
        event = client.receive(b"".join(before) + answer(only, ends=True))[-1]
        assert isinstance(event, Ended)
        assert (event.status, event.message) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"401", Status.UNAUTHENTICATED),
        (b"404", Status.UNIMPLEMENTED),
        (b"502", Status.UNAVAILABLE),
        (b"200", Status.UNKNOWN),
    ],
)
def test_an_answer_that_is_not_grpc_is_told_by_its_http_status(status: bytes, expected: Status) -> None:
    client, _ = opened()
    headers = ((b":status", status), (b"content-type", b"text/html"))
    assert client.receive(answer(headers)) == [Ended(expected, f"HTTP status {status.decode()}, which is not gRPC", ())]
    assert status_of_http(status) is expected


def test_what_came_before_the_end_is_told_with_it() -> None:
    client, _ = opened()
    told = client.receive(answer(BEGINNING) + DataFrame(1, b"acks").serialize() + RstStreamFrame(1, 8).serialize())
    assert told == [Answered(BEGINNING), Data(b"acks"), Broken("reset the stream: CANCEL")]


def test_a_server_that_hangs_up_is_told_with_its_farewell() -> None:
    client, _ = opened()
    assert client.receive(GoAwayFrame(0, 1, 11, b"too_many_pings").serialize()) == []
    assert client.hung_up() == [Broken("hung up (ENHANCE_YOUR_CALM: too_many_pings)")]
    client, _ = opened()
    assert client.hung_up("Connection reset by peer") == [Broken("hung up: Connection reset by peer")]


# Servers that keep to no rule


def oversized() -> bytes:
    return (16385).to_bytes(3, "big") + bytes([0, 0]) + (1).to_bytes(4, "big")


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a frame over the limit": (oversized, "sent a frame of 16385 bytes"),
    "data before headers": (lambda: DataFrame(1, b"x").serialize(), "sent data where headers were due"),
    "padding that is longer than the frame": (
        lambda: answer(BEGINNING) + b"\0\0\2\0\x08\0\0\0\1\xff\0",
        "sent a frame of padding alone",
    ),
    "data on a stream that nobody opened": (lambda: DataFrame(3, b"x").serialize(), "broke HTTP/2"),
    "headers on a stream that nobody opened": (
        lambda: HeadersFrame(2, b"\x88", flags=["END_HEADERS"]).serialize(),
        "broke HTTP/2",
    ),
    "a push": (
        lambda: PushPromiseFrame(1, 2, b"\x88", flags=["END_HEADERS"]).serialize(),
        "broke HTTP/2",
    ),
    "headers that nobody can read": (
        lambda: HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]).serialize(),
        "broke HTTP/2",
    ),
    "headers without end": (
        lambda: HeadersFrame(1, b"\x88").serialize() + ContinuationFrame(1, b"").serialize() * 1000,
        "broke HTTP/2",
    ),
    "headers that swell": (
        lambda: HeadersFrame(
            1, b"\x88\x40\x01a\x7f\xa1\x1f" + b"v" * 4000 + b"\xbe" * 5000, flags=["END_HEADERS"]
        ).serialize(),
        "broke HTTP/2",
    ),
    "data within headers": (
        lambda: answer(BEGINNING) + HeadersFrame(1, b"\x88").serialize() + DataFrame(1, b"x").serialize(),
        "sent data where headers were due",
    ),
    "a ping within headers": (
        lambda: answer(BEGINNING) + HeadersFrame(1, b"\x88").serialize() + PingFrame(0, bytes(8)).serialize(),
        "broke HTTP/2",
    ),
    "a ping within a promise": (
        lambda: PushPromiseFrame(1, 2, b"\x88").serialize() + PingFrame(0, bytes(8)).serialize(),
        "broke HTTP/2",
    ),
    "a goaway within headers": (
        lambda: answer(BEGINNING) + HeadersFrame(1, b"\x88").serialize() + GoAwayFrame(0, 1).serialize(),
        "broke HTTP/2: an invalid GOAWAY",
    ),
    "a goaway cut short": (lambda: b"\0\0\4\7\0\0\0\0\0\0\0\0\1", "broke HTTP/2: an invalid GOAWAY"),
    "a goaway before the stream": (lambda: GoAwayFrame(0, 0).serialize(), "accepts no more streams (NO_ERROR)"),
    "an end without a status": (
        lambda: answer(BEGINNING) + answer(((b"x", b"y"),), ends=True),
        "ended the stream without a status",
    ),
    "trailers without an end": (lambda: answer(BEGINNING) + answer(OK), "broke HTTP/2"),
    "an end with data": (
        lambda: answer(BEGINNING) + DataFrame(1, b"x", flags=["END_STREAM"]).serialize(),
        "ended the stream without a status",
    ),
    "a window that overflows": (lambda: WindowUpdateFrame(1, 0x7FFFFFFF).serialize(), "broke HTTP/2"),
    "a window of nothing": (lambda: WindowUpdateFrame(1, 1).serialize()[:-4] + bytes(4), "broke HTTP/2"),
    "settings of the wrong size": (lambda: b"\0\0\5\4\0\0\0\0\0" + bytes(5), "broke HTTP/2"),
    "a ping of the wrong size": (lambda: b"\0\0\5\6\0\0\0\0\0" + bytes(5), "broke HTTP/2"),
    "a flood of pings": (lambda: PingFrame(0, bytes(8)).serialize() * 20_000, "sent control frames faster than"),
    "a flood of settings": (lambda: SettingsFrame(0).serialize() * 40_000, "sent control frames faster than"),
    "a flood of empty frames": (
        lambda: answer(BEGINNING) + DataFrame(1, b"").serialize() * (MAX_IDLE_FRAMES + 1),
        "sent too many frames without data",
    ),
    "a flood of goaways": (
        lambda: GoAwayFrame(0, 1).serialize() * (MAX_IDLE_FRAMES + 1),
        "sent too many frames without data",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_server_may_not_send_breaks_the_call_with_its_reason(name: str) -> None:
    make, expected = HOSTILE[name]
    client, _ = opened()
    event: Event | None = None
    for part in parts(make(), [50_000]):
        for event in client.receive(part):
            if isinstance(event, Broken):
                break
        assert len(client._unread) <= MAX_HELD_BYTES
    assert isinstance(event, Broken)
    assert event.reason.startswith(expected)
    assert client.is_over


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH", PingFrame(0, bytes(8)).serialize(), bytes(100)]
)
def test_what_does_not_speak_http_2_is_told_so(said: bytes) -> None:
    client = call()
    assert client.receive(said) == [Broken("does not speak HTTP/2")]


VALID = answer(BEGINNING) + DataFrame(1, framed(b"x" * 50)).serialize() + SettingsFrame(0, {3: 1}).serialize()


@settings(max_examples=400)
@given(
    st.one_of(st.binary(max_size=600), st.lists(PIECES | ENDINGS | st.binary(max_size=30), max_size=8).map(b"".join)),
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    CUTS,
)
def test_any_bytes_end_in_events_and_hold_little(noise: bytes, changes: list[tuple[int, int]], cuts: list[int]) -> None:
    changed = bytearray(VALID)
    for at, value in changes:
        changed[at] = value
    client, _ = opened()
    events: list[Event] = []
    for part in parts(bytes(changed) + noise, cuts):
        events += client.receive(part)
        assert len(client._unread) <= MAX_HELD_BYTES
        client.sent(len(client.to_send()))
    events += client.hung_up()
    assert sum(isinstance(event, Ended | Broken) for event in events) == 1
    assert isinstance(events[-1], Ended | Broken)


# Messages and statuses


@given(MESSAGES, CUTS)
def test_messages_cut_anywhere_are_found_whole(messages: list[bytes], cuts: list[int]) -> None:
    reader, found = MessageReader(300), list[bytes]()
    for part in parts(b"".join(map(framed, messages)), cuts):
        found += reader.feed(part)
    assert found == messages
    assert not reader.is_within


def test_a_message_that_is_too_long_or_compressed_is_refused_once_its_length_is_known() -> None:
    assert MessageReader(10).feed(framed(bytes(10))) == [bytes(10)]
    for beginning in (framed(bytes(11))[:5], b"\1\0\0\0\1"):
        reader = MessageReader(10)
        assert reader.feed(beginning[:4]) == []
        assert reader.is_within
        with pytest.raises(MessageTooLargeError):
            reader.feed(beginning[4:])


# A character takes up to twelve bytes in the header, of which four times MAX_MESSAGE_CHARACTERS are read.
@given(st.text(max_size=MAX_MESSAGE_CHARACTERS // 3))
@example("ä" * 600)
def test_a_message_of_a_status_survives_its_header(text: str) -> None:
    header = to_header(text)
    assert all(0x20 <= each <= 0x7E for each in header)
    assert from_header(header) == text.encode("utf-8", "replace").decode()[:MAX_MESSAGE_CHARACTERS]


@given(st.binary(max_size=20))
def test_any_header_has_a_status_and_a_text(value: bytes) -> None:
    assert isinstance(status_of(value), Status)
    assert isinstance(from_header(value), str)
    assert [status_of(b"%d" % each) for each in Status] == list(Status)
