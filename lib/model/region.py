"""Sophos Central's data regions, and whether a stated one is the tenant's own.

Hosts: https://developer.sophos.com/intro; the short names are those of UTMStack's documentation.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from urllib.parse import urlsplit

from lib.errors import WrongRegionError

AUTO = "auto"
KNOWN = ("us01", "us02", "us03", "eu01", "eu02", "ca01", "au01", "jp01", "br01", "in01")
"""The regions that are known; Sophos adds some, so that any other code of their form may be stated too."""
_NAMED = {
    "us": re.compile(r"us\d\d"),
    "eu": re.compile(r"eu\d\d"),
    "eu02": re.compile("eu02"),
    "apac": re.compile(r"(?:ap|au|hk|id|in|jp|kr|my|nz|ph|sg|th|tw|vn)\d\d|apac"),
}
"""By area: Sophos adds regions, so that each area takes every code of its form."""
_HOST = re.compile(r"api-([a-z0-9]+)\.central\.sophos\.com")
_GLOBAL = "api.central.sophos.com"
_CODE = re.compile(r"[a-z]{2}[0-9]{2}")


def region_of(host_url: str) -> str | None:
    """The region code in the URL of a regional host; None for any other host."""
    try:
        match = _HOST.fullmatch((urlsplit(host_url).hostname or "").lower())
    except ValueError:
        return None
    return match[1] if match else None


def region_fault(stated: str) -> str | None:
    """What is wrong with a stated region; None for `auto`, a name, a code, or a URL, which is looked at elsewhere."""
    word = stated.lower()
    if "://" in stated or word == AUTO or word in _NAMED or (word.isascii() and _CODE.fullmatch(word)):
        return None
    known = (AUTO, *_NAMED, *KNOWN)
    near = get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{stated!r} is no region; {hint}Known are: {', '.join(dict.fromkeys(known))}, or a host's URL"


def mismatch(stated: str, host_url: str) -> str | None:
    """The right region, where the stated one is not that of the tenant's host; None where they agree.

    A host that names no region (a test server) can only be compared with a stated URL.
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
    """What to say where the stated region is not that of the tenant's host; None where they agree."""
    right = mismatch(stated, host_url)
    if right is None:
        return None
    return WrongRegionError(
        f"region {stated!r} is not this tenant's; its data region is {right}",
        remedy=f"Set `region: {right}` or `region: auto` for the integration.",
    )


def _word(stated: str) -> str | None:
    """The name or code that is meant; None for the URL of a host that stands for none."""
    if "://" not in stated:
        return stated.lower()
    place = _place(stated)
    # UTMStack's documentation gives the global host for the US.
    return "us" if place is not None and place[1] == _GLOBAL else region_of(stated)


def _place(url: str) -> tuple[str, str] | None:
    """Scheme and host with its port; None for what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme, parts.netloc.lower()
