"""A relay in this process, over real TLS, and those who call it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from emulator.engine import StandInEngine
from emulator.relay import Bounds, Certificates, Gate, Relay, RelayTokens
from emulator.relay.http2 import INPUT
from lib.errors import EngineDownError
from lib.model.log import Log
from lib.utmstack.channel import Credentials
from lib.utmstack.engine import GrpcEngine
from tests.fakes.authority import Authority

TOKEN = "a-token-of-this-test"
PATIENCE = 60.0


class Running:
    """A relay on an event loop of its own."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(relay.start())

    def do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self.do(self.relay.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def relay(
    folder: Path, server: tuple[Path, Path], *, tokens: Path | None = None, client_ca: Path | None = None, **bounds: Any
) -> Iterator[Relay]:
    certificates = Certificates(str(server[0]), str(server[1]), None if client_ca is None else str(client_ca))
    allowed = None if tokens is None else RelayTokens(str(tokens))
    gate = Gate(str(folder / "e.sock"), allowed, Bounds(**{"rate": None, **bounds}))
    running = Running(Relay(("127.0.0.1", 0), certificates, gate))
    with closing(running):
        yield running.relay


@contextmanager
def caller(port: int, authority: Authority, shown: tuple[Path, Path] | None = None) -> Iterator[grpc.Channel]:
    key, certificate = (None, None) if shown is None else (shown[1].read_bytes(), shown[0].read_bytes())
    tls = grpc.ssl_channel_credentials(authority.ca.read_bytes(), key, certificate)
    # Each caller has connections of its own.
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", tls, options=own) as channel:
        yield channel


def stream(
    channel: grpc.Channel,
    messages: Iterator[bytes],
    token: str | None = TOKEN,
    *,
    method: str = INPUT,
    scheme: str = "Bearer",
) -> Any:
    metadata = () if token is None else (("authorization", f"{scheme} {token}"),)
    opened: Any = channel.stream_stream(method)
    return opened(messages, metadata=metadata)


def status(work: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    return caught.value.code(), caught.value.details() or ""


class Open:
    """A stream that stays open until it is closed."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._messages: queue.Queue[bytes | None] = queue.Queue()
        self.call = stream(channel, iter(self._messages.get, None))

    def send(self, message: bytes) -> bytes:
        """Send a message; its acknowledgement."""
        self._messages.put(message)
        ack: bytes = next(self.call)
        return ack

    def close(self) -> None:
        self._messages.put(None)
        self.call.cancel()


def field(number: int, value: bytes) -> bytes:
    """A field of a message as protobuf writes it."""
    size, length = len(value), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


def log(number: int, raw: bytes = b"{}") -> Log:
    return Log(f"log-{number}", "sophos-central", "a host", "2026-11-25T10:00:00.000000Z", "tenant", raw)


def client(port: int, authority: Authority, **options: Any) -> closing[GrpcEngine]:
    shown = Credentials(ca=authority.ca.read_bytes(), token=TOKEN)
    return closing(GrpcEngine(f"grpcs://127.0.0.1:{port}", credentials=lambda: shown, **options))


def delivers(port: int, authority: Authority, engine: StandInEngine, count: int = 20) -> None:
    """Honest traffic comes through."""
    before = len(engine.received)
    with client(port, authority) as honest:
        assert list(honest.deliver(log(number) for number in range(count)))[-1] == count
    # Whatever else others have sent meanwhile.
    arrived = [each.id for each in engine.received[before:] if each.id.startswith("log-")]
    assert arrived == [f"log-{number}" for number in range(count)]


def reached(remote: GrpcEngine) -> bool:
    try:
        remote.probe()
    except EngineDownError:
        return False
    return True
