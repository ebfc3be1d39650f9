"""A waiting batch whose number has a receipt already: store its new events, then remove it.

Usually a crash left it after its receipt was written, or a slow run stored its page again: all its events are
delivered or wait. If an operator restored an older copy of the cursor, numbers are used a second time. The events of
such a batch may be new.

The new events are stored before the batch is removed. A crash between the two leaves both. The next call finds the
events stored, and only removes the batch. A damaged batch moves to `dead/`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from lib.errors import ConflictError, DamagedError
from lib.model.batch import OWN, RECONCILE, Header
from lib.model.checkpoint import HORIZON, Checkpoint
from lib.model.clock import day_before
from lib.model.stream import ENDPOINTS
from lib.state.advance import Item, ReadFields, insert, newest_of, stored_since
from lib.state.batches import StoredBatch, Waiting
from lib.state.state import State

log = logging.getLogger(__name__)


def take_up(state: State, waiting: Waiting, expected: int, now: datetime, event_fields: ReadFields) -> None:
    """Store the events that only this batch contains under a new number, `expected` or later; remove the batch."""
    stream, sequence = waiting.stream, waiting.sequence
    try:
        batch = state.batches.read(stream, sequence)
    except DamagedError as error:
        # Its events may be new. Nothing is removed unread: a copy stays in `dead/`, and Sophos is asked again.
        log.warning("%s: %s; its number has a receipt. It is now in dead/", stream, error)
        if stream.kind != ENDPOINTS:
            state.reconciliations.hasten(stream)
        state.batches.move_to_dead_letters(stream, sequence)
        return
    if batch is not None:
        _number_on(state, batch, expected)
        _insert(state, batch, now, event_fields)
    # Last: after a crash before it, the next call takes the batch up again and finds its events stored.
    state.store.delete(waiting.entry.key, expected=waiting.entry.generation)


def _number_on(state: State, batch: StoredBatch, expected: int) -> None:
    """Move the checkpoint's number up to `expected`, so that no delivered number is used again."""
    saved = state.checkpoints.read(batch.header.stream)
    if saved.checkpoint.sequence < expected:
        checkpoint = replace(saved.checkpoint, sequence=expected)
        with suppress(ConflictError):  # Another run has moved it. If not far enough, the next batch repeats this.
            state.checkpoints.write(batch.header.stream, checkpoint, expected=saved.generation)


def _insert(state: State, batch: StoredBatch, now: datetime, event_fields: ReadFields) -> None:
    header = batch.header
    day = day_before(min(header.as_of, now) - HORIZON)
    stored = stored_since(state, header.stream, day, event_fields, beside=header.sequence)

    def header_of(checkpoint: Checkpoint, items: Sequence[Item]) -> Header:
        return replace(
            header,
            sequence=checkpoint.sequence,
            as_of=checkpoint.as_of or header.as_of,
            day=max(checkpoint.day, header.day),
            newest=newest_of(items),
            count=len(items),
            repeats=0,
            origin=header.origin if header.origin in OWN else RECONCILE,
        )

    key = insert(
        state,
        header.stream,
        batch.items,
        ids=header.id_scope,
        header_of=header_of,
        stored_keys=lambda _: stored.keys,
        event_fields=event_fields,
    )
    if key is not None:
        log.warning(
            "%s: batch %d had the number of a delivered batch; its new events are now in %s",
            *(header.stream, header.sequence, key),
        )
