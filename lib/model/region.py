"""Sophos Central's data regions, and whether the configured region is the tenant's.

Hosts: https://developer.sophos.com/intro; the short names are those of UTMStack's documentation.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from urllib.parse import urlsplit

from lib.errors import WrongRegionError

AUTO = "auto"
KNOWN = ("us01", "us02", "us03", "eu01", "eu02", "ca01", "au01", "jp01", "br01", "in01")
"""The published regions. Sophos adds regions, so any other code of the same form is accepted too."""
_NAMED = {
    "us": re.compile(r"us\d\d"),
    "eu": re.compile(r"eu\d\d"),
    "eu02": re.compile("eu02"),
    "apac": re.compile(r"(?:ap|au|hk|id|in|jp|kr|my|nz|ph|sg|th|tw|vn)\d\d|apac"),
}
"""Names of areas. Sophos adds regions, so each area accepts every code of its form."""
_HOST = re.compile(r"api-([a-z0-9]+)\.central\.sophos\.com")
_GLOBAL = "api.central.sophos.com"
_CODE = re.compile(r"[a-z]{2}[0-9]{2}")


def region_of(host_url: str) -> str | None:
    """The region code in the URL of a regional API host; None for any other host."""
    try:
        match = _HOST.fullmatch((urlsplit(host_url).hostname or "").lower())
    except ValueError:
        return None
    return match[1] if match else None


def region_fault(stated: str) -> str | None:
    """The fault of a configured region; None for `auto`, a name, a code, or a URL (`check_url` tests URLs)."""
    word = stated.lower()
    if "://" in stated or word == AUTO or word in _NAMED or (word.isascii() and _CODE.fullmatch(word)):
        return None
    regions = (AUTO, *_NAMED, *KNOWN)
    near = get_close_matches(word, regions, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{stated!r} is not a region; {hint}Use one of {', '.join(dict.fromkeys(regions))}, or the URL of an API host"
    )


def mismatch(stated: str, host_url: str) -> str | None:
    """The right region if the configured one is not that of the tenant's host; None if they agree.

    A host without a region in its name (a test server) can only be compared with a configured URL.
    """
    if stated.lower() == AUTO or ("://" in stated and _place(stated) == _place(host_url)):
        return None
    actual, word = region_of(host_url), _word(stated)
    if actual is None:
        return host_url if "://" in stated else None
    if word is None:
        return actual
    agree = _NAMED[word].fullmatch(actual) if word in _NAMED else word == actual
    return None if agree else actual


def refusal(stated: str, host_url: str) -> WrongRegionError | None:
    """The error for a configured region that is not that of the tenant's host; None if they agree."""
    right = mismatch(stated, host_url)
    if right is None:
        return None
    return WrongRegionError(
        f"the configured region is {stated!r}, but this tenant's data region is {right}",
        remedy=f"Set `region: {right}` or `region: auto` for the integration.",
    )


def _word(stated: str) -> str | None:
    """The name or code that a configured region means; None for the URL of a host without a region."""
    if "://" not in stated:
        return stated.lower()
    place = _place(stated)
    # UTMStack's documentation gives the global host for the US.
    return "us" if place is not None and place[1] == _GLOBAL else region_of(stated)


def _place(url: str) -> tuple[str, str] | None:
    """Scheme, and host with port, of a URL; None if the text is not a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme, parts.netloc.lower()
