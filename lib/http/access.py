"""Who may call a function: callers on this machine, callers with a shared key, and callers with a Google ID token.

If the configuration says so, the check of a platform (Cloud Run's IAM) is enough.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from lib.errors import ConnectorError
from lib.model.host import is_loopback

log = logging.getLogger(__name__)

GOOGLE_CERTS = "https://www.googleapis.com/oauth2/v1/certs"
ISSUERS = ("accounts.google.com", "https://accounts.google.com")
SHORTEST_KEY = 16
"""The least characters of a shared key. A shorter key could be guessed and is never accepted."""
KEYS_HOLD_SECONDS = 60.0
"""How long resolved keys are used before they are read again. A rotated key counts after this time."""
CERTS_HOLD_SECONDS = 3600.0
CERTS_AGAIN_SECONDS = 60.0
"""The least time between two fetches of the certificates because a token names an unknown key."""
SKEW_SECONDS = 10
LONGEST_TOKEN = 8192
"""Characters. Google's tokens have some 1,200; a longer token is not decoded."""
RARE_CALLS = 6
"""How many `rare` calls a minute one process accepts from other machines."""
_PROXY_HEADERS = ("forwarded", "via", "x-real-ip")
_PROXY_PREFIXES = ("x-forwarded-", "x-envoy-")


class AccessError(ConnectorError):
    """The caller may not call."""

    status = 401


class UnauthenticatedError(AccessError):
    """The call carries no key and no token, or one that is not accepted."""

    code = "unauthenticated"
    title = "The call needs a valid key or token"
    remedy = (
        "Send `Authorization: Bearer` with one of `access.keys`, or with an ID token that Google signed for one of "
        "`access.audiences`."
    )


class ForbiddenError(AccessError):
    """The token is valid, but the configuration does not allow this caller."""

    status = 403
    code = "forbidden"
    title = "The caller is not allowed"
    remedy = "Add the caller's service account to `access.emails`."


class TooManyCallsError(AccessError):
    """A `rare` call was made too often within a minute."""

    status = 429
    code = "too_many_calls"
    title = "Too many calls"
    remedy = "Call again later."


class AccessUnknownError(AccessError):
    """Access cannot be checked. Only the log has the reason: a caller who is not checked must not learn it."""

    status = 503
    code = "access_unknown"
    title = "Access cannot be checked"
    remedy = (
        "See the function's log. A key cannot be read, Google's certificates cannot be fetched, or the configuration "
        "has a fault."
    )


def is_local(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request is local.

    A local request comes from a loopback address, names a loopback host, and carries no proxy header. A request that a
    browser sends from another site's page is not local. Names of headers are in title case, as in WSGI.
    """
    host = headers.get("Host", "")
    return (
        _loopback_address(address or "")
        and names_loopback(f"//{host}")
        and headers.get("Origin", f"http://{host}") == f"http://{host}"
        and not any(_is_proxy_header(name.lower()) for name in headers)
    )


def is_dns_rebinding(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a loopback address but names another host.

    The sender is a proxy, or a browser with a page whose name resolves to this machine (DNS rebinding). Only a key
    tells the two apart: such a page can send everything else that a proxy sends.
    """
    return _loopback_address(address or "") and not names_loopback(f"//{headers.get('Host', '')}")


def _is_proxy_header(name: str) -> bool:
    return name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES)


def _loopback_address(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


def names_loopback(url: str) -> bool:
    """Whether the URL's host is `localhost` or a loopback address."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Rules:
    """The callers from other machines that may call; by default none."""

    keys: Callable[[], Sequence[str]] = field(default=tuple, repr=False)
    """Resolves the shared keys. Several are valid at once, so that one can be replaced without a gap."""
    audiences: Sequence[str] = ()
    """The accepted audiences of a Google-signed ID token."""
    emails: Sequence[str] = ()
    """The service accounts whose tokens are accepted."""
    checked_by_platform: bool = False
    """Whether the platform has checked every caller. It removes the token's signature: a second check is impossible."""
    certs_url: str = GOOGLE_CERTS
    local_shows_key: bool = False
    """Whether local callers need a key too. A proxy on this machine may make every caller local."""


class Access:
    """Checks callers against the rules; safe between threads."""

    def __init__(self, rules: Rules, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._monotonic = monotonic
        self._certs = _Certs(rules.certs_url, monotonic)
        self._lock = threading.Lock()
        self._digests: tuple[bytes, ...] = ()
        self._read_at = -KEYS_HOLD_SECONDS
        self._rare: deque[float] = deque()

    def is_open_to(self, address: str | None, headers: Mapping[str, str]) -> bool:
        """Whether the caller needs no key and no token."""
        return not self._rules.local_shows_key and is_local(address, headers)

    def authorize(self, address: str | None, headers: Mapping[str, str], *, rare: bool = False) -> None:
        """Return if the caller may call; otherwise raise AccessError. `rare` allows RARE_CALLS calls a minute."""
        if self.is_open_to(address, headers):
            return
        self._check(headers)
        if rare:
            self._pace()

    def _check(self, headers: Mapping[str, str]) -> None:
        rules = self._rules
        token = bearer(headers.get("Authorization", ""))
        if token and self._is_key(token):
            return
        if rules.checked_by_platform:
            # A service that is open to the world by mistake lets calls without a token through. They show the mistake.
            if not token and not bearer(headers.get("X-Serverless-Authorization", "")):
                raise UnauthenticatedError(
                    "This call carries no token, so the platform did not check it.",
                    remedy="Remove the invoker role of this service from allUsers.",
                )
            return
        if rules.audiences and token.count(".") == 2:
            self._check_token(token)
            return
        if not rules.audiences and not self._known_digests():
            raise ForbiddenError(
                "Calls from other machines are not allowed: no key and no audience is configured.",
                remedy="Call 127.0.0.1 from the same machine, or set `access.keys` or `access.audiences`.",
            )
        raise UnauthenticatedError("The key is not accepted." if token else "This call carries no key and no token.")

    def _is_key(self, token: str) -> bool:
        shown = digest_of(token)
        # Every key is compared, so that the time does not reveal which one matched.
        return sum(hmac.compare_digest(shown, known_digest) for known_digest in self._known_digests()) > 0

    def _known_digests(self) -> tuple[bytes, ...]:
        with self._lock:
            if self._monotonic() - self._read_at >= KEYS_HOLD_SECONDS:
                self._digests = self._read_keys()
                self._read_at = self._monotonic()
            return self._digests

    def _read_keys(self) -> tuple[bytes, ...]:
        try:
            keys = self._rules.keys()
        except ConnectorError as error:
            log.error("%s", error)  # noqa: TRY400 - an expected failure needs no trace
            raise AccessUnknownError("The keys cannot be read.") from None
        if any(len(key) < SHORTEST_KEY for key in keys):
            log.error("a key of `access.keys` has fewer than %d characters and is not accepted", SHORTEST_KEY)
        return tuple(digest_of(key) for key in keys if len(key) >= SHORTEST_KEY)

    def _check_token(self, token: str) -> None:
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 - a slow import that only ID tokens need

        if len(token) > LONGEST_TOKEN:
            raise UnauthenticatedError("The ID token is not accepted: it is too long.")
        try:
            claims = self._verified(token)
        except (GoogleAuthError, ValueError, TypeError, AttributeError, RecursionError):
            raise UnauthenticatedError(
                "The ID token is not accepted: its form, its time or its signature is not valid."
            ) from None
        if claims.get("email") not in self._rules.emails or claims.get("email_verified") is not True:
            raise ForbiddenError("The ID token is valid, but its service account may not call.")

    def _verified(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token; raises UnauthenticatedError, or google-auth's errors, for any other."""
        from google.auth import jwt  # noqa: PLC0415
        from google.oauth2 import id_token  # noqa: PLC0415

        decoder: Any = jwt  # it has no types
        certs: Any = self._certs
        claims = decoder.decode(token, verify=False)
        if claims.get("aud") not in self._rules.audiences or claims.get("iss") not in ISSUERS:
            # This check comes before any fetch, so that invalid tokens cost no request.
            raise UnauthenticatedError("The ID token is not accepted: its issuer or its audience is wrong.")
        certs.hold(decoder.decode_header(token).get("kid"))
        # google-auth checks `iat` and `exp` only.
        if float(claims.get("nbf", 0)) > time.time() + SKEW_SECONDS:
            raise ValueError("not valid yet")
        return id_token.verify_token(
            token,
            certs,
            audience=list(self._rules.audiences),
            certs_url=self._rules.certs_url,
            clock_skew_in_seconds=SKEW_SECONDS,
        )

    def _pace(self) -> None:
        with self._lock:
            now = self._monotonic()
            while self._rare and now - self._rare[0] >= 60:
                self._rare.popleft()
            if len(self._rare) >= RARE_CALLS:
                raise TooManyCallsError(
                    f"This function was called {RARE_CALLS} times within a minute.",
                    retry_after=60 - (now - self._rare[0]),
                )
            self._rare.append(now)


def bearer(header: str) -> str:
    """The bearer token of an `Authorization` header; empty if there is none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def digest_of(key: str) -> bytes:
    """A key's digest. Its length is fixed, so a comparison does not reveal the key's length."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_among(token: str, digests: Iterable[bytes]) -> bool:
    """Whether the token's digest is one of those. The time does not reveal which one."""
    shown = digest_of(token)
    return sum(hmac.compare_digest(shown, digest) for digest in digests) > 0


@dataclass(frozen=True, slots=True)
class _FetchedAnswer:
    """The fields of an HTTP answer that google-auth reads."""

    status: int
    data: bytes


class _Certs:
    """Google's certificates, kept for an hour. google-auth calls it as its HTTP transport."""

    def __init__(self, url: str, monotonic: Callable[[], float]) -> None:
        self._url = url
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._body = b"{}"
        self._fetched_at: float | None = None

    def __call__(self, url: str, method: str = "GET", **_: object) -> _FetchedAnswer:
        """The certificates that were fetched last."""
        del url, method
        return _FetchedAnswer(200, self._body)

    def hold(self, key_id: object) -> None:
        """Fetch the certificates if there are none, if they are old, or if they hold no key of that id."""
        with self._lock:
            age = None if self._fetched_at is None else self._monotonic() - self._fetched_at
            bound = CERTS_HOLD_SECONDS if key_id in json.loads(self._body) else CERTS_AGAIN_SECONDS
            if age is None or age >= bound:
                self._body = self._fetch()
                self._fetched_at = self._monotonic()

    def _fetch(self) -> bytes:
        import requests  # noqa: PLC0415

        try:
            answer = requests.get(self._url, timeout=5, allow_redirects=False)
            if answer.status_code == 200 and isinstance(answer.json(), dict):
                return answer.content
            reason = f"status {answer.status_code}"
        except (requests.RequestException, ValueError) as error:
            reason = type(error).__name__
        log.error("Google's certificates cannot be fetched from %s: %s", self._url, reason)
        raise AccessUnknownError("Google's certificates cannot be fetched.", retry_after=10)
