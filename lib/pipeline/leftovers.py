"""A batch that waits under a number that has a receipt: whose events it holds, and what becomes of them.

Nearly always a run was overtaken: it stored its page again, and everything in it is delivered or waits. Where an older
copy of the cursor was put back, numbers are given a second time, and the events under them are new.
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
    """Store what the batch alone holds under a new number, `expected` or later, and remove the batch."""
    with suppress(DamagedError):  # Nobody can tell what it holds, and its number is delivered.
        batch = state.batches.read(waiting.stream, waiting.sequence)
        # What is left out of an inventory, the next look brings.
        if batch is not None and waiting.stream.kind != ENDPOINTS:
            _number_on(state, batch, expected)
            _insert(state, batch, now, event_fields)
    state.store.delete(waiting.entry.key, expected=waiting.entry.generation)


def _number_on(state: State, batch: StoredBatch, expected: int) -> None:
    """See that no number is given a third time."""
    saved = state.checkpoints.read(batch.header.stream)
    if saved.checkpoint.sequence < expected:
        checkpoint = replace(saved.checkpoint, sequence=expected)
        with suppress(ConflictError):  # Another run has moved it: the next batch tells whether that was enough.
            state.checkpoints.write(batch.header.stream, checkpoint, expected=saved.generation)


def _insert(state: State, batch: StoredBatch, now: datetime, event_fields: ReadFields) -> None:
    header = batch.header
    day = day_before(min(header.as_of, now) - HORIZON)
    known = stored_since(state, header.stream, day, event_fields, beside=header.sequence)

    def header_of(checkpoint: Checkpoint, items: Sequence[Item]) -> Header:
        return replace(
            header,
            sequence=checkpoint.sequence,
            cursor=None,
            next_cursor=None,
            has_more=False,
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
        known=lambda _: known.keys,
        event_fields=event_fields,
    )
    if key is not None:
        log.warning(
            "%s: batch %d had the number of a delivered one; its events go on as %s",
            *(header.stream, header.sequence, key),
        )
