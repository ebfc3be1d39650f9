"""The interfaces that the use cases need. `lib/app.py` chooses the implementations.

Every `deadline` is a monotonic time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from lib.model.credential import InUse
from lib.model.log import Log
from lib.model.page import DevicePage, Page, SophosTenant, Whoami
from lib.model.rate_policy import Used


class Directory(Protocol):
    """The account data of a Sophos Central credential."""

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        """The organization, partner or tenant that the credential belongs to."""

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[SophosTenant]:
        """The tenants that the credential can read."""


class Source(Directory, Protocol):
    """Sophos Central, with an integration's credentials."""

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of requests by outcome: a status, an error's code, or `retried`."""

    @property
    def in_use(self) -> InUse | None:
        """The credential in use, the current or the next one; None before the first answer."""

    def is_replaced(self) -> bool:
        """Whether the credential has changed since the last request. Reads the secret; sends no request."""

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        """Sophos's present time, by which it refuses requests older than 24 hours; None if it names no time."""

    def page(
        self,
        host: str,
        tenant: str,
        kind: str,
        *,
        cursor: str | None,
        from_date: datetime | None,
        exclude_types: Sequence[str] = (),
        offset_minutes: int = 0,
        deadline: float | None = None,
    ) -> Page:
        """The page after the cursor, or from the date on."""

    def devices(
        self, host: str, tenant: str, *, page_key: str | None, page_size: int, deadline: float | None = None
    ) -> DevicePage:
        """The page of devices that begins at the key, or the first one."""


class NetworkPath(Protocol):
    """The connection to a host, tested step by step. Each method returns a sentence about its result."""

    @property
    def host(self) -> str:
        """The host's name."""

    def resolve(self) -> str:
        """Look the name up in DNS."""

    def connect(self) -> str:
        """Open a TCP connection."""

    def secure(self) -> str | None:
        """Do a TLS handshake; None if the connection uses no TLS."""


class ExaminedSophos(Directory, Protocol):
    """Sophos Central, for the test of a credential."""

    def path_to(self, url: str) -> NetworkPath:
        """The connection to the URL's host; HostRefusedError if credentials must not be sent there."""

    def paths(self) -> Sequence[NetworkPath]:
        """The connections to the hosts that every credential needs."""

    def reach(self, *, deadline: float | None = None) -> Mapping[str, datetime | None]:
        """Each host's present time, by host; SophosDownError names a host that does not answer."""

    def authenticate(self, *, deadline: float | None = None) -> bool:
        """Get a token; whether it is the next credential's, because the current one is refused."""

    def page(
        self,
        host: str,
        tenant: str,
        kind: str,
        *,
        cursor: str | None,
        from_date: datetime | None,
        deadline: float | None = None,
    ) -> Page:
        """A page of the SIEM API."""

    def devices(
        self, host: str, tenant: str, *, page_key: str | None, page_size: int, deadline: float | None = None
    ) -> DevicePage:
        """A page of the endpoint API."""


class CallLimiter(Protocol):
    """The rate limit of one credential."""

    def reserve(self, streams: int, every: float) -> int:
        """Keep calls free for `streams` streams, each polled every `every` seconds; how many may be polled now."""

    @property
    def has_room(self) -> bool:
        """Whether a page after a stream's first could be requested now."""

    def used(self) -> Used:
        """The calls made so far."""

    def available(self) -> int:
        """The number of calls allowed now."""


class Engine(Protocol):
    """UTMStack's engine (the event processor)."""

    def deliver(
        self, logs: Iterator[Log], *, deadline: float | None = None, early: set[int] | None = None
    ) -> Iterator[int]:
        """Send the logs in order. Yields n when the first n logs are acknowledged, rising, until all are.

        `early` receives the numbers, from 1, of logs that are acknowledged before an earlier log is.
        """


class ProbedEngine(Engine, Protocol):
    """UTMStack's engine, over a connection that can be tested."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Since the start: logs sent again (`resent`), and acknowledgements of no log in flight (`odd_acks`)."""

    def probe(self) -> None:
        """Open a gRPC stream and close it; EngineDownError if that fails."""


class TaskQueue(Protocol):
    """Calls fetch-page later, at least once."""

    def add(self, name: str, request: Mapping[str, Any], not_before: datetime | None = None) -> bool:
        """Have fetch-page called with the request; False if a task with this name was added before."""
        ...
