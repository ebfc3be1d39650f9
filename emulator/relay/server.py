"""`plugins.Engine/Input` over TLS, passed to the engine's socket without being decoded; every other method is refused.

Bounds: a message has 4 MiB at the most, as the engine's; streams are counted; a stream has its share of bytes that the
engine has not acknowledged (one acknowledgement a message: reference of `plugins.Engine/Input`), and is not read on
beyond it, so that HTTP/2 makes its caller wait; messages a second are bounded for all together; a stream that stands
still is ended. So memory has a bound that no caller can move.
"""

from __future__ import annotations

import asyncio
import time

from grpc import StatusCode

from emulator.relay.access import Certificates
from emulator.relay.bounds import Gate
from emulator.relay.caller import Caller
from lib.errors import ConfigError

HANDSHAKE_SECONDS = 10
MAX_AGE_SECONDS = 3600
"""How old a connection may become before new streams need a new one, with certificates that are valid then."""
AGE_GRACE_SECONDS = 600
"""How long its streams may go on after that."""
GRACE_SECONDS = 5.0
"""How long streams may go on once the relay is told to end."""


class Relay:
    """Listens from `start` to `stop`, both on one event loop."""

    def __init__(self, listen: tuple[str, int], certificates: Certificates, gate: Gate) -> None:
        self.gate = gate
        self.port = 0
        self._listen = listen
        self._certificates = certificates
        self._callers: set[Caller] = set()

    async def start(self) -> None:
        """Listen; ConfigError where that cannot be."""
        host, port = self._listen
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Caller(self.gate, self._came, self._callers.discard),
                host,
                port,
                ssl=self._certificates.context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=GRACE_SECONDS,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                remedy="Name a free port and an address of this host in relay.listen.",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Let streams come to their end for a while; then end them."""
        self._watching.cancel()
        self._server.close()
        end = time.monotonic() + GRACE_SECONDS
        while self._callers:
            for each in list(self._callers):
                if time.monotonic() < end:
                    each.leave()
                else:
                    each.transport.abort()
            await asyncio.sleep(0.02)

    def _came(self, caller: Caller) -> None:
        self._callers.add(caller)
        if len(self._callers) > self.gate.bounds.connections:
            # Who has a stream keeps its connection.
            others = (each for each in self._callers if not each.has_stream)
            min(others, key=lambda each: each.used, default=caller).transport.abort()

    async def _watch(self) -> None:
        """End what stands still, what does not answer, and what has become too old."""
        idle, keepalive = self.gate.bounds.idle, self.gate.bounds.keepalive
        while True:
            await asyncio.sleep(min(5.0, idle / 4, keepalive / 2))
            now = time.monotonic()
            for stream in list(self.gate.streams):
                if stream.moved < now - idle:
                    # Its place is free at once; its caller learns why when it takes what has come back.
                    text = f"the relay ended the stream: nothing moved for {idle:g} s"
                    stream.end(StatusCode.DEADLINE_EXCEEDED, text)
            for caller in list(self._callers):
                is_mute = caller.pinged is not None and caller.pinged < now - keepalive
                if is_mute or caller.made < now - MAX_AGE_SECONDS - AGE_GRACE_SECONDS:
                    caller.transport.abort()
                elif caller.made < now - MAX_AGE_SECONDS or (not caller.streams and caller.used < now - idle):
                    caller.leave()
                elif caller.pinged is None and caller.heard < now - keepalive:
                    caller.ping()
