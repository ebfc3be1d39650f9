"""The APIs of Sophos Central: what each path answers."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from emulator.central.accounts import OWN_HOST, Credential, RateLimiter, Tenant, Tokens
from emulator.central.clock import DAY_MS, Clock, iso
from emulator.central.feed import KINDS, CursorRule, Feed, Query
from emulator.central.generator import Generator
from emulator.central.journal import Journal
from emulator.central.listener import Answer, Request

TOKEN_PATH = "/api/v2/oauth2/token"  # noqa: S105 - a path
GLOBAL = "global"
"""The host of whoami and of the tenants' lists, where regions have hosts of their own."""
_WORDS = {
    400: "badRequest",
    401: "Unauthorized",
    403: "forbidden",
    404: "notFound",
    405: "methodNotAllowed",
    409: "conflict",
    410: "gone",
    429: "tooManyRequests",
    451: "unavailableForLegalReasons",
    500: "internalServerError",
    502: "badGateway",
    503: "serviceUnavailable",
    504: "gatewayTimeout",
}


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, retry_after: int | str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the simulated service is set."""

    page_sizes: tuple[int, int] = (200, 1000)
    """The smallest (also the default) and the largest `limit`."""
    page_cap: int | None = None
    """Never more items a page than this, whatever the limit: many pages out of few events."""
    cursor_rule: CursorRule = "query"
    seed: int = 0


@dataclass
class Account:
    """Everything that the simulated service holds."""

    clock: Clock
    tenants: dict[str, Tenant]
    credentials: dict[str, Credential]
    tokens: Tokens
    limiter: RateLimiter
    settings: Settings
    disabled: set[str] = field(default_factory=set)
    """Client ids of credentials that expired or were deleted."""
    journal: Journal | None = None
    _feeds: dict[tuple[str, str], Feed] = field(default_factory=dict)
    _generators: dict[str, Generator] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def feed(self, tenant_id: str, kind: str) -> Feed:
        """One stream; KeyError where there is no such tenant or kind."""
        with self._lock:
            if (tenant_id, kind) not in self._feeds:
                if tenant_id not in self.tenants or kind not in KINDS:
                    raise KeyError(f"no stream {kind!r} of tenant {tenant_id!r}")
                keep = partial(self.journal.keep, tenant_id, kind) if self.journal else None
                self._feeds[tenant_id, kind] = Feed(kind, self.clock, keep)
            return self._feeds[tenant_id, kind]

    def feeds(self) -> dict[tuple[str, str], Feed]:
        """The streams that were used so far, by tenant and kind."""
        with self._lock:
            return dict(self._feeds)

    def generator(self, tenant_id: str) -> Generator:
        """The tenant's source of invented records and devices."""
        with self._lock:
            if tenant_id not in self._generators:
                told = len(self.feed(tenant_id, "events")) if self.journal else 0
                self._generators[tenant_id] = Generator(tenant_id, self.settings.seed, told=told)
            return self._generators[tenant_id]


class Api:
    """Answers requests from an account; `own_url` is where this simulator listens, `regions` where each region does."""

    def __init__(self, account: Account, own_url: str, regions: Mapping[str, str]) -> None:
        self._account = account
        self._own_url = own_url
        self._regions = regions
        self._routes: dict[str, tuple[str, Callable[[Request], Answer]]] = {
            TOKEN_PATH: ("POST", self._token),
            "/whoami/v1": ("GET", self._whoami),
            "/partner/v1/tenants": ("GET", self._tenants),
            "/organization/v1/tenants": ("GET", self._tenants),
            "/siem/v1/events": ("GET", self._siem),
            "/siem/v1/alerts": ("GET", self._siem),
            "/endpoint/v1/endpoints": ("GET", self._endpoints),
        }

    def answer(self, request: Request, twist: str | None = None) -> Answer:
        """What Sophos would answer; `twist` is a page fault for the SIEM API."""
        try:
            handler = self._route(request)
            return self._siem(request, twist) if handler == self._siem else handler(request)
        except RefusedError as refusal:
            return self.refuse(request.path, refusal)

    def refuse(self, path: str, refusal: RefusedError) -> Answer:
        """The error in the envelope that the path's host uses."""
        word = _WORDS.get(refusal.status, "error")
        if path == TOKEN_PATH:
            body = {"errorCode": f"oauth.{word}", "message": str(refusal), "trackingId": str(uuid.uuid4())}
        else:
            body = {
                "error": word,
                "correlationId": str(uuid.uuid4()),
                "requestId": str(uuid.uuid4()),
                "createdAt": iso(self._account.clock.now()),
                "message": str(refusal),
            }
        return _json(body, refusal.status, refusal.headers)

    def _route(self, request: Request) -> Callable[[Request], Answer]:
        path = request.path
        if path.startswith(("/partner/v1/tenants/", "/organization/v1/tenants/")):
            path = path.rpartition("/")[0]
        if path not in self._routes or not _is_served(path, request.region):
            raise RefusedError(404, "No such resource")
        method, handler = self._routes[path]
        if request.method != method:
            raise RefusedError(405, f"Use {method}")
        return handler

    def _token(self, request: Request) -> Answer:
        form = {name: values[0] for name, values in parse_qs(request.body.decode("latin-1")).items()}
        if form.get("grant_type") != "client_credentials":
            return _token_error(400, "oauth.invalid_grant_type", "Bad Request")
        credential = self._account.credentials.get(form.get("client_id", ""))
        if credential is None:
            return _token_error(401, "oauth.invalid_client_id", "Unauthorized")
        if form.get("client_secret") != credential.secret or credential.client_id in self._account.disabled:
            return _token_error(401, "oauth.invalid_client_secret", "Unauthorized")
        body = {
            "access_token": self._account.tokens.issue(credential.client_id),
            "errorCode": "success",
            "expires_in": self._account.tokens.lifetime_seconds,
            "message": "OK",
            "refresh_token": str(uuid.uuid4()),
            "token_type": "bearer",
            "trackingId": str(uuid.uuid4()),
        }
        return _json(body)

    def _whoami(self, request: Request) -> Answer:
        credential = self._caller(request)
        hosts = {"global": self._own_url}
        if credential.id_type == "tenant" and credential.data_region is not None:
            hosts["dataRegion"] = self._host(credential.data_region, self._account.tenants.get(credential.id))
        return _json({"id": credential.id, "idType": credential.id_type, "apiHosts": hosts})

    def _tenants(self, request: Request) -> Answer:
        credential = self._caller(request)
        role, one = request.path.split("/")[1], request.path.split("/")[4:]
        named = request.headers.get(f"X-{role.capitalize()}-ID")
        if named is None:
            raise RefusedError(401, f"X-{role.capitalize()}-ID is missing")
        if (credential.id_type, credential.id) != (role, named):
            raise RefusedError(403, "Access is denied")
        mine = [tenant for tenant in self._account.tenants.values() if credential.may_see(tenant.id)]
        if one:
            found = [tenant for tenant in mine if tenant.id == one[0]]
            if not found:
                raise RefusedError(404, "No such tenant")
            return _json(self._tenant_item(found[0], credential))
        size = _whole(request, "pageSize", 50, 1, 100)
        number = _whole(request, "page", 1, 1)
        pages = {"current": number, "size": size, "maxSize": 100}
        if request.param("pageTotal") == "true":
            pages |= {"total": -(-len(mine) // size), "items": len(mine)}
        items = [self._tenant_item(tenant, credential) for tenant in mine[(number - 1) * size : number * size]]
        return _json({"pages": pages, "items": items})

    def _tenant_item(self, tenant: Tenant, credential: Credential) -> dict[str, Any]:
        item = {
            "id": tenant.id,
            "showAs": tenant.name,
            "name": tenant.name,
            "dataGeography": tenant.geography,
            "dataRegion": tenant.region,
            "billingType": tenant.billing_type,
            credential.id_type: {"id": credential.id},
            "status": tenant.status,
        }
        return item if tenant.api_host is None else item | {"apiHost": self._host(tenant.api_host, tenant)}

    def _siem(self, request: Request, twist: str | None = None) -> Answer:
        kind = request.path.rpartition("/")[2]
        tenant_id = self._tenant_asked(request, kind)
        query = self._query(request, kind, twist)
        try:
            page = self._account.feed(tenant_id, kind).page(query)
        except ValueError as error:
            raise RefusedError(400, "Invalid cursor") from error
        return Answer(body=page.encode())

    def _query(self, request: Request, kind: str, twist: str | None) -> Query:
        settings, now = self._account.settings, self._account.clock.now()
        smallest, largest = settings.page_sizes
        limit = _whole(request, "limit", smallest, smallest, largest)
        cursor = request.param("cursor")
        from_ms = None
        if cursor is None and request.param("from_date") is not None:
            from_ms = _whole(request, "from_date", 0, 0) * 1000
            if from_ms < now - DAY_MS:
                raise RefusedError(400, "from_date must be within last 24 hours")
        types = (name for text in request.query.get("exclude_types", []) for name in text.split(","))
        return Query(
            now=now,
            limit=min(limit, settings.page_cap or limit),
            cursor=cursor,
            from_ms=from_ms,
            offset_ms=_whole(request, "from_date_offset_minutes", 0, 0) * 60_000,
            excluded=frozenset(types) - {""} if kind == "events" else frozenset(),
            cursor_rule=settings.cursor_rule,
            twist=twist,
        )

    def _endpoints(self, request: Request) -> Answer:
        devices: Sequence[dict[str, Any]] = self._account.generator(self._tenant_asked(request, "endpoints")).endpoints(
            self._account.clock.now()
        )
        wanted = [id_ for text in request.query.get("ids", []) for id_ in text.split(",")]
        part = (request.param("hostnameContains") or "").lower()[:10]
        devices = [
            device
            for device in devices
            if (not wanted or device["id"] in wanted) and part in device["hostname"].lower()
        ]
        size = _whole(request, "pageSize", 50, 1, 500)
        from_key = request.param("pageFromKey")
        start = 0
        if from_key is not None:
            keys = [device["id"] for device in devices]
            if from_key not in keys:
                raise RefusedError(400, "Invalid pageFromKey")
            start = keys.index(from_key)
        pages: dict[str, Any] = {"size": size, "maxSize": 500}
        if from_key is not None:
            pages["fromKey"] = from_key
        if start + size < len(devices):
            pages["nextKey"] = devices[start + size]["id"]
        if request.param("pageTotal") == "true":
            pages |= {"total": -(-len(devices) // size), "items": len(devices)}
        return _json({"items": devices[start : start + size], "pages": pages})

    def _caller(self, request: Request) -> Credential:
        """Whose token it is, within the rate limits."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        owner = self._account.tokens.owner(token) if scheme.lower() == "bearer" else None
        if owner is None or owner in self._account.disabled:
            raise RefusedError(401, "Missing, invalid or expired token")
        wait = self._account.limiter.wait_seconds(owner)
        if wait is not None:
            raise RefusedError(
                429, "Rate limit exceeded", retry_after=wait if self._account.limiter.retry_after else None
            )
        return self._account.credentials[owner]

    def _tenant_asked(self, request: Request, permission: str) -> str:
        """The tenant of a request that may read it."""
        credential = self._caller(request)
        tenant_id = request.headers.get("X-Tenant-ID")
        if not tenant_id:
            raise RefusedError(401, "X-Tenant-ID is missing")
        tenant = self._account.tenants.get(tenant_id)
        if tenant is None:
            raise RefusedError(404, "No such tenant")
        elsewhere = request.region not in ("", tenant.region)
        if elsewhere or tenant.forbidden or not credential.may_see(tenant_id):
            raise RefusedError(403, "Access is denied")
        if permission not in credential.permissions:
            raise RefusedError(403, "Access is denied")
        return tenant_id

    def _host(self, host: str, tenant: Tenant | None) -> str:
        if host != OWN_HOST:
            return host
        return self._regions.get(tenant.region, self._own_url) if tenant else self._own_url


def _is_served(path: str, region: str) -> bool:
    """Whether that host has that path: tenants' data is with their regions, all else with the global host."""
    return not region or path.startswith(("/siem/", "/endpoint/")) == (region != GLOBAL)


def _whole(request: Request, name: str, default: int, smallest: int, largest: int | None = None) -> int:
    """A query parameter as a whole number; 400 where it is none or out of range."""
    text = request.param(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise RefusedError(400, f"{name} must be a whole number")
    value = int(text)
    if value < smallest or (largest is not None and value > largest):
        raise RefusedError(400, f"{name} is out of range")
    return value


def _token_error(status: int, code: str, message: str) -> Answer:
    return _json({"errorCode": code, "message": message, "trackingId": str(uuid.uuid4())}, status)


def _json(value: Mapping[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value, ensure_ascii=False).encode(), headers=headers or {})
