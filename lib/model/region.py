"""Sophos Central's data regions, and whether a stated one is the tenant's own.

Hosts: https://developer.sophos.com/intro; the short names are those of UTMStack's documentation.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

AUTO = "auto"
_NAMED = {
    "us": ("us01", "us02", "us03"),
    "eu": ("eu01", "eu02"),
    "eu02": ("eu02",),
    "apac": ("au01", "jp01", "in01", "apac"),
}
_HOST = re.compile(r"api-([a-z0-9]+)\.central\.sophos\.com")


def region_of(host_url: str) -> str | None:
    """The region code in the URL of a regional host; None for any other host."""
    match = _HOST.fullmatch((urlsplit(host_url).hostname or "").lower())
    return match[1] if match else None


def mismatch(stated: str, host_url: str) -> str | None:
    """The right region, where the stated one is not that of the tenant's host; None where they agree.

    A host that names no region (a test server) can only be compared with a stated URL.
    """
    if stated == AUTO:
        return None
    if "://" in stated:
        same = urlsplit(stated)[:2] == urlsplit(host_url)[:2]
        return None if same else region_of(host_url) or host_url
    actual = region_of(host_url)
    allowed = _NAMED.get(stated.lower(), (stated.lower(),))
    return None if actual is None or actual in allowed else actual
