"""The protocols that the use cases need: what stands behind each, `lib/app.py` alone knows.

Every `deadline` is a monotonic time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from lib.model.credential import InUse
from lib.model.log import Log
from lib.model.page import DevicePage, Page, Tenant, Whoami
from lib.model.rate_policy import Used


class Directory(Protocol):
    """What Sophos Central tells of a credential."""

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        """Whose the credential is."""

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[Tenant]:
        """The tenants that it can read."""


class Source(Directory, Protocol):
    """Sophos Central, with an integration's credentials."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many requests had which outcome: a status, an error's code, `retried`."""

    @property
    def in_use(self) -> InUse | None:
        """Which of the credentials is used; None as long as that is not known."""

    def is_replaced(self) -> bool:
        """Whether the credential is another now than Sophos was last asked with; resolves it, and asks nobody."""

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        """Sophos's time now, by which it refuses what is over 24 hours ago; None where it names none."""

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
        """The page that follows the cursor, or the date."""

    def devices(
        self, host: str, tenant: str, *, page_key: str | None, page_size: int, deadline: float | None = None
    ) -> DevicePage:
        """The page of devices that begins at the key, or the first one."""


class NetworkPath(Protocol):
    """The way to a host; each method goes it up to one station, and says in a sentence how that was."""

    @property
    def host(self) -> str:
        """The host."""

    def resolve(self) -> str:
        """Look up the name."""

    def connect(self) -> str:
        """Open a connection."""

    def secure(self) -> str | None:
        """Do a TLS handshake; None where the way needs none."""


class ExaminedSophos(Directory, Protocol):
    """Sophos Central, with a credential that is tested."""

    def path_to(self, url: str) -> NetworkPath:
        """The way to a host; HostRefusedError where credentials must not go there."""

    def paths(self) -> Sequence[NetworkPath]:
        """The ways to the hosts that every credential needs."""

    def reach(self, *, deadline: float | None = None) -> Mapping[str, datetime | None]:
        """What the hosts' clocks show, by host; SophosDownError names the one that does not answer."""

    def authenticate(self, *, deadline: float | None = None) -> bool:
        """Get a token, and whether it is the next credential's, since the first is refused."""

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
    """The calls that a credential may make."""

    def reserve(self, streams: int, every: float) -> int:
        """Keep calls free for so many streams, each asked so often (seconds); how many of them may be asked now."""

    @property
    def has_room(self) -> bool:
        """Whether a page beyond a stream's first could be asked for right now."""

    def used(self) -> Used:
        """What was used up to now."""

    def available(self) -> int:
        """How many calls may go at once."""


class Engine(Protocol):
    """UTMStack's engine."""

    def deliver(
        self, logs: Iterator[Log], *, deadline: float | None = None, early: set[int] | None = None
    ) -> Iterator[int]:
        """Send the logs in order; yields how many of the first ones are acknowledged, rising, until all are.

        `early` is kept up to date with the places, from 1, of those that are acknowledged though one before is not.
        """


class ProbedEngine(Engine, Protocol):
    """UTMStack's engine, over a connection that can be tested."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Since it was made: logs sent again (`resent`), acknowledgements that name no log in flight (`odd_acks`)."""

    def probe(self) -> None:
        """Open a stream, and end it in order; EngineDownError where that does not work."""


class TaskQueue(Protocol):
    """Calls fetch-page later, at least once."""

    def add(self, name: str, request: Mapping[str, Any], not_before: datetime | None = None) -> bool:
        """Have fetch-page called with that request; False where a task of that name was added before."""
        ...
