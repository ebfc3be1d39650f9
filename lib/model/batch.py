"""A batch: a page made durable, as one object of JSON lines that is its own write-ahead record.

The first line is the header: the cursor the page was read with, and the one that follows. Every other line is one
event, as the very bytes that Sophos sent. Bytes that cannot stand on a line of their own (a line break between two
tokens, or no object at all) are kept as a JSON string of the same text; such a line begins with a quote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from lib.errors import DamagedError, LayoutError
from lib.model.clock import from_text, moment_or_none, text_or_none, to_text
from lib.model.ids import IdScope
from lib.model.stream import ENDPOINTS, Stream

LAYOUT = 1
POLL = "poll"
RECONCILE = "reconcile"
GAP = "gap"


def check_layout(fields: dict[str, Any], what: str) -> None:
    """Refuse what a newer version wrote: reading it wrongly would be worse than stopping."""
    layout = fields.get("layout")
    if not isinstance(layout, int):
        raise DamagedError(f"{what} names no layout")
    if layout > LAYOUT:
        raise LayoutError(f"{what} has layout {layout}; this version reads layouts up to {LAYOUT}")


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
    """`poll`; `reconcile`: found by reading again; `gap`: our own event about a hole, none of Sophos's."""
    digest: str = ""
    """SHA-256 of the lines that follow."""

    @property
    def events(self) -> int:
        """How many of Sophos's events it holds."""
        return 0 if self.origin == GAP else self.count

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


def batch_key(stream: Stream, sequence: int) -> str:
    """Where the batch with this number of this stream is."""
    return f"batches/{stream.path}/{sequence:020d}.ndjson"


def archive_key(header: Header) -> str:
    """Where the delivered batch is kept: by the ledger's day, so that whole days expire."""
    return f"archive/{header.stream.path}/{header.day}/{header.sequence:020d}.ndjson.gz"


def to_line(item: bytes) -> bytes:
    """The item as one line, without its line break."""
    if item[:1] == b"{" and b"\n" not in item:
        return item
    return json.dumps(item.decode("utf-8", "surrogateescape")).encode()


def from_line(line: bytes) -> bytes:
    """The exact bytes that `to_line` was given; DamagedError where no item can be read."""
    if line[:1] != b'"':
        return line
    try:
        text = json.loads(line)
        return str(text).encode("utf-8", "surrogateescape")
    except ValueError:
        raise DamagedError("a line of a batch cannot be read") from None


def to_body(header: Header, items: Sequence[bytes]) -> tuple[Header, bytes]:
    """The batch's bytes, and its header completed with their count and digest."""
    lines = b"\n".join([*map(to_line, items), b""])
    header = replace(header, count=len(items), digest=sha256(lines).hexdigest())
    return header, json.dumps(header_fields(header), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    ) + b"\n" + lines


def from_body(body: bytes) -> tuple[Header, list[bytes]]:
    """Header and items of a stored batch; DamagedError where they are not what was written."""
    first, _, lines = body.partition(b"\n")
    header = header_of(first)
    if sha256(lines).hexdigest() != header.digest:
        raise DamagedError(f"batch {header.sequence} of {header.stream} is not what was written: its digest differs")
    items = [from_line(line) for line in lines.split(b"\n")[:-1]]
    return header, items


def header_fields(header: Header) -> dict[str, Any]:
    """The header as JSON fields."""
    return {
        "layout": LAYOUT,
        "integration": header.stream.integration,
        "tenant": header.stream.tenant,
        "kind": header.stream.kind,
        "sequence": header.sequence,
        "previous_cursor": header.previous_cursor,
        "cursor": header.cursor,
        "next_cursor": header.next_cursor,
        "has_more": header.has_more,
        "count": header.count,
        "repeats": header.repeats,
        "origin": header.origin,
        "fetched_at": to_text(header.fetched_at),
        "as_of": to_text(header.as_of),
        "newest": text_or_none(header.newest),
        "day": header.day,
        "dataType": header.envelope.data_type,
        "dataSource": header.envelope.data_source,
        "tenantId": header.envelope.tenant_id,
        "digest": header.digest,
    }


def header_of(line: bytes) -> Header:
    """The header that the line holds; DamagedError where it holds none, LayoutError for a newer one."""
    try:
        fields = json.loads(line)
        check_layout(fields, "a batch")
        return Header(
            stream=Stream(fields["integration"], fields["tenant"], fields["kind"]),
            envelope=Envelope(fields["dataType"], fields["dataSource"], fields["tenantId"]),
            sequence=fields["sequence"],
            previous_cursor=fields["previous_cursor"],
            cursor=fields["cursor"],
            next_cursor=fields["next_cursor"],
            has_more=fields["has_more"],
            count=fields["count"],
            repeats=fields["repeats"],
            origin=fields["origin"],
            fetched_at=from_text(fields["fetched_at"]),
            as_of=from_text(fields["as_of"]),
            newest=moment_or_none(fields["newest"]),
            day=fields["day"],
            digest=fields["digest"],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError("a batch's header cannot be read") from None
