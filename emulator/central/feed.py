"""One tenant's stream of records in order, and its pages."""

from __future__ import annotations

import json
import threading
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from emulator.central.clock import DAY_MS, Clock, from_iso, iso

KINDS = ("events", "alerts")
CursorRule = Literal["query", "newest"]
"""The time in a last page's cursor: that of the query less the offset, or the newest `created_at` in the page."""

_PREFIXES = {"events": "V2_CURSOR", "alerts": "0"}
_SEQUENCE_BITS = 32
_LAST_SEQUENCE = (1 << _SEQUENCE_BITS) - 1
_CURSORS_REMEMBERED = 1000


class Record(NamedTuple):
    """One item of a stream."""

    created: int
    """`created_at` in Unix milliseconds; it determines the order."""
    id: str | None
    type: str
    raw: bytes


def record_of(raw: bytes, now: Callable[[], int]) -> Record:
    """A record from any JSON value; without a usable `created_at` it gets the time of `now`. ValueError: not JSON."""
    value = json.loads(raw)
    fields = value if isinstance(value, dict) else {}
    try:
        created = from_iso(fields["created_at"])
    except (KeyError, TypeError, ValueError):
        created = now()
    native = fields.get("id")
    return Record(created, native if isinstance(native, str) else None, str(fields.get("type", "")), raw)


@dataclass(frozen=True, slots=True)
class FeedQuery:
    """The parameters of a request for a page."""

    now: int
    """Unix milliseconds."""
    limit: int
    cursor: str | None = None
    from_ms: int | None = None
    offset_ms: int = 0
    excluded: frozenset[str] = frozenset()
    cursor_rule: CursorRule = "query"
    twist: str | None = None
    """A page fault of `emulator.central.faults`."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """One page of an answer."""

    raws: list[bytes]
    next_cursor: str
    has_more: bool

    def encode(self) -> bytes:
        """The answer's body: exactly the three keys of the SIEM API."""
        more = b"true" if self.has_more else b"false"
        head = b'{"has_more": %s, "next_cursor": "%s", "items": [' % (more, self.next_cursor.encode())
        return b"".join((head, b",".join(self.raws), b"]}"))


class Feed:
    """One stream's records, ordered by `created_at` and then by arrival. Safe to use from many threads."""

    def __init__(self, kind: str, clock: Clock, keep: Callable[[Record], None] | None = None) -> None:
        """`keep` is called with each record before a request can read it."""
        self.kind = kind
        self._clock = clock
        self._keep = keep
        self._lock = threading.Lock()
        self._keys: list[int] = []
        self._records: list[Record] = []
        self._arrivals = 0
        self._answered_until = 0
        self._issued: dict[str, None] = {}
        self._expired: set[str] = set()

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> list[Record]:
        """All records in order."""
        with self._lock:
            return list(self._records)

    def add(self, records: Iterable[Record]) -> None:
        """Store each record at its own `created`, in the past or in the future."""
        with self._lock:
            for record in records:
                self._add(record)

    def add_raw(self, raw: bytes) -> Record:
        """Store a JSON value at its `created_at`, or now if it has none; ValueError if it is not JSON."""
        with self._lock:
            record = record_of(raw, self._present)
            self._add(record)
            return record

    def add_now(self, make: Callable[[int], Record | None], *, earliest: int = 0) -> None:
        """Store the record that `make` returns for the present time, or for `earliest` if that is later.

        The time is after every answered query, so that the record never lies before a cursor.
        """
        with self._lock:
            record = make(self._present(earliest))
            if record is not None:
                self._add(record)

    def behind(self, seconds: float) -> int:
        """The time (Unix milliseconds) so many seconds before the newest answered query, or before now."""
        with self._lock:
            return (self._answered_until or self._clock.now()) - int(seconds * 1000)

    def drop_before(self, ms: int) -> None:
        """Remove records created before `ms` (Unix milliseconds)."""
        with self._lock:
            index = bisect_right(self._keys, _before(ms))
            del self._keys[:index], self._records[:index]

    def expire_cursors(self) -> None:
        """Treat all cursors issued so far (the newest thousand) as older than 24 hours."""
        with self._lock:
            self._expired.update(self._issued)
            self._issued.clear()

    def page(self, query: FeedQuery) -> FeedPage:
        """The next page; ValueError if the cursor does not belong to this kind of stream."""
        until = query.now - query.offset_ms
        with self._lock:
            start = self._start(query)
            self._answered_until = max(self._answered_until, until)
            low = bisect_right(self._keys, start)
            high = bisect_right(self._keys, _after(until))
            if query.twist == "repeat":
                low = max(low - 1, 0)
            chosen, has_more = self._choose(low, high, query)
            page = self._page(chosen, start, query, has_more=has_more)
            self._issue(page.next_cursor)
            return page

    def _present(self, earliest: int = 0) -> int:
        return self._clock.at_least(max(self._answered_until + 1, earliest))

    def restore(self, record: Record) -> None:
        """Store a record from the journal; it is not kept again."""
        with self._lock:
            self._place(record)

    def _add(self, record: Record) -> None:
        if self._keep is not None:
            self._keep(record)
        self._place(record)

    def _place(self, record: Record) -> None:
        self._arrivals += 1
        key = (record.created << _SEQUENCE_BITS) | self._arrivals
        index = len(self._keys) if not self._keys or key > self._keys[-1] else bisect_right(self._keys, key)
        self._keys.insert(index, key)
        self._records.insert(index, record)

    def _start(self, query: FeedQuery) -> int:
        """The key after which the page begins."""
        floor = _before(query.now - DAY_MS)
        if query.cursor is not None:
            key = _decode(self.kind, query.cursor)
            return floor if query.cursor in self._expired else max(key, floor)
        return floor if query.from_ms is None else max(_before(query.from_ms), floor)

    def _choose(self, low: int, high: int, query: FeedQuery) -> tuple[list[int], bool]:
        """The indexes of the page's records, and whether more records follow."""
        if not query.excluded:
            end = min(low + query.limit, high)
            return list(range(low, end)), end < high
        chosen: list[int] = []
        for index in range(low, high):
            if self._records[index].type not in query.excluded:
                if len(chosen) == query.limit:
                    return chosen, True
                chosen.append(index)
        return chosen, False

    def _page(self, chosen: list[int], start: int, query: FeedQuery, *, has_more: bool) -> FeedPage:
        last = self._keys[chosen[-1]] if chosen else start
        if has_more:
            cursor = _mid_run(self.kind, last)
        else:
            newest = query.cursor_rule == "newest"
            cursor = _last_page(self.kind, last >> _SEQUENCE_BITS if newest else query.now - query.offset_ms)
        page = FeedPage([self._records[index].raw for index in chosen], cursor, has_more)
        match query.twist:
            case "same_cursor" if query.cursor is not None:
                return replace(page, next_cursor=query.cursor, has_more=True)
            case "empty_page":
                # The cursor has another text for the same place: it moved, although the page is empty.
                return FeedPage([], _mid_run(self.kind, start, tail=f".{len(self._issued)}"), has_more=True)
            case "two_cursors":
                first, second = (_mid_run(self.kind, start, tail=tail) for tail in (".a", ".b"))
                return FeedPage([], second if query.cursor == first else first, has_more=True)
            case "unsorted":
                return replace(page, raws=page.raws[::-1])
        return page

    def _issue(self, cursor: str) -> None:
        self._expired.discard(cursor)
        self._issued[cursor] = None
        if len(self._issued) > _CURSORS_REMEMBERED:
            del self._issued[next(iter(self._issued))]


def _before(ms: int) -> int:
    return (ms << _SEQUENCE_BITS) - 1


def _after(ms: int) -> int:
    return (ms << _SEQUENCE_BITS) | _LAST_SEQUENCE


def _last_page(kind: str, ms: int) -> str:
    return b64encode(f"{_PREFIXES[kind]}|{iso(ms)}".encode()).decode()


def _mid_run(kind: str, key: int, tail: str = "") -> str:
    text = f"{_PREFIXES[kind]}|{iso(key >> _SEQUENCE_BITS)}|{key & _LAST_SEQUENCE:x}{tail}"
    return b64encode(text.encode()).decode()


def _decode(kind: str, cursor: str) -> int:
    """The key in a cursor; ValueError if it is malformed or of the other kind."""
    prefix, time, *rest = b64decode(cursor, validate=True).decode("ascii").split("|")
    if prefix != _PREFIXES[kind] or len(rest) > 1:
        raise ValueError("not a cursor of this stream")
    ms = from_iso(time)
    return (ms << _SEQUENCE_BITS) | int(rest[0].partition(".")[0], 16) if rest else _after(ms)
