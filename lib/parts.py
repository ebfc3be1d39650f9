"""The parts that the object graph is built from: clocks, random numbers, store, engine, Sophos. Tests replace them.

Adapters are imported where they are built, so that a function loads only what it uses.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from lib.config.secrets import credential
from lib.config.settings import EngineAccess, IntegrationConfig, SophosHosts
from lib.errors import ConfigError
from lib.model.host import proxy_fault
from lib.store.base import ObjectStore

if TYPE_CHECKING:
    from lib.config.secrets import Reference
    from lib.pipeline.expiry import Expiry
    from lib.pipeline.ports import ProbedEngine, Source
    from lib.pipeline.rate_limiter import RateLimiter
    from lib.sophos.client import Central
    from lib.utmstack.channel import Credentials
    from lib.utmstack.engine import GrpcEngine

# ruff: noqa: PLC0415 - see above

S = TypeVar("S")
T = TypeVar("T")


def utc_now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ClientCredential:
    """A client id and secret. They are resolved for each token request, so that a rotated secret counts."""

    client_id: Callable[[], str]
    client_secret: Callable[[], str]


def credentials_of(integration: IntegrationConfig) -> list[ClientCredential]:
    """The integration's credential, and the next credential if one is configured."""
    first = ClientCredential(partial(credential, integration.client_id), partial(credential, integration.client_secret))
    client_id, client_secret = integration.next_client_id, integration.next_client_secret
    if client_id is None or client_secret is None:
        return [first]
    return [first, ClientCredential(partial(credential, client_id), partial(credential, client_secret))]


@dataclass(frozen=True, slots=True)
class PlatformFacts:
    """Facts about the platform on which this process runs."""

    timeout: timedelta | None = None
    """The platform's time limit of a request; None: no limit."""
    is_cloud_run: bool = False
    is_behind_emulator: bool = False
    """Whether only the emulator calls this process."""


def open_store(location: str, *, create: bool = True) -> ObjectStore:
    """The store at `file:path` or `gs://bucket/prefix`. Without `create`, a missing store raises NoStoreError."""
    if location.startswith("gs://"):
        from lib.store.gcs import GcsStore

        return GcsStore(location, create=create)
    from lib.store.directory import DirectoryStore

    return DirectoryStore(Path(location.removeprefix("file:")), create=create)


def existing_store(location: str) -> ObjectStore:
    """The store, for commands that only read; NoStoreError if there is none."""
    return open_store(location, create=False)


def open_engine(location: str, access: EngineAccess, ack_timeout: timedelta) -> GrpcEngine:
    """The engine behind its socket, or behind a relay."""
    from lib.utmstack.engine import GrpcEngine

    return GrpcEngine(location, credentials=lambda: _credentials(access), ack_timeout=ack_timeout.total_seconds())


def _credentials(access: EngineAccess) -> Credentials:
    from lib.utmstack.channel import Credentials

    def pem(reference: Reference | None) -> bytes | None:
        return None if reference is None else reference.resolve().encode()

    token = None if access.token is None else access.token.resolve()
    return Credentials(ca=pem(access.ca), certificate=pem(access.certificate), key=pem(access.key), token=token)


def connect_sophos(
    parts: Parts, hosts: SophosHosts, credentials: Sequence[ClientCredential], rate_limiter: RateLimiter
) -> Central:
    """The client of Sophos Central. It uses the second credential if Sophos refuses the first one."""
    from lib.sophos.client import Central

    first, second = (*credentials, None)[:2]
    assert first is not None  # noqa: S101 - for the type checker
    return Central(
        first,
        auth_url=hosts.auth_url,
        api_url=hosts.api_url,
        allow_hosts=hosts.allow_hosts,
        now=parts.now,
        monotonic=parts.monotonic,
        sleep=parts.sleep,
        random=parts.random,
        rate_limiter=rate_limiter,
        next_credential=second,
        ca_bundle=hosts.ca_bundle,
        proxy=None if hosts.proxy is None else _proxy(hosts.proxy),
    )


def _proxy(reference: Reference) -> Callable[[], str]:
    """The proxy's URL, resolved at the first use; ConfigError if it is not a URL of a proxy."""

    @cache
    def resolved() -> str:
        url = reference.resolve()
        fault = proxy_fault(url)
        if fault:
            raise ConfigError(f"{reference.where}: its value {fault}", remedy="Correct the value, and restart.")
        return url

    return resolved


@dataclass(frozen=True, slots=True)
class Parts:
    """The replaceable parts of the graph."""

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.SystemRandom().random
    holder: Callable[[], str] = lambda: str(uuid.uuid4())
    """Makes a new name for a holder of a lease."""
    store: Callable[[str], ObjectStore] = open_store
    engine: Callable[[str, EngineAccess, timedelta], ProbedEngine] = open_engine
    sophos: Callable[[Parts, SophosHosts, Sequence[ClientCredential], RateLimiter], Source] = connect_sophos
    platform: PlatformFacts = PlatformFacts()


class Kept(Generic[S, T]):
    """One object, kept as long as its settings stay equal; safe between threads."""

    def __init__(self, make: Callable[[S], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[S, T] | None = None

    def of(self, settings: S) -> T:
        """The object for the settings; a new one if they changed."""
        with self._lock:
            if self._made is None or self._made[0] != settings:
                self._made = settings, self._make(settings)
            return self._made[1]


def made_expiry(_location: str) -> Expiry:
    """What looks for old objects in one store."""
    from lib.pipeline.expiry import Expiry

    return Expiry()
