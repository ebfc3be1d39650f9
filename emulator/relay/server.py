"""Serves `plugins.Engine/Input` over TLS and passes its bytes to the engine's socket without decoding them.

Every other method is refused. Memory is bounded whatever callers do:
- A message has at most 4 MiB, as at the engine.
- The number of streams is limited.
- Each stream has an equal share of unacknowledged bytes (the engine acknowledges each message once). Beyond its share
  it is not read further, so that HTTP/2's flow control makes its caller wait.
- Messages a second are limited for all streams together.
- An idle stream is ended.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial

from emulator.relay.access import Certificates
from emulator.relay.bounds import Gate
from emulator.relay.caller import Caller
from lib.errors import ConfigError
from lib.grpc_stream import Status

log = logging.getLogger(__name__)

AGE_GRACE_SECONDS = 600
"""How long streams may continue on a connection that has become too old."""
GRACE_SECONDS = 5.0
"""How long streams may continue after the request to stop."""


class Relay:
    """Listens from `start` to `stop`, both on one event loop."""

    def __init__(self, listen: tuple[str, int], certificates: Certificates, gate: Gate) -> None:
        self.gate = gate
        self.port = 0
        self._listen = listen
        self._certificates = certificates
        self._callers: set[Caller] = set()
        self._greetings: dict[asyncio.Task[None], str] = {}
        """TLS handshakes under way, the oldest first, with the caller's address."""

    async def start(self) -> None:
        """Listen; ConfigError if that fails."""
        host, port = self._listen
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                remedy="Set relay.listen to a free port and an address of this machine.",
            ) from None
        self._socket.settimeout(0)
        # Connections inherit it. asyncio does not set it here, and acknowledgements would wait 40 ms for the caller.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self._socket.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Let streams finish for GRACE_SECONDS; then end them."""
        for task in (self._watching, self._accepting, *self._greetings):
            task.cancel()
        await asyncio.gather(self._watching, self._accepting, *self._greetings, return_exceptions=True)
        self._socket.close()
        end = time.monotonic() + GRACE_SECONDS
        while self._callers:
            for caller in list(self._callers):
                if time.monotonic() < end:
                    caller.leave()
                else:
                    caller.transport.abort()
            await asyncio.sleep(0.02)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (address, *_) = await loop.sock_accept(self._socket)
            except OSError as error:
                # For example too many open files; they become fewer when connections close.
                log.warning("cannot accept a connection now: %s", error)
                await asyncio.sleep(0.1)
                continue
            # A handshake takes memory before the caller is authenticated. Good callers are quick, so the oldest goes.
            alike = [greeting for greeting, of in self._greetings.items() if of == address]
            if len(alike) >= self.gate.bounds.strangers:
                self._give_up(alike[0])
            elif len(self._greetings) >= self.gate.bounds.connections:
                self._give_up(next(iter(self._greetings)))
            greeting = asyncio.create_task(self._greet(connection))
            self._greetings[greeting] = address
            greeting.add_done_callback(partial(self._greeted, connection))

    def _give_up(self, greeting: asyncio.Task[None]) -> None:
        greeting.cancel()
        self._greetings.pop(greeting)

    async def _greet(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Caller(self.gate, self._came, self._callers.discard),
                connection,
                ssl=self._certificates.context(),
                ssl_handshake_timeout=self.gate.bounds.handshake,
                ssl_shutdown_timeout=GRACE_SECONDS,
            )
        except OSError as error:
            log.info("a TLS handshake failed: %s", error)

    def _greeted(self, connection: socket.socket, greeting: asyncio.Task[None]) -> None:
        self._greetings.pop(greeting, None)
        if greeting.cancelled():
            # The task may have been cancelled before it took over the connection.
            connection.close()

    def _came(self, caller: Caller) -> None:
        self._callers.add(caller)
        strangers = [other for other in self._callers if not other.is_known and other.address == caller.address]
        # Callers without a token from one address cannot take the places of others.
        if len(strangers) > self.gate.bounds.strangers:
            min(strangers, key=lambda stranger: stranger.made).transport.abort()
        elif len(self._callers) > self.gate.bounds.connections:
            # A caller with a stream keeps its connection.
            unused = (other for other in self._callers if not other.has_stream)
            min(unused, key=lambda other: other.used, default=caller).transport.abort()

    async def _watch(self) -> None:
        """End idle streams, and connections that do not answer or have become too old."""
        bounds = self.gate.bounds
        while True:
            await asyncio.sleep(min(5.0, bounds.idle / 4, bounds.keepalive / 2, bounds.age / 4))
            now = time.monotonic()
            for stream in list(self.gate.streams):
                if stream.moved < now - bounds.idle:
                    # Its place is free at once. The caller gets the status after it has read the acknowledgements.
                    text = f"the relay ended the stream: it was idle for {bounds.idle:g} s"
                    stream.end(Status.DEADLINE_EXCEEDED, text)
            for caller in list(self._callers):
                is_mute = caller.pinged is not None and caller.pinged < now - bounds.keepalive
                if is_mute or caller.made < now - bounds.age - AGE_GRACE_SECONDS:
                    caller.transport.abort()
                elif caller.made < now - bounds.age or (not caller.has_stream and caller.used < now - bounds.idle):
                    caller.leave()
                elif caller.pinged is None and caller.data_at < now - bounds.keepalive:
                    caller.ping()
