"""Moving a stream's position past a stored batch: by whoever stored it, or by whoever finds it stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from lib.errors import ConflictError, DamagedError
from lib.model.batch import GAP, OWN, Envelope, Header, ids_of
from lib.model.checkpoint import MARK_LENGTH, RECENT, Checkpoint
from lib.model.clock import day_of
from lib.model.event_fields import EventFields
from lib.model.ids import KEY_LENGTH, IdScope
from lib.model.stream import Stream
from lib.state import receipts
from lib.state.batches import StoredBatch
from lib.state.checkpoints import Checkpoints, SavedCheckpoint
from lib.state.gaps import Gap
from lib.state.ledger import Known
from lib.state.state import State

log = logging.getLogger(__name__)

INSERT_TRIES = 5
LARGEST_OWN = 8192
"""No batch with one event of our own has more bytes."""
NEWEST_LOOKED_AT = 32
"""An event of our own is looked for in so many of the last receipts: the run that stored it has just died."""

ReadFields = Callable[[bytes], EventFields]


class Item(NamedTuple):
    """An event of a page or a batch, with what decides whether it is new."""

    raw: bytes
    key: str
    created_at: datetime | None
    type: str | None = None
    customer_id: str | None = None

    @property
    def mark(self) -> str:
        """Tells one text of the event from another."""
        return sha256(self.raw).hexdigest()[:MARK_LENGTH]


def item_of(raw: bytes, ids: IdScope, event_fields: ReadFields) -> Item:
    """The item that the bytes are in a batch with those ids."""
    read = event_fields(raw)
    return Item(raw, ids.log_id(read.id, raw)[:KEY_LENGTH], read.created_at, read.type, read.customer_id)


def is_stored(item: Item, ids: IdScope, known: Known, event_fields: ReadFields) -> bool:
    """Whether the item, with those ids, is among the known ones, be it from before `utmstack_tenant_id` was changed."""
    if item.key in known.keys:
        return True
    scopes = (replace(ids, tenant_id=tenant) for tenant in known.tenants - {ids.tenant_id})
    return any(item_of(item.raw, scope, event_fields).key in known.keys for scope in scopes)


def stored_since(state: State, stream: Stream, day: str, event_fields: ReadFields, *, beside: int = 0) -> Known:
    """All events of the stream that wait, but for those of batch `beside`, or have a receipt of that day or later."""
    known = Known()
    # The batches first: what is delivered meanwhile is found in one of the two.
    for waiting in state.batches.waiting(stream):
        if waiting.sequence == beside:
            continue
        # The events of a damaged one are not known to be delivered: it is set aside, and a repeat is welcome.
        with suppress(DamagedError):
            batch = state.batches.read(stream, waiting.sequence)
            if batch is not None:
                keys = (item_of(raw, batch.header.id_scope, event_fields).key for raw in batch.items)
                known.add(keys, batch.header.envelope.tenant_id)
    told = state.ledger.known_since(stream, day)
    return Known(known.keys | told.keys, known.tenants | told.tenants)


def newest_of(items: Sequence[Item], until: datetime | None = None) -> datetime | None:
    """The newest time among the items, but for what is dated later than `until`."""
    times = (item.created_at for item in items if item.created_at)
    return max((each for each in times if until is None or each <= until), default=None)


def advance(checkpoints: Checkpoints, saved: SavedCheckpoint, header: Header, items: Sequence[Item]) -> SavedCheckpoint:
    """Move the saved position past a batch that is durable; ConflictError when another run moved it first."""
    checkpoint = saved.checkpoint.after(
        replace(header, count=len(items)),
        [item.key for item in items],
        newest_of(items[: max(0, len(items) - RECENT)], header.newest) if header.newest else None,
        [item.mark for item in items[-RECENT:]],
    )
    return checkpoints.write(header.stream, checkpoint, expected=saved.generation)


def adopt(
    checkpoints: Checkpoints, saved: SavedCheckpoint, batch: StoredBatch, event_fields: ReadFields
) -> SavedCheckpoint:
    """Move the position past a batch that somebody else stored: the cursor is in its header."""
    return advance(
        checkpoints, saved, batch.header, [item_of(raw, batch.header.id_scope, event_fields) for raw in batch.items]
    )


def insert(
    state: State,
    stream: Stream,
    items: Sequence[bytes],
    *,
    ids: IdScope,
    header_of: Callable[[Checkpoint, Sequence[Item]], Header],
    known: Callable[[Checkpoint], Collection[str]],
    event_fields: ReadFields,
) -> str | None:
    """Store items beside those that are polled, as the stream's next batch; its key, or None where none is new.

    `header_of` makes the header of the batch that follows the checkpoint and holds those items.
    `known` tells the keys of what was stored before; it is asked anew after another run was quicker. The cursor stays
    where it is. Raises ConflictError when other runs are quicker again and again.
    """
    for _ in range(INSERT_TRIES):
        saved = state.checkpoints.read(stream)
        waiting = state.batches.read(stream, saved.checkpoint.sequence)
        if waiting is not None:
            adopt(state.checkpoints, saved, waiting, event_fields)
            continue
        before = known(saved.checkpoint)
        fresh = [item for raw in items if (item := item_of(raw, ids, event_fields)).key not in before]
        if not fresh:
            return None
        try:
            header, _size = state.batches.create(header_of(saved.checkpoint, fresh), [item.raw for item in fresh])
        except ConflictError:
            continue
        with suppress(ConflictError):  # Another run found the stored batch, and moved the checkpoint past it.
            advance(state.checkpoints, saved, header, fresh)
        return header.key
    raise ConflictError(f"{stream}: other runs were quicker {INSERT_TRIES} times")


def announce(state: State, gap: Gap, envelope: Envelope | None, event_fields: ReadFields) -> str | None:
    """Write a gap down, after its event has been stored for the engine; the event's batch, where one was made.

    The event comes first, so that a crash between the two does not keep it back; who notices the gap again finds it.
    """

    def header_of(checkpoint: Checkpoint, items: Sequence[Item], beside: Envelope) -> Header:
        return Header(
            stream=gap.stream,
            envelope=beside,
            sequence=checkpoint.sequence,
            cursor=None,
            next_cursor=None,
            has_more=False,
            fetched_at=gap.noticed_at,
            as_of=checkpoint.as_of or gap.noticed_at,
            day=max(checkpoint.day, day_of(checkpoint.as_of or gap.noticed_at)),
            newest=newest_of(items),
            count=len(items),
            repeats=0,
            origin=GAP,
        )

    if state.store.read(gap.key) is not None:
        return None
    key = None
    if envelope is not None:
        event = [gap.event()]
        key = insert(
            state,
            gap.stream,
            event,
            ids=ids_of(gap.stream, envelope.tenant_id, GAP),
            header_of=partial(header_of, beside=envelope),
            known=partial(_told, state, gap.stream, event_fields),
            event_fields=event_fields,
        )
    if state.gaps.record(gap):
        log.error("%s: a gap: %s, from %s to %s", gap.stream, gap.reason, gap.start, gap.end)
    return key


def _told(state: State, stream: Stream, event_fields: ReadFields, checkpoint: Checkpoint) -> set[str]:
    """The keys of the events of our own that were stored lately, and of all that the position remembers."""
    keys = set(checkpoint.recent)
    if checkpoint.recent_since is None:
        return keys
    # The position has forgotten some, or was made again from what lies beside it, and remembers none.
    for waiting in state.batches.waiting(stream):
        if waiting.entry.size <= LARGEST_OWN:
            with suppress(DamagedError):
                batch = state.batches.read(stream, waiting.sequence)
                if batch is not None and batch.header.origin in OWN:
                    keys.update(item_of(raw, batch.header.id_scope, event_fields).key for raw in batch.items)
    for body in state.ledger.newest(stream, "", most=NEWEST_LOOKED_AT):
        with suppress(DamagedError):
            keys.update(receipts.from_body(body).ids)
    return keys
