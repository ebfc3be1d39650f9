"""Who forwards a stream just now, until when, and how far delivery has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.errors import DamagedError
from lib.model.batch import LAYOUT, check_layout
from lib.model.clock import moment_or_none, text_or_none
from lib.model.receipt import LastReceipt
from lib.model.stream import Stream

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
    tidied: str = ""
    """The day of the last receipt when the ledger was last tidied to its end."""

    def is_held(self, now: datetime) -> bool:
        """Whether somebody holds it. An end farther off than clocks differ is a clock that jumped back."""
        return self.holder is not None and self.until is not None and now < self.until <= now + TERM + SKEW


def lease_key(stream: Stream) -> str:
    """Where the stream's lease is."""
    return f"leases/{stream.path}.json"


def to_body(lease: Lease) -> bytes:
    """The lease as a stored object."""
    fields = {
        "layout": LAYOUT,
        "holder": lease.holder,
        "until": text_or_none(lease.until),
        "tail": lease.tail.fields(),
        "acked_sequence": lease.acked_sequence,
        "acked": lease.acked,
        "refused": dict(lease.refused),
        "tidied": lease.tidied,
    }
    return json.dumps(fields).encode() + b"\n"


def from_body(body: bytes) -> Lease:
    """The lease that an object holds; DamagedError where it holds none, LayoutError for a newer one."""
    try:
        fields = json.loads(body)
        check_layout(fields, "a lease")
        return Lease(
            holder=fields["holder"],
            until=moment_or_none(fields["until"]),
            tail=LastReceipt(**fields["tail"]),
            acked_sequence=fields["acked_sequence"],
            # Without the refused it counted without them, too: the batch is sent from its beginning.
            acked=fields["acked"] if "refused" in fields else 0,
            refused=dict(fields.get("refused", {})),
            tidied=fields.get("tidied", ""),
        )
    except (ValueError, KeyError, TypeError):
        raise DamagedError("a lease cannot be read") from None
