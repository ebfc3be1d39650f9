"""Who may call a function: whoever is on this machine, and else who shows a key, or Google's word for who he is.

A platform that checks every caller itself (Cloud Run's IAM) is believed where the configuration says so.
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
"""Characters of a shared key; a shorter one could be guessed, and is never accepted."""
KEYS_HOLD_SECONDS = 60.0
"""How long resolved keys are used before they are read anew: a rotated one counts after so long."""
CERTS_HOLD_SECONDS = 3600.0
CERTS_AGAIN_SECONDS = 60.0
"""A token that names a key we do not know makes us ask again, but not more often than this."""
SKEW_SECONDS = 10
LONGEST_TOKEN = 8192
"""Characters; Google's have some 1,200. What is longer is not decoded."""
RARE_CALLS = 6
"""How often a rare call may be made from elsewhere within a minute, by one process."""
_BETWEEN = ("forwarded", "via", "x-real-ip")
_BETWEEN_BEGIN = ("x-forwarded-", "x-envoy-")


class AccessError(ConnectorError):
    """A caller who is not let in."""

    status = 401


class UnauthenticatedError(AccessError):
    """Nobody says who the caller is, or nobody whom we believe."""

    code = "unauthenticated"
    title = "Nobody says who calls"
    remedy = (
        "Send `Authorization: Bearer` with one of `access.keys`, or with an ID token that Google signed for one of "
        "`access.audiences`."
    )


class ForbiddenError(AccessError):
    """The caller is known, or could be, and is still not let in."""

    status = 403
    code = "forbidden"
    title = "The caller may not call"
    remedy = "Name the caller's service account in `access.emails`."


class TooManyCallsError(AccessError):
    """A call that is worth making a few times a minute is made more often."""

    status = 429
    code = "too_many_calls"
    title = "Too many calls"
    remedy = "Call again later."


class AccessUnknownError(AccessError):
    """It cannot be told just now who may call: the log says why, and nobody else is told."""

    status = 503
    code = "access_unknown"
    title = "Nobody can tell who may call"
    remedy = (
        "See the function's log: a key cannot be read, Google's certificates not be had, or the configuration is bad."
    )


def is_local(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request was made on this machine, by a program that meant this machine.

    The connection's own address says so, and nothing says that somebody stands between: no header of a proxy, no other
    host's name (a proxy's, or one that was made to lead here), no page of another site in a browser. Names of headers
    are in title case, as WSGI has them.
    """
    host = headers.get("Host", "")
    return (
        _loopback_address(address or "")
        and names_loopback(f"//{host}")
        and headers.get("Origin", f"http://{host}") == f"http://{host}"
        and not any(_is_of_proxy(name.lower()) for name in headers)
    )


def is_dns_rebinding(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether somebody on this machine calls it by another host's name: a proxy, or a browser whose page had its name
    lead here. Nothing that such a page can send tells the two apart, but a key.
    """
    return _loopback_address(address or "") and not names_loopback(f"//{headers.get('Host', '')}")


def _is_of_proxy(name: str) -> bool:
    return name in _BETWEEN or name.startswith(_BETWEEN_BEGIN)


def _loopback_address(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def names_loopback(url: str) -> bool:
    """Whether the URL is one of this machine."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Rules:
    """Whom to let in from elsewhere; by default nobody."""

    keys: Callable[[], Sequence[str]] = field(default=tuple, repr=False)
    """Resolves the shared keys; several hold at once, so that one can be replaced without a gap."""
    audiences: Sequence[str] = ()
    """Whom a Google-signed ID token has to be meant for."""
    emails: Sequence[str] = ()
    """The service accounts that such a token may be for."""
    checked_by_platform: bool = False
    """The platform has let nobody through whom it does not know; it leaves the token's claims, not its signature."""
    certs_url: str = GOOGLE_CERTS
    local_shows_key: bool = False
    """Whether callers on this machine are checked like all others: a proxy there may make the world local."""


class Access:
    """The rules, applied; safe between threads."""

    def __init__(self, rules: Rules, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._monotonic = monotonic
        self._certs = _Certs(rules.certs_url, monotonic)
        self._lock = threading.Lock()
        self._digests: tuple[bytes, ...] = ()
        self._read_at = -KEYS_HOLD_SECONDS
        self._rare: deque[float] = deque()

    def is_open_to(self, address: str | None, headers: Mapping[str, str]) -> bool:
        """Whether the caller needs to show nothing."""
        return not self._rules.local_shows_key and is_local(address, headers)

    def authorize(self, address: str | None, headers: Mapping[str, str], *, rare: bool = False) -> None:
        """Let the caller in, or raise the AccessError that says why not; `rare` calls a few times a minute only."""
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
            # A service that is open to the world by mistake is found out by those who show no token at all.
            if not token and not bearer(headers.get("X-Serverless-Authorization", "")):
                raise UnauthenticatedError(
                    "This call bears no token, so the platform did not check it.",
                    remedy="Take the invoker role of this service away from allUsers.",
                )
            return
        if rules.audiences and token.count(".") == 2:
            self._check_token(token)
            return
        if not rules.audiences and not self._known_digests():
            raise ForbiddenError(
                "Calls from elsewhere are not allowed: no key and no audience is configured.",
                remedy="Call from the same machine, as 127.0.0.1, or set `access.keys` or `access.audiences`.",
            )
        raise UnauthenticatedError("The key is not accepted." if token else "This call bears no key and no token.")

    def _is_key(self, token: str) -> bool:
        shown = digest_of(token)
        # Every key is compared, so that time tells nothing of which one it was, either.
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
            log.error("%s", error)  # noqa: TRY400 - a trace tells nothing of an expected failure
            raise AccessUnknownError("The keys cannot be read just now.") from None
        if any(len(key) < SHORTEST_KEY for key in keys):
            log.error("a key of `access.keys` has under %d characters, and is not accepted", SHORTEST_KEY)
        return tuple(digest_of(key) for key in keys if len(key) >= SHORTEST_KEY)

    def _check_token(self, token: str) -> None:
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 - only who is called by Google waits for it

        if len(token) > LONGEST_TOKEN:
            raise UnauthenticatedError("The ID token is not accepted: it is longer than any of Google's.")
        try:
            claims = self._verified(token)
        except (GoogleAuthError, ValueError, TypeError, AttributeError, RecursionError):
            raise UnauthenticatedError(
                "The ID token is not accepted: its form, its time or its signature does not hold."
            ) from None
        if claims.get("email") not in self._rules.emails or claims.get("email_verified") is not True:
            raise ForbiddenError("The ID token is good, and its service account is not one that may call.")

    def _verified(self, token: str) -> Mapping[str, Any]:
        """What the token says, once all of it holds."""
        from google.auth import jwt  # noqa: PLC0415
        from google.oauth2 import id_token  # noqa: PLC0415

        decoder: Any = jwt  # it has no types
        certs: Any = self._certs
        claims = decoder.decode(token, verify=False)
        if claims.get("aud") not in self._rules.audiences or claims.get("iss") not in ISSUERS:
            # Before anything is fetched: whoever sends nonsense costs nothing.
            raise UnauthenticatedError("The ID token is not accepted: it is another issuer's, or meant for another.")
        certs.hold(decoder.decode_header(token).get("kid"))
        # google-auth looks at `iat` and `exp` alone.
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
                    f"This was called {RARE_CALLS} times within a minute.", retry_after=60 - (now - self._rare[0])
                )
            self._rare.append(now)


def bearer(header: str) -> str:
    """The token of an `Authorization` header; empty where it bears none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def digest_of(key: str) -> bytes:
    """A key's digest, of a fixed length: a comparison tells nothing of the key's own."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_among(token: str, digests: Iterable[bytes]) -> bool:
    """Whether the digest of the token is one of those; the time that it takes tells nothing of which."""
    shown = digest_of(token)
    return sum(hmac.compare_digest(shown, digest) for digest in digests) > 0


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What google-auth reads of an answer."""

    status: int
    data: bytes


class _Certs:
    """Google's certificates, kept for an hour; stands where google-auth wants a way to fetch them."""

    def __init__(self, url: str, monotonic: Callable[[], float]) -> None:
        self._url = url
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._body = b"{}"
        self._fetched_at: float | None = None

    def __call__(self, url: str, method: str = "GET", **_: object) -> _Fetched:
        """What was fetched last."""
        del url, method
        return _Fetched(200, self._body)

    def hold(self, key_id: object) -> None:
        """Fetch them where there are none, where they are old, or where a key of that id is not among them."""
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
        log.error("Google's certificates cannot be had from %s: %s", self._url, reason)
        raise AccessUnknownError("Google's certificates cannot be had just now.", retry_after=10)
