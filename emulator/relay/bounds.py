"""The relay's limits, its check of tokens, and its counters."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.relay.access import RelayTokens
from lib.errors import EngineDownError
from lib.utmstack.channel import reach

if TYPE_CHECKING:
    from emulator.relay.stream import RelayedStream


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits for all callers together."""

    streams: int = 64
    bytes_in_flight: int = 128 << 20
    rate: int | None = 5000
    """Messages a second; None: no limit."""
    idle: float = 300.0
    """Seconds that a stream may be idle, and that a connection may be without a stream."""
    keepalive: float = 30.0
    """Seconds of silence before a ping, and seconds for its answer."""
    handshake: float = 10.0
    """Seconds for the TLS handshake."""
    age: float = 3600.0
    """Seconds after which a connection accepts no new streams, so that certificates are checked again."""

    @property
    def share(self) -> int:
        """Unacknowledged bytes that one stream may have."""
        return max(1, self.bytes_in_flight // self.streams)

    @property
    def streams_per_connection(self) -> int:
        """Open streams of a connection, with room for refused streams and for health checks."""
        return 2 * self.streams + 8

    @property
    def connections(self) -> int:
        """Open connections; beyond them, unused ones are closed. As many more may be in the TLS handshake."""
        return 2 * self.streams + 64

    @property
    def strangers(self) -> int:
        """Open connections of one address without a valid token, and as many in the TLS handshake."""
        return max(8, self.connections // 4)


class Gate:
    """Decides which streams may reach the engine's socket, and counts them."""

    def __init__(self, socket: str, tokens: RelayTokens | None, bounds: Bounds) -> None:
        """`tokens` None: callers are authenticated by their certificates."""
        self.socket = socket
        self.bounds = bounds
        self.streams: set[RelayedStream] = set()
        """Open streams."""
        self.counts: Counter[str] = Counter()
        """Messages, bytes and acknowledgements passed."""
        self.ended: Counter[str] = Counter()
        """Ended streams by status, with refused ones."""
        self._tokens = tokens
        self._free = 0.0
        """The monotonic time at which the next message may pass."""
        self._probe: asyncio.Task[str | None] | None = None

    @property
    def needs_no_token(self) -> bool:
        """Whether the certificate alone authenticates a caller."""
        return self._tokens is None

    @property
    def in_flight(self) -> int:
        """Unacknowledged bytes of all streams."""
        return sum(stream.in_flight for stream in list(self.streams))

    def accepts(self, authorization: str) -> bool:
        """Whether the header holds a valid token, or no token is needed."""
        return self._tokens is None or self._tokens.accepts(authorization)

    def slot(self) -> float:
        """Reserve the next message's turn; return its monotonic time. A second's messages may pass at once."""
        if self.bounds.rate is None:
            return 0.0
        self._free = max(self._free, time.monotonic() - 1.0) + 1 / self.bounds.rate
        return self._free

    async def engine_problem(self) -> str | None:
        """Why the engine's socket refuses connections; None if it accepts them. Concurrent callers share one probe."""
        if self._probe is None:
            self._probe = asyncio.create_task(asyncio.to_thread(_engine_problem, self.socket))
            self._probe.add_done_callback(self._probed)
        return await asyncio.shield(self._probe)

    def _probed(self, _: asyncio.Task[str | None]) -> None:
        self._probe = None


def _engine_problem(socket: str) -> str | None:
    try:
        reach(socket)
    except EngineDownError as error:
        return f"the relay cannot reach the engine: {error}. {error.remedy}"
    return None
