"""The simulated account: tenants, credentials, tokens, rate limits."""

from __future__ import annotations

import base64
import json
import math
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emulator.central.clock import Clock

OWN_HOST = "own"
"""Stands for the simulator's own URL in `Tenant.api_host` and `Credential.data_region`."""

DEFAULT_TENANT_ID = "894af375-a52f-4d5a-a92d-9d9c279b1489"
PUBLISHED_LIMITS = ((10, 1), (100, 60), (1_000, 3_600), (200_000, 86_400))
"""Sophos's published limits as (requests, seconds), for `rate_limits`."""
ENFORCED_LIMITS = ((100, 60), (200_000, 86_400))
"""The published limits that Sophos enforces; the others are recommendations."""
LIMITS: dict[str, tuple[tuple[float, float], ...]] = {
    "none": (),
    "enforced": ENFORCED_LIMITS,
    "published": PUBLISHED_LIMITS,
}

PERMISSIONS = frozenset({"events", "alerts", "endpoints"})


@dataclass(frozen=True, slots=True)
class Tenant:
    """A simulated customer."""

    id: str = DEFAULT_TENANT_ID
    name: str = "Example Ltd"
    api_host: str | None = OWN_HOST
    """Its `apiHost` in the tenants list; None leaves the field out."""
    forbidden: bool = False
    """Whether every request for this tenant gets 403."""
    geography: str | None = None
    """The country in the tenants list; None: the region's country."""
    region: str = "us03"
    billing_type: str = "term"
    status: str = "active"
    devices: int = 60
    """The number of generated devices."""

    @property
    def country(self) -> str:
        """The country of its data."""
        return self.geography or {"eu01": "IE", "eu02": "DE"}.get(self.region, self.region[:2].upper())


@dataclass(frozen=True, slots=True)
class Credential:
    """A simulated API credential."""

    client_id: str = "demo-client"
    secret: str = "demo-secret"  # noqa: S105 - the public secret of a simulated account
    id_type: str = "tenant"
    """`tenant`, `partner` or `organization`."""
    id: str = DEFAULT_TENANT_ID
    """The tenant's, partner's or organization's own id."""
    tenants: tuple[str, ...] | None = None
    """The tenants of a partner or organization; None: all tenants."""
    permissions: frozenset[str] = PERMISSIONS
    """Some of `events`, `alerts`, `endpoints`. Other requests get 403."""
    data_region: str | None = OWN_HOST
    """`apiHosts.dataRegion` of a tenant credential; None leaves the field out."""
    expired: bool = False
    """Whether its secret and its tokens are refused."""

    def may_see(self, tenant_id: str) -> bool:
        """Whether the tenant is this credential's own or one of its customers."""
        if self.id_type == "tenant":
            return tenant_id == self.id
        return self.tenants is None or tenant_id in self.tenants


class IssuedTokens:
    """Issues, checks and revokes access tokens."""

    def __init__(self, clock: Clock, lifetime_seconds: int) -> None:
        self.lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._issued: dict[str, tuple[str, int]] = {}

    def issue(self, client_id: str) -> str:
        """A new token that looks like a JWT."""
        now = self._clock.now()
        claims = {"sub": client_id, "exp": now // 1000 + self.lifetime_seconds, "jti": secrets.token_hex(16)}
        token = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        token = f"{token}.{secrets.token_urlsafe(256)}"
        with self._lock:
            self._issued = {issued: owner for issued, owner in self._issued.items() if owner[1] > now}
            self._issued[token] = (client_id, now + self.lifetime_seconds * 1000)
        return token

    def owner(self, token: str) -> str | None:
        """The client id of a token that is still valid."""
        with self._lock:
            client_id, expires = self._issued.get(token, ("", 0))
        return client_id if expires > self._clock.now() else None

    def revoke(self, client_id: str | None = None) -> None:
        """Make every token invalid, or those of one credential."""
        with self._lock:
            self._issued = {token: owner for token, owner in self._issued.items() if client_id not in (None, owner[0])}


class RequestWindows:
    """Counts each credential's requests in sliding windows of the simulator's clock."""

    def __init__(self, clock: Clock, limits: Iterable[Sequence[float]] = (), *, retry_after: bool = False) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.set(limits, retry_after=retry_after)

    def set(self, limits: Iterable[Sequence[float]], *, retry_after: bool = False) -> None:
        """Allow `(requests, seconds)` for each credential, counting from now; an empty list allows everything."""
        with self._lock:
            self._limits = [(int(requests), int(seconds * 1000)) for requests, seconds in limits]
            self._seen: dict[str, list[deque[int]]] = {}
            self.retry_after = retry_after

    def wait_seconds(self, client_id: str) -> int | None:
        """Count a request; return None if it is allowed, otherwise whole seconds until one is."""
        with self._lock:
            now = self._clock.now()
            windows = self._seen.setdefault(client_id, [deque() for _ in self._limits])
            wait = 0
            for (requests, span), window in zip(self._limits, windows, strict=True):
                while window and window[0] <= now - span:
                    window.popleft()
                if len(window) >= requests:
                    wait = max(wait, (window[0] if window else now) + span - now)
            if wait:
                return math.ceil(wait / 1000)
            for window in windows:
                window.append(now)
            return None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
