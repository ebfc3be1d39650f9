"""Attestation: what became of a day's events, of every stream, as numbers that the store proves.

A day is the ledger's: that of fetching, by Sophos's clock. Only what Sophos held is counted by the time of creation,
since reconciliation sees nothing else.
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
from lib.model.clock import day_of, text_or_none, to_text
from lib.model.lateness import in_order, propose
from lib.model.receipt import OBSERVED, Receipt
from lib.model.stream import ENDPOINTS, Stream
from lib.state import receipts
from lib.state.codec import UNREADABLE
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.ledger import Place
from lib.state.looks import day_counts
from lib.state.state import State

KIND = "sophos-utmstack daily attestation"
FORMAT = 1
MEASURED_DAYS = 7
"""How far back lateness is measured for what is proposed."""
DAY = timedelta(days=1)
GAP_FIELDS = ("from", "to", "reason", "noticed_at", "estimated_events")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Chain:
    """The part of a stream's ledger that is the day's."""

    receipts: int = 0
    first: int | None = None
    last: int | None = None
    previous: str | None = None
    """The digest of the last receipt before the day, as the day's first one carries it."""
    head: str | None = None
    """The digest of the day's last receipt."""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Day:
    """What became of one stream's events of one day."""

    day: str
    stream: Stream
    received: int = 0
    """Events that were made durable."""
    delivered: int = 0
    """Those that the engine acknowledged."""
    observed: int = 0
    """Those that were only counted (`observe: on`)."""
    waiting: int = 0
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Those that cannot be delivered, by reason."""
    recovered: int = 0
    """Those that reconciliation found."""
    repeats: int = 0
    held: int | None = None
    """What Sophos held of the day's events at reconciliation; None where an hour was not read as a whole."""
    looked_at: datetime | None = None
    late: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    lost: int | None = 0
    """Events in gaps, as far as is known; None where it is not."""
    chain: Chain = Chain()

    @property
    def completeness(self) -> float | None:
        """The share that the engine acknowledged of all that there was; None where the loss in a gap is not known."""
        if self.lost is None:
            return None
        there = self.received + self.lost
        return 1.0 if there == 0 else self.delivered / there

    def remarks(self) -> Iterator[str]:
        """Why somebody should look at the day."""
        yield from (f"{self.stream}: {fault}" for fault in self.chain.faults)
        for count, what in (
            (self.waiting, "wait for the engine"),
            (self.observed, "were observed only"),
            (sum(self.dead_letters.values()), "are dead letters"),
        ):
            if count:
                yield f"{self.stream}: {count} events {what}"
        if self.gaps:
            lost = "an unknown number of" if self.lost is None else f"about {self.lost}"
            yield f"{self.stream}: {len(self.gaps)} gaps with {lost} events"

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        chain = self.chain
        return {
            "integration": self.stream.integration,
            "tenant": self.stream.tenant,
            "stream": self.stream.kind,
            "completeness": self.completeness,
            "held_by_sophos": {"events": self.held, "reconciled_at": text_or_none(self.looked_at)},
            "received": self.received,
            "delivered": self.delivered,
            "observed": self.observed,
            "waiting": self.waiting,
            "dead_letters": {"events": sum(self.dead_letters.values()), "reasons": dict(self.dead_letters)},
            "late": {"events": sum(self.late.values()), "lateness": in_order(self.late), "recovered": self.recovered},
            "repeats_dropped": self.repeats,
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
    """An integration's settings that lateness says something of."""

    name: str
    settle: timedelta
    reconcile: timedelta | None


def counted(state: State, days: Collection[str], streams: Sequence[Stream]) -> dict[str, list[Day]]:
    """Those days of each of the streams; a day of which receipts were removed for their age is left out."""
    found: dict[str, list[Day]] = {day: [] for day in days}
    for stream in streams:
        prune_point = state.ledger.prune_point(stream)
        found = {day: found[day] for day in found if prune_point is None or prune_point.day < day}
        for day in _days(state, stream, found) if found else ():
            found[day.day].append(day)
    return found


def streams_of(state: State) -> list[Stream]:
    """Every stream that the store knows."""
    waiting = {waiting.stream for waiting in state.batches.waiting()}
    return sorted({*state.checkpoints.streams(), *state.ledger.streams(), *waiting})


def completeness(days: Iterable[Day]) -> float | None:
    """The share that the engine acknowledged of all that there was of a day, over its streams; None: not known."""
    found = list(days)
    if any(day.completeness is None for day in found):
        return None
    there = sum(day.received + (day.lost or 0) for day in found)
    return 1.0 if there == 0 else sum(day.delivered for day in found) / there


def statement(
    state: State,
    day: str,
    *,
    now: datetime,
    measured: Sequence[Measured],
    versions: Mapping[str, Any],
    key: str,
    days: Sequence[Day] | None = None,
) -> dict[str, Any]:
    """The attestation of a day, to be signed by the key with that fingerprint; `days` where they are `counted` already.

    NotFoundError where receipts of the day were removed for their age, or the day has not begun.
    """
    if day > day_of(now):
        raise NotFoundError(f"{day} has not begun", remedy="Name a day that is over.")
    if days is None:
        days = counted(state, [day], streams_of(state)).get(day)
    if days is None:
        raise NotFoundError(f"receipts of {day} were removed for their age")
    remarks = [remark for each in days for remark in each.remarks()]
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
        "streams": [each.fields() for each in days],
        "proposals": _proposals(state, days, day, measured),
    }


def _totals(days: Sequence[Day]) -> dict[str, Any]:
    lost = [each.lost for each in days]
    held = [each.held for each in days if each.stream.kind != ENDPOINTS]
    counts = ("received", "delivered", "observed", "waiting")
    return {
        "held_by_sophos": None if None in held else sum(filter(None, held)),
        **{name: sum(getattr(each, name) for each in days) for name in counts},
        "dead_letters": sum(sum(each.dead_letters.values()) for each in days),
        "late": sum(sum(each.late.values()) for each in days),
        "gaps": sum(len(each.gaps) for each in days),
        "lost": None if None in lost else sum(filter(None, lost)),
    }


def _days(state: State, stream: Stream, days: Collection[str]) -> Iterator[Day]:
    """Those days of the stream, in one pass over what the store holds of it."""
    ledgers = _ledgers(state, stream, days)
    gaps, waiting = list(state.gaps.all(stream)), _waiting(state, stream, days)
    for day in sorted(days):
        ledger, seen = ledgers[day], day_counts(state.store, stream, day)
        touching = tuple(gap for gap in gaps if _touches(gap, day))
        yield Day(
            day,
            stream,
            received=ledger.counts["events"] + waiting[day],
            delivered=ledger.counts["delivered"],
            observed=ledger.counts["observed"],
            waiting=waiting[day],
            dead_letters=_reasons(state, stream, ledger.sequences),
            recovered=ledger.counts["recovered"],
            repeats=ledger.counts["repeats"],
            held=seen.held,
            looked_at=seen.looked_at,
            late=seen.late,
            gaps=touching,
            lost=_lost(touching, day),
            chain=replace(ledger.chain, faults=tuple(ledger.faults)),
        )


@dataclass(slots=True)
class _Ledger:
    """What a day's receipts add up to."""

    counts: Counter[str] = field(default_factory=Counter)
    sequences: dict[int, int] = field(default_factory=dict)
    """How many events of which batch were set aside."""
    chain: Chain = Chain()
    faults: list[str] = field(default_factory=list)

    def add(self, place: Place, body: bytes) -> None:
        digest = receipts.digest(body)
        previous: str | None = None
        try:
            receipt = receipts.from_body(body)
            _count(self.counts, self.sequences, receipt)
            self.faults += _faults(self.chain, place, receipt)
            previous = receipt.previous
        except UNREADABLE:
            self.faults.append(f"the receipt of batch {place.first} cannot be read")
        begun = self.chain if self.chain.receipts else replace(self.chain, first=place.first, previous=previous)
        self.chain = replace(begun, receipts=begun.receipts + 1, last=place.last, head=digest)


def _ledgers(state: State, stream: Stream, days: Collection[str]) -> dict[str, _Ledger]:
    found = {day: _Ledger() for day in days}
    for place, body in state.ledger.bodies(stream, min(days)):
        if place.day > max(days):
            break
        if place.day in found:
            found[place.day].add(place, body)
    return found


def _faults(before: Chain, place: Place, receipt: Receipt) -> Iterator[str]:
    # A receipt that was filed by a clock that was ahead was moved to an earlier day than it names.
    if receipt.sequence != place.first or receipt.day < place.day:
        yield f"in the place of receipt {place.first} lies that of {receipt.sequence}"
    if before.receipts and receipt.previous != before.head:
        yield f"receipt {place.first} does not follow receipt {before.last}"


def _count(counts: Counter[str], sequences: dict[int, int], receipt: Receipt) -> None:
    if not receipt.events:
        return
    counts["events"] += receipt.events
    counts["repeats"] += receipt.repeats
    counts["observed" if receipt.outcome == OBSERVED else "delivered"] += receipt.events - receipt.set_aside
    counts["recovered"] += receipt.events if receipt.origin == RECONCILE else 0
    if receipt.set_aside:
        sequences[receipt.sequence] = receipt.set_aside


def _reasons(state: State, stream: Stream, sequences: Mapping[int, int]) -> dict[str, int]:
    """The reasons of what was set aside, without the numbers in them; of what is no longer there, `removed`."""
    found: Counter[str] = Counter()
    for sequence, count in sequences.items():
        stored = state.store.read(f"dead/{stream.path}/{sequence:020d}.ndjson")
        told = [] if stored is None else list(_told(stored.body))[:count]
        found.update(told)
        found["removed"] += count - len(told)
    return {reason: count for reason, count in sorted(found.items()) if count}


def _told(body: bytes) -> Iterator[str]:
    for line in body.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            yield _NUMBER.sub("…", str(json.loads(line)["reason"]))


def _waiting(state: State, stream: Stream, days: Collection[str]) -> Counter[str]:
    """The events of each day that wait; batches are in the order of their days."""
    found: Counter[str] = Counter()
    for waiting in state.batches.waiting(stream):
        with suppress(*UNREADABLE):
            batch = state.batches.read(stream, waiting.sequence)
            if batch is not None and batch.header.day > max(days):
                break
            found.update({batch.header.day: batch.header.events} if batch is not None else {})
    return found


def _touches(gap: Gap, day: str) -> bool:
    """Whether the gap is the day's: by the time that is missing, or by when a lost batch was noticed."""
    first, last = _bounds(gap)
    return day_of(first) <= day <= day_of(last)


def _bounds(gap: Gap) -> tuple[datetime, datetime]:
    if gap.reason == CURSOR_EXPIRED and gap.start and gap.end:
        return gap.start, gap.end
    return gap.noticed_at, gap.noticed_at


def _lost(gaps: Iterable[Gap], day: str) -> int | None:
    """The day's part of what the gaps have cost."""
    lost = 0.0
    for gap in gaps:
        if gap.estimated is None:
            return None
        lost += gap.estimated * _part(*_bounds(gap), day)
    return round(lost)


def _part(start: datetime, end: datetime, day: str) -> float:
    """The part of an interval that lies on the day."""
    if end <= start:
        return 1.0
    midnight = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return (min(end, midnight + DAY) - max(start, midnight)) / (end - start)


def _proposals(state: State, days: Sequence[Day], day: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What the lateness of the last days says of each integration's settings."""
    found: list[dict[str, Any]] = []
    for each in measured:
        own = [one for one in days if one.stream.integration == each.name and one.stream.kind != ENDPOINTS]
        late: Counter[str] = Counter()
        received = 0
        for one in own:
            for name, ledger in _ledgers(state, one.stream, list(_days_back(day))).items():
                late.update(day_counts(state.store, one.stream, name).late)
                received += ledger.counts["events"]
        found += (
            {"integration": each.name, **proposal.fields(), "days": MEASURED_DAYS}
            for proposal in propose(late, received, each.settle, each.reconcile)
        )
    return found


def _days_back(day: str) -> Iterator[str]:
    last = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return (day_of(last - number * DAY) for number in range(MEASURED_DAYS))
