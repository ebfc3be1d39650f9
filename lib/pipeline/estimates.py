"""How many events a gap has cost, where the store can tell."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from lib.errors import DamagedError
from lib.model.batch import POLL
from lib.model.clock import day_before
from lib.model.receipt import LastReceipt
from lib.model.stream import Stream
from lib.state.gaps import CURSOR_EXPIRED
from lib.state.receipts import from_body
from lib.state.state import State

SAMPLE = timedelta(hours=24)
SHORTEST_SAMPLE = timedelta(hours=1)


def not_fetched(state: State, stream: Stream, start: datetime, end: datetime) -> int | None:
    """What the interval would have brought at the rate of the day before it; None where too little is known of that."""
    first: datetime | None = None
    count = 0
    for _, body in state.ledger.bodies(stream, day_before(start - SAMPLE)):
        with suppress(DamagedError):
            receipt = from_body(body)
            as_of = receipt.as_of
            if receipt.origin == POLL and start - SAMPLE <= as_of <= start:
                # What the first one holds came before it, at a rate that is not known.
                count += receipt.count if first else 0
                first = first or as_of
    if first is None or start - first < SHORTEST_SAMPLE:
        return None
    return round(count * ((end - start) / (start - first)))


def not_delivered(state: State, stream: Stream, tail: LastReceipt) -> int | None:
    """How many events were stored behind that receipt and are gone: all stored, less those delivered and those there.

    None where an earlier loss was not counted.
    """
    checkpoint = state.checkpoints.read(stream).checkpoint
    there = 0
    for waiting in state.batches.waiting(stream):
        if tail.sequence < waiting.sequence < checkpoint.sequence:
            with suppress(DamagedError):
                batch = state.batches.read(stream, waiting.sequence)
                there += batch.header.events if batch else 0
    lost_before = 0
    for gap in state.gaps.all(stream):
        if gap.reason != CURSOR_EXPIRED:
            if gap.estimated is None:
                return None
            lost_before += gap.estimated
    return max(0, checkpoint.events - tail.total - there - lost_before)
