"""The relay over real TLS: bytes pass unchanged, nobody comes in unasked, and no caller harms another.

Callers are bare gRPC channels, where the status is what matters, and the engine client, where delivery is.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests
import yaml

from emulator.engine import StandInEngine
from emulator.relay import Certificates, RelayTokens
from emulator.relay.caller import HEALTH
from lib.errors import ConfigError, EngineDownError, EngineRefusedError, LogRefusedError
from lib.model.log import MAX_LOG_BYTES
from lib.utmstack.channel import Credentials
from lib.utmstack.engine import GrpcEngine
from tests.fakes.authority import Authority
from tests.fakes.listening import listening
from tests.fakes.relay import (
    PATIENCE,
    TOKEN,
    Open,
    caller,
    client,
    delivers,
    field,
    log,
    reached,
    relay,
    status,
    stream,
)
from tests.site import ROOT, free_port, until

# What passes


def test_messages_and_acknowledgements_pass_unchanged_and_the_end_of_the_stream_too(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    # An engine that knows nothing of protobuf sees the very bytes, unknown fields and broken messages too.
    seen: list[bytes] = []
    sent = [b"", b"\xff\xfe broken", field(1, b"one") + field(99 % 16, b"unknown"), os.urandom(100_000)]

    def echo(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for each in messages:
            seen.append(each)
            yield each[::-1]
        yield b"after the caller's last"

    class Methods(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.stream_stream_rpc_method_handler(echo)

    with (
        listening(folder / "e.sock", lambda server: server.add_generic_rpc_handlers((Methods(),))),
        relay(folder, server, tokens=tokens) as relayed,
        caller(relayed.port, authority) as channel,
    ):
        got = list(stream(channel, iter(sent)))
    assert seen == sent
    assert got == [*(each[::-1] for each in sent), b"after the caller's last"]


def test_an_acknowledgement_does_not_wait_until_the_caller_has_confirmed_the_one_before(
    engine: StandInEngine, folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    with relay(folder, server, tokens=tokens) as relayed, caller(relayed.port, authority) as channel:
        held = Open(channel)
        held.send(b"")
        (connection,) = relayed._callers
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        held.close()


def test_the_engine_client_delivers_through_a_relay_as_through_the_socket(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    logs = [log(number, b'{"n":%d}' % number) for number in range(700)]
    with relay(folder, server, tokens=tokens) as relayed, client(relayed.port, authority) as remote:
        remote.probe()
        assert list(remote.deliver(iter(logs)))[-1] == len(logs)
        assert [each.id for each in engine.received] == [each.id for each in logs]
        until(lambda: not relayed.gate.streams, "the streams' end")
        assert (relayed.gate.counts["messages"], relayed.gate.counts["acks"], relayed.gate.in_flight) == (700, 700, 0)


def test_an_event_of_over_4_mib_is_named_as_it_is_by_the_engine_itself(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens) as relayed, caller(relayed.port, authority) as channel:
        code, text = status(lambda: list(stream(channel, iter([field(1, b"x"), field(6, b"x" * (5 << 20))]))))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in text
        assert "engine" not in text  # it was the relay that refused
        with client(relayed.port, authority) as remote, pytest.raises(LogRefusedError) as refused:
            list(remote.deliver(iter([log(1), log(2, b"x" * MAX_LOG_BYTES), log(3)])))
        assert refused.value.log_id == "log-2"
        delivers(relayed.port, authority, engine)


# Who comes in


def test_a_wrong_token_no_token_and_another_scheme_are_unauthenticated(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    refusal = grpc.StatusCode.UNAUTHENTICATED
    with relay(folder, server, tokens=tokens) as relayed, caller(relayed.port, authority) as channel:
        for token in ("not-the-token-of-this-test", "", None, TOKEN[:-1], "# in use"):
            code, text = status(lambda: list(stream(channel, iter([b"x"]), token)))  # noqa: B023
            assert code == refusal, token
            assert TOKEN not in text
        assert status(lambda: list(stream(channel, iter([b"x"]), TOKEN, scheme="Basic")))[0] == refusal
        assert engine.streams == 0
        delivers(relayed.port, authority, engine)
        wrong = Credentials(ca=authority.ca.read_bytes(), token="another-token-entirely")
        with (
            closing(GrpcEngine(f"grpcs://127.0.0.1:{relayed.port}", credentials=lambda: wrong)) as stranger,
            pytest.raises(EngineRefusedError, match="does not accept this token"),
        ):
            stranger.probe()


def test_tokens_are_rotated_without_a_restart_and_without_a_gap(
    folder: Path, authority: Authority, server: tuple[Path, Path], engine: StandInEngine
) -> None:
    file = folder / "rotated"
    file.write_text(TOKEN)
    held = {"token": TOKEN}

    def shown() -> Credentials:
        return Credentials(ca=authority.ca.read_bytes(), token=held["token"])

    with (
        relay(folder, server, tokens=file) as relayed,
        closing(GrpcEngine(f"grpcs://127.0.0.1:{relayed.port}", credentials=shown)) as remote,
    ):
        remote.probe()
        file.write_text(f"{TOKEN}\nthe-token-that-follows\n")
        remote.probe()
        with caller(relayed.port, authority) as channel:
            assert list(stream(channel, iter([field(1, b"a")]), "the-token-that-follows"))
        file.write_text("the-token-that-follows\n")
        with pytest.raises(EngineRefusedError):
            remote.probe()
        held["token"] = "the-token-that-follows"
        remote.probe()
        file.unlink()
        with pytest.raises(EngineRefusedError):
            remote.probe()
        file.write_text("the-token-that-follows\n")
        remote.probe()


def test_with_a_client_ca_only_its_valid_certificates_come_in(
    folder: Path, authority: Authority, server: tuple[Path, Path], engine: StandInEngine
) -> None:
    good = authority.issue("caller")
    expired = authority.issue("expired", valid_for=timedelta(hours=-1))
    (folder / "other").mkdir(exist_ok=True)
    foreign = Authority(folder / "other").issue("caller")
    with relay(folder, server, client_ca=authority.ca) as relayed:
        for shown in (None, expired, foreign):
            with caller(relayed.port, authority, shown) as channel:
                assert status(lambda: list(stream(channel, iter([b"x"]), None)))[0] == grpc.StatusCode.UNAVAILABLE
        assert engine.streams == 0
        with caller(relayed.port, authority, good) as channel:
            assert len(list(stream(channel, iter([field(1, b"a")]), None))) == 1
        ca = authority.ca.read_bytes()
        for credentials, works in (
            (Credentials(ca, good[0].read_bytes(), good[1].read_bytes()), True),
            (Credentials(ca), False),
        ):
            target = f"grpcs://127.0.0.1:{relayed.port}"
            with closing(GrpcEngine(target, credentials=lambda: credentials)) as remote:  # noqa: B023
                assert reached(remote) == works
        with closing(GrpcEngine(f"grpcs://127.0.0.1:{relayed.port}")) as remote, pytest.raises(EngineDownError) as down:
            remote.probe()  # it trusts the public authorities only
        assert "engine_access" in down.value.remedy


def test_a_new_server_certificate_is_shown_without_a_restart_and_a_broken_one_never(
    folder: Path, authority: Authority, engine: StandInEngine, tokens: Path
) -> None:
    (folder / "next").mkdir(exist_ok=True)
    following = Authority(folder / "next", "next")
    certificate, key = authority.issue("rotated")
    with relay(folder, (certificate, key), tokens=tokens) as relayed:
        delivers(relayed.port, authority, engine)
        certificate.write_text("-----BEGIN CERTIFICATE-----\n")
        delivers(relayed.port, authority, engine)
        for old, new in zip((certificate, key), following.issue("rotated"), strict=True):
            new.replace(old)
        delivers(relayed.port, following, engine)
        with (
            client(relayed.port, authority) as remote,
            pytest.raises(EngineDownError, match="certificate is not trusted"),
        ):
            remote.probe()


def test_who_is_let_in_changes_with_the_client_ca_without_a_restart(
    folder: Path, authority: Authority, server: tuple[Path, Path], engine: StandInEngine
) -> None:
    (folder / "later").mkdir(exist_ok=True)
    following = Authority(folder / "later")
    client_ca = folder / "client-ca.pem"
    client_ca.write_bytes(authority.ca.read_bytes())
    former, later = authority.issue("former-caller"), following.issue("later-caller")

    def comes_in(shown: tuple[Path, Path]) -> bool:
        with caller(relayed.port, authority, shown) as channel:
            try:
                return list(stream(channel, iter([field(1, b"a")]), None)) == [field(1, b"a")]
            except grpc.RpcError:
                return False

    with relay(folder, server, client_ca=client_ca) as relayed:
        assert (comes_in(former), comes_in(later)) == (True, False)
        following.ca.replace(client_ca)
        assert (comes_in(former), comes_in(later)) == (False, True)


def test_every_other_method_is_unimplemented(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens) as relayed, caller(relayed.port, authority) as channel:
        for method in ("/plugins.Engine/Notify", "/plugins.Integration/ProcessLog", "/plugins.Engine/input", "/x/y"):
            code, _ = status(lambda: list(stream(channel, iter([b"x"]), method=method)))  # noqa: B023
            assert code == grpc.StatusCode.UNIMPLEMENTED, method
        delivers(relayed.port, authority, engine)


# When the engine is not there


def test_a_missing_socket_is_unavailable_and_said_in_plain_words(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    (folder / "e.sock").unlink(missing_ok=True)
    with relay(folder, server, tokens=tokens) as relayed, client(relayed.port, authority, tries=1) as remote:
        with pytest.raises(EngineDownError, match=r"UNAVAILABLE: the relay cannot reach the engine: .* is missing"):
            list(remote.deliver(iter([log(1)])))
        with caller(relayed.port, authority) as channel:
            check: Any = channel.unary_unary(HEALTH)
            assert check(b"") == b"\x08\x02"
            with StandInEngine(folder / "e.sock") as engine:
                assert check(b"") == check(b"\x0a\x0eplugins.Engine") == b"\x08\x01"
                assert status(lambda: check(b"\x0a\x05other"))[0] == grpc.StatusCode.NOT_FOUND
                until(lambda: reached(remote), "the engine behind the relay", PATIENCE)
                delivers(relayed.port, authority, engine)


def test_an_engine_that_dies_in_mid_stream_is_unavailable_and_what_is_unacknowledged_is_sent_again(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path
) -> None:
    with StandInEngine(folder / "e.sock") as engine, relay(folder, server, tokens=tokens) as relayed:
        with caller(relayed.port, authority) as channel, closing(Open(channel)) as held:
            held.send(field(1, b"a"))
            engine.stop()
            code, text = status(lambda: next(held.call))
            assert code == grpc.StatusCode.UNAVAILABLE
            assert "engine" in text
        engine.start()
        engine.faults["abort_after"] = "60"
        with client(relayed.port, authority) as remote:
            assert list(remote.deliver(log(number) for number in range(100)))[-1] == 100
        assert {each.id for each in engine.received} >= {f"log-{number}" for number in range(100)}


def test_a_status_of_the_engine_and_its_polite_end_reach_the_caller(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens) as relayed, caller(relayed.port, authority) as channel:
        engine.faults["status"] = "PERMISSION_DENIED"
        heard = set()
        for _ in range(5):
            heard.add(status(lambda: list(stream(channel, iter([b""])))))
            if (grpc.StatusCode.PERMISSION_DENIED, "the engine ended the stream: a scripted fault") in heard:
                break
        else:
            # A reset of the stream can overtake its status once in a while, and is tried again like it; not always.
            pytest.fail(f"the engine's status is never heard: {heard}")
        del engine.faults["status"]
        engine.faults["hang_up_after"] = "1"
        with closing(Open(channel)) as held, pytest.raises(StopIteration):
            held.send(field(1, b"a"))


def test_what_answers_with_tls_and_is_no_relay_is_told_so(authority: Authority, server: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        with client(listener.getsockname()[1], authority, tries=1) as remote:
            with pytest.raises(EngineDownError, match="does not speak HTTP/2") as caught:
                remote.probe()
            assert "engine_access" in caught.value.remedy
        serving.join(PATIENCE)


# Those who misbehave


def test_a_caller_that_takes_no_acknowledgements_is_held_up_and_then_ended_and_others_are_not(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, idle=2.0, streams=4, bytes_in_flight=4 << 20) as relayed:

        def endless() -> Iterator[bytes]:
            while True:
                # The acknowledgement is as large as the id.
                yield field(1, b"i" * 60_000)

        with caller(relayed.port, authority) as channel:
            slow = stream(channel, endless())
            until(lambda: relayed.gate.in_flight >= 1 << 20, "a full share", PATIENCE)
            assert relayed.gate.in_flight < (1 << 20) + 60_100
            delivers(relayed.port, authority, engine)
            until(lambda: not relayed.gate.streams and relayed.gate.in_flight == 0, "room again", PATIENCE)
            delivers(relayed.port, authority, engine)
            # It learns why once it takes what has come back.
            code, text = status(lambda: list(slow))
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "it was idle for 2 s" in text


def test_an_idle_stream_is_ended_so_that_it_holds_nobodys_place(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, idle=1.5, streams=1) as relayed:
        with caller(relayed.port, authority) as channel, closing(Open(channel)) as idle:
            assert status(lambda: next(idle.call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        delivers(relayed.port, authority, engine)


class Line:
    """A network between a caller and the relay that can go dead without a word."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._dead = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._dead.set()

    def close(self) -> None:
        for each in [self._listener, *self._ends]:
            each.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        self._ends += [near, far]
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if not self._dead.is_set():
                    target.sendall(data)
        except OSError:
            return


def test_a_connection_that_is_dead_without_a_word_is_noticed_and_its_place_is_free_again(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    with relay(folder, server, tokens=tokens, keepalive=1.5, streams=1) as relayed:
        line = Line(relayed.port)
        silent = [socket.create_connection(("127.0.0.1", relayed.port)) for _ in range(50)]
        with closing(line), caller(line.port, authority) as channel, closing(Open(channel)) as held:
            held.send(field(1, b"a"))
            line.cut()
            until(lambda: not relayed.gate.streams, "the keepalive's answer that never comes", PATIENCE)
            delivers(relayed.port, authority, engine)
        for each in silent:
            each.close()


def test_messages_a_second_are_bounded_by_waiting_not_by_refusal(
    folder: Path, authority: Authority, server: tuple[Path, Path], tokens: Path, engine: StandInEngine
) -> None:
    import time

    with relay(folder, server, tokens=tokens, rate=200) as relayed:
        began = time.monotonic()
        delivers(relayed.port, authority, engine, 300)
        # A second's worth may come at once.
        assert time.monotonic() - began >= 0.45


# The command


@pytest.fixture
def process(folder: Path, server: tuple[Path, Path], tokens: Path) -> Iterator[tuple[psutil.Process, int, int]]:
    """`python -m emulator relay`; its port, and that of its metrics."""
    port, metrics = free_port(), free_port()
    settings = {
        "engine": f"unix:{folder}/e.sock",
        "relay": {
            "listen": f"127.0.0.1:{port}",
            "metrics": f"127.0.0.1:{metrics}",
            "certificate": str(server[0]),
            "key": str(server[1]),
            "tokens": str(tokens),
            "streams": 20,
        },
    }
    config = folder / "relay.yaml"
    config.write_text(yaml.safe_dump(settings))
    child = subprocess.Popen([sys.executable, "-m", "emulator", "relay", "--config", str(config)], cwd=ROOT)
    yield psutil.Process(child.pid), port, metrics
    child.terminate()
    assert child.wait(PATIENCE) == 0


def test_a_thousand_streams_are_refused_beyond_the_limit_with_memory_flat_and_honest_traffic_going_on(
    process: tuple[psutil.Process, int, int], authority: Authority, engine: StandInEngine
) -> None:
    child, port, metrics = process
    with client(port, authority) as remote:
        until(lambda: reached(remote), "the relay", PATIENCE)

    def flood(held: list[Open]) -> list[str]:
        with caller(port, authority) as channel:
            streams = [Open(channel) for _ in range(1000)]
            # Those beyond the limit are refused while those within it stay open.
            until(lambda: sum(each.call.done() for each in streams) == 1000 - 11, "refusals", PATIENCE)
            assert [each.send(field(1, b"a")) for each in held] == [field(1, b"a")] * 9
            texts = [each.call.details() for each in streams if each.call.done()]
            for each in streams:
                each.close()
            return texts

    with caller(port, authority) as other:
        held = [Open(other) for _ in range(9)]
        assert [each.send(field(1, b"a")) for each in held] == [field(1, b"a")] * 9
        first = flood(held)
        before = child.memory_info().rss
        again = flood(held)
        grown = child.memory_info().rss - before
        for each in held:
            each.close()
    delivers(port, authority, engine)
    assert "all 20 streams of the relay are in use: try again later" in first + again
    # HTTP/2 itself refuses what comes before it was told how many a connection may have (error 7: REFUSED_STREAM).
    assert all("20 streams" in text or "error code 7" in text for text in first + again)
    assert grown < 8 << 20
    shown = requests.get(f"http://127.0.0.1:{metrics}/metrics", timeout=10).text
    assert 'relay_streams_ended_total{status="RESOURCE_EXHAUSTED"}' in shown
    assert "relay_messages_total" in shown
    assert TOKEN not in shown


# What cannot be used is said at the start


def test_certificates_and_tokens_that_cannot_be_used_are_named(folder: Path, authority: Authority) -> None:
    certificate, key = authority.issue("one")
    _, other = authority.issue("two")
    short = folder / "short"
    short.write_text("short\n")
    for faulty, named in (
        (lambda: Certificates(str(certificate), str(other), None), "key"),
        (lambda: Certificates(str(folder / "none"), str(key), None), "none cannot be read"),
        (lambda: Certificates(str(certificate), str(key), str(short)), "cannot be used"),
        (lambda: RelayTokens(str(short)), "shorter than 16 characters"),
        (lambda: RelayTokens(str(folder)), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=named):
            faulty()
