"""Attestation: the numbers of a day's events, by stream and outcome, computed from the store.

A day is the ledger's day: the day of fetching by Sophos's clock. Only `held` counts by the time of creation, since
reconciliation has no other time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.errors import NotFoundError
from lib.model.batch import RECONCILE
from lib.model.checkpoint import IDLE_WRITE
from lib.model.clock import day_of, text_or_none, to_text
from lib.model.lateness import in_order, propose
from lib.model.receipt import OBSERVED, Receipt
from lib.model.stream import ENDPOINTS, Stream
from lib.model.text import several
from lib.state import receipts
from lib.state.codec import UNREADABLE
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.ledger import Place
from lib.state.looks import DayCounts, day_counts
from lib.state.state import State

KIND = "sophos-utmstack daily attestation"
FORMAT = 1
MEASURED_DAYS = 7
"""The days of lateness that the proposals are based on."""
DAY = timedelta(days=1)
GAP_FIELDS = ("from", "to", "reason", "noticed_at", "estimated_events")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Chain:
    """The day's part of a stream's ledger."""

    receipts: int = 0
    first: int | None = None
    last: int | None = None
    previous: str | None = None
    """The digest of the last receipt before the day, as the day's first receipt names it."""
    head: str | None = None
    """The digest of the day's last receipt."""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How the stream was read."""

    until: datetime | None = None
    """Time by Sophos's clock up to which the stream has been read by now; None: never."""
    is_short: bool = False
    """Whether the day is over, and the stream has not been read to its end."""
    repeats: int = 0
    """Items of the day's pages that were stored before."""
    unreadable: tuple[str, ...] = ()
    """Keys of the stream's gaps and waiting batches that cannot be read. Each may concern any day."""


@dataclass(frozen=True, slots=True)
class StreamDay:
    """One stream's events of one day, by outcome."""

    day: str
    stream: Stream
    received: int = 0
    """Events stored."""
    delivered: int = 0
    """Events that the engine acknowledged."""
    observed: int = 0
    """Events that were only counted (`observe: on`)."""
    waiting: int = 0
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Events that cannot be delivered, by reason."""
    recovered: int = 0
    """Events that reconciliation found."""
    reconciled: DayCounts = field(default_factory=DayCounts)
    gaps: tuple[Gap, ...] = ()
    chain: Chain = Chain()
    reading: Reading = Reading()

    @property
    def lost(self) -> int | None:
        """The estimated number of events lost in gaps; None if a gap has no estimate."""
        return _lost(self.gaps, self.day)

    @property
    def completeness(self) -> float | None:
        """Delivered events divided by all events; None if the number of lost or unread events is unknown."""
        if self.lost is None or self.reading.is_short or self.reading.unreadable:
            return None
        total = self.received + self.lost
        return 1.0 if total == 0 else self.delivered / total

    def remarks(self) -> Iterator[str]:
        """The reasons to look into the day."""
        yield from (f"{self.stream}: {fault}" for fault in self.chain.faults)
        if self.reading.is_short:
            until = self.reading.until
            yield f"{self.stream}: " + (f"read only up to {to_text(until)}" if until else "never read")
        for count, singular, plural in (
            (self.waiting, "event waits for the engine", "events wait for the engine"),
            (self.observed, "event was observed only", "events were observed only"),
            (sum(self.dead_letters.values()), "event is a dead letter", "events are dead letters"),
        ):
            if count:
                yield f"{self.stream}: {several(count, singular, plural)}"
        if self.gaps:
            lost = "an unknown number of events" if self.lost is None else f"about {several(self.lost, 'event')}"
            yield f"{self.stream}: {several(len(self.gaps), 'gap')} with {lost}"

    def fields(self) -> dict[str, Any]:
        """The JSON fields of the statement."""
        chain, sophos = self.chain, self.reconciled
        return {
            "integration": self.stream.integration,
            "tenant": self.stream.tenant,
            "stream": self.stream.kind,
            "completeness": self.completeness,
            "read_until": text_or_none(self.reading.until),
            "held_by_sophos": {"events": sophos.held, "reconciled_at": text_or_none(sophos.looked_at)},
            "received": self.received,
            "delivered": self.delivered,
            "observed": self.observed,
            "waiting": self.waiting,
            "dead_letters": {"events": sum(self.dead_letters.values()), "reasons": dict(self.dead_letters)},
            "late": {
                "events": sum(sophos.late.values()),
                "lateness": in_order(sophos.late),
                "recovered": self.recovered,
            },
            "repeats_dropped": self.reading.repeats,
            "lost": self.lost,
            "gaps": [{name: gap.fields()[name] for name in GAP_FIELDS} for gap in self.gaps],
            "ledger": {
                "receipts": chain.receipts,
                "first": chain.first,
                "last": chain.last,
                "previous": chain.previous,
                "head": chain.head,
                "whole": not chain.faults,
            },
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """An integration's settings that the proposals are about."""

    name: str
    settle: timedelta
    reconcile: timedelta | None


def counted(state: State, days: Collection[str], streams: Sequence[Stream]) -> dict[str, list[StreamDay]]:
    """The days of each stream; a day is left out if some of its receipts were removed because of their age."""
    by_day: dict[str, list[StreamDay]] = {day: [] for day in days}
    for stream in streams:
        prune_point = state.ledger.prune_point(stream)
        by_day = {day: by_day[day] for day in by_day if prune_point is None or prune_point.day < day}
        for day in _days(state, stream, by_day) if by_day else ():
            by_day[day.day].append(day)
    return by_day


def streams_of(state: State) -> list[Stream]:
    """Every stream with a checkpoint, a receipt or a waiting batch."""
    waiting = {waiting.stream for waiting in state.batches.waiting()}
    return sorted({*state.checkpoints.streams(), *state.ledger.streams(), *waiting})


def first_day(state: State, streams: Iterable[Stream]) -> str | None:
    """The first day of the ledger: the earliest of the streams' first receipts; None for an empty ledger."""
    firsts = (next(state.ledger.entries(stream), None) for stream in streams)
    return min((first[0].day for first in firsts if first), default=None)


def completeness(days: Iterable[StreamDay]) -> float | None:
    """Delivered events divided by all events, over all streams of a day; None if a stream's share is unknown."""
    streams = list(days)
    if any(day.completeness is None for day in streams):
        return None
    total = sum(day.received + (day.lost or 0) for day in streams)
    return 1.0 if total == 0 else sum(day.delivered for day in streams) / total


def statement(
    state: State,
    day: str,
    *,
    now: datetime,
    measured: Sequence[Measured],
    versions: Mapping[str, Any],
    key: str,
    read: Collection[Stream] = (),
    days: Sequence[StreamDay] | None = None,
) -> dict[str, Any]:
    """The attestation of a day, before it is signed. `key` is the fingerprint of the signing key.

    `read` are the streams that the configuration reads. `days` is the result of `counted`, if the caller has it
    already. Raises NotFoundError if receipts of the day were removed because of their age, if the day has not begun, or
    if it is before the ledger's first day.
    """
    if day > day_of(now):
        raise NotFoundError(f"{day} has not begun", remedy="Name a day that is over.")
    if days is None:
        streams = sorted({*streams_of(state), *read})
        days = counted(state, [day], streams).get(day)
        first = first_day(state, streams)
        if days and first is not None and day < first and not any(_touches(gap, day) for gap in state.gaps.all()):
            raise NotFoundError(f"the ledger begins on {first}", remedy="Name that day or a later one.")
    if days is None:
        raise NotFoundError(f"receipts of {day} were removed because of their age")
    if day < day_of(now):
        days = [
            replace(line, reading=replace(line.reading, is_short=line.stream in read and _is_short(line)))
            for line in days
        ]
    remarks = [remark for stream_day in days for remark in stream_day.remarks()]
    share = completeness(days)
    return {
        "statement": KIND,
        "format": FORMAT,
        "day": day,
        "is_over": day < day_of(now),
        "made_at": to_text(now),
        "key": key,
        "versions": dict(versions),
        "ok": not remarks,
        "remarks": remarks,
        "completeness": share,
        "totals": _totals(days),
        "streams": [stream_day.fields() for stream_day in days],
        "proposals": _proposals(state, days, day, measured),
    }


def _is_short(stream_day: StreamDay) -> bool:
    """Whether the stream's position is before the end of the day. The position of a quiet stream is stored late."""
    end = datetime.fromisoformat(stream_day.day).replace(tzinfo=UTC) + DAY
    until = stream_day.reading.until
    return stream_day.stream.kind != ENDPOINTS and (until is None or until < end - IDLE_WRITE)


def _totals(days: Sequence[StreamDay]) -> dict[str, Any]:
    lost = [day.lost for day in days]
    held = [day.reconciled.held for day in days if day.stream.kind != ENDPOINTS]
    counts = ("received", "delivered", "observed", "waiting")
    return {
        "held_by_sophos": None if None in held else sum(filter(None, held)),
        **{name: sum(getattr(day, name) for day in days) for name in counts},
        "dead_letters": sum(sum(day.dead_letters.values()) for day in days),
        "late": sum(sum(day.reconciled.late.values()) for day in days),
        "gaps": sum(len(day.gaps) for day in days),
        "unread": sum(day.reading.is_short for day in days),
        "lost": None if None in lost else sum(filter(None, lost)),
    }


def _days(state: State, stream: Stream, days: Collection[str]) -> Iterator[StreamDay]:
    """The days of the stream, in one pass over its objects in the store."""
    ledgers = _ledgers(state, stream, days)
    unreadable: list[str] = []
    gaps = list(state.gaps.all(stream, unreadable=unreadable))
    waiting = _waiting(state, stream, days, unreadable)
    read_until = None
    with suppress(*UNREADABLE):
        read_until = state.checkpoints.read(stream).checkpoint.as_of
    for day in sorted(days):
        ledger = ledgers[day]
        yield StreamDay(
            day,
            stream,
            received=ledger.counts["events"] + waiting[day],
            delivered=ledger.counts["delivered"],
            observed=ledger.counts["observed"],
            waiting=waiting[day],
            dead_letters=_reasons(state, stream, ledger.sequences),
            recovered=ledger.counts["recovered"],
            reconciled=day_counts(state.store, stream, day),
            gaps=tuple(gap for gap in gaps if _touches(gap, day)),
            chain=replace(ledger.chain, faults=(*ledger.faults, *(f"{key} cannot be read" for key in unreadable))),
            reading=Reading(read_until, repeats=ledger.counts["repeats"], unreadable=tuple(unreadable)),
        )


@dataclass(slots=True)
class _DayLedger:
    """The sums and the chain of a day's receipts."""

    counts: Counter[str] = field(default_factory=Counter)
    sequences: dict[int, int] = field(default_factory=dict)
    """The number of dead letters by batch number."""
    chain: Chain = Chain()
    faults: list[str] = field(default_factory=list)

    def add(self, place: Place, receipt: Receipt | None, digest: str) -> None:
        """Add a receipt; None: it cannot be read."""
        begun = self.chain
        if receipt is None:
            self.faults.append(f"the receipt of batch {place.first} cannot be read")
        else:
            _count(self.counts, self.sequences, receipt)
            self.faults += _faults(self.chain, place, receipt)
        first, previous = begun.first, begun.previous
        if not begun.receipts:
            first, previous = place.first, receipt.previous if receipt else None
        self.chain = Chain(begun.receipts + 1, first, place.last, previous, digest)


def _ledgers(state: State, stream: Stream, days: Collection[str]) -> dict[str, _DayLedger]:
    ledgers = {day: _DayLedger() for day in days}
    for place, body in state.ledger.bodies(stream, min(days), max(days)):
        if place.day in ledgers:
            receipt = state.ledger.readable(stream, place, body)
            ledgers[place.day].add(place, receipt, receipts.digest(body))
    return ledgers


def _faults(before: Chain, place: Place, receipt: Receipt) -> Iterator[str]:
    # A receipt filed while the clock was ahead was moved later, to an earlier day than its own `day`.
    if receipt.header.sequence != place.first or receipt.header.day < place.day:
        yield f"the key of receipt {place.first} holds receipt {receipt.header.sequence}"
    if before.receipts and receipt.previous != before.head:
        yield f"receipt {place.first} does not follow receipt {before.last}"


def _count(counts: Counter[str], sequences: dict[int, int], receipt: Receipt) -> None:
    header = receipt.header
    if not header.events:
        return
    counts["events"] += header.events
    counts["repeats"] += header.repeats
    counts["observed" if receipt.outcome == OBSERVED else "delivered"] += header.events - receipt.set_aside
    counts["recovered"] += header.events if header.origin == RECONCILE else 0
    if receipt.set_aside:
        sequences[header.sequence] = receipt.set_aside


def _reasons(state: State, stream: Stream, sequences: Mapping[int, int]) -> dict[str, int]:
    """The number of dead letters by reason, digits replaced; `removed` for those no longer in `dead/`."""
    counts: Counter[str] = Counter()
    for sequence, count in sequences.items():
        stored = state.store.read(f"dead/{stream.path}/{sequence:020d}.ndjson")
        reasons = [] if stored is None else list(_reasons_in(stored.body))[:count]
        counts.update(reasons)
        counts["removed"] += count - len(reasons)
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _reasons_in(body: bytes) -> Iterator[str]:
    for line in body.splitlines():
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            yield _NUMBER.sub("…", str(json.loads(line)["reason"]))


def _waiting(state: State, stream: Stream, days: Collection[str], unreadable: list[str]) -> Counter[str]:
    """The number of waiting events by day. The listing of batches is in the order of their days."""
    counts: Counter[str] = Counter()
    for waiting in state.batches.waiting(stream):
        try:
            batch = state.batches.read(stream, waiting.sequence)
        except UNREADABLE:
            unreadable.append(waiting.entry.key)
            continue
        if batch is not None and batch.header.day > max(days):
            break
        counts.update({batch.header.day: batch.header.events} if batch is not None else {})
    return counts


def _touches(gap: Gap, day: str) -> bool:
    """Whether the gap counts for the day: by its missing interval, or by the time a lost batch was noticed."""
    first, last = _bounds(gap)
    return day_of(first) <= day <= day_of(last)


def _bounds(gap: Gap) -> tuple[datetime, datetime]:
    if gap.reason == CURSOR_EXPIRED and gap.start and gap.end:
        return gap.start, gap.end
    return gap.noticed_at, gap.noticed_at


def _lost(gaps: Iterable[Gap], day: str) -> int | None:
    """The day's part of the events lost in the gaps."""
    lost = 0.0
    for gap in gaps:
        if gap.estimated is None:
            return None
        lost += gap.estimated * _part(*_bounds(gap), day)
    return round(lost)


def _part(start: datetime, end: datetime, day: str) -> float:
    """The fraction of the interval that lies on the day, from 0 to 1."""
    if end <= start:
        return 1.0
    midnight = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return (min(end, midnight + DAY) - max(start, midnight)) / (end - start)


def _proposals(state: State, days: Sequence[StreamDay], day: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Proposals for each integration's settings, from the lateness of the last days."""
    proposals: list[dict[str, Any]] = []
    for settings in measured:
        streams = [
            one_day.stream
            for one_day in days
            if one_day.stream.integration == settings.name and one_day.stream.kind != ENDPOINTS
        ]
        late: Counter[str] = Counter()
        received = 0
        for stream in streams:
            for name, ledger in _ledgers(state, stream, list(_days_back(day))).items():
                late.update(day_counts(state.store, stream, name).late)
                received += ledger.counts["events"]
        proposals += (
            {"integration": settings.name, **proposal.fields(), "days": MEASURED_DAYS}
            for proposal in propose(late, received, settings.settle, settings.reconcile)
        )
    return proposals


def _days_back(day: str) -> Iterator[str]:
    last = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return (day_of(last - number * DAY) for number in range(MEASURED_DAYS))
