"""Sophos Central's APIs as calls: whoami, tenants, pages of events, alerts, devices (https://developer.sophos.com)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from lib.errors import CursorRefusedError, PermissionMissingError, ProtocolError, TokenRefusedError, WrongTenantError
from lib.model.credential import InUse
from lib.model.families import fitting
from lib.model.page import DevicePage, OddTenant, Page, SophosTenant, Whoami, cursor_fault
from lib.sophos import pages
from lib.sophos.auth import TokenCredential, Tokens
from lib.sophos.http import MAX_BODY_BYTES, Http, HttpAnswer, RequestLimiter, TooLargeError
from lib.sophos.reach import SophosNetworkPath
from lib.sophos.schemas import TenantsSchema, WhoamiSchema, check_envelope, load, tenants_of

T = TypeVar("T")

_one_large = threading.Lock()
"""Held while a page over MAX_BODY_BYTES is read, so that this process has only one of them in memory."""
PAGE_ITEMS = 1000
"""The largest `limit` of the SIEM API."""
FEWEST_ITEMS = 200
"""The smallest `limit` of the SIEM API."""
LARGE_BODY_BYTES = 3 * MAX_BODY_BYTES
"""The limit for a page of FEWEST_ITEMS. Until its batch is stored, three times its size is in memory."""
TENANTS_A_PAGE = 100
MOST_PAGES = 1000
"""The limit of pages of the list of tenants."""
_READS = {
    "/whoami/v1": "its own identity",
    "/partner/v1/tenants": "the list of the partner's tenants",
    "/organization/v1/tenants": "the list of the organization's tenants",
    "/siem/v1/events": "events of this tenant (SIEM API)",
    "/siem/v1/alerts": "alerts of this tenant (SIEM API)",
    "/endpoint/v1/endpoints": "devices of this tenant (endpoint API)",
}
"""What each API reads, in words for errors."""


class Central:
    """Sophos Central with one credential; safe between threads."""

    def __init__(
        self,
        credential: TokenCredential,
        *,
        auth_url: str,
        api_url: str,
        allow_hosts: Collection[str] = (),
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        rate_limiter: RequestLimiter,
        next_credential: TokenCredential | None = None,
        ca_bundle: str | None = None,
        proxy: Callable[[], str] | None = None,
    ) -> None:
        self._api_url = api_url.rstrip("/")
        self._auth_url = auth_url.rstrip("/")
        self._http = Http(
            allow_hosts=allow_hosts,
            now=now,
            monotonic=monotonic,
            sleep=sleep,
            random=random,
            rate_limiter=rate_limiter,
            ca_bundle=ca_bundle,
            proxy=proxy,
        )
        credentials = [credential] if next_credential is None else [credential, next_credential]
        self._tokens = Tokens(self._http, credentials, auth_url, monotonic)

    @property
    def counts(self) -> Mapping[str, int]:
        """Requests since the start, by outcome."""
        return dict(self._http.counts)

    def path_to(self, url: str) -> SophosNetworkPath:
        """The network path to a host, for tests step by step; HostRefusedError if credentials must not go there."""
        return self._http.path_to(url)

    def paths(self) -> list[SophosNetworkPath]:
        """The network paths to the hosts that every credential needs."""
        return [self.path_to(url) for url in dict.fromkeys((self._auth_url, self._api_url))]

    def reach(self, *, deadline: float | None = None) -> dict[str, datetime | None]:
        """The times of the hosts' clocks, by host; SophosDownError if a host cannot be reached."""
        clocks: dict[str, datetime | None] = {}
        for url in dict.fromkeys((self._auth_url, self._api_url)):
            # Any answer shows that the host is reachable. Without a token it is an error.
            answer = self._http.request("GET", f"{url}/", read=lambda answer: answer, deadline=deadline)
            clocks[urlsplit(url).netloc] = answer.date
        return clocks

    @property
    def in_use(self) -> InUse | None:
        """The credential of the latest token; None before the first token."""
        return self._tokens.in_use

    def is_replaced(self) -> bool:
        """Whether the credential has changed since the last token request. This sends no request."""
        return self._tokens.is_replaced()

    def authenticate(self, *, deadline: float | None = None) -> bool:
        """Get a token; return whether it belongs to the next credential. CredentialsError if Sophos refuses both."""
        self._tokens.current(deadline=deadline)
        return self.in_use is not None and self.in_use.is_next

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        """Sophos's current time, by which it refuses times over 24 hours ago; None if no answer had a Date header."""
        self._tokens.current(deadline=deadline)  # The token is needed next anyway, and its answer shows the time.
        return self._http.clock()

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        """The owner of the credential."""
        path = "/whoami/v1"
        who: Whoami = self._get(
            self._api_url, path, lambda answer: load(WhoamiSchema(), answer, path), deadline=deadline
        )
        if who.global_host:
            return who
        return Whoami(who.id, who.id_type, self._api_url, who.data_region)

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[SophosTenant]:
        """The tenants that the credential can read: its own, or the customers of a partner or organization.

        The list may change while it is read: a tenant that appears twice is given once. A tenant whose record is
        unusable is an OddTenant.
        """
        if who.id_type == "tenant":
            # Every known tenant credential has a data region. If one has none, only the global host is left.
            yield SophosTenant(who.id, "", who.data_region or who.global_host)
            return
        path = f"/{who.id_type}/v1/tenants"
        headers = {f"X-{who.id_type.capitalize()}-ID": who.id}
        seen: set[str] = set()
        number = 0
        while True:
            number += 1
            params = {"page": str(number), "pageSize": str(TENANTS_A_PAGE), "pageTotal": "true"}
            answered = self._get(
                who.global_host,
                path,
                lambda answer: load(TenantsSchema(), answer, path),
                deadline=deadline,
                headers=headers,
                params=params,
            )
            tenants = tenants_of(answered["items"], (number - 1) * TENANTS_A_PAGE + 1)
            before = len(seen)
            for tenant in tenants:
                if tenant.id not in seen:
                    seen.add(tenant.id)
                    yield tenant
            size, total = answered["pages"].get("size") or TENANTS_A_PAGE, answered["pages"].get("total")
            is_repeated = len(seen) == before and not any(isinstance(tenant, OddTenant) for tenant in tenants)
            if (
                is_repeated
                or number == MOST_PAGES
                or (number >= total if total is not None else len(answered["items"]) < size)
            ):
                return

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
        """The page after the cursor, or from the date on; `kind` is `events` or `alerts`.

        Excluded types that do not fit into the URL are removed from the answer. A page that is too large is requested
        again with fewer items. Raises CursorRefusedError if Sophos refuses the cursor.
        """
        params = {"limit": str(PAGE_ITEMS)}
        if cursor is not None:
            params["cursor"] = cursor
        elif from_date is not None:
            params["from_date"] = str(int(from_date.timestamp()))
        named, removed = fitting(exclude_types if kind == "events" else ())
        if named:
            params["exclude_types"] = ",".join(named)
        if offset_minutes:
            params["from_date_offset_minutes"] = str(offset_minutes)

        def read(answer: HttpAnswer) -> Page:
            _check_cursor(answer, cursor, "cursor")
            page = pages.split(_ok(answer).body, answer.date)
            _check_next(page.next_cursor, cursor)
            # Types that did not fit into the URL are removed here, with the same result.
            kept = (item for item in page.items if pages.event_fields(item).type not in removed)
            return replace(page, items=tuple(kept)) if removed else page

        _check_sendable(cursor)

        ask = partial(
            self._get,
            host,
            f"/siem/v1/{kind}",
            read,
            deadline=deadline,
            headers={"X-Tenant-ID": tenant},
            stream=f"{tenant}/{kind}",
        )
        try:
            return ask(params=params)
        except TooLargeError:
            with _one_large:
                return ask(params=params | {"limit": str(FEWEST_ITEMS)}, max_bytes=LARGE_BODY_BYTES)

    def devices(
        self, host: str, tenant: str, *, page_key: str | None, page_size: int, deadline: float | None = None
    ) -> DevicePage:
        """The page of devices with the key, or the first page.

        Raises CursorRefusedError if Sophos refuses the key.
        """
        # Other views than `full` lack fields that an inventory needs, such as serial numbers.
        params = {"pageSize": str(page_size), "view": "full"}
        if page_key is not None:
            params["pageFromKey"] = page_key

        def read(answer: HttpAnswer) -> DevicePage:
            _check_cursor(answer, page_key, "page key")
            page = pages.split_devices(_ok(answer).body, answer.date)
            _check_next(page.next_key, page_key)
            return page

        _check_sendable(page_key)

        return self._get(
            host,
            "/endpoint/v1/endpoints",
            read,
            deadline=deadline,
            headers={"X-Tenant-ID": tenant},
            params=params,
            stream=f"{tenant}/endpoints",
        )

    def _get(
        self,
        host: str,
        path: str,
        read: Callable[[HttpAnswer], T],
        *,
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        stream: str = "",
        max_bytes: int = MAX_BODY_BYTES,
    ) -> T:
        """The result of `read` for the answer. If the API refuses the token, one new token is tried."""
        url = host.rstrip("/") + path
        refused: str | None = None
        for _ in range(2):
            token = self._tokens.current(refused=refused, deadline=deadline)
            try:
                return self._http.request(
                    "GET",
                    url,
                    token=token,
                    headers=headers,
                    params=params,
                    deadline=deadline,
                    stream=stream,
                    max_bytes=max_bytes,
                    read=lambda answer: read(_authorized(answer, path)),
                )
            except _Unauthorized as error:
                refused, answer = token, error.answer
        check_envelope(answer, f"GET {path}")
        raise TokenRefusedError(f"Sophos refused a new token twice: 401 to GET {path}")


class _Unauthorized(Exception):  # noqa: N818 - not a failure yet
    """An API answered 401."""

    def __init__(self, answer: HttpAnswer) -> None:
        super().__init__()
        self.answer = answer


def _authorized(answer: HttpAnswer, path: str) -> HttpAnswer:
    if answer.status == 401:
        raise _Unauthorized(answer)
    if answer.status in (403, 404, 451):
        check_envelope(answer, f"GET {path}")
        ids = answer.word("correlationId", "requestId")
        text = f"Sophos answered {answer.status}{answer.word('error')} to GET {path}{ids}"
        if answer.status == 404:
            raise WrongTenantError(f"{text}: this host does not have that tenant")
        raise PermissionMissingError(f"{text}: the credential may not read {_READS.get(path, path)}")
    return answer if answer.status in (400, 410, 414) else _ok(answer)


def _check_cursor(answer: HttpAnswer, cursor: str | None, name: str) -> None:
    """Raise CursorRefusedError if the answer refuses the sent cursor."""
    if cursor is None or answer.status not in (400, 410, 414):
        return
    if answer.status != 414:  # 414 (URI too long) is a fault of the cursor even if a gateway answers it.
        check_envelope(answer, f"a request with a {name}")
    raise CursorRefusedError(f"Sophos refused the {name}: {answer.status}{answer.word('error')}")


def _check_sendable(cursor: str | None) -> None:
    """Raise CursorRefusedError if a stored cursor cannot be sent."""
    if cursor is not None and (fault := cursor_fault(cursor)):
        raise CursorRefusedError(f"the cursor cannot be sent to Sophos: {fault}")


def _check_next(next_cursor: str | None, cursor: str | None) -> None:
    """Refuse a page whose next cursor cannot be sent back: its batch must not be stored.

    If the page was read with a cursor, CursorRefusedError makes the stream continue by date. If it was read by date,
    ProtocolError makes it retry.
    """
    fault = None if next_cursor is None else cursor_fault(next_cursor)
    if fault is not None:
        kind = ProtocolError if cursor is None else CursorRefusedError
        raise kind(f"Sophos answered with a cursor that cannot be sent back: {fault}")


def _ok(answer: HttpAnswer) -> HttpAnswer:
    if answer.status != 200:
        raise ProtocolError(f"Sophos sent an unexpected answer: {answer.status}{answer.word('error')}")
    return answer
