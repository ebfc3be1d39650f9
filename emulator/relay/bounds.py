"""What callers may take, who is let in, and what has passed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.relay.access import Tokens
from lib.errors import EngineDownError
from lib.utmstack.channel import reach

if TYPE_CHECKING:
    from emulator.relay.stream import Stream


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all callers together may take."""

    streams: int = 64
    bytes_in_flight: int = 128 << 20
    rate: int | None = 5000
    """Messages a second; None: no bound."""
    idle: float = 300.0
    """Seconds that a stream may stand still, and that a connection may be without one."""
    keepalive: float = 30.0
    """Seconds of silence after which a caller is asked whether it is there, and within which it has to answer."""
    handshake: float = 10.0
    """Seconds that TLS may take."""
    age: float = 3600.0
    """Seconds after which a connection takes no new streams, so that certificates are shown anew."""

    @property
    def share(self) -> int:
        """Bytes of one stream that may wait for their acknowledgements."""
        return max(1, self.bytes_in_flight // self.streams)

    @property
    def streams_per_connection(self) -> int:
        """Open ones; there is room for streams that are told they are too many, and for health checks."""
        return 2 * self.streams + 8

    @property
    def connections(self) -> int:
        """Open ones, of which those without a stream make room for others; as many more may be about to open."""
        return 2 * self.streams + 64

    @property
    def strangers(self) -> int:
        """Open ones of one address on which nobody has shown a token, and as many whose TLS is under way."""
        return max(8, self.connections // 4)


class Gate:
    """Lets streams in to the engine's socket, and counts."""

    def __init__(self, socket: str, tokens: Tokens | None, bounds: Bounds) -> None:
        """`tokens` None: the callers' certificates say who they are."""
        self.socket = socket
        self.bounds = bounds
        self.streams: set[Stream] = set()
        """Those that are open."""
        self.counts: Counter[str] = Counter()
        """Messages, bytes and acknowledgements passed."""
        self.ended: Counter[str] = Counter()
        """Streams by the status that they ended with, refused ones too."""
        self._tokens = tokens
        self._free = 0.0
        """When the next message may pass, monotonic, where none came before."""
        self._looking: asyncio.Task[str | None] | None = None

    @property
    def knows_all(self) -> bool:
        """Whether whoever is connected has shown a certificate, and needs no token."""
        return self._tokens is None

    @property
    def in_flight(self) -> int:
        """Bytes that the engine has not acknowledged."""
        return sum(stream.in_flight for stream in list(self.streams))

    def knows(self, authorization: str) -> bool:
        """Whether this is one of the tokens, where tokens are asked for."""
        return self._tokens is None or self._tokens.accepts(authorization)

    def slot(self) -> float:
        """When the next message may pass, monotonic; a second's worth may come at once."""
        if self.bounds.rate is None:
            return 0.0
        self._free = max(self._free, time.monotonic() - 1.0) + 1 / self.bounds.rate
        return self._free

    async def engine_problem(self) -> str | None:
        """Why the engine's socket takes no connections, where it does not; those who ask at once share an answer."""
        if self._looking is None:
            self._looking = asyncio.create_task(asyncio.to_thread(_engine_problem, self.socket))
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, _: asyncio.Task[str | None]) -> None:
        self._looking = None


def _engine_problem(socket: str) -> str | None:
    try:
        reach(socket)
    except EngineDownError as error:
        return f"the relay does not reach the engine: {error}. {error.remedy}"
    return None
