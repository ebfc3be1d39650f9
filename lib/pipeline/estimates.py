"""Estimate the number of events lost in a gap, from the store."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from lib.errors import DamagedError
from lib.model.batch import POLL
from lib.model.clock import day_before
from lib.model.receipt import LastReceipt
from lib.model.stream import Stream
from lib.state.gaps import CURSOR_EXPIRED
from lib.state.state import State

SAMPLE = timedelta(hours=24)
SHORTEST_SAMPLE = timedelta(hours=1)
"""A rate from less time is no estimate: one busy minute would count for a day."""


def not_fetched(state: State, stream: Stream, start: datetime, end: datetime) -> int | None:
    """The events of the interval at the rate of the day before; None if there are receipts of less than an hour."""
    first: datetime | None = None
    count = 0
    for _, receipt, _ in state.ledger.receipts(stream, day_before(start - SAMPLE)):
        as_of = receipt.header.as_of
        if receipt.header.origin == POLL and start - SAMPLE <= as_of <= start:
            # The first receipt's events came before its `as_of`, over an unknown time: not counted.
            count += receipt.header.count if first else 0
            first = first or as_of
    if first is None or start - first < SHORTEST_SAMPLE:
        return None
    return round(count * ((end - start) / (start - first)))


def not_delivered(state: State, stream: Stream, tail: LastReceipt) -> int | None:
    """The number of stored events that are neither delivered nor waiting, apart from the losses of earlier gaps.

    None if an earlier gap has no estimate.
    """
    checkpoint = state.checkpoints.read(stream).checkpoint
    events_waiting = 0
    for waiting in state.batches.waiting(stream):
        if tail.sequence < waiting.sequence < checkpoint.sequence:
            with suppress(DamagedError):
                batch = state.batches.read(stream, waiting.sequence)
                events_waiting += batch.header.events if batch else 0
    lost_before = 0
    for gap in state.gaps.all(stream):
        if gap.reason != CURSOR_EXPIRED:
            if gap.estimated is None:
                return None
            lost_before += gap.estimated
    return max(0, checkpoint.counts.events - tail.total - events_waiting - lost_before)
