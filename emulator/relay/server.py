"""`plugins.Engine/Input` over TLS, passed to the engine's socket without being decoded; every other method is refused.

Bounds: a message has 4 MiB at the most, as the engine's; streams are counted; a stream has its share of bytes that the
engine has not acknowledged (one acknowledgement a message: reference of `plugins.Engine/Input`), and is not read on
beyond it, so that HTTP/2 makes its caller wait; messages a second are bounded for all together; a stream that stands
still is ended. So memory has a bound that no caller can move.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from emulator.relay.access import Certificates, Tokens
from lib.errors import ConfigError, EngineDownError
from lib.model.log import MAX_LOG_BYTES
from lib.utmstack.channel import OPTIONS, reach

log = logging.getLogger(__name__)

INPUT = "/plugins.Engine/Input"
HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""`HealthCheckResponse` with status 1 and 2 (grpc/health/v1/health.proto)."""
HEALTH_OF = (b"", b"\x0a\x0eplugins.Engine")
"""`HealthCheckRequest` for the whole server, and for the one service."""
HANDSHAKE_SECONDS = 10
KEEPALIVE_SECONDS = 30.0
MAX_AGE_SECONDS = 3600
"""How old a connection may become before new streams need a new one, with certificates that are valid then."""
AGE_GRACE_SECONDS = 600
"""How long its streams may go on after that."""
GRACE_SECONDS = 5.0
"""How long streams may go on once the relay is told to end."""
_SIZE = ("grpc.max_receive_message_length", MAX_LOG_BYTES)
Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all callers together may take."""

    streams: int = 64
    bytes_in_flight: int = 128 << 20
    rate: int | None = 5000
    """Messages a second; None: no bound."""
    idle: float = 300.0
    """Seconds that a stream may stand still."""
    keepalive: float = KEEPALIVE_SECONDS
    """Seconds of silence after which a caller is asked whether it is there, and within which it has to answer."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One caller's stream, and what of it is on its way to the engine."""

    call: Any
    """The engine's end of it."""
    share: int
    moved: float
    """When something was passed last, monotonic."""
    sizes: deque[int] = field(default_factory=deque)
    in_flight: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)
    stalled: bool = False

    def sent(self, size: int) -> None:
        """A message goes to the engine."""
        self.sizes.append(size)
        self.in_flight += size
        if self.in_flight >= self.share:
            self.room.clear()

    def acknowledged(self) -> None:
        """The oldest message that waited has come back as an acknowledgement."""
        if self.sizes:
            self.in_flight -= self.sizes.popleft()
        if self.in_flight < self.share:
            self.room.set()
        self.moved = time.monotonic()


class Relay:
    """Listens from `start` to `stop`, both on one event loop."""

    def __init__(
        self, listen: tuple[str, int], socket: str, certificates: Certificates, tokens: Tokens | None, bounds: Bounds
    ) -> None:
        """`tokens` None: the callers' certificates say who they are."""
        self._socket = socket
        self._tokens = tokens
        self._bounds = bounds
        self._streams: set[_Stream] = set()
        self._pace = _Pace(bounds.rate)
        self._watch: asyncio.Task[None] | None = None
        self._listen = listen
        self._certificates = certificates
        self.port = 0
        self.counts: Counter[str] = Counter()
        """Messages, bytes and acknowledgements passed."""
        self.ended: Counter[str] = Counter()
        """Streams by the status that they ended with, refused ones too."""

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def in_flight(self) -> int:
        """Bytes that the engine has not acknowledged."""
        return sum(each.in_flight for each in list(self._streams))

    async def start(self) -> None:
        """Listen; ConfigError where that cannot be."""
        keepalive = int(self._bounds.keepalive * 1000)
        options = [
            _SIZE,
            ("grpc.so_reuseport", 0),
            # A connection has room for streams that are told they are too many, and for health checks.
            ("grpc.max_concurrent_streams", 2 * self._bounds.streams + 8),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ("grpc.keepalive_time_ms", keepalive),
            ("grpc.keepalive_timeout_ms", keepalive),
            # What an unanswered ping is really waited for (as of grpcio 1.85).
            ("grpc.http2.ping_timeout_ms", keepalive),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_connection_age_ms", MAX_AGE_SECONDS * 1000),
            ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1000),
            ("grpc.http2.max_pings_without_data", 0),
            # What is read ahead of this program has its bound too.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_metadata_size", 16 << 10),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self._channel = grpc.aio.insecure_channel(f"unix://{self._socket}", options=[*OPTIONS, _SIZE])
        self._pass_on: Any = self._channel.stream_stream(INPUT)
        host, port = self._listen
        try:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self.port = self._server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError:
            raise ConfigError(
                f"cannot listen on {host}:{port}",
                remedy="Name a free port and an address of this host in relay.listen.",
            ) from None
        await self._server.start()
        self._watch = asyncio.create_task(self._end_idle())

    async def stop(self) -> None:
        """Let streams come to their end for a while; then end them."""
        if self._watch is not None:
            self._watch.cancel()
        await self._server.stop(GRACE_SECONDS if self._streams else None)
        await self._channel.close()

    async def take(self, _: object, context: Context) -> None:
        """A caller's stream, from its first message to its status."""
        await self._admit(context)
        share = max(1, self._bounds.bytes_in_flight // self._bounds.streams)
        stream = _Stream(self._pass_on(), share, time.monotonic())
        stream.room.set()
        self._streams.add(stream)
        try:
            await self._relay(stream, context)
        except asyncio.CancelledError:
            if not stream.stalled:
                self.ended["CANCELLED"] += 1
                raise
            text = f"the relay ended the stream: nothing moved for {self._bounds.idle:g} s"
            await self._refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, text)
        finally:
            self._streams.discard(stream)

    async def health(self, request: bytes, context: Context) -> bytes:
        """`grpc.health.v1.Health/Check`: whether the engine's socket takes connections."""
        if request not in HEALTH_OF:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the relay serves plugins.Engine only")
        return NOT_SERVING if await self._engine_problem() else SERVING

    async def _admit(self, context: Context) -> None:
        if self._tokens is not None:
            shown = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), "")
            if not self._tokens.accepts(str(shown)):
                text = "the relay knows no such token: send `authorization: Bearer TOKEN`"
                await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, text)
        if len(self._streams) >= self._bounds.streams:
            text = f"the relay has its {self._bounds.streams} streams: try again later"
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    async def _relay(self, stream: _Stream, context: Context) -> None:
        call = stream.call
        ack: Any  # bytes, or the end
        forth = asyncio.create_task(self._forth(stream, context))
        try:
            while (ack := await call.read()) is not grpc.aio.EOF:
                await context.write(ack)
                stream.acknowledged()
                self.counts["acks"] += 1
        except grpc.aio.AioRpcError as error:
            await self._refuse(context, error.code(), await self._reason(error))
        else:
            self.ended["OK"] += 1
        finally:
            forth.cancel()
            call.cancel()
            await asyncio.gather(forth, return_exceptions=True)

    async def _forth(self, stream: _Stream, context: Context) -> None:
        """From the caller to the engine, as fast as acknowledgements and the rate allow."""
        message: Any  # bytes, or the end
        # Where the engine has ended the call, or the caller has gone, whoever reads the acknowledgements learns why.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await stream.room.wait()
                await self._pace.wait()
                message = await context.read()
                if message is grpc.aio.EOF:
                    await stream.call.done_writing()
                    return
                stream.sent(len(message))
                stream.moved = time.monotonic()
                await stream.call.write(message)
                self.counts["messages"] += 1
                self.counts["bytes"] += len(message)

    async def _refuse(self, context: Context, code: grpc.StatusCode, text: str) -> None:
        self.ended[code.name] += 1
        await context.abort(code, text)

    async def _reason(self, error: grpc.aio.AioRpcError) -> str:
        problem = await self._engine_problem() if error.code() == grpc.StatusCode.UNAVAILABLE else None
        return f"the engine ended the stream: {error.details()}" if problem is None else problem

    async def _engine_problem(self) -> str | None:
        try:
            await asyncio.to_thread(reach, self._socket)
        except EngineDownError as error:
            return f"the relay does not reach the engine: {error}. {error.remedy}"
        return None

    async def _end_idle(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._bounds.idle / 4))
            before = time.monotonic() - self._bounds.idle
            for stream in list(self._streams):
                if stream.moved < before:
                    # A caller that takes no acknowledgements takes no status either, until it does again or its
                    # connection has become too old. Its place is free at once, and its connection's streams are few.
                    stream.stalled = True
                    stream.call.cancel()
                    self._streams.discard(stream)


class _Pace:
    """So many messages a second, of all streams together; a second's worth may come at once."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free = 0.0
        """When the next message may pass, monotonic, where none came before."""

    async def wait(self) -> None:
        """Until one more message may pass."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._free = max(self._free, now - 1.0) + 1 / self._rate
        if self._free > now:
            await asyncio.sleep(self._free - now)


class _Methods(grpc.GenericRpcHandler):
    """The two methods that there are; for every other one gRPC answers UNIMPLEMENTED."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler, without a decoder, so that messages stay bytes."""
        if handler_call_details.method == INPUT:
            return grpc.stream_stream_rpc_method_handler(self._relay.take)
        if handler_call_details.method == HEALTH:
            return grpc.unary_unary_rpc_method_handler(self._relay.health)
        return None
