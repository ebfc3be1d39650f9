"""`ledger/`: one receipt for each delivered batch. The receipts of past days are packed, and removed after 90 days.

A damaged receipt or pack stays where it is. Whoever reads it leaves a copy in `dead/`, which `status` names. `audit`
names it too. Somebody reads each one within LOOKED_OVER (`look_over`). Delivery continues, since the key contains all
that the next receipt needs. If a day's receipts are damaged, that day and later days are not removed.

Packing and removing can stop after any step. An object is removed only after its content is written elsewhere. So a
reader may meet a receipt twice, and skips the second one. It never misses one.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby, takewhile

from lib.errors import ConflictError, DamagedError, KeptError, StoreError
from lib.model.batch import POLL, Header
from lib.model.clock import is_turn_of, to_text
from lib.model.receipt import LastReceipt, NotAcknowledged, Receipt
from lib.model.stream import Stream, stream_of
from lib.state import receipts
from lib.state.codec import UNREADABLE, Codec
from lib.state.dead_letters import PREFIX, copy_damaged_to_dead
from lib.state.receipts import receipt_key
from lib.store.base import ABSENT, Entry, ObjectStore

log = logging.getLogger(__name__)

KEPT = timedelta(days=90)
LOOKED_OVER = timedelta(days=7)
"""The time in which `look_over` has read every receipt, called each day or each reconciliation."""
PACKED = 500
"""Receipts in a pack: up to half a million ids, about 10 MB."""
_NAME = re.compile(r".*/(\d{4}-\d\d-\d\d)/(\d{20})(?:-(\d{20})\.jsonl\.gz|\.json)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """The day and the batch numbers in the key of a receipt or a pack."""

    day: str
    first: int
    last: int
    is_pack: bool


Listed = tuple[Place, Entry]
"""A receipt or a pack in a listing."""


def place_of(key: str) -> Place | None:
    """The place in a ledger key; None for a foreign object."""
    match = _NAME.fullmatch(key)
    if match is None:
        return None
    return Place(match[1], int(match[2]), int(match[3] or match[2]), match[3] is not None)


@dataclass(frozen=True, slots=True)
class PrunePoint:
    """The last receipt that was removed because of its age. The chain continues from it."""

    sequence: int
    day: str
    digest: str
    total: int
    next_cursor: str | None


PRUNE_POINT = Codec(PrunePoint, "the ledger's prune point")


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """The keys of stored events, and the UTMStack tenants they were stored for. The keys depend on the tenant."""

    keys: set[str] = field(default_factory=set)
    tenants: set[str] = field(default_factory=set)

    def add(self, keys: Iterable[str], tenant: str) -> None:
        """Add a batch's keys."""
        self.keys.update(keys)
        self.tenants.add(tenant)


class Ledger:
    """A store's receipts."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def tail(self, stream: Stream, begin: LastReceipt) -> LastReceipt:
        """The stream's last receipt, searched from the receipt `begin` on."""
        return self.last(stream, begin)[0]

    def last(
        self, stream: Stream, begin: LastReceipt, *, is_last: bool = False
    ) -> tuple[LastReceipt, str | None, NotAcknowledged]:
        """The stream's last receipt, when its batch was acknowledged (text), and what was never acknowledged so far.

        `is_last`: none follows the receipt `begin`, which saves a listing.
        """
        tail, receipt = self._newest(stream, begin, is_last=is_last)
        if receipt is None:
            return tail, None, self._not_acknowledged(stream) if tail.key else NotAcknowledged()
        if receipt.set_aside_total is None or receipt.observed_total is None:
            return tail, to_text(receipt.acked_at), self._not_acknowledged(stream)
        counted = NotAcknowledged(receipt.set_aside_total, receipt.observed_total)
        return tail, to_text(receipt.acked_at), counted

    def _not_acknowledged(self, stream: Stream) -> NotAcknowledged:
        """The sum over all receipts, for a last receipt of an older version without totals."""
        total = NotAcknowledged()
        for _, receipt, _ in self.receipts(stream):
            if receipt.set_aside_total is not None and receipt.observed_total is not None:
                total = NotAcknowledged(receipt.set_aside_total, receipt.observed_total)
            else:
                total = total.after(receipt.header.events, receipt.set_aside, receipt.outcome)
        return total

    def _newest(self, stream: Stream, begin: LastReceipt, *, is_last: bool) -> tuple[LastReceipt, Receipt | None]:
        newest = None if is_last else last_of(self._store.list(f"ledger/{stream.path}/", after=begin.key))
        key = newest.key if newest else begin.key
        stored = self._store.read(key) if key else None
        if stored is None and begin.key:
            # A run moved that receipt to an earlier day (`_file_earlier`), and crashed before it wrote the lease.
            newest = last_of(self._store.list(f"ledger/{stream.path}/"))
            place = place_of(newest.key) if newest else None
            key = newest.key if newest and place and place.last >= begin.sequence else ""
            stored = self._store.read(key) if key else None
        if stored is None:
            return begin, None
        digest = receipts.digest(stored.body)
        try:
            receipt = receipts.from_body(stored.body)
        except DamagedError as error:
            self._report(key, stored.body, error)
            # The key contains all that delivery needs.
            return LastReceipt(int(key.rpartition("/")[2].partition(".")[0]), key, digest, begin.total), None
        return LastReceipt(receipt.header.sequence, key, digest, receipt.total), receipt

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
        """Write the receipt that follows `tail`, and return the new tail. ConflictError if another run wrote one.

        Only the holder of the stream's lease calls this.
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
            # Before the receipt: its key is of an earlier day, and would sort before the last one's.
            self._file_earlier(header.stream, header.day)
        self._store.write(key, body, expected=ABSENT)
        return LastReceipt(header.sequence, key, receipts.digest(body), tail.total + header.events)

    def _file_earlier(self, stream: Stream, day: str) -> None:
        """Move the receipts of all later days to the day, unchanged. A clock that was ahead filed them too late.

        They are moved in order. Each is written under its new key before the old one is removed. So a crash leaves at
        most one receipt under two keys, and a reader misses none.
        """
        for place, entry in list(self.entries(stream, f"{day}~")):
            stored = self._store.read(entry.key)
            if stored is not None:
                with suppress(ConflictError):
                    moved = entry.key.replace(f"/{place.day}/", f"/{day}/")
                    self._store.write(moved, stored.body, expected=ABSENT)
                self._delete([entry])

    def known_since(self, stream: Stream, day: str) -> StoredKeys:
        """All events with a receipt of the day or later."""
        stored = StoredKeys()
        # Events of a damaged receipt do not count as stored: better a duplicate than a loss.
        for _, receipt, _ in self.receipts(stream, day):
            stored.add(receipt.ids, receipt.header.envelope.tenant_id)
        return stored

    def receipt(self, stream: Stream, place: Place, body: bytes) -> Receipt | None:
        """The receipt in a body of that place; None if it is damaged, which is reported. May raise LayoutError."""
        try:
            return receipts.from_body(body)
        except DamagedError as error:
            self._report(_key_of(stream, place), body, error)
            return None

    def readable(self, stream: Stream, place: Place, body: bytes) -> Receipt | None:
        """As `receipt`; None for a newer layout too."""
        with suppress(KeptError):
            return self.receipt(stream, place, body)
        return None

    def _report(self, key: str, body: bytes, error: DamagedError) -> None:
        """Leave a copy of a damaged object in `dead/`, where `status` finds it without reading the ledger."""
        # A look first: a pack can be large, and it is met again and again.
        is_reported = any(entry.key == PREFIX + key for entry in self._store.list(PREFIX + key))
        try:
            if not is_reported:
                copy_damaged_to_dead(self._store, key, body, error)
        except StoreError as failure:  # The reader goes on: it may only want to look.
            log.warning("%s: %s; no copy is in dead/: %s", key, error, failure)

    def look_over(
        self,
        stream: Stream,
        turn: int,
        turns: int,
        goes_on: Callable[[], bool] = lambda: True,
        entries: Iterable[Listed] | None = None,
    ) -> None:
        """Read the receipts of each `turns`th day, of a listing if given: damage is reported if nobody else looks."""
        for place, entry in self.entries(stream) if entries is None else entries:
            if not is_turn_of(place.day, turn, turns):
                continue
            if not goes_on():
                return
            with suppress(KeptError):
                stored = self._store.read(entry.key)
                for at, body in _unpacked(place, stored.body) if stored else ():
                    self.receipt(stream, at, body)

    def streams(self) -> Iterator[Stream]:
        """Every stream with receipts."""
        return (stream_of(path.removeprefix("ledger/")) for path in self._store.folders("ledger/", 3))

    def bodies(self, stream: Stream, since: str = "", until: str = "") -> Iterator[tuple[Place, bytes]]:
        """Place and bytes of the stream's receipts from the day `since` on, in order. A damaged pack is one item.

        With `until`, nothing of a later day is read.
        """
        done, day, hole = 0, since, 1
        while True:
            for place, entry in self.entries(stream, day):
                if until and place.day > until:
                    return
                if place.last <= done:
                    continue  # It is in a pack already, and was not removed yet.
                is_new_hole = place.first not in (done + 1, hole)
                stored = None if is_new_hole else self._store.read(entry.key)
                if stored is None:
                    # It may have been packed since the listing. A new listing shows the pack, or the same hole again.
                    hole = place.first if is_new_hole else hole
                    break
                for receipt_place, body in _unpacked(place, stored.body):
                    if receipt_place.last > done:
                        yield receipt_place, body
                        done, day = receipt_place.last, receipt_place.day
            else:
                return

    def before(self, stream: Stream, day: str) -> Iterator[tuple[Place, bytes]]:
        """Place and bytes of the receipts before the day, newest first. A damaged pack is one item."""
        below: int | None = None
        while True:
            entries = takewhile(lambda pair: pair[0].day < day, self.entries(stream))
            for place, entry in reversed([pair for pair in entries if below is None or pair[0].first < below]):
                stored = self._store.read(entry.key)
                if stored is None:
                    break  # It was packed since the listing. A new listing shows the pack.
                for receipt_place, body in reversed(list(_unpacked(place, stored.body))):
                    if below is None or receipt_place.last < below:
                        yield receipt_place, body
                        below = receipt_place.first
            else:
                return

    def newest(
        self, stream: Stream, day: str, *, most: int | None = None, written: datetime | None = None
    ) -> list[tuple[Place, bytes]]:
        """The newest receipts of the day or later, in order: at most `most`, in objects written at `written` or later.

        Each with its place. Only these are read, so the cost does not depend on the length of the ledger.
        """
        entries = (pair for pair in self.entries(stream, day) if written is None or pair[1].updated >= written)
        by_number: dict[int, tuple[Place, bytes]] = {}
        for place, entry in deque(entries, maxlen=most):
            stored = self._store.read(entry.key)
            # None: it was packed meanwhile. The next call reads it.
            by_number |= {at.last: (at, body) for at, body in _unpacked(place, stored.body)} if stored else {}
        bodies = [by_number[number] for number in sorted(by_number)]
        return bodies if most is None else bodies[-most:]

    def receipts(self, stream: Stream, since: str = "") -> Iterator[tuple[Place, Receipt, str]]:
        """Place, receipt and digest of the stream's readable receipts from the day `since` on, in order."""
        for place, body in self.bodies(stream, since):
            receipt = self.receipt(stream, place, body)
            if receipt is not None:
                yield place, receipt, receipts.digest(body)

    def prune_point(self, stream: Stream) -> PrunePoint | None:
        """The last removed receipt, which the oldest one follows; None if none was removed. May raise DamagedError."""
        stored = self._store.read(_prune_point_key(stream))
        try:
            return PRUNE_POINT.decode(stored.body) if stored else None
        except DamagedError as error:
            self._report(_prune_point_key(stream), stored.body if stored else b"", error)
            raise

    def tidy(self, stream: Stream, *, closed: str, oldest: str, goes_on: Callable[[], bool]) -> bool:
        """Pack the days before `closed`, remove the days before `oldest`; returns whether it finished.

        Only the holder of the stream's lease calls this, when the last receipt is of the day `closed`. Then no receipt
        is written to an earlier day. After a crash, the next call continues.
        """
        removes = True
        for day, entries in groupby(self.entries(stream), key=lambda pair: pair[0].day):
            if day >= closed:
                break
            of_day = list(entries)
            # After a day that cannot be removed, no later day is: the chain would have a hole.
            removes = removes and day < oldest and self._remove(stream, day, [entry for _, entry in of_day])
            if not removes:
                self._pack(stream, day, of_day)
            if not goes_on():
                return False
        return True

    def entries(self, stream: Stream, since: str = "") -> Iterator[Listed]:
        """The stream's receipts and packs of the day `since` or later, from a listing."""
        prefix = f"ledger/{stream.path}/"
        for entry in self._store.list(prefix, after=prefix + since):
            place = place_of(entry.key)
            if place is not None:
                yield place, entry

    def _pack(self, stream: Stream, day: str, of_day: Sequence[tuple[Place, Entry]]) -> None:
        """Pack a day's receipts. Each pack is written before its receipts are removed."""
        packed = max((place.last for place, _ in of_day if place.is_pack), default=0)
        # A crash between writing a pack and removing its receipts left these.
        self._delete(entry for place, entry in of_day if not place.is_pack and place.last <= packed)
        left = [(place, entry) for place, entry in of_day if place.last > packed]
        for group in (left[at : at + PACKED] for at in range(0, len(left), PACKED)):
            bodies = [stored.body for _, entry in group if (stored := self._store.read(entry.key))]
            if len(bodies) < len(group) or not all(map(partial(self._stands, stream), group, bodies)):
                return  # A receipt is missing or damaged: not packed, so that `audit` reports it.
            key = _key_of(stream, Place(day, group[0][0].first, group[-1][0].last, is_pack=True))
            with suppress(ConflictError):  # Another call wrote it: the name stands for the same bytes.
                self._store.write(key, receipts.pack(bodies), expected=ABSENT)
            self._delete(entry for _, entry in group)

    def _remove(self, stream: Stream, day: str, entries: Sequence[Entry]) -> bool:
        """Remove a day's receipts; False if they cannot be read.

        The prune point is written before the receipts are removed. A crash between the two leaves receipts before the
        prune point; `audit` skips them, and the next call removes them. In the other order a crash would break the
        chain.
        """
        try:
            prune_point = self.prune_point(stream)
            next_cursor = prune_point.next_cursor if prune_point else None
            for place, body in self.bodies(stream, day):
                if place.day != day:
                    break
                receipt = self.receipt(stream, place, body)
                if receipt is None:
                    log.warning("%s: the receipts of %s stay: that of batch %d is damaged", stream, day, place.first)
                    return False
                next_cursor = receipt.header.cursors.next if receipt.header.origin == POLL else next_cursor
                prune_point = PrunePoint(place.last, day, receipts.digest(body), receipt.total, next_cursor)
        except UNREADABLE as error:
            log.warning("%s: the old receipts of %s are not removed: %s", stream, day, error)
            return False
        if prune_point is not None:
            self._keep(stream, prune_point)
        self._delete(entries)
        return True

    def _stands(self, stream: Stream, pair: tuple[Place, Entry], body: bytes) -> bool:
        """Whether the body is a readable receipt on one line, under its own number."""
        try:
            receipt = self.receipt(stream, pair[0], body)
        except KeptError:
            return False
        return receipt is not None and receipt.header.sequence == pair[0].first and body.find(b"\n") == len(body) - 1

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


def _key_of(stream: Stream, place: Place) -> str:
    if not place.is_pack:
        return receipt_key(stream, place.day, place.first)
    return f"ledger/{stream.path}/{place.day}/{place.first:020d}-{place.last:020d}.jsonl.gz"


def _prune_point_key(stream: Stream) -> str:
    # The name sorts before every day's.
    return f"ledger/{stream.path}/0-removed.json"


def _unpacked(place: Place, body: bytes) -> Iterator[tuple[Place, bytes]]:
    """The receipts in an object, with their places. A damaged pack is yielded as one item.

    A pack is damaged if its first and last numbers differ from its name, or if it is empty. A reader continues after
    the last number of the name; without this rule it would read such a pack again and again.
    """
    if not place.is_pack:
        yield place, body
        return
    try:
        lines = receipts.unpack(body)
        numbers = [receipts.sequence_of(line) for line in lines]
    except DamagedError:
        numbers = []
    if numbers[:1] + numbers[-1:] != [place.first, place.last]:
        yield place, body
        return
    for number, line in zip(numbers, lines, strict=True):
        yield Place(place.day, number, number, is_pack=True), line
