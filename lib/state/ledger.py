"""`ledger/`: receipts, one object each; those of a day that is over are packed, and removed after 90 days.

A damaged receipt stays where it is: `audit` names it, and `status` once delivery has met it as a stream's last one.
Delivery goes on, since its key tells all that the next receipt needs. Of a damaged beginning nothing more is removed.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, takewhile

from lib.errors import ConflictError, DamagedError
from lib.model.batch import POLL, Header
from lib.model.clock import to_text
from lib.model.receipt import LastReceipt, NotAcknowledged, Receipt
from lib.model.stream import Stream, stream_of
from lib.state import receipts
from lib.state.codec import UNREADABLE, Codec
from lib.state.dead_letters import set_damaged_aside
from lib.state.receipts import receipt_key
from lib.store.base import ABSENT, Entry, ObjectStore

log = logging.getLogger(__name__)

KEPT = timedelta(days=90)
PACKED = 500
"""Receipts a pack: up to half a million ids, some ten megabytes."""
_NAME = re.compile(r".*/(\d{4}-\d\d-\d\d)/(\d{20})(?:-(\d{20})\.jsonl\.gz|\.json)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """What the key of a receipt, or of a pack of them, says."""

    day: str
    first: int
    last: int
    is_pack: bool


def place_of(key: str) -> Place | None:
    """The place that a key in the ledger names; None for a foreign object."""
    match = _NAME.fullmatch(key)
    if match is None:
        return None
    return Place(match[1], int(match[2]), int(match[3] or match[2]), match[3] is not None)


@dataclass(frozen=True, slots=True)
class PrunePoint:
    """The last receipt of those that were removed for their age: the chain goes on from it."""

    sequence: int
    day: str
    digest: str
    total: int
    next_cursor: str | None


PRUNE_POINT = Codec(PrunePoint, "what was removed from the ledger for its age")


@dataclass(frozen=True, slots=True)
class Known:
    """Events that are stored: their keys, and for which of UTMStack's tenants, since the keys hang on that."""

    keys: set[str] = field(default_factory=set)
    tenants: set[str] = field(default_factory=set)

    def add(self, keys: Iterable[str], tenant: str) -> None:
        """Count a batch in."""
        self.keys.update(keys)
        self.tenants.add(tenant)


class Ledger:
    """A store's receipts."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def tail(self, stream: Stream, known: LastReceipt) -> LastReceipt:
        """The stream's last receipt, looked for from the last known one on."""
        return self.last(stream, known)[0]

    def last(
        self, stream: Stream, known: LastReceipt, *, is_last: bool = False
    ) -> tuple[LastReceipt, str | None, NotAcknowledged]:
        """The stream's last receipt, when its batch was acknowledged (text), and what was never acknowledged so far.

        `is_last`: none follows the known one, which saves a listing.
        """
        tail, receipt = self._newest(stream, known, is_last=is_last)
        if receipt is None:
            return tail, None, self._not_acknowledged(stream) if tail.key else NotAcknowledged()
        if receipt.set_aside_total is None or receipt.observed_total is None:
            return tail, to_text(receipt.acked_at), self._not_acknowledged(stream)
        counted = NotAcknowledged(receipt.set_aside_total, receipt.observed_total)
        return tail, to_text(receipt.acked_at), counted

    def _not_acknowledged(self, stream: Stream) -> NotAcknowledged:
        """Added up from the receipts that there are: an older version's last one does not tell."""
        found = NotAcknowledged()
        for _, body in self.bodies(stream):
            with suppress(DamagedError):
                receipt = receipts.from_body(body)
                if receipt.set_aside_total is not None and receipt.observed_total is not None:
                    found = NotAcknowledged(receipt.set_aside_total, receipt.observed_total)
                else:
                    found = found.after(receipt.events, receipt.set_aside, receipt.outcome)
        return found

    def _newest(self, stream: Stream, known: LastReceipt, *, is_last: bool) -> tuple[LastReceipt, Receipt | None]:
        newest = None if is_last else last_of(self._store.list(f"ledger/{stream.path}/", after=known.key))
        key = newest.key if newest else known.key
        stored = self._store.read(key) if key else None
        if stored is None and known.key:
            # The last known one was moved to an earlier day, by a run that died before it told so.
            newest = last_of(self._store.list(f"ledger/{stream.path}/"))
            place = place_of(newest.key) if newest else None
            key = newest.key if newest and place and place.last >= known.sequence else ""
            stored = self._store.read(key) if key else None
        if stored is None:
            return known, None
        digest = receipts.digest(stored.body)
        try:
            receipt = receipts.from_body(stored.body)
        except DamagedError as error:
            set_damaged_aside(self._store, key, stored.body, error)
            # Its key tells all that delivery needs; audit names what is wrong with it.
            return LastReceipt(int(key.rpartition("/")[2].partition(".")[0]), key, digest, known.total), None
        return LastReceipt(receipt.sequence, key, digest, receipt.total), receipt

    def write(
        self,
        header: Header,
        keys: Sequence[str],
        tail: LastReceipt,
        *,
        acked_at: datetime,
        set_aside: int,
        not_acknowledged: NotAcknowledged,
        outcome: str,
        windows: Mapping[str, int] | None = None,
    ) -> LastReceipt:
        """Write the receipt that follows `tail`; the new tail. ConflictError where another run wrote one.

        For the holder of the stream's lease alone.
        """
        body = receipts.to_body(
            header,
            keys,
            previous=tail,
            acked_at=acked_at,
            set_aside=set_aside,
            not_acknowledged=not_acknowledged,
            outcome=outcome,
            windows=windows,
        )
        key = receipt_key(header.stream, header.day, header.sequence)
        before = place_of(tail.key)
        if before is not None and before.day > header.day:
            self._file_earlier(header.stream, header.day)
        self._store.write(key, body, expected=ABSENT)
        return LastReceipt(header.sequence, key, receipts.digest(body), tail.total + header.events)

    def _file_earlier(self, stream: Stream, day: str) -> None:
        """Move the receipts of all later days to that day, as they are: they were filed by a clock that was ahead.

        In order, and each is written before it is removed: a reader meets each at least once, wherever it stops.
        """
        for place, entry in list(self._entries(stream, f"{day}~")):
            stored = self._store.read(entry.key)
            if stored is not None:
                with suppress(ConflictError):
                    moved = entry.key.replace(f"/{place.day}/", f"/{day}/")
                    self._store.write(moved, stored.body, expected=ABSENT)
                self._delete([entry])

    def known_since(self, stream: Stream, day: str) -> Known:
        """All events with a receipt of that day or later."""
        found = Known()
        for _, body in self.bodies(stream, day):
            # What a damaged receipt told is not known: a repeat is welcome, and audit names the receipt.
            with suppress(DamagedError):
                receipt = receipts.from_body(body)
                found.add(receipt.ids, receipt.envelope.tenant_id)
        return found

    def streams(self) -> Iterator[Stream]:
        """Every stream that has receipts."""
        after = ""
        while (entry := next(self._store.list("ledger/", after=after), None)) is not None:
            after = entry.key
            if entry.key.count("/") > 3:  # Another one is foreign.
                stream = stream_of(entry.key.removeprefix("ledger/"))
                yield stream
                # The next key behind all of this stream's: "0" is the character after the slash.
                after = f"ledger/{stream.path}0"

    def bodies(self, stream: Stream, since: str = "") -> Iterator[tuple[Place, bytes]]:
        """Every receipt of the stream in order, from a day on: place and bytes; a pack that cannot be read as it is."""
        done, day, hole = 0, since, 1
        while True:
            for place, entry in self._entries(stream, day):
                if place.last <= done:
                    continue  # Packed, and not yet removed.
                is_new_hole = place.first not in (done + 1, hole)
                stored = None if is_new_hole else self._store.read(entry.key)
                if stored is None:
                    # Perhaps packed since the listing was made: another one shows the pack, or the same hole.
                    hole = place.first if is_new_hole else hole
                    break
                for each, body in _unpacked(place, stored.body):
                    if each.last > done:
                        yield each, body
                        done, day = each.last, each.day
            else:
                return

    def before(self, stream: Stream, day: str) -> Iterator[tuple[Place, bytes]]:
        """The receipts before a day, the newest first; a pack that cannot be read as it is."""
        below: int | None = None
        while True:
            entries = takewhile(lambda pair: pair[0].day < day, self._entries(stream))
            for place, entry in reversed([pair for pair in entries if below is None or pair[0].first < below]):
                stored = self._store.read(entry.key)
                if stored is None:
                    break  # Packed since the listing was made: another one shows the pack.
                for each, body in reversed(list(_unpacked(place, stored.body))):
                    if below is None or each.last < below:
                        yield each, body
                        below = each.first
            else:
                return

    def newest(
        self, stream: Stream, day: str, *, most: int | None = None, written: datetime | None = None
    ) -> list[bytes]:
        """The newest receipts, in order, of a day or later: at most so many, in objects of that time or later.

        Only those are read, so that a look at the end costs the same however long the ledger is.
        """
        entries = (pair for pair in self._entries(stream, day) if written is None or pair[1].updated >= written)
        found: dict[int, bytes] = {}
        for place, entry in deque(entries, maxlen=most):
            stored = self._store.read(entry.key)
            # Packed meanwhile: the next look shows it again.
            found |= {each.last: body for each, body in _unpacked(place, stored.body)} if stored else {}
        bodies = [found[number] for number in sorted(found)]
        return bodies if most is None else bodies[-most:]

    def receipts(self, stream: Stream) -> Iterator[tuple[Place, Receipt, str]]:
        """Every receipt of the stream in order, but for damaged ones: place, receipt, digest."""
        for place, body in self.bodies(stream):
            with suppress(DamagedError):
                yield place, receipts.from_body(body), receipts.digest(body)

    def prune_point(self, stream: Stream) -> PrunePoint | None:
        """What the oldest receipt follows; None where none was removed. DamagedError where it cannot be read."""
        stored = self._store.read(_prune_point_key(stream))
        return PRUNE_POINT.decode(stored.body) if stored else None

    def has_expired(self, stream: Stream, oldest: str) -> bool:
        """Whether a day before `oldest` could be removed; the last one never is, since the chain goes on from it."""
        days = (place.day for place, _ in self._entries(stream))
        first = next(days, None)
        return first is not None and first < oldest and any(day != first for day in days)

    def tidy(self, stream: Stream, *, closed: str, oldest: str, goes_on: Callable[[], bool]) -> bool:
        """Pack the days before `closed`, remove those before `oldest`; whether that came to its end.

        For the holder of the stream's lease alone, once the last receipt is of the day `closed`: no receipt is written
        to an earlier day then. Any step may be the last before a crash.
        """
        removes = True
        for day, entries in groupby(self._entries(stream), key=lambda pair: pair[0].day):
            if day >= closed:
                break
            found = list(entries)
            # Behind a day that cannot be removed, none is: the chain would have a hole.
            removes = removes and day < oldest and self._remove(stream, day, [entry for _, entry in found])
            if not removes:
                self._pack(stream, day, found)
            if not goes_on():
                return False
        return True

    def _entries(self, stream: Stream, since: str = "") -> Iterator[tuple[Place, Entry]]:
        prefix = f"ledger/{stream.path}/"
        for entry in self._store.list(prefix, after=prefix + since):
            place = place_of(entry.key)
            if place is not None:
                yield place, entry

    def _pack(self, stream: Stream, day: str, found: Sequence[tuple[Place, Entry]]) -> None:
        packed = max((place.last for place, _ in found if place.is_pack), default=0)
        self._delete(entry for place, entry in found if not place.is_pack and place.last <= packed)
        left = [(place, entry) for place, entry in found if place.last > packed]
        for group in (left[at : at + PACKED] for at in range(0, len(left), PACKED)):
            bodies = [stored.body for _, entry in group if (stored := self._store.read(entry.key))]
            if len(bodies) < len(group) or not all(map(_stands, group, bodies)):
                return  # Left as it is, so that audit names what is wrong with it.
            key = f"ledger/{stream.path}/{day}/{group[0][0].first:020d}-{group[-1][0].last:020d}.jsonl.gz"
            with suppress(ConflictError):
                self._store.write(key, receipts.pack(bodies), expected=ABSENT)
            self._delete(entry for _, entry in group)

    def _remove(self, stream: Stream, day: str, entries: Sequence[Entry]) -> bool:
        """Remove a day, once the end of its chain is written down; False where its receipts cannot be read."""
        try:
            prune_point = self.prune_point(stream)
            next_cursor = prune_point.next_cursor if prune_point else None
            for place, body in self.bodies(stream, day):
                if place.day != day:
                    break
                receipt = receipts.from_body(body)
                next_cursor = receipt.next_cursor if receipt.origin == POLL else next_cursor
                prune_point = PrunePoint(place.last, day, receipts.digest(body), receipt.total, next_cursor)
        except UNREADABLE as error:
            log.warning("%s: the receipts of %s are kept, though old: %s", stream, day, error)
            return False
        if prune_point is not None:
            self._keep(stream, prune_point)
        self._delete(entries)
        return True

    def _keep(self, stream: Stream, prune_point: PrunePoint) -> None:
        key = _prune_point_key(stream)
        stored = self._store.read(key)
        self._store.write(key, PRUNE_POINT.encode(prune_point), expected=stored.generation if stored else ABSENT)

    def _delete(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            with suppress(ConflictError):
                self._store.delete(entry.key, expected=entry.generation)


def last_of(entries: Iterable[Entry]) -> Entry | None:
    """The last entry of a listing."""
    newest = deque(entries, maxlen=1)
    return newest[0] if newest else None


def _prune_point_key(stream: Stream) -> str:
    # Sorts before every day.
    return f"ledger/{stream.path}/0-removed.json"


def _unpacked(place: Place, body: bytes) -> Iterator[tuple[Place, bytes]]:
    """The receipts of an object: of a pack each, with its place; one that cannot be read as it is.

    A pack that does not hold the numbers of its name is damaged, an empty one too: whoever reads on takes the name for
    what was read, and would otherwise come back to it for ever.
    """
    if not place.is_pack:
        yield place, body
        return
    try:
        lines = receipts.unpack(body)
        numbers = [receipts.from_body(line).sequence for line in lines]
    except DamagedError:
        numbers = []
    if numbers[:1] + numbers[-1:] != [place.first, place.last]:
        yield place, body
        return
    for number, line in zip(numbers, lines, strict=True):
        yield Place(place.day, number, number, is_pack=True), line


def _stands(pair: tuple[Place, Entry], body: bytes) -> bool:
    """Whether a receipt is one, on a line of its own, in its place."""
    try:
        receipt = receipts.from_body(body)
    except UNREADABLE:
        return False
    return receipt.sequence == pair[0].first and body.find(b"\n") == len(body) - 1
