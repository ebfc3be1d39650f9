"""Sophos's answers as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from lib.model.text import whole

LONGEST_CURSOR = 2000
"""Bytes that a cursor may take in a URL. Common gateways refuse request lines over 8 KB."""


def cursor_fault(cursor: str) -> str | None:
    """The reason why a cursor cannot be sent back to Sophos; None if it can."""
    try:
        length = len(quote(cursor, safe=""))
    except UnicodeEncodeError:
        return "it is not valid text"
    return None if length <= LONGEST_CURSOR else f"it takes {length} bytes in a URL; the limit is {LONGEST_CURSOR}"


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the SIEM API."""

    items: tuple[bytes, ...]
    """Each item's exact bytes, in the order of the page."""
    next_cursor: str
    has_more: bool
    served_at: datetime | None
    """Time by Sophos's clock (the answer's Date header), UTC; None if the answer has no such header."""


@dataclass(frozen=True, slots=True)
class DevicePage:
    """One answer of the endpoint API."""

    items: tuple[bytes, ...]
    """Each device's exact bytes, in the order of the page."""
    next_key: str | None
    """The key of the next page; None: this is the last page."""
    max_size: int | None
    """The largest page size, in devices; None if Sophos does not name it."""
    served_at: datetime | None


@dataclass(frozen=True, slots=True)
class Whoami:
    """The owner of a credential (`GET /whoami/v1`)."""

    id: str
    id_type: str
    """`tenant`, `partner` or `organization`."""
    global_host: str
    data_region: str | None
    """The URL of the tenant's own API host; None for partners and organizations."""


@dataclass(frozen=True, slots=True)
class SophosTenant:
    """A Sophos Central customer that a credential can read."""

    id: str
    name: str
    api_host: str | None
    """The URL of the tenant's own API host; None if Sophos names none (not provisioned yet, or dormant)."""

    def __post_init__(self) -> None:
        # Sophos may send a name that was cut within a character. UTMStack and the page could not show it.
        object.__setattr__(self, "name", whole(self.name))

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id


@dataclass(frozen=True, slots=True)
class OddTenant(SophosTenant):
    """One whose record in Sophos's list cannot be used. It has no host, and perhaps no real id."""

    fault: str
