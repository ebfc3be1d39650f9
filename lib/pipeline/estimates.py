"""How many events a gap has cost, where the store can tell."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from lib.errors import DamagedError
from lib.model.batch import POLL
from lib.model.clock import from_text
from lib.model.receipt import Tail, fields_of
from lib.model.stream import Stream
from lib.pipeline.gaps import CURSOR_EXPIRED
from lib.pipeline.records import Books, day_before

SAMPLE = timedelta(hours=24)
SHORTEST_SAMPLE = timedelta(hours=1)


def not_fetched(books: Books, stream: Stream, start: datetime, end: datetime) -> int | None:
    """What the interval would have brought at the rate of the day before it; None where too little is known of that."""
    first: datetime | None = None
    count = 0
    for _, body in books.ledger.bodies(stream, day_before(start - SAMPLE)):
        with suppress(DamagedError):
            fields = fields_of(body)
            as_of = from_text(fields["as_of"])
            if fields["origin"] == POLL and start - SAMPLE <= as_of <= start:
                # What the first one holds came before it, at a rate that is not known.
                count += fields["count"] if first else 0
                first = first or as_of
    if first is None or start - first < SHORTEST_SAMPLE:
        return None
    return round(count * ((end - start) / (start - first)))


def not_delivered(books: Books, stream: Stream, tail: Tail) -> int | None:
    """How many events were stored behind that receipt and are gone: all stored, less those delivered and those there.

    None where an earlier loss was not counted.
    """
    position = books.positions.read(stream).position
    there = 0
    for waiting in books.batches.waiting(stream):
        if tail.sequence < waiting.sequence < position.sequence:
            with suppress(DamagedError):
                batch = books.batches.read(stream, waiting.sequence)
                there += batch.header.events if batch else 0
    lost_before = 0
    for gap in books.gaps.all(stream):
        if gap["reason"] != CURSOR_EXPIRED:
            if gap["estimated_events"] is None:
                return None
            lost_before += int(gap["estimated_events"])
    return max(0, position.events - tail.total - there - lost_before)
