"""The ledger's line of a batch: where it began and ended, and that the engine has taken all of it.

Each receipt carries the digest of the one before, so that a removed, altered or swapped receipt shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lib.model.batch import Header

DELIVERED = "delivered"
OBSERVED = "observed"
"""Counted and kept; the engine was not told of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Header):
    """The header of a batch that is done with, and what became of the batch."""

    outcome: str
    acked_at: datetime
    set_aside: int
    """How many of its events are in `dead/`."""
    previous: str
    """The digest of the receipt before; empty: this is the stream's first."""
    total: int
    """Events of all receipts up to this one."""
    ids: tuple[str, ...]
    windows: Mapping[str, int] | None = None
    """Of an observed batch: how many of its events are in which window of UTMStack's own plugin."""


@dataclass(frozen=True, slots=True)
class LastReceipt:
    """The end of a stream's ledger: what was delivered last."""

    sequence: int = 0
    key: str = ""
    digest: str = ""
    total: int = 0
    """Events of all receipts so far."""
