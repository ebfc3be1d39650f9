"""Moving a stream's position past a stored batch: by whoever stored it, or by whoever finds it stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from lib.errors import ConflictError, DamagedError
from lib.model.batch import GAP, Envelope, Header
from lib.model.event import Facts
from lib.model.ids import KEY_LENGTH
from lib.model.position import RECENT, Position
from lib.model.stream import Stream
from lib.pipeline.gaps import Gap
from lib.pipeline.ledger import Known
from lib.pipeline.records import Books, Positions, SavedPosition, StoredBatch, day_of

log = logging.getLogger(__name__)

INSERT_TRIES = 5

ReadFacts = Callable[[bytes], Facts]


@dataclass(frozen=True, slots=True)
class Item:
    """An event of a page or a batch, with what decides whether it is new."""

    raw: bytes
    key: str
    created_at: datetime | None
    type: str | None = None


def item_of(raw: bytes, header: Header, facts: ReadFacts) -> Item:
    """The item that the bytes are in that batch's stream."""
    read = facts(raw)
    return Item(raw, header.log_id(read.id, raw)[:KEY_LENGTH], read.created_at, read.type)


def is_stored(item: Item, header: Header, known: Known, facts: ReadFacts) -> bool:
    """Whether the item, of that batch, is among the known ones, be it from before `utmstack_tenant_id` was changed."""
    if item.key in known.keys:
        return True
    envelopes = (replace(header.envelope, tenant_id=tenant) for tenant in known.tenants - {header.envelope.tenant_id})
    return any(item_of(item.raw, replace(header, envelope=each), facts).key in known.keys for each in envelopes)


def stored_since(books: Books, stream: Stream, day: str, facts: ReadFacts) -> Known:
    """All events of the stream that wait, or have a receipt of that day or later."""
    known = Known()
    # The batches first: what is delivered meanwhile is found in one of the two.
    for waiting in books.batches.waiting(stream):
        # The events of a damaged one are not known to be delivered: it is set aside, and a repeat is welcome.
        with suppress(DamagedError):
            batch = books.batches.read(stream, waiting.sequence)
            if batch is not None:
                keys = (item_of(raw, batch.header, facts).key for raw in batch.items)
                known.add(keys, batch.header.envelope.tenant_id)
    told = books.ledger.known_since(stream, day)
    return Known(known.keys | told.keys, known.tenants | told.tenants)


def newest_of(items: Sequence[Item], until: datetime | None = None) -> datetime | None:
    """The newest time among the items, but for what is dated later than `until`."""
    times = (item.created_at for item in items if item.created_at)
    return max((each for each in times if until is None or each <= until), default=None)


def advance(positions: Positions, saved: SavedPosition, header: Header, items: Sequence[Item]) -> SavedPosition:
    """Move the saved position past a batch that is durable; ConflictError when another run moved it first."""
    position = saved.position.after(
        replace(header, count=len(items)),
        [item.key for item in items],
        newest_of(items[: max(0, len(items) - RECENT)], header.newest) if header.newest else None,
    )
    return positions.write(header.stream, position, expected=saved.generation)


def adopt(positions: Positions, saved: SavedPosition, batch: StoredBatch, facts: ReadFacts) -> SavedPosition:
    """Move the position past a batch that somebody else stored: the cursor is in its header."""
    return advance(positions, saved, batch.header, [item_of(raw, batch.header, facts) for raw in batch.items])


def insert(
    books: Books,
    stream: Stream,
    items: Sequence[bytes],
    *,
    header_of: Callable[[Position], Header],
    known: Callable[[Position], Collection[str]],
    facts: ReadFacts,
) -> str | None:
    """Store items beside those that are polled, as the stream's next batch; its key, or None where none is new.

    `known` tells the keys of what was stored before; it is asked anew after another run was quicker. The cursor stays
    where it is. Raises ConflictError when other runs are quicker again and again.
    """
    for _ in range(INSERT_TRIES):
        saved = books.positions.read(stream)
        waiting = books.batches.read(stream, saved.position.sequence)
        if waiting is not None:
            adopt(books.positions, saved, waiting, facts)
            continue
        header = header_of(saved.position)
        before = known(saved.position)
        fresh = [item for raw in items if (item := item_of(raw, header, facts)).key not in before]
        if not fresh:
            return None
        header = replace(header, newest=newest_of(fresh))
        with suppress(ConflictError):
            header, _size = books.batches.create(header, [item.raw for item in fresh])
            advance(books.positions, saved, header, fresh)
            return header.key
    raise ConflictError(f"{stream}: other runs were quicker {INSERT_TRIES} times")


def announce(books: Books, gap: Gap, envelope: Envelope | None, facts: ReadFacts) -> str | None:
    """Write a gap down, after its event has been stored for the engine; the event's batch, where one was made.

    The event comes first, so that a crash between the two repeats it under its id rather than keeps it back.
    """

    def header_of(position: Position) -> Header:
        return Header(
            stream=gap.stream,
            envelope=envelope or Envelope("", "", ""),
            sequence=position.sequence,
            cursor=None,
            next_cursor=None,
            has_more=False,
            fetched_at=gap.noticed_at,
            as_of=position.as_of or gap.noticed_at,
            day=max(position.day, day_of(position.as_of or gap.noticed_at)),
            newest=None,
            count=0,
            repeats=0,
            origin=GAP,
        )

    if books.store.read(gap.key) is not None:
        return None
    key = None
    if envelope is not None:
        event = [gap.event()]
        key = insert(books, gap.stream, event, header_of=header_of, known=lambda position: position.recent, facts=facts)
    if books.gaps.record(gap):
        log.error("%s: a gap: %s, from %s to %s", gap.stream, gap.reason, gap.start, gap.end)
    return key
