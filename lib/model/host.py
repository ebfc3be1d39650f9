"""The hosts to which credentials may be sent."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from lib.errors import HostRefusedError

_ORDINARY = re.compile(r"[A-Za-z0-9.:_\[\]-]+")
"""The characters of a host and port: no user, no backslash, no white space, nothing percent-encoded."""

_PROXY_FORM = "must be a URL such as http://proxy.example.com:3128"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, allow_hosts: Collection[str] = ()) -> SplitResult:
    """The parts of a URL to which credentials may be sent; HostRefusedError for every other URL.

    Allowed are HTTPS to a host of sophos.com or of `allow_hosts`, and HTTP or HTTPS to loopback.
    """
    parts, host = _parts(url)
    if is_loopback(host):
        if parts.scheme in ("http", "https"):
            return parts
    elif host.endswith(".sophos.com") or host in {allow_host.lower() for allow_host in allow_hosts}:
        if parts.scheme == "https":
            return parts
        raise HostRefusedError(f"{_shown(url)} is not an https URL")
    raise HostRefusedError(f"{_shown(url)} is not a host of sophos.com")


def proxy_fault(url: str) -> str | None:
    """The fault of a proxy's URL; None if there is none. It shows no part of the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return _PROXY_FORM
    return None if plain and not parts.path.strip("/") and url == url.strip() else _PROXY_FORM


def _parts(url: str) -> tuple[SplitResult, str]:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        plain = bool(_ORDINARY.fullmatch(parts.netloc)) and parts.port != 0
    except ValueError:
        plain = False
    # urlsplit overlooks tabs and line ends. What sends the request may not.
    if not plain or not host or url.split() != [url] or host.endswith("."):
        raise HostRefusedError(f"{_shown(url)} is not a plain http(s) URL")
    return parts, host


def _shown(url: str) -> str:
    """The URL without user, query and fragment, which could hold a secret."""
    address = url.partition("?")[0].partition("#")[0]
    return repr(re.sub(r"//[^/]*@", "//…@", address)[:200])
