"""A batch: a page made durable. Its header says what the page was read with, and what follows it."""

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
"""The origins of batches that hold events of ours, and none of Sophos's."""

NUMBERS = 10**20
"""Fewer batches than that: a number has 20 digits in its key, so that keys are in the order of their numbers."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every log of a stream has in common at the engine."""

    data_type: str
    data_source: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a batch."""

    stream: Stream
    envelope: Envelope
    sequence: int
    cursor: str | None
    """What the page was read with (for devices: its page key); None: with a date, or with nothing."""
    next_cursor: str | None
    """What follows; None: what was inserted, or the last page of an inventory."""
    has_more: bool
    fetched_at: datetime
    as_of: datetime
    """By Sophos's clock: everything that Sophos had stored up to then has been read, with this batch."""
    day: str
    """The ledger's day for the receipt, `yyyy-mm-dd`; never before that of the stream's last batch."""
    newest: datetime | None
    """The newest `created_at` in the batch."""
    count: int
    repeats: int
    """Items of the page that had been stored before, and are left out here."""
    previous_cursor: str | None = None
    """The `next_cursor` of the last polled batch before: between it and `cursor` lie pages with nothing new."""
    origin: str = POLL
    """`poll`; `reconcile`: found by reading again; one of OWN: an event of ours, none of Sophos's."""
    digest: str = ""
    """SHA-256 of the lines that follow."""

    @property
    def events(self) -> int:
        """How many of Sophos's events it holds."""
        return 0 if self.origin in OWN else self.count

    @property
    def id_scope(self) -> IdScope:
        """What the ids of its items are made of."""
        return ids_of(self.stream, self.envelope.tenant_id, self.origin)

    @property
    def key(self) -> str:
        """The batch's key in the store: known from stream and sequence alone."""
        return batch_key(self.stream, self.sequence)


def ids_of(stream: Stream, utmstack_tenant_id: str, origin: str = POLL) -> IdScope:
    """What the ids of items of such a batch are made of."""
    is_device = stream.kind == ENDPOINTS and origin == POLL
    return IdScope(utmstack_tenant_id, stream.integration, stream.kind, is_by_text=is_device)


def is_number(sequence: int) -> bool:
    """Whether a batch can have that number: the first one has 1."""
    return 0 < sequence < NUMBERS


def batch_key(stream: Stream, sequence: int) -> str:
    """Where the batch with this number of this stream is."""
    return f"batches/{stream.path}/{sequence:020d}.ndjson"


def archive_key(header: Header) -> str:
    """Where the delivered batch is kept: by the ledger's day, so that whole days expire."""
    return f"archive/{header.stream.path}/{header.day}/{header.sequence:020d}.ndjson.gz"
