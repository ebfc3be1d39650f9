"""What the graph of objects is built on: time, chance, store, engine, Sophos; a test has parts of its own.

Adapters are imported where they are made, so that a function loads only what it uses.
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
    from lib.pipeline.ports import ProbedEngine, Source
    from lib.pipeline.rate_limiter import RateLimiter
    from lib.sophos.client import Central
    from lib.utmstack.channel import Credentials
    from lib.utmstack.engine import Engine

# ruff: noqa: PLC0415 - see above

S = TypeVar("S")
T = TypeVar("T")


def utc_now() -> datetime:
    """The time of day, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ClientCredential:
    """A client id and secret, resolved when a token is asked for: a rotated secret is read anew."""

    client_id: Callable[[], str]
    client_secret: Callable[[], str]


def credentials_of(integration: IntegrationConfig) -> list[ClientCredential]:
    """The integration's credential, and the next one where there is one."""
    first = ClientCredential(partial(credential, integration.client_id), partial(credential, integration.client_secret))
    client_id, client_secret = integration.next_client_id, integration.next_client_secret
    if client_id is None or client_secret is None:
        return [first]
    return [first, ClientCredential(partial(credential, client_id), partial(credential, client_secret))]


@dataclass(frozen=True, slots=True)
class PlatformFacts:
    """What is told of where this process runs; by default nothing."""

    timeout: timedelta | None = None
    """How long a request may take."""
    is_cloud_run: bool = False
    is_behind_emulator: bool = False
    """Whether the emulator alone calls this process."""


def open_store(location: str, *, create: bool = True) -> ObjectStore:
    """The store at `file:path` or `gs://bucket/prefix`; NoStoreError where there is none and none is to be made."""
    if location.startswith("gs://"):
        from lib.store.gcs import GcsStore

        return GcsStore(location, create=create)
    from lib.store.directory import DirectoryStore

    return DirectoryStore(Path(location.removeprefix("file:")), create=create)


def existing_store(location: str) -> ObjectStore:
    """The store, for who only looks: NoStoreError where there is none."""
    return open_store(location, create=False)


def open_engine(location: str, access: EngineAccess, ack_timeout: timedelta) -> Engine:
    """The engine behind its socket, or behind a relay."""
    from lib.utmstack.engine import Engine

    return Engine(location, credentials=lambda: _credentials(access), ack_timeout=ack_timeout.total_seconds())


def _credentials(access: EngineAccess) -> Credentials:
    from lib.utmstack.channel import Credentials

    def pem(reference: Reference | None) -> bytes | None:
        return None if reference is None else reference.resolve().encode()

    token = None if access.token is None else access.token.resolve()
    return Credentials(ca=pem(access.ca), certificate=pem(access.certificate), key=pem(access.key), token=token)


def connect_sophos(
    parts: Parts, hosts: SophosHosts, credentials: Sequence[ClientCredential], rate_limiter: RateLimiter
) -> Central:
    """The way to Sophos Central with the first credential, or with the second where that is refused."""
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
    """The proxy's URL, resolved when it is first needed; ConfigError where it is none."""

    @cache
    def resolved() -> str:
        url = reference.resolve()
        fault = proxy_fault(url)
        if fault:
            raise ConfigError(f"{reference.where}: what it stands for {fault}", remedy="Correct it, and start again.")
        return url

    return resolved


@dataclass(frozen=True, slots=True)
class Parts:
    """What the graph is built on; a test has parts of its own."""

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.SystemRandom().random
    holder: Callable[[], str] = lambda: str(uuid.uuid4())
    """Names each holder of a lease."""
    store: Callable[[str], ObjectStore] = open_store
    engine: Callable[[str, EngineAccess, timedelta], ProbedEngine] = open_engine
    sophos: Callable[[Parts, SophosHosts, Sequence[ClientCredential], RateLimiter], Source] = connect_sophos
    platform: PlatformFacts = PlatformFacts()


class Kept(Generic[S, T]):
    """One object, kept as long as what it is made of stays the same; safe between threads."""

    def __init__(self, make: Callable[[S], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[S, T] | None = None

    def of(self, settings: S) -> T:
        """The object for those settings."""
        with self._lock:
            if self._made is None or self._made[0] != settings:
                self._made = settings, self._make(settings)
            return self._made[1]
