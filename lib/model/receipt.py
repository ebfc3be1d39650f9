"""A receipt: the ledger's line of a delivered batch.

Each receipt holds the digest of the receipt before it. A removed, altered or swapped receipt breaks that chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lib.model.batch import Header

DELIVERED = "delivered"
OBSERVED = "observed"
"""The batch was counted and archived, but not sent to the engine."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The header of a finished batch, and its outcome."""

    header: Header
    outcome: str
    acked_at: datetime
    set_aside: int
    """How many of its events are dead letters (in `dead/`)."""
    previous: str
    """The digest of the receipt before; empty for the stream's first receipt."""
    total: int
    """Events of all receipts up to and with this one."""
    ids: tuple[str, ...]
    set_aside_total: int | None = None
    observed_total: int | None = None
    """How many of `total` are dead letters, and how many were only observed; None: an older version wrote it."""
    windows: Mapping[str, int] | None = None
    """For an observed batch: its number of events in each window of UTMStack's own plugin."""


@dataclass(frozen=True, slots=True)
class NotAcknowledged:
    """Counts of events that have a receipt but were not acknowledged by the engine."""

    set_aside: int = 0
    observed: int = 0

    def after(self, events: int, set_aside: int, outcome: str) -> NotAcknowledged:
        """The counts with one more finished batch."""
        lost = min(set_aside, events)  # A dead letter can be the connector's own event, which does not count here.
        seen = events - lost if outcome == OBSERVED else 0
        return NotAcknowledged(self.set_aside + lost, self.observed + seen)


@dataclass(frozen=True, slots=True)
class LastReceipt:
    """The end of a stream's ledger; `sequence` 0 before the first receipt."""

    sequence: int = 0
    key: str = ""
    digest: str = ""
    total: int = 0
    """Events of all receipts so far."""
