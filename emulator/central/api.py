"""The APIs of Sophos Central: the answer of each path."""

from __future__ import annotations

import json
import threading
import uuid
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs

from emulator.central.accounts import OWN_HOST, Credential, IssuedTokens, RequestWindows, Tenant
from emulator.central.clock import DAY_MS, Clock, iso
from emulator.central.feed import KINDS, CursorRule, Feed, FeedQuery
from emulator.central.generator import Generator
from emulator.central.journal import Journal
from emulator.central.listener import Request, SimulatedAnswer
from emulator.central.stories import Fields

T = TypeVar("T")

TOKEN_PATH = "/api/v2/oauth2/token"  # noqa: S105 - a path
GLOBAL = "global"
"""The name of the host for whoami and the tenants lists, if regions have hosts of their own."""
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
    """Settings of the simulated service."""

    page_sizes: tuple[int, int] = (200, 1000)
    """The smallest (also the default) and the largest `limit`."""
    page_cap: int | None = None
    """The limit of items in a page, below the requested `limit`. It makes many pages out of few events."""
    cursor_rule: CursorRule = "query"
    seed: int = 0
    token_seconds: int = 3600
    """How long a token is valid. `POST tokens` changes it."""


@dataclass
class SimulatedAccount:
    """The state of the simulated service."""

    clock: Clock
    tenants: dict[str, Tenant]
    """Never changed, only replaced, because requests read it at the same time."""
    credentials: dict[str, Credential]
    """Never changed, only replaced."""
    tokens: IssuedTokens
    limiter: RequestWindows
    settings: Settings
    regions: frozenset[str] = frozenset()
    """Regions with hosts of their own."""
    journal: Journal | None = None
    _feeds: dict[tuple[str, str], Feed] = field(default_factory=dict)
    _put: dict[str, dict[str, Fields]] = field(default_factory=dict)
    """By tenant, devices that were added or changed. An empty device was removed."""
    _generators: dict[str, Generator] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def put_tenants(self, tenants: Iterable[Tenant]) -> None:
        """Add tenants, or replace those with the same ids; ValueError if a tenant's region has no host."""
        new = {tenant.id: tenant for tenant in tenants}
        for tenant in new.values():
            if self.regions and tenant.region not in self.regions:
                raise ValueError(f"tenant {tenant.id!r}: no host for region {tenant.region!r}; {sorted(self.regions)}")
        with self._lock:
            self.tenants = self.tenants | new

    def remove_tenant(self, tenant_id: str) -> None:
        """Remove a tenant; KeyError if there is none."""
        with self._lock:
            self.tenants = _without(self.tenants, tenant_id)

    def put_credentials(self, credentials: Iterable[Credential]) -> None:
        """Add credentials, or replace those with the same client ids."""
        with self._lock:
            self.credentials = self.credentials | {credential.client_id: credential for credential in credentials}

    def remove_credential(self, client_id: str) -> None:
        """Remove a credential; KeyError if there is none."""
        with self._lock:
            self.credentials = _without(self.credentials, client_id)

    def feed(self, tenant_id: str, kind: str) -> Feed:
        """A stream; KeyError if there is no such tenant or kind."""
        with self._lock:
            if (tenant_id, kind) not in self._feeds:
                if tenant_id not in self.tenants or kind not in KINDS:
                    raise KeyError(f"no stream {kind!r} of tenant {tenant_id!r}")
                keep = partial(self.journal.keep, tenant_id, kind) if self.journal else None
                self._feeds[tenant_id, kind] = Feed(kind, self.clock, keep)
            return self._feeds[tenant_id, kind]

    def put_feeds(self, feeds: Mapping[tuple[str, str], Feed]) -> None:
        """Replace the streams, by tenant and kind."""
        with self._lock:
            self._feeds.update(feeds)

    def feeds(self) -> dict[tuple[str, str], Feed]:
        """The streams that were used so far, by tenant and kind."""
        with self._lock:
            return dict(self._feeds)

    def generator(self, tenant_id: str) -> Generator:
        """The tenant's generator of records and devices."""
        with self._lock:
            if tenant_id not in self._generators:
                earlier = len(self.feed(tenant_id, "events")) if self.journal else 0
                devices = max(self.tenants[tenant_id].devices, 1)  # Events need at least one device.
                made = Generator(tenant_id, self.settings.seed, devices=devices, earlier=earlier)
                self._generators[tenant_id] = made
            return self._generators[tenant_id]

    def devices(self, tenant_id: str) -> list[Fields]:
        """The current inventory, ordered by id: generated devices, with the changes made by hand."""
        generated = self.generator(tenant_id).endpoints(self.clock.now())[: self.tenants[tenant_id].devices]
        with self._lock:
            devices = {device["id"]: device for device in generated} | self._put.get(tenant_id, {})
        return [devices[id_] for id_ in sorted(devices) if devices[id_]]

    def put_device(self, tenant_id: str, fields: Fields) -> str:
        """Add a device, or change the named fields of the device with this id; return its id."""
        if tenant_id not in self.tenants:
            raise KeyError(f"no tenant {tenant_id!r}")
        with self._lock:
            id_ = str(fields.get("id") or uuid.uuid4())
            old = next((device for device in self.devices(tenant_id) if device["id"] == id_), None)
            device = old or self.generator(tenant_id).new_endpoint(id_, self.clock.now())
            self._put.setdefault(tenant_id, {})[id_] = _merged(device, fields | {"id": id_})
            return id_

    def remove_device(self, tenant_id: str, id_: str) -> None:
        """Remove a device; KeyError if there is none with this id."""
        with self._lock:
            if id_ not in {device["id"] for device in self.devices(tenant_id)}:
                raise KeyError(f"no device {id_!r}")
            self._put.setdefault(tenant_id, {})[id_] = {}


def _without(held: dict[str, T], name: str) -> dict[str, T]:
    if name not in held:
        raise KeyError(f"no {name!r}")
    return {key: value for key, value in held.items() if key != name}


def _merged(old: Fields, new: Fields) -> Fields:
    """The old fields with the new ones. Nested objects are merged too."""
    both = {
        name: _merged(old[name], value) if isinstance(value, dict) and isinstance(old.get(name), dict) else value
        for name, value in new.items()
    }
    return old | both


class Api:
    """Answers requests from an account. `own_url` is this simulator's URL, `regions` those of the regions."""

    def __init__(self, account: SimulatedAccount, own_url: str, regions: Mapping[str, str]) -> None:
        self._account = account
        self._own_url = own_url
        self._regions = regions
        self._routes: dict[str, tuple[str, Callable[[Request], SimulatedAnswer]]] = {
            TOKEN_PATH: ("POST", self._token),
            "/whoami/v1": ("GET", self._whoami),
            "/partner/v1/tenants": ("GET", self._tenants),
            "/organization/v1/tenants": ("GET", self._tenants),
            "/siem/v1/events": ("GET", self._siem),
            "/siem/v1/alerts": ("GET", self._siem),
            "/endpoint/v1/endpoints": ("GET", self._endpoints),
        }

    def answer(self, request: Request, twist: str | None = None) -> SimulatedAnswer:
        """Sophos's answer to a request; `twist` is a page fault for the SIEM API."""
        try:
            handler = self._route(request)
            return self._siem(request, twist) if handler == self._siem else handler(request)
        except RefusedError as refusal:
            return self.refuse(request.path, refusal)

    def refuse(self, path: str, refusal: RefusedError, *, bare: bool = False) -> SimulatedAnswer:
        """The error in the format of the path's host; `bare`: in its other format, which has no message."""
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
            if bare:
                body = {name: value for name, value in body.items() if name != "message"} | {"error": word.capitalize()}
        return _json(body, refusal.status, refusal.headers)

    def _route(self, request: Request) -> Callable[[Request], SimulatedAnswer]:
        path = request.path
        if path.startswith(("/partner/v1/tenants/", "/organization/v1/tenants/")):
            path = path.rpartition("/")[0]
        if path not in self._routes or not _is_served(path, request.region):
            raise RefusedError(404, "No such resource")
        method, handler = self._routes[path]
        if request.method != method:
            raise RefusedError(405, f"Use {method}")
        return handler

    def _token(self, request: Request) -> SimulatedAnswer:
        form = {name: values[0] for name, values in parse_qs(request.body.decode("latin-1")).items()}
        if form.get("grant_type") != "client_credentials":
            return _token_error(400, "oauth.invalid_grant_type", "Bad Request")
        credential = self._account.credentials.get(form.get("client_id", ""))
        if credential is None:
            return _token_error(401, "oauth.invalid_client_id", "Unauthorized")
        if form.get("client_secret") != credential.secret or credential.expired:
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

    def _whoami(self, request: Request) -> SimulatedAnswer:
        credential = self._caller(request)
        hosts = {"global": self._own_url}
        if credential.id_type == "tenant" and credential.data_region is not None:
            hosts["dataRegion"] = self._host(credential.data_region, self._account.tenants.get(credential.id))
        return _json({"id": credential.id, "idType": credential.id_type, "apiHosts": hosts})

    def _tenants(self, request: Request) -> SimulatedAnswer:
        credential = self._caller(request)
        role, ids = request.path.split("/")[1], request.path.split("/")[4:]
        named = request.headers.get(f"X-{role.capitalize()}-ID")
        if named is None:
            raise RefusedError(401, f"X-{role.capitalize()}-ID is missing")
        if (credential.id_type, credential.id) != (role, named):
            raise RefusedError(403, "Access is denied")
        mine = [tenant for tenant in self._account.tenants.values() if credential.may_see(tenant.id)]
        if ids:
            matching = [tenant for tenant in mine if tenant.id == ids[0]]
            if not matching:
                raise RefusedError(404, "No such tenant")
            return _json(self._tenant_item(matching[0], credential))
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
            "dataGeography": tenant.country,
            "dataRegion": tenant.region,
            "billingType": tenant.billing_type,
            credential.id_type: {"id": credential.id},
            "status": tenant.status,
        }
        return item if tenant.api_host is None else item | {"apiHost": self._host(tenant.api_host, tenant)}

    def _siem(self, request: Request, twist: str | None = None) -> SimulatedAnswer:
        kind = request.path.rpartition("/")[2]
        tenant_id = self._tenant_asked(request, kind)
        query = self._query(request, kind, twist)
        try:
            page = self._account.feed(tenant_id, kind).page(query)
        except ValueError as error:
            raise RefusedError(400, "Invalid cursor") from error
        return SimulatedAnswer(body=page.encode())

    def _query(self, request: Request, kind: str, twist: str | None) -> FeedQuery:
        settings, now = self._account.settings, self._account.clock.now()
        smallest, largest = settings.page_sizes
        limit = _whole(request, "limit", smallest, smallest, largest)
        if "pageFromKey" in request.query:
            # It is unknown if Sophos ignores this parameter. A client that uses it would lose events: show it.
            raise RefusedError(400, "pageFromKey is not a parameter of this API: use cursor")
        cursor = request.param("cursor")
        from_ms = None
        if cursor is None and request.param("from_date") is not None:
            from_ms = _whole(request, "from_date", 0, 0) * 1000
            if from_ms < now - DAY_MS:
                raise RefusedError(400, "from_date must be within last 24 hours")
        types = (name for text in request.query.get("exclude_types", []) for name in text.split(","))
        return FeedQuery(
            now=now,
            limit=min(limit, settings.page_cap or limit),
            cursor=cursor,
            from_ms=from_ms,
            offset_ms=_whole(request, "from_date_offset_minutes", 0, 0) * 60_000,
            excluded=frozenset(types) - {""} if kind == "events" else frozenset(),
            cursor_rule=settings.cursor_rule,
            twist=twist,
        )

    def _endpoints(self, request: Request) -> SimulatedAnswer:
        tenant = self._tenant_asked(request, "endpoints")
        view = request.param("view") or "summary"
        if view not in _VIEWS:
            raise RefusedError(400, f"view must be one of {', '.join(_VIEWS)}")
        devices = [device for device in self._account.devices(tenant) if _is_wanted(device, request)]
        largest = min(500, self._account.settings.page_cap or 500)
        size = min(_whole(request, "pageSize", 50, 1, 500), largest)
        from_key = request.param("pageFromKey")
        start = 0 if from_key is None else bisect_right([device["id"] for device in devices], _id_of(from_key))
        pages: dict[str, Any] = {"size": size, "maxSize": largest}
        if from_key is not None:
            pages["fromKey"] = from_key
        shown = devices[start : start + size]
        if start + size < len(devices):
            pages["nextKey"] = b64encode(shown[-1]["id"].encode()).decode()
        if request.param("pageTotal") == "true":
            pages |= {"total": -(-len(devices) // size), "items": len(devices)}
        named = _VIEWS[view] or {name for text in request.query.get("fields", []) for name in text.split(",")} | {"id"}
        if named != {"id"}:
            shown = [{name: value for name, value in device.items() if name in named} for device in shown]
        return _json({"items": shown, "pages": pages})

    def _caller(self, request: Request) -> Credential:
        """The credential of the request's token; RefusedError for an invalid token or above the rate limits."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        owner = self._account.tokens.owner(token) if scheme.lower() == "bearer" else None
        credential = self._account.credentials.get(owner or "")
        if owner is None or credential is None or credential.expired:
            raise RefusedError(401, "Missing, invalid or expired token")
        wait = self._account.limiter.wait_seconds(owner)
        if wait is not None:
            raise RefusedError(
                429, "Rate limit exceeded", retry_after=wait if self._account.limiter.retry_after else None
            )
        return credential

    def _tenant_asked(self, request: Request, permission: str) -> str:
        """The tenant of a request; RefusedError if the credential may not read it."""
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
    """Whether a host serves a path: regions serve the tenants' data, the global host serves the rest."""
    return not region or path.startswith(("/siem/", "/endpoint/")) == (region != GLOBAL)


_VIEWS: dict[str, set[str]] = {
    "basic": {"id", "type", "tenant", "hostname", "health", "os", "lastSeenAt"},
    "summary": set(),
    "full": set(),
}


def _is_wanted(device: Fields, request: Request) -> bool:
    """Whether the device matches the request's filters."""
    for name, value in (
        ("ids", device["id"]),
        ("type", device.get("type")),
        ("healthStatus", device.get("health", {}).get("overall")),
    ):
        asked = [choice for text in request.query.get(name, []) for choice in text.split(",")]
        if asked and value not in asked:
            return False
    part = (request.param("hostnameContains") or "").lower()[:10]
    return part in device.get("hostname", "").lower()


def _id_of(key: str) -> str:
    """The id of the page's last device in a key; RefusedError (400) for an invalid key."""
    try:
        return b64decode(key, validate=True).decode()
    except ValueError:
        raise RefusedError(400, "Invalid pageFromKey") from None


def _whole(request: Request, name: str, default: int, smallest: int, largest: int | None = None) -> int:
    """A query parameter as a whole number; RefusedError (400) if it is not one or out of range."""
    text = request.param(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise RefusedError(400, f"{name} must be a whole number")
    value = int(text)
    if value < smallest or (largest is not None and value > largest):
        raise RefusedError(400, f"{name} is out of range")
    return value


def _token_error(status: int, code: str, message: str) -> SimulatedAnswer:
    return _json({"errorCode": code, "message": message, "trackingId": str(uuid.uuid4())}, status)


def _json(value: Mapping[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> SimulatedAnswer:
    return SimulatedAnswer(status, json.dumps(value, ensure_ascii=False).encode(), headers=headers or {})
