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
    set_aside_total: int | None = None
    observed_total: int | None = None
    """Of `total`, those that are in `dead/`, and those that were only observed; None: an older version wrote it."""
    windows: Mapping[str, int] | None = None
    """Of an observed batch: how many of its events are in which window of UTMStack's own plugin."""


@dataclass(frozen=True, slots=True)
class NotAcknowledged:
    """Events with receipts that the engine has not acknowledged: what became of them instead."""

    set_aside: int = 0
    observed: int = 0

    def after(self, events: int, set_aside: int, outcome: str) -> NotAcknowledged:
        """The same once one more batch is done with."""
        lost = min(set_aside, events)  # An event of our own that was set aside is none of Sophos's.
        seen = events - lost if outcome == OBSERVED else 0
        return NotAcknowledged(self.set_aside + lost, self.observed + seen)


@dataclass(frozen=True, slots=True)
class LastReceipt:
    """The end of a stream's ledger: what was delivered last."""

    sequence: int = 0
    key: str = ""
    digest: str = ""
    total: int = 0
    """Events of all receipts so far."""
