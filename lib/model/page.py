"""What Sophos answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

LONGEST_CURSOR = 2000
"""Bytes that a cursor may have in a URL: request lines over 8 KB are refused by common gateways."""


def cursor_fault(cursor: str) -> str | None:
    """Why a cursor cannot be sent back to Sophos; None where it can."""
    try:
        length = len(quote(cursor, safe=""))
    except UnicodeEncodeError:
        return "it is no text"
    return None if length <= LONGEST_CURSOR else f"it has {length} bytes, more than a URL has room for"


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the SIEM API."""

    items: tuple[bytes, ...]
    """Each item's exact bytes, in the order of the page."""
    next_cursor: str
    has_more: bool
    served_at: datetime | None
    """Sophos's own clock (the answer's Date header), UTC; None where it named none."""


@dataclass(frozen=True, slots=True)
class DevicePage:
    """One answer of the endpoint API."""

    items: tuple[bytes, ...]
    """Each device's exact bytes, in the order of the page."""
    next_key: str | None
    """What the next page begins from; None: this is the last one."""
    max_size: int | None
    """How many devices a page may hold, where Sophos told."""
    served_at: datetime | None


@dataclass(frozen=True, slots=True)
class Whoami:
    """Whose a credential is (`GET /whoami/v1`)."""

    id: str
    id_type: str
    """`tenant`, `partner` or `organization`."""
    global_host: str
    data_region: str | None
    """The tenant's own API host as a URL; None for partners and organizations."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A Sophos Central customer that a credential can read."""

    id: str
    name: str
    api_host: str | None
    """The URL of the tenant's own API host; None where Sophos names none (not provisioned yet, or dormant)."""

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id


@dataclass(frozen=True, slots=True)
class OddTenant(Tenant):
    """One whose record in Sophos's list cannot be used. It has no host, and perhaps no real id."""

    fault: str
