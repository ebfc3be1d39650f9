"""Store a batch, then move the stream's checkpoint past it.

The batch is written first and the checkpoint second. In the other order, a crash between the two would lose the page:
the cursor would have moved past events that are not stored. In this order a crash leaves a batch with the checkpoint's
number, and perhaps a few with the numbers after it. Each header contains the next cursor, so any later run moves the
checkpoint past them (`adopt`) without asking Sophos again. Two runs at the same time are safe too: all writes are
conditional, and the second run gets a ConflictError.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from hashlib import sha256

import msgspec

from lib.errors import ConflictError, DamagedError
from lib.model.batch import GAP, OWN, Envelope, Header, ids_of
from lib.model.checkpoint import MARK_LENGTH, RECENT, Checkpoint
from lib.model.clock import day_of
from lib.model.event_fields import EventFields
from lib.model.ids import KEY_LENGTH, IdScope
from lib.model.stream import Stream
from lib.state.batches import StoredBatch
from lib.state.checkpoints import Checkpoints, SavedCheckpoint
from lib.state.gaps import Gap
from lib.state.ledger import StoredKeys
from lib.state.state import State

log = logging.getLogger(__name__)

INSERT_TRIES = 5
"""Each failed try means that another run has stored a batch. The caller's next call starts again; nothing is lost."""
LARGEST_OWN = 8192
"""The largest size in bytes of a batch with one event of the connector's own."""
NEWEST_LOOKED_AT = 32
"""The last receipts in which an event of the connector's own is searched. The run that stored it has just crashed."""

ReadFields = Callable[[bytes], EventFields]


class Item(msgspec.Struct, gc=False):
    """An event of a page or a batch, with what decides whether it is new; no work for the garbage collector."""

    raw: bytes
    key: str
    created_at: datetime | None
    type: str | None = None
    customer_id: str | None = None

    @property
    def mark(self) -> str:
        """A short hash of the event's text: it differs if the text differs."""
        return sha256(self.raw).hexdigest()[:MARK_LENGTH]


def item_of(raw: bytes, ids: IdScope, event_fields: ReadFields) -> Item:
    """The item of an event's bytes, with its key in the id scope."""
    read = event_fields(raw)
    return Item(raw, ids.log_id(read.id, raw)[:KEY_LENGTH], read.created_at, read.type, read.customer_id)


def is_stored(item: Item, ids: IdScope, stored: StoredKeys, event_fields: ReadFields) -> bool:
    """Whether the item is among the stored ones, also under an earlier `utmstack_tenant_id`."""
    if item.key in stored.keys:
        return True
    scopes = (replace(ids, tenant_id=tenant) for tenant in stored.tenants - {ids.tenant_id})
    return any(item_of(item.raw, scope, event_fields).key in stored.keys for scope in scopes)


def stored_since(state: State, stream: Stream, day: str, event_fields: ReadFields, *, beside: int = 0) -> StoredKeys:
    """All events of the stream that wait, except in batch `beside`, or have a receipt of the day or later."""
    stored = StoredKeys()
    # The batches before the receipts: delivery writes the receipt before it removes the batch. In this order, a batch
    # delivered meanwhile is in at least one of the two; in the other order it could be in neither.
    for waiting in state.batches.waiting(stream):
        if waiting.sequence == beside:
            continue
        # Events of a damaged batch do not count as stored: the batch moves to `dead/`, and they are stored again.
        with suppress(DamagedError):
            batch = state.batches.read(stream, waiting.sequence)
            if batch is not None:
                keys = (item_of(raw, batch.header.id_scope, event_fields).key for raw in batch.items)
                stored.add(keys, batch.header.envelope.tenant_id)
    delivered = state.ledger.known_since(stream, day)
    return StoredKeys(stored.keys | delivered.keys, stored.tenants | delivered.tenants)


def newest_of(items: Sequence[Item], until: datetime | None = None) -> datetime | None:
    """The newest time among the items; times after `until` are ignored."""
    times = (item.created_at for item in items if item.created_at)
    return max((time for time in times if until is None or time <= until), default=None)


def after(checkpoint: Checkpoint, header: Header, items: Sequence[Item]) -> Checkpoint:
    """The checkpoint past a stored batch, without marks: `marked` adds them."""
    return checkpoint.after(
        replace(header, count=len(items)),
        [item.key for item in items],
        newest_of(items[: max(0, len(items) - RECENT)], header.newest) if header.newest else None,
    )


def marked(checkpoint: Checkpoint, before: str, items: Sequence[Item]) -> Checkpoint:
    """The checkpoint with the marks of its last items, and the marks `before` them as far as they still count."""
    marks = before + "".join(item.mark for item in items[-RECENT:])
    return replace(checkpoint, recent=replace(checkpoint.recent, marks=marks[-RECENT * MARK_LENGTH :]))


def advance(checkpoints: Checkpoints, saved: SavedCheckpoint, header: Header, items: Sequence[Item]) -> SavedCheckpoint:
    """Move the checkpoint past a stored batch; ConflictError if another run moved it first."""
    checkpoint = marked(after(saved.checkpoint, header, items), saved.checkpoint.recent.marks, items)
    return checkpoints.write(header.stream, checkpoint, expected=saved.generation)


def adopt(
    checkpoints: Checkpoints, saved: SavedCheckpoint, batch: StoredBatch, event_fields: ReadFields
) -> SavedCheckpoint:
    """Move the checkpoint past a batch that another run stored. The next cursor is in the batch's header."""
    return advance(
        checkpoints, saved, batch.header, [item_of(raw, batch.header.id_scope, event_fields) for raw in batch.items]
    )


def adopt_all(state: State, saved: SavedCheckpoint, stream: Stream, event_fields: ReadFields) -> SavedCheckpoint:
    """Move the checkpoint past all batches that a crashed run, or one under way, has left behind it.

    Raises DamagedError at a damaged batch, ConflictError if another run moved the checkpoint first.
    """
    while (batch := state.batches.read(stream, saved.checkpoint.sequence)) is not None:
        saved = adopt(state.checkpoints, saved, batch, event_fields)
    return saved


def adopt_past_hole(state: State, stream: Stream, event_fields: ReadFields) -> bool:
    """If batches wait behind the one with the checkpoint's number, which cannot be read, adopt the next of them.

    Returns whether there is one. Its number is then not used again; who delivers finds the hole and tells the gap.
    """
    saved = state.checkpoints.read(stream)
    for waiting in state.batches.waiting(stream):
        if waiting.sequence > saved.checkpoint.sequence:
            with suppress(DamagedError):
                batch = state.batches.read(stream, waiting.sequence)
                if batch is not None:
                    adopt(state.checkpoints, saved, batch, event_fields)
                    return True
    return False


def insert(
    state: State,
    stream: Stream,
    items: Sequence[bytes],
    *,
    ids: IdScope,
    header_of: Callable[[Checkpoint, Sequence[Item]], Header],
    stored_keys: Callable[[Checkpoint], Collection[str]],
    event_fields: ReadFields,
) -> str | None:
    """Store items that were not polled as the stream's next batch; its key, or None if no item is new.

    `header_of` returns the header of the batch that follows the checkpoint. `stored_keys` returns the keys of the
    stored events. It is called again after another run has stored a batch first. The cursor does not move. Raises
    ConflictError if other runs store a batch first INSERT_TRIES times.

    A crash after the batch is written leaves it with the checkpoint's number. The next run of any kind adopts it.
    """
    for _ in range(INSERT_TRIES):
        # A crash, or a run that is between its writes, may have left batches: their numbers are taken.
        saved = adopt_all(state, state.checkpoints.read(stream), stream, event_fields)
        before = stored_keys(saved.checkpoint)
        fresh = [item for raw in items if (item := item_of(raw, ids, event_fields)).key not in before]
        if not fresh:
            return None
        try:
            # The batch before the checkpoint, as for a page: whoever finds it there moves the checkpoint past it.
            header, _size = state.batches.create(header_of(saved.checkpoint, fresh), [item.raw for item in fresh])
        except ConflictError:
            continue  # Another run has taken the number since it was read.
        with suppress(ConflictError):  # Another run has adopted the batch already.
            advance(state.checkpoints, saved, header, fresh)
        return header.key
    raise ConflictError(f"{stream}: other runs stored a batch first, {INSERT_TRIES} times")


def announce(state: State, gap: Gap, envelope: Envelope | None, event_fields: ReadFields) -> str | None:
    """Store the gap's event for the engine, then record the gap; returns the key of the event's batch, if any.

    The event before the record: the record stops any later announcement, so in the other order a crash between the
    two would lose the event. In this order the next run notices the gap again, finds the event stored
    (`stored_keys`), and writes only the record.
    """

    def header_of(checkpoint: Checkpoint, items: Sequence[Item], beside: Envelope) -> Header:
        return Header(
            stream=gap.stream,
            envelope=beside,
            sequence=checkpoint.sequence,
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
            stored_keys=partial(_own_keys, state, gap.stream, event_fields),
            event_fields=event_fields,
        )
    if state.gaps.record(gap):
        log.error("%s: a gap: %s, from %s to %s", gap.stream, gap.reason, gap.start, gap.end)
    return key


def _own_keys(state: State, stream: Stream, event_fields: ReadFields, checkpoint: Checkpoint) -> set[str]:
    """The keys of the connector's own events that were stored lately, and of the checkpoint's recent events."""
    keys = set(checkpoint.recent.keys)
    if checkpoint.recent.since is None:
        return keys
    # The checkpoint no longer lists all events, or was rebuilt and lists none: read batches and receipts.
    for waiting in state.batches.waiting(stream):
        if waiting.entry.size <= LARGEST_OWN:
            with suppress(DamagedError):
                batch = state.batches.read(stream, waiting.sequence)
                if batch is not None and batch.header.origin in OWN:
                    keys.update(item_of(raw, batch.header.id_scope, event_fields).key for raw in batch.items)
    for place, body in state.ledger.newest(stream, "", most=NEWEST_LOOKED_AT):
        receipt = state.ledger.receipt(stream, place, body)
        keys.update(receipt.ids if receipt else ())
    return keys
