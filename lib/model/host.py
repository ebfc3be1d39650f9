"""Where credentials may be sent."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from lib.errors import HostRefusedError

_ORDINARY = re.compile(r"[A-Za-z0-9.:_\[\]-]+")
"""What a host and port are made of: no user, no backslash, no white space, nothing percent-encoded."""

_PROXY_FORM = "has to be a URL such as http://proxy.example.com:3128"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, allow_hosts: Collection[str] = ()) -> SplitResult:
    """The parts of a URL that credentials may be sent to; HostRefusedError for every other URL.

    HTTPS to a host of sophos.com or one that is allowed by name; HTTP on loopback only.
    """
    parts, host = _parts(url)
    if is_loopback(host):
        if parts.scheme in ("http", "https"):
            return parts
    elif host.endswith(".sophos.com") or host in {allow_host.lower() for allow_host in allow_hosts}:
        if parts.scheme == "https":
            return parts
        raise HostRefusedError(f"{_shown(url)} is not https")
    raise HostRefusedError(f"{_shown(url)} is no host of sophos.com")


def proxy_fault(url: str) -> str | None:
    """What is wrong with a proxy's URL; None for a good one. It repeats nothing of it."""
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
    if not plain or not host or url != url.strip() or host.endswith("."):
        raise HostRefusedError(f"{_shown(url)} is no plain http(s) URL")
    return parts, host


def _shown(url: str) -> str:
    """The URL without anything that could be a secret in it."""
    address = url.partition("?")[0].partition("#")[0]
    return repr(re.sub(r"//[^/]*@", "//…@", address)[:200])
