"""HTTP to Sophos: requests with timeouts, a size limit and a limited number of tries, to allowed hosts only."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

import requests
import urllib3
from requests.utils import select_proxy

from lib.errors import ProtocolError, SophosDownError, ThrottledError, TlsBrokenError
from lib.model.backoff import full_jitter, retry_after
from lib.model.clock import believed, from_http_date
from lib.model.families import URL_SAFE
from lib.model.host import check_url, is_loopback
from lib.sophos.bodies import ACCEPTED, Body, TooLongError
from lib.sophos.connections import Adapter
from lib.sophos.failures import failure_of
from lib.sophos.reach import SophosNetworkPath
from lib.version import VERSION

T = TypeVar("T")

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
TOTAL_SECONDS = 90.0
"""The limit of a whole request. It ends a body that arrives so slowly that no single read times out."""
MAX_BODY_BYTES = 64 << 20
TRIES = 4
LONGEST_PAUSE_SECONDS = 8.0
"""A longer pause that Sophos asks for ends the request: the caller can do something else meanwhile."""
_CHUNK = 1 << 16
MOST_CONNECTIONS = 16
"""To one host: two for each stream that is read at the same time."""
_HEADERS = {
    "User-Agent": f"sophos-utmstack/{VERSION}",
    "Accept": "application/json",
    "Accept-Encoding": ACCEPTED,
}
_DIRECT: Any = {"http": None, "https": None, "all": None}
"""No proxy for loopback, whatever the environment says: the proxy's loopback is another machine."""
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TELLING = 8
"""A part of a secret with at least this many characters is not repeated. Shorter parts occur in ordinary words."""
_SECRETS_KEPT = 16
_ROUTES_KEPT = 64


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    secrets: Collection[str] = field(default=(), repr=False)
    """Secrets that were sent. The answer may hold them, so that no text from it may repeat them."""

    @property
    def date(self) -> datetime | None:
        """The time of the answer's Date header, UTC."""
        return from_http_date(self.headers.get("Date"))

    def word(self, *names: str) -> str:
        """The first of these fields that is a plain word without a secret, as ` (word)`; otherwise empty.

        Nothing else of the body is repeated in errors.
        """
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        values = [fields.get(name) for name in names] if isinstance(fields, dict) else []
        words = (value for value in values if isinstance(value, str) and _WORD.fullmatch(value))
        return next((f" ({word})" for word in words if not self._reveals(word)), "")

    def _reveals(self, word: str) -> bool:
        """Whether the word is a secret, holds one, or is a large part of one."""
        return any(secret in word or (len(word) >= _TELLING and word in secret) for secret in self.secrets)


RETRIED = "retried"


class TooLargeError(ProtocolError):
    """The answer exceeds a limit. A retry would get the same answer."""

    remedy = "Exclude the type of these events (`exclude_types`). `types` shows the size of each type."


class RequestLimiter(Protocol):
    """Limits the calls of a credential."""

    def acquire(self, stream: str, deadline: float) -> None:
        """Wait until a call may go; OverBudgetError if that is after the deadline."""

    def refused(self, retry_after: float | None) -> float:
        """Take note of an answer 429; return the seconds until the next call."""


class Http:
    """Pooled connections. A request is retried a few times if a retry can help. Safe between threads."""

    def __init__(
        self,
        *,
        allow_hosts: Collection[str],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        rate_limiter: RequestLimiter,
        ca_bundle: str | None = None,
        proxy: Callable[[], str] | None = None,
    ) -> None:
        """`ca_bundle` replaces the certificates to trust, `proxy` the proxy, of the environment and of `requests`."""
        self._rate_limiter = rate_limiter
        self._ca_bundle = ca_bundle
        self._proxy = proxy
        self._allow_hosts = allow_hosts
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._random = random
        # No session of `requests`: it merges settings, keeps cookies and follows redirects. None of that is wanted,
        # and it takes about a fifth of a request's time.
        self._adapter = Adapter(pool_maxsize=MOST_CONNECTIONS)
        # This session only reads the environment, once for each host.
        self._environment = requests.Session()
        self._routes: dict[tuple[object, ...], Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        self._secrets: dict[str, None] = {}
        """Tokens and client secrets that were sent recently."""
        self._shown: tuple[datetime, float] | None = None
        """The latest answer's time, with the monotonic time of its arrival."""
        self.counts: dict[str, int] = {}
        """Requests by outcome: a status, or an error's code; and the number of retries."""

    def request(
        self,
        method: str,
        url: str,
        *,
        read: Callable[[HttpAnswer], T],
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        deadline: float | None = None,
        stream: str = "",
        max_bytes: int = MAX_BODY_BYTES,
    ) -> T:
        """The result of `read` for the answer; retried after 5xx, timeouts and ProtocolError from `read`.

        Each try with a token is a call of the credential for `stream`. `deadline` is a monotonic time. Raises
        HostRefusedError, ThrottledError, OverBudgetError, TlsBrokenError and TooLargeError at once; any other
        SophosDownError and ProtocolError after the last try.
        """
        check_url(url, allow_hosts=self._allow_hosts)
        # Before the first try: no error of any try may repeat them.
        self._remember(token, (form or {}).get("client_secret"))
        end = self._monotonic() + TOTAL_SECONDS if deadline is None else deadline
        for tries in range(1, TRIES + 1):
            status = 0
            if token is not None:
                # For each try, because Sophos counts each one.
                self._rate_limiter.acquire(stream, end)
            try:
                request = _prepared(method, url, token, headers=headers, params=params, form=form)
                answer = self._once(request, url, end, max_bytes)
                status = answer.status
                self._refuse_server_faults(answer, method, url)
                return read(answer)
            except (SophosDownError, ProtocolError) as error:
                if not status:
                    self._count(error.code)
                pause = full_jitter(tries, self._random(), base=0.5, cap=LONGEST_PAUSE_SECONDS)
                pause = max(pause, error.retry_after or 0.0)
                if 200 < status < 500 or isinstance(error, TlsBrokenError | TooLargeError):
                    raise  # The same request would get the same answer.
                if tries == TRIES or pause > LONGEST_PAUSE_SECONDS or self._monotonic() + pause >= end:
                    raise
                self._count(RETRIED)
                self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def clock(self) -> datetime | None:
        """Sophos's current time, from the latest answer with an accepted time; None before such an answer."""
        shown = self._shown
        return None if shown is None else shown[0] + timedelta(seconds=self._monotonic() - shown[1])

    def path_to(self, url: str) -> SophosNetworkPath:
        """The network path of requests to the URL; HostRefusedError if the URL is not allowed."""
        check_url(url, allow_hosts=self._allow_hosts)
        route = self._route(url)
        proxy = select_proxy(url, route["proxies"])
        return SophosNetworkPath(
            url, proxy if not proxy or "://" in proxy else f"http://{proxy}", route["verify"] or True
        )

    def _route(self, url: str) -> Mapping[str, Any]:
        """Proxy and certificates for a URL, as options of `requests`. Settings win over the environment."""
        parts = urlsplit(url)
        proxy = None
        if is_loopback((parts.hostname or "").lower()):
            proxies = _DIRECT
        elif self._proxy is not None:
            proxy = self._proxy()
            proxies = dict.fromkeys(("http", "https", "all"), proxy)
        else:
            proxies = {}
        key = parts.scheme, parts.netloc, proxy
        if key not in self._routes:
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes = {}
            merged = self._environment.merge_environment_settings(url, dict(proxies), None, self._ca_bundle, None)
            self._routes[key] = {"proxies": merged["proxies"], "verify": merged["verify"]}
        return self._routes[key]

    def _once(self, request: requests.PreparedRequest, url: str, end: float, max_bytes: int) -> HttpAnswer:
        parts = urlsplit(url)
        started = self._monotonic()
        left = max(1.0, min(end - started, TOTAL_SECONDS))  # urllib3 refuses a timeout of 0 or less.
        name = f"{request.method} {parts.path} at {parts.netloc}"
        timeout = min(CONNECT_SECONDS, left), min(READ_SECONDS, left)
        try:
            with closing(self._adapter.send(request, stream=True, timeout=timeout, **self._route(url))) as response:
                body = Body(response.headers.get("Content-Encoding"), max_bytes)
                # iter_content would wait for a whole chunk, and a slow body would never reach the check of the time.
                while chunk := response.raw.read1(_CHUNK, decode_content=False):
                    body.add(chunk)
                    if self._monotonic() - started > left:
                        raise SophosDownError(f"{name}: the answer took longer than {left:.0f} s")
                whole = body.whole()
        except TooLongError:
            raise TooLargeError(f"{name}: the answer is larger than {max_bytes >> 20} MiB") from None
        except (OSError, urllib3.exceptions.HTTPError) as error:  # `requests` passes errors of urllib3 through.
            self.path_to(url).check()
            failure = failure_of(name, error)
            if isinstance(failure, TlsBrokenError):
                self.path_to(url).secure()  # This connects again, and its error names the certificate's issuer.
            raise failure from None
        self._count(str(response.status_code))
        secrets = () if response.status_code == 200 else self._secrets_shown(url)
        answer = HttpAnswer(response.status_code, response.headers, whole, secrets)
        if answer.date is not None and answer.status < 500:  # A gateway that answers 5xx has its own clock.
            shown = believed([answer.date], self._now(), self.clock())
            self._shown = self._shown if shown is None else (shown, self._monotonic())
        return answer

    def _remember(self, *secrets: str | None) -> None:
        with self._lock:
            for secret in filter(None, secrets):
                self._secrets.pop(secret, None)
                self._secrets[secret] = None
            while len(self._secrets) > _SECRETS_KEPT:
                del self._secrets[next(iter(self._secrets))]

    def _secrets_shown(self, url: str) -> list[str]:
        """All secrets that were sent to hosts or to the proxy."""
        password = urlsplit(self.path_to(url).proxy or "").password or ""
        with self._lock:
            return [*self._secrets, *filter(None, {password, unquote(password)})]

    def _refuse_server_faults(self, answer: HttpAnswer, method: str, url: str) -> None:
        if answer.status != 429 and answer.status < 500:
            return
        wait = retry_after(answer.headers.get("Retry-After"), answer.date or self._now())
        text = f"Sophos answered {answer.status}{answer.word('error')} to {method} {urlsplit(url).path}"
        if answer.status == 429:
            raise ThrottledError(text, retry_after=self._rate_limiter.refused(wait))
        raise SophosDownError(text, retry_after=wait)

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.counts[outcome] = self.counts.get(outcome, 0) + 1


def _prepared(
    method: str,
    url: str,
    token: str | None,
    *,
    headers: Mapping[str, str] | None,
    params: Mapping[str, str] | None,
    form: Mapping[str, str] | None,
) -> requests.PreparedRequest:
    """The request as it is sent."""
    request = requests.PreparedRequest()
    request.method = method
    request.url = f"{url}?{urlencode(params, safe=URL_SAFE)}" if params else url
    request.prepare_headers({**_HEADERS, **(headers or {})})
    if form is not None:
        request.prepare_body(form, None)
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token}"
    return request
