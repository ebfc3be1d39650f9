"""`plugins.Engine/Input` over TLS, passed to the engine's socket without being decoded; every other method is refused.

Bounds: a message has 4 MiB at the most, as the engine's; streams are counted; a stream has its share of bytes that the
engine has not acknowledged (one acknowledgement a message: reference of `plugins.Engine/Input`), and is not read on
beyond it, so that HTTP/2 makes its caller wait; messages a second are bounded for all together; a stream that stands
still is ended. So memory has a bound that no caller can move.
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
"""How long streams of a connection that has become too old may go on."""
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
        self._greetings: dict[asyncio.Task[None], str] = {}
        """TLS that is under way, the oldest first, and from which address."""

    async def start(self) -> None:
        """Listen; ConfigError where that cannot be."""
        host, port = self._listen
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                remedy="Name a free port and an address of this host in relay.listen.",
            ) from None
        self._socket.settimeout(0)
        self.port = self._socket.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Let streams come to their end for a while; then end them."""
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
                # Such as too many open files: others close some.
                log.warning("no connection can be accepted at the moment: %s", error)
                await asyncio.sleep(0.1)
                continue
            # Each holds memory before anybody has shown who it is; those who mean well are quick.
            alike = [greeting for greeting, whose in self._greetings.items() if whose == address]
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
            log.info("a connection ended before it began: %s", error)

    def _greeted(self, connection: socket.socket, greeting: asyncio.Task[None]) -> None:
        self._greetings.pop(greeting, None)
        if greeting.cancelled():
            # Maybe before it began.
            connection.close()

    def _came(self, caller: Caller) -> None:
        self._callers.add(caller)
        strangers = [each for each in self._callers if not each.is_known and each.address == caller.address]
        if len(strangers) > self.gate.bounds.strangers:
            min(strangers, key=lambda each: each.made).transport.abort()
        elif len(self._callers) > self.gate.bounds.connections:
            # Who has a stream keeps its connection.
            others = (each for each in self._callers if not each.has_stream)
            min(others, key=lambda each: each.used, default=caller).transport.abort()

    async def _watch(self) -> None:
        """End what stands still, what does not answer, and what has become too old."""
        bounds = self.gate.bounds
        while True:
            await asyncio.sleep(min(5.0, bounds.idle / 4, bounds.keepalive / 2, bounds.age / 4))
            now = time.monotonic()
            for stream in list(self.gate.streams):
                if stream.moved < now - bounds.idle:
                    # Its place is free at once; its caller learns why when it takes what has come back.
                    text = f"the relay ended the stream: nothing moved for {bounds.idle:g} s"
                    stream.end(Status.DEADLINE_EXCEEDED, text)
            for caller in list(self._callers):
                is_mute = caller.pinged is not None and caller.pinged < now - bounds.keepalive
                if is_mute or caller.made < now - bounds.age - AGE_GRACE_SECONDS:
                    caller.transport.abort()
                elif caller.made < now - bounds.age or (not caller.has_stream and caller.used < now - bounds.idle):
                    caller.leave()
                elif caller.pinged is None and caller.heard < now - bounds.keepalive:
                    caller.ping()
