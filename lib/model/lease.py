"""Who forwards a stream just now, until when, and how far delivery has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.model.receipt import LastReceipt

TERM = timedelta(seconds=12)
"""How long a lease holds without renewal: a holder that died stalls its stream no longer."""
RENEWAL = TERM / 4
SKEW = timedelta(seconds=15)
"""How far ahead a holder's clock may be; with the term it is the longest that anybody waits for a dead holder."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The state of a stream's delivery."""

    holder: str | None = None
    until: datetime | None = None
    tail: LastReceipt = field(default_factory=LastReceipt)
    """The last receipt that the lease's last holder knew of."""
    acked_sequence: int = 0
    """A batch that was delivered in part."""
    acked: int = 0
    """How many of its first items are done with: acknowledged, refused, or none that could be sent."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why the engine has refused logs of it, by id; they go to `dead/` with the whole batch."""
    refused_in_a_row: int | None = None
    """Logs that the engine has refused since it acknowledged one; None: none."""
    tidied: str = ""
    """The day of the last receipt when the ledger was last tidied to its end."""

    def is_held(self, now: datetime) -> bool:
        """Whether somebody holds it. An end farther off than clocks differ is a clock that jumped back."""
        return self.holder is not None and self.until is not None and now < self.until <= now + TERM + SKEW
