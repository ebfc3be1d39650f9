"""Audit: check from the store alone that every batch has a receipt and that the chain of receipts has no hole.

Each receipt names the digest of the receipt before it, and each polled batch the cursor where the one before ended. A
missing or altered receipt therefore shows in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lib.errors import KeptError
from lib.model.batch import POLL, Header
from lib.model.receipt import OBSERVED, LastReceipt, Receipt
from lib.model.stream import Stream
from lib.model.text import several
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
class AuditFinding:
    """One fault in a stream's chain."""

    code: str
    sequence: int | None
    """The batch concerned; None if the finding concerns the stream."""
    detail: str


@dataclass(slots=True)
class DaySums:
    """The sums of a day's receipts; all fields except `batches` count events."""

    batches: int = 0
    events: int = 0
    set_aside: int = 0
    repeats: int = 0
    observed: int = 0


@dataclass(frozen=True, slots=True)
class StreamAudit:
    """The audit of one stream."""

    stream: Stream
    days: Mapping[str, DaySums]
    removed_until: str | None
    """The last day whose receipts were removed because of their age."""
    gaps: Sequence[Gap]
    findings: Sequence[AuditFinding]

    @property
    def events(self) -> int:
        """The number of events in its receipts."""
        return sum(day.events for day in self.days.values())

    @property
    def ok(self) -> bool:
        """Whether the chain has no fault."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The audit of all streams."""

    since: str | None
    streams: Sequence[StreamAudit]

    @property
    def ok(self) -> bool:
        """Whether no chain has a fault."""
        return all(stream.ok for stream in self.streams)


@dataclass(frozen=True, slots=True)
class _Link:
    """The part of a receipt that the next receipt is checked against."""

    sequence: int
    digest: str


@dataclass(slots=True)
class _AuditedChain:
    """The state of the audit of one stream while its receipts are read in order."""

    stream: Stream
    findings: list[AuditFinding] = field(default_factory=list)
    days: dict[str, DaySums] = field(default_factory=dict)
    last: _Link | None = None
    next_cursor: str | None = None
    """The next cursor of the last polled receipt."""
    knows_cursor: bool = True
    """Whether `next_cursor` is known; false after a damaged or missing receipt."""
    total: int | None = None
    removed_until: str | None = None

    def note(self, code: str, sequence: int | None, detail: str) -> None:
        self.findings.append(AuditFinding(code, sequence, detail))


OnStream = Callable[[int, int], None]
"""Called after each stream with the number of streams done and the number of all streams."""


def audit(state: State, since: str = "", on_stream: OnStream = lambda _, __: None) -> AuditReport:
    """Audit every stream's chain from the day `since` (`yyyy-mm-dd`) on."""
    streams = {*state.checkpoints.streams(), *(waiting.stream for waiting in state.batches.waiting())}
    streams |= set(state.ledger.streams())
    audits = []
    for stream in sorted(streams):
        audits.append(_audited(state, stream, since))
        on_stream(len(audits), len(streams))
    return AuditReport(since or None, audits)


def _audited(state: State, stream: Stream, since: str) -> StreamAudit:
    chain = _AuditedChain(stream)
    gaps = list(state.gaps.all(stream))
    named = {gap.sequence for gap in gaps if gap.reason != CURSOR_EXPIRED}
    _begin(state, chain)
    try:
        if since:
            _anchor(state, chain, since)
        for place, body in state.ledger.bodies(stream, since):
            if chain.last is None or place.last > chain.last.sequence:
                _follow(chain, place, body, state.ledger.readable(stream, place, body), named)
        _end(state, chain)
    except KeptError as error:
        chain.note(RECEIPT_DAMAGED, None, str(error))
    return StreamAudit(stream, chain.days, chain.removed_until, gaps, chain.findings)


def _begin(state: State, chain: _AuditedChain) -> None:
    """Start at the prune point, the last receipt that was removed because of its age, if there is one."""
    try:
        prune_point = state.ledger.prune_point(chain.stream)
    except UNREADABLE as error:
        chain.note(RECEIPT_DAMAGED, None, str(error))
        return
    if prune_point is not None:
        chain.removed_until = prune_point.day
        chain.last = _Link(prune_point.sequence, prune_point.digest)
        chain.total, chain.next_cursor = prune_point.total, prune_point.next_cursor


def _anchor(state: State, chain: _AuditedChain, since: str) -> None:
    """Start with the last receipt before `since`: the first receipt in the span names its digest."""
    begin = chain.last
    for place, body in state.ledger.before(chain.stream, since):
        if begin is not None and place.last <= begin.sequence:
            return
        receipt = state.ledger.readable(chain.stream, place, body)
        if chain.last is begin:
            chain.last, chain.total = _Link(place.last, receipts.digest(body)), receipt.total if receipt else None
        # A reconciliation's batch moves no cursor, so the cursor is in the newest polled receipt before it.
        chain.knows_cursor = receipt is not None
        if receipt is None or receipt.header.origin == POLL:
            chain.next_cursor = receipt.header.cursors.next if receipt else None
            return


def _follow(chain: _AuditedChain, place: Place, body: bytes, receipt: Receipt | None, named: set[int]) -> None:
    """Check a receipt against the receipt before it. None: it cannot be read."""
    number, before = place.last, chain.last
    chain.last = _Link(number, receipts.digest(body))
    if receipt is None:
        chain.total, chain.knows_cursor = None, False
        chain.note(RECEIPT_DAMAGED, place.first, f"the receipt of batch {_range(place.first, number)} cannot be read")
        return
    # A receipt filed while the clock was ahead was moved later, to an earlier day than its own `day`.
    if receipt.header.sequence != number or receipt.header.day < place.day:
        chain.note(RECEIPT_MISPLACED, number, f"the key of receipt {number} holds receipt {receipt.header.sequence}")
        return
    first = before.sequence + 1 if before else 1
    unbroken = receipt.previous == (before.digest if before else "")
    missing, last = first, number - 1
    # A gap names only the first of its batches. If the digests match, the gap covers all the missing numbers.
    while missing in named:
        missing = number if unbroken else missing + 1
    while not unbroken and last in named:
        last -= 1
    if missing <= last:
        code, objects = (BATCH_MISSING, "batches") if unbroken else (RECEIPT_MISSING, "receipts")
        chain.note(code, missing, f"{objects} {_range(missing, last)} are missing")
        chain.total = chain.total if unbroken else None
    elif not unbroken:
        altered = before.sequence if before else number
        chain.note(RECEIPT_ALTERED, altered, f"receipt {altered} was changed after receipt {number} was written")
    _read_on(chain, receipt.header, first)
    _count(chain, place.day, receipt)


def _read_on(chain: _AuditedChain, header: Header, expected: int) -> None:
    """Check that a polled batch was read with the next cursor of the batch before; a stream's first batch has none."""
    chain.knows_cursor = chain.knows_cursor and header.sequence == expected
    if header.origin == POLL:
        if expected > 1 and chain.knows_cursor and header.cursors.previous != chain.next_cursor:
            chain.note(
                CURSORS_BROKEN, header.sequence, f"batch {header.sequence} was not read from the end of the one before"
            )
        chain.next_cursor, chain.knows_cursor = header.cursors.next, True


def _count(chain: _AuditedChain, on: str, receipt: Receipt) -> None:
    header = receipt.header
    if len(receipt.ids) != header.count or chain.total not in (None, receipt.total - header.events):
        chain.note(RECEIPT_ALTERED, header.sequence, f"the numbers of receipt {header.sequence} do not add up")
    chain.total = receipt.total
    day = chain.days.setdefault(on, DaySums())
    day.batches += 1
    day.events += header.events
    day.set_aside += receipt.set_aside
    day.repeats += header.repeats
    day.observed += header.events if receipt.outcome == OBSERVED else 0


def _end(state: State, chain: _AuditedChain) -> None:
    """Check the end of the chain against the lease, the waiting batches and the cursor.

    Delivery writes the receipt, then removes the batch; the lease names the receipt at its next renewal. A crash
    between them leaves a batch that has a receipt, and a lease without the last receipt. Neither is a fault.
    """
    stream, last = chain.stream, chain.last.sequence if chain.last else 0
    tail = _tail(state, chain)
    if tail.sequence > last:
        chain.note(RECEIPT_MISSING, last + 1, f"receipts {last + 1} to {tail.sequence} are missing")
        last = tail.sequence
    elif chain.last and tail.sequence == last and tail.digest != chain.last.digest:
        chain.note(RECEIPT_ALTERED, last, f"receipt {last} was changed after it was written")
    expected = last + 1
    for waiting in state.batches.waiting(stream):
        if waiting.sequence <= last:
            continue  # It has a receipt: a crash, or a fetch that lost a race, left it. The next delivery removes it.
        if waiting.sequence > expected:
            _missing(chain, expected, waiting.sequence - 1)
        try:
            batch = state.batches.read(stream, waiting.sequence)
            if batch is not None:
                _read_on(chain, batch.header, expected)
        except UNREADABLE as error:
            chain.note(BATCH_DAMAGED, waiting.sequence, str(error))
            chain.knows_cursor = False
        expected = waiting.sequence + 1
    _cursor(state, chain, expected)


def _tail(state: State, chain: _AuditedChain) -> LastReceipt:
    """The last receipt named in the lease; an empty one if a newer version wrote the lease."""
    with suppress(KeptError):
        return lease_of(state.store, chain.stream)[0].tail
    return LastReceipt()


def _cursor(state: State, chain: _AuditedChain, expected: int) -> None:
    try:
        stored = state.store.read(checkpoints.checkpoint_key(chain.stream))
        if stored is None:
            chain.note(
                CURSOR_MISSING, None, "there is no cursor; the next fetch rebuilds it from the last batch or receipt"
            )
            return
        checkpoint = checkpoints.from_body(stored.body)
    except UNREADABLE as error:
        chain.note(CURSOR_DAMAGED, None, str(error))
        return
    if checkpoint.edits:
        chain.note(CURSOR_EDITED, None, f"the cursor was edited by hand ({several(checkpoint.edits, 'time')})")
    elif checkpoint.sequence > expected:
        _missing(chain, expected, checkpoint.sequence - 1)


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _missing(chain: _AuditedChain, first: int, last: int) -> None:
    numbers = f"batch {first} is" if first == last else f"batches {first} to {last} are"
    chain.note(BATCH_MISSING, first, f"{numbers} missing: fetched and never acknowledged")
