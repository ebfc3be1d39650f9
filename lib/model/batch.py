"""A batch: a page stored as one object. Its header holds the page's cursor and the cursor that follows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lib.model.ids import IdScope
from lib.model.stream import ENDPOINTS, Stream

POLL = "poll"
RECONCILE = "reconcile"
GAP = "gap"
HEARTBEAT = "heartbeat"
OWN = frozenset({GAP, HEARTBEAT})
"""Origins of batches that hold only the connector's own events."""

NUMBERS = 10**20
"""Fewer batches than that: a number has 20 digits in its key, so that keys are in the order of their numbers."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that all logs of a stream share at the engine."""

    data_type: str
    data_source: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Cursors:
    """The place of a batch's page among the pages of its stream. An inserted batch has no page, and no cursors."""

    read_with: str | None = None
    """The cursor that the page was read with (for devices: its page key); None: read by date, or from the start."""
    next: str | None = None
    """The cursor of the next page; None for the last page of an inventory."""
    has_more: bool = False
    previous: str | None = None
    """The `next` of the polled batch before. Pages between it and `read_with` held no new event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a batch. It holds everything that moving the checkpoint past the batch needs."""

    stream: Stream
    envelope: Envelope
    sequence: int
    cursors: Cursors = Cursors()
    fetched_at: datetime
    as_of: datetime
    """Time by Sophos's clock. With this batch, everything that Sophos had stored up to then has been read."""
    day: str
    """The ledger's day for the receipt, `yyyy-mm-dd`; never before that of the stream's last batch."""
    newest: datetime | None
    """The newest `created_at` in the batch."""
    count: int
    repeats: int
    """Items of the page that were stored before; the batch does not hold them."""
    origin: str = POLL
    """`poll`; `reconcile`: found by reading again; one of OWN: an event of the connector's own."""
    digest: str = ""
    """SHA-256 of the lines that follow."""

    @property
    def events(self) -> int:
        """The number of Sophos's events in the batch; the connector's own do not count."""
        return 0 if self.origin in OWN else self.count

    @property
    def id_scope(self) -> IdScope:
        """The part of the id formula that all items of the batch share."""
        return ids_of(self.stream, self.envelope.tenant_id, self.origin)

    @property
    def key(self) -> str:
        """The batch's key in the store. It follows from stream and sequence alone, so a repeat gets the same key."""
        return batch_key(self.stream, self.sequence)


def ids_of(stream: Stream, utmstack_tenant_id: str, origin: str = POLL) -> IdScope:
    """The part of the id formula that all items of such a batch share."""
    is_device = stream.kind == ENDPOINTS and origin == POLL
    return IdScope(utmstack_tenant_id, stream.integration, stream.kind, is_by_text=is_device)


def is_number(sequence: int) -> bool:
    """Whether a batch can have that number: the first one has 1."""
    return 0 < sequence < NUMBERS


def batch_key(stream: Stream, sequence: int) -> str:
    """The key of a stream's batch with this number."""
    return f"batches/{stream.path}/{sequence:020d}.ndjson"


def archive_key(header: Header) -> str:
    """The key of the delivered batch's copy. It holds the ledger's day, so that whole days expire together."""
    return f"archive/{header.stream.path}/{header.day}/{header.sequence:020d}.ndjson.gz"
