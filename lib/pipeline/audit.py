"""Audit: add the ledger up, from the store alone. Every batch has its receipt, every receipt its place in the chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lib.errors import LayoutError
from lib.model.batch import POLL, Header
from lib.model.receipt import OBSERVED, LastReceipt, Receipt
from lib.model.stream import Stream
from lib.state import checkpoints, receipts
from lib.state.codec import UNREADABLE
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.leases import lease_of
from lib.state.ledger import Place
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
class Finding:
    """Something that does not hold."""

    code: str
    sequence: int | None
    """The batch that it concerns."""
    detail: str


@dataclass(slots=True)
class DaySums:
    """What a day's receipts add up to, in events but for the batches."""

    batches: int = 0
    events: int = 0
    set_aside: int = 0
    repeats: int = 0
    observed: int = 0


@dataclass(frozen=True, slots=True)
class StreamAudit:
    """What was found of one stream."""

    stream: Stream
    days: Mapping[str, DaySums]
    removed_until: str | None
    """The last day whose receipts were removed for their age."""
    gaps: Sequence[Gap]
    findings: Sequence[Finding]

    @property
    def events(self) -> int:
        """How many events its receipts hold."""
        return sum(day.events for day in self.days.values())

    @property
    def ok(self) -> bool:
        """Whether the chain holds."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was found of all streams."""

    since: str | None
    streams: Sequence[StreamAudit]

    @property
    def ok(self) -> bool:
        """Whether every chain holds."""
        return all(each.ok for each in self.streams)


@dataclass(frozen=True, slots=True)
class _Link:
    """What the next receipt is held against."""

    sequence: int
    digest: str


@dataclass(slots=True)
class _Chain:
    """How far a stream's receipts were followed, and what was found on the way."""

    stream: Stream
    findings: list[Finding] = field(default_factory=list)
    days: dict[str, DaySums] = field(default_factory=dict)
    last: _Link | None = None
    next_cursor: str | None = None
    """The cursor that the last polled receipt leads to."""
    knows_cursor: bool = True
    """Not behind a receipt that is damaged or missing."""
    total: int | None = None
    removed_until: str | None = None

    def note(self, code: str, sequence: int | None, detail: str) -> None:
        self.findings.append(Finding(code, sequence, detail))


OnStream = Callable[[int, int], None]
"""Hears, after each stream, how many of how many are done."""


def audit(state: State, since: str = "", on_stream: OnStream = lambda _, __: None) -> AuditReport:
    """Every stream's chain from the day `since` (`yyyy-mm-dd`) on, and whether all of it holds."""
    streams = {*state.checkpoints.streams(), *(waiting.stream for waiting in state.batches.waiting())}
    streams |= set(state.ledger.streams())
    found = []
    for stream in sorted(streams):
        found.append(_audited(state, stream, since))
        on_stream(len(found), len(streams))
    return AuditReport(since or None, found)


def _audited(state: State, stream: Stream, since: str) -> StreamAudit:
    found = _Chain(stream)
    gaps = list(state.gaps.all(stream))
    named = {gap.sequence for gap in gaps if gap.reason != CURSOR_EXPIRED}
    _begin(state, found)
    if since:
        _anchor(state, found, since)
    for place, body in state.ledger.bodies(stream, since):
        if found.last is None or place.last > found.last.sequence:
            _follow(found, place, body, named)
    _end(state, found)
    return StreamAudit(stream, found.days, found.removed_until, gaps, found.findings)


def _begin(state: State, found: _Chain) -> None:
    """Where receipts were removed for their age, the chain begins with the last of them."""
    try:
        prune_point = state.ledger.prune_point(found.stream)
    except UNREADABLE as error:
        found.note(RECEIPT_DAMAGED, None, str(error))
        return
    if prune_point is not None:
        found.removed_until = prune_point.day
        found.last = _Link(prune_point.sequence, prune_point.digest)
        found.total, found.next_cursor = prune_point.total, prune_point.next_cursor


def _anchor(state: State, found: _Chain, since: str) -> None:
    """Begin with the last receipt before the span, which the first one in it was written after."""
    begin = found.last
    for place, body in state.ledger.before(found.stream, since):
        if begin is not None and place.last <= begin.sequence:
            return
        receipt = _read(body)
        if found.last is begin:
            found.last, found.total = _Link(place.last, receipts.digest(body)), receipt.total if receipt else None
        # What a reconciliation stored moves no cursor: the one before tells.
        found.knows_cursor = receipt is not None
        if receipt is None or receipt.origin == POLL:
            found.next_cursor = receipt.next_cursor if receipt else None
            return


def _read(body: bytes) -> Receipt | None:
    with suppress(*UNREADABLE):
        return receipts.from_body(body)
    return None


def _follow(found: _Chain, place: Place, body: bytes, named: set[int]) -> None:
    """Hold a receipt against the one before."""
    number, receipt, before = place.last, _read(body), found.last
    found.last = _Link(number, receipts.digest(body))
    if receipt is None:
        found.total, found.knows_cursor = None, False
        found.note(RECEIPT_DAMAGED, place.first, f"the receipt of batch {_range(place.first, number)} cannot be read")
        return
    # A receipt that was filed by a clock that was ahead was moved to an earlier day than it names.
    if receipt.sequence != number or receipt.day < place.day:
        found.note(RECEIPT_MISPLACED, number, f"in the place of receipt {number} lies that of {receipt.sequence}")
        return
    first = before.sequence + 1 if before else 1
    unbroken = receipt.previous == (before.digest if before else "")
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
    _read_on(found, receipt, first)
    _count(found, place.day, receipt)


def _read_on(found: _Chain, header: Header, expected: int) -> None:
    """Hold the cursor that a batch was read with against where the one before ended; a stream's first has none."""
    found.knows_cursor = found.knows_cursor and header.sequence == expected
    if header.origin == POLL:
        if expected > 1 and found.knows_cursor and header.previous_cursor != found.next_cursor:
            found.note(
                CURSORS_BROKEN, header.sequence, f"batch {header.sequence} was not read where the one before ended"
            )
        found.next_cursor, found.knows_cursor = header.next_cursor, True


def _count(found: _Chain, on: str, receipt: Receipt) -> None:
    if len(receipt.ids) != receipt.count or found.total not in (None, receipt.total - receipt.events):
        found.note(RECEIPT_ALTERED, receipt.sequence, f"the numbers of receipt {receipt.sequence} do not add up")
    found.total = receipt.total
    day = found.days.setdefault(on, DaySums())
    day.batches += 1
    day.events += receipt.events
    day.set_aside += receipt.set_aside
    day.repeats += receipt.repeats
    day.observed += receipt.events if receipt.outcome == OBSERVED else 0


def _end(state: State, found: _Chain) -> None:
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
        try:
            batch = state.batches.read(stream, waiting.sequence)
            if batch is not None:
                _read_on(found, batch.header, expected)
        except UNREADABLE as error:
            found.note(BATCH_DAMAGED, waiting.sequence, str(error))
            found.knows_cursor = False
        expected = waiting.sequence + 1
    _cursor(state, found, expected)


def _tail(state: State, found: _Chain) -> LastReceipt:
    """The last receipt that the lease knows of; of a newer version's lease nothing is known."""
    with suppress(LayoutError):
        return lease_of(state.store, found.stream)[0].tail
    return LastReceipt()


def _cursor(state: State, found: _Chain, expected: int) -> None:
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


def _missing(found: _Chain, first: int, last: int) -> None:
    numbers = f"batch {first} is" if first == last else f"batches {first} to {last} are"
    found.note(BATCH_MISSING, first, f"{numbers} missing: fetched, never acknowledged, and gone")
