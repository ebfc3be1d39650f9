"""Audit: add the ledger up, from the store alone. Every batch has its receipt, every receipt its place in the chain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lib.errors import LayoutError
from lib.model.batch import POLL
from lib.model.receipt import OBSERVED, LastReceipt, Receipt
from lib.model.stream import Stream
from lib.state import checkpoints, receipts
from lib.state.codec import UNREADABLE
from lib.state.gaps import CURSOR_EXPIRED
from lib.state.leases import lease_of
from lib.state.state import State

RECEIPT_MISSING = "receipt_missing"
RECEIPT_ALTERED = "receipt_altered"
RECEIPT_MISPLACED = "receipt_misplaced"
RECEIPT_DAMAGED = "receipt_damaged"
CURSORS_BROKEN = "cursor_chain_broken"
BATCH_MISSING = "batch_missing"
BATCH_DAMAGED = "batch_damaged"
CURSOR_MISSING = "cursor_missing"
CURSOR_DAMAGED = "cursor_damaged"
CURSOR_EDITED = "cursor_edited"


@dataclass(frozen=True, slots=True)
class _Receipt:
    """What a receipt's key says, and what it holds."""

    first: int
    sequence: int
    """The same, but for a pack that cannot be read."""
    day: str
    digest: str
    receipt: Receipt | None
    """None where it cannot be read, or was removed for its age."""
    is_removed: bool = False

    @property
    def is_read(self) -> bool:
        """Whether it is known where its batch ended."""
        return self.receipt is not None or self.is_removed


@dataclass(slots=True)
class _Stream:
    """What was found of one stream."""

    stream: Stream
    findings: list[dict[str, Any]] = field(default_factory=list)
    days: dict[str, dict[str, int]] = field(default_factory=dict)
    last: _Receipt | None = None
    next_cursor: str | None = None
    """The cursor that the last polled receipt leads to."""
    total: int | None = None
    removed_until: str | None = None
    """The last day whose receipts were removed for their age."""

    def note(self, code: str, sequence: int | None, detail: str) -> None:
        self.findings.append({"code": code, "sequence": sequence, "detail": detail})


def audit(state: State, since: str = "") -> dict[str, Any]:
    """Every stream's chain from the day `since` (`yyyy-mm-dd`) on, and whether all of it holds."""
    streams = {*state.checkpoints.streams(), *(waiting.stream for waiting in state.batches.waiting())}
    streams |= set(state.ledger.streams())
    lines = [_line(state, stream, since) for stream in sorted(streams)]
    return {"ok": not any(line["findings"] for line in lines), "since": since or None, "streams": lines}


def _line(state: State, stream: Stream, since: str) -> dict[str, Any]:
    found = _Stream(stream)
    gaps = list(state.gaps.all(stream))
    named = {gap.sequence for gap in gaps if gap.reason != CURSOR_EXPIRED}
    if not since:
        _begin(state, found)
    for receipt in _receipts(state, stream, since):
        if found.last is None or receipt.sequence > found.last.sequence:
            _follow(found, receipt, named, since)
    _end(state, found)
    return {
        "integration": stream.integration,
        "tenant": stream.tenant,
        "stream": stream.kind,
        "ok": not found.findings,
        "receipts": sum(day["batches"] for day in found.days.values()),
        "events": sum(day["events"] for day in found.days.values()),
        "days": found.days,
        "removed_until": found.removed_until,
        "gaps": [
            {key: fields[key] for key in ("from", "to", "reason", "noticed_at", "sequence", "estimated_events")}
            for fields in (gap.fields() for gap in gaps)
        ],
        "findings": found.findings,
    }


def _receipts(state: State, stream: Stream, since: str) -> Iterator[_Receipt]:
    for place, body in state.ledger.bodies(stream, since):
        try:
            receipt: Receipt | None = receipts.from_body(body)
        except UNREADABLE:
            receipt = None
        yield _Receipt(place.first, place.last, place.day, receipts.digest(body), receipt)


def _begin(state: State, found: _Stream) -> None:
    """Where receipts were removed for their age, the chain begins with the last of them."""
    try:
        prune_point = state.ledger.prune_point(found.stream)
    except UNREADABLE as error:
        found.note(RECEIPT_DAMAGED, None, str(error))
        return
    if prune_point is not None:
        found.removed_until = prune_point.day
        found.last = _Receipt(
            prune_point.sequence, prune_point.sequence, prune_point.day, prune_point.digest, None, is_removed=True
        )
        found.total, found.next_cursor = prune_point.total, prune_point.next_cursor


def _follow(found: _Stream, placed: _Receipt, named: set[int], since: str) -> None:
    """Hold a receipt against the one before."""
    number, receipt, before = placed.sequence, placed.receipt, found.last
    found.last = placed
    if receipt is None:
        found.total = None
        found.note(RECEIPT_DAMAGED, placed.first, f"the receipt of batch {_range(placed.first, number)} cannot be read")
        return
    # A receipt that was filed by a clock that was ahead was moved to an earlier day than it names.
    if receipt.sequence != number or receipt.day < placed.day:
        found.note(RECEIPT_MISPLACED, number, f"in the place of receipt {number} lies that of {receipt.sequence}")
        return
    first = before.sequence + 1 if before else number if since else 1
    unbroken = receipt.previous == (before.digest if before else receipt.previous if since else "")
    missing, last = first, number - 1
    # A gap is named by the first of its batches. An unbroken chain shows that it holds all of them.
    while missing in named:
        missing = number if unbroken else missing + 1
    while not unbroken and last in named:
        last -= 1
    if missing <= last:
        code, what = (BATCH_MISSING, "batches") if unbroken else (RECEIPT_MISSING, "receipts")
        found.note(code, missing, f"{what} {_range(missing, last)} are missing")
        found.total = found.total if unbroken else None
    elif not unbroken:
        altered = before.sequence if before else number
        found.note(RECEIPT_ALTERED, altered, f"receipt {altered} is not the one that {number} was written after")
    if receipt.origin == POLL:
        if number == first and before and before.is_read and receipt.previous_cursor != found.next_cursor and not since:
            found.note(CURSORS_BROKEN, number, f"batch {number} was not read where the one before ended")
        found.next_cursor = receipt.next_cursor
    _count(found, placed.day, receipt)


def _count(found: _Stream, on: str, receipt: Receipt) -> None:
    if len(receipt.ids) != receipt.count or found.total not in (None, receipt.total - receipt.events):
        found.note(RECEIPT_ALTERED, receipt.sequence, f"the numbers of receipt {receipt.sequence} do not add up")
    found.total = receipt.total
    day = found.days.setdefault(on, {"batches": 0, "events": 0, "set_aside": 0, "repeats": 0})
    day["batches"] += 1
    day["events"] += receipt.events
    day["set_aside"] += receipt.set_aside
    day["repeats"] += receipt.repeats
    if receipt.outcome == OBSERVED:
        day["observed"] = day.get("observed", 0) + receipt.events


def _end(state: State, found: _Stream) -> None:
    """Hold the end of the chain against the lease, the batches that wait, and the cursor."""
    stream, last = found.stream, found.last.sequence if found.last else 0
    tail = _tail(state, found)
    if tail.sequence > last:
        found.note(RECEIPT_MISSING, last + 1, f"receipts {last + 1} to {tail.sequence} are missing")
        last = tail.sequence
    elif found.last and tail.sequence == last and tail.digest != found.last.digest:
        found.note(RECEIPT_ALTERED, last, f"receipt {last} is not the one that was written")
    expected = last + 1
    for waiting in state.batches.waiting(stream):
        if waiting.sequence <= last:
            continue  # A leftover of an overtaken fetch: delivered before, and removed by the next call.
        if waiting.sequence > expected:
            _missing(found, expected, waiting.sequence - 1)
        expected = waiting.sequence + 1
        try:
            state.batches.read(stream, waiting.sequence)
        except UNREADABLE as error:
            found.note(BATCH_DAMAGED, waiting.sequence, str(error))
    _cursor(state, found, expected)


def _tail(state: State, found: _Stream) -> LastReceipt:
    """The last receipt that the lease knows of; of a newer version's lease nothing is known."""
    with suppress(LayoutError):
        return lease_of(state.store, found.stream)[0].tail
    return LastReceipt()


def _cursor(state: State, found: _Stream, expected: int) -> None:
    stored = state.store.read(checkpoints.checkpoint_key(found.stream))
    if stored is None:
        found.note(CURSOR_MISSING, None, "there is no cursor; it is made again from the last batch or receipt")
        return
    try:
        checkpoint = checkpoints.from_body(stored.body)
    except UNREADABLE as error:
        found.note(CURSOR_DAMAGED, None, str(error))
        return
    if checkpoint.edits:
        found.note(CURSOR_EDITED, None, f"the cursor was edited by hand ({checkpoint.edits} times)")
    elif checkpoint.sequence > expected:
        _missing(found, expected, checkpoint.sequence - 1)


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _missing(found: _Stream, first: int, last: int) -> None:
    numbers = f"batch {first} is" if first == last else f"batches {first} to {last} are"
    found.note(BATCH_MISSING, first, f"{numbers} missing: fetched, never acknowledged, and gone")
