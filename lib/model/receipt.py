"""The ledger's line of a batch: where it began and ended, and that the engine has taken all of it.

Each receipt carries the digest of the one before, so that a removed, altered or swapped receipt shows.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from lib.errors import DamagedError
from lib.model.batch import Header, check_layout, header_fields
from lib.model.clock import to_text
from lib.model.stream import Stream

DELIVERED = "delivered"
OBSERVED = "observed"
"""Counted and kept; the engine was not told of it."""


@dataclass(frozen=True, slots=True)
class LastReceipt:
    """The end of a stream's ledger: what was delivered last."""

    sequence: int = 0
    key: str = ""
    digest: str = ""
    total: int = 0
    """Events of all receipts so far."""

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        return asdict(self)


def receipt_key(stream: Stream, day: str, sequence: int) -> str:
    """Where the receipt is: by day, then by number, so that the order of keys is the order of the stream."""
    return f"ledger/{stream.path}/{day}/{sequence:020d}.json"


def digest(body: bytes) -> str:
    """What the next receipt carries of this one."""
    return sha256(body).hexdigest()


def to_body(
    header: Header,
    keys: Sequence[str],
    *,
    previous: LastReceipt,
    acked_at: datetime,
    set_aside: int,
    outcome: str = DELIVERED,
    windows: Mapping[str, int] | None = None,
) -> bytes:
    """The receipt as a stored object."""
    fields = {
        **header_fields(header),
        "outcome": outcome,
        "acked_at": to_text(acked_at),
        "set_aside": set_aside,
        "previous": previous.digest,
        "total": previous.total + header.events,
        "ids": list(keys),
        **({} if windows is None else {"windows": dict(windows)}),
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def fields_of(body: bytes) -> dict[str, Any]:
    """The receipt's fields; DamagedError where the object holds none, LayoutError for a newer one."""
    try:
        fields = json.loads(body)
        check_layout(fields, "a receipt")
        return dict(fields)
    except (ValueError, TypeError, AttributeError):
        raise DamagedError("a receipt cannot be read") from None


def pack(bodies: Sequence[bytes]) -> bytes:
    """Receipts as one object: the same bytes, a line each, compressed. The same receipts make the same object."""
    return gzip.compress(b"".join(bodies), 6, mtime=0)


def unpack(body: bytes) -> list[bytes]:
    """The receipts that `pack` was given; DamagedError where there are none."""
    try:
        return gzip.decompress(body).splitlines(keepends=True)
    except (OSError, EOFError, zlib.error):
        raise DamagedError("a pack of receipts cannot be read") from None
