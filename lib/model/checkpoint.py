"""A stream's checkpoint: its cursor, its counters, its recent ids and its current problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.errors import ConnectorError, ThrottledError, title_of
from lib.model.batch import POLL, Header
from lib.model.clock import CLOSE, FARTHEST, to_text

RECENT = 1000
"""How many ids of stored events a checkpoint holds: those of a full page."""
MARK_LENGTH = 8
"""Hex digits of the digest of a recent event's text. A changed text goes unnoticed once in 4 billion changes."""
HORIZON = timedelta(hours=24)
"""Sophos serves nothing older (https://developer.sophos.com/docs/siem-v1)."""
OLDEST_REQUEST = HORIZON - timedelta(minutes=5)
"""The longest look back that is requested. The API answers 400 beyond 24 hours, and clocks differ."""
IDLE_WRITE = timedelta(minutes=15)
"""How old a stored cursor may grow while no event comes. An idle tick writes nothing; an idle hour, four times."""
SPEAKS_FROM = 50
"""A stream with fewer events than this is never called silent: its usual pace is not known yet."""
SILENCE_SECONDS = 3600.0
SILENCE_PACES = 20.0
"""A stream is silent after SILENCE_SECONDS without an event, and after SILENCE_PACES times its usual pace."""
SLOWEST = timedelta(minutes=15)
"""The longest wait between two tries with refused credentials."""
SKEW = timedelta(seconds=15)
"""How far the clocks of two instances may differ."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The failure that holds up a stream or an integration."""

    code: str
    detail: str
    remedy: str
    since: datetime
    failures: int
    retry_at: datetime | None
    """The earliest time of the next try; None: the next tick tries."""
    tried_at: datetime | None = None
    """The time of the last failure; None if an older version wrote the problem."""

    def holds_back(self, now: datetime, *, changed: bool = False) -> bool:
        """Whether it is too early to try again. Only a 429 holds back a credential that was `changed` since.

        A last try in the future means that the clock jumped back. The problem holds nothing back then.
        """
        if changed and self.code != ThrottledError.code:
            return False
        if self.retry_at is None or not now < self.retry_at <= now + 2 * SLOWEST:
            return False
        return self.tried_at is None or self.tried_at <= now + SKEW

    def without_wait(self) -> Problem:
        """The problem without a wait. A wait that Sophos asked for (429) stays."""
        return self if self.code == ThrottledError.code else replace(self, retry_at=None)

    def as_problem(self) -> dict[str, str]:
        """The problem as JSON fields for people."""
        return {
            "code": self.code,
            "title": title_of(self.code),
            "detail": self.detail,
            "remedy": self.remedy,
        }


def problem_after(before: Problem | None, error: ConnectorError, now: datetime, wait: timedelta | None) -> Problem:
    """The problem after one more failure; `wait` is how long to hold back. Failures of one code count on."""
    is_same = before is not None and before.code == error.code
    return Problem(
        code=error.code,
        detail=str(error),
        remedy=error.remedy,
        since=before.since if before and is_same else now,
        failures=before.failures + 1 if before and is_same else 1,
        retry_at=None if wait is None else now + wait,
        tried_at=now,
    )


@dataclass(frozen=True, slots=True)
class Recent:
    """The events stored last, by which duplicates are recognised."""

    keys: tuple[str, ...] = ()
    """At most RECENT."""
    since: datetime | None = None
    """`keys` holds every stored event created after this time; None: it holds every stored event."""
    marks: str = ""
    """MARK_LENGTH digits of the text's digest for each of the last of `keys`; an older version wrote none.

    The marks belong to the end of `keys`: the last mark is that of the last key.
    """

    def remembers(self, created_at: datetime | None, served_at: datetime) -> bool:
        """Whether `keys` alone decides if an event of that time was stored before."""
        if self.since is None:
            return True
        return created_at is not None and self.since < created_at <= newest_believed(served_at)

    def marks_by_key(self) -> dict[str, str]:
        """The marks of the events' texts by key, for the events that have one."""
        marks = [self.marks[at : at + MARK_LENGTH] for at in range(0, len(self.marks), MARK_LENGTH)]
        return dict(zip(reversed(self.keys), reversed(marks), strict=False))

    def after(self, keys: Sequence[str], dropped_until: datetime) -> Recent:
        """With the events of one more batch, and no marks.

        No event of a key that is dropped here is newer than `dropped_until`.
        """
        recent, since = (*self.keys, *keys), self.since
        if len(recent) > RECENT:
            since = _latest(since, dropped_until)
        return Recent(recent[-RECENT:], since)


@dataclass(frozen=True, slots=True)
class NewestEvent:
    """The time of a stream's newest event, and how often events usually come."""

    at: datetime | None = None
    """The newest `created_at` ever stored. Events dated later than `newest_believed` allows do not count."""
    pace_seconds: float | None = None
    """Usual time between the newest events of two batches; None before the second batch."""

    def silent_since(self, read_up_to: datetime | None) -> datetime | None:
        """The time of the newest event if the stream is silent for longer than its pace explains; None otherwise."""
        if self.at is None or self.pace_seconds is None or read_up_to is None:
            return None
        quiet = (read_up_to - self.at).total_seconds()
        return self.at if quiet > max(SILENCE_SECONDS, SILENCE_PACES * self.pace_seconds) else None

    def after(self, newest: datetime | None) -> NewestEvent:
        """With one more batch. The pace is a moving average in which each step counts a tenth."""
        if self.at is None or newest is None or newest <= self.at:
            return replace(self, at=_latest(self.at, newest))
        step = (newest - self.at).total_seconds()
        return NewestEvent(newest, step if self.pace_seconds is None else 0.9 * self.pace_seconds + 0.1 * step)


@dataclass(frozen=True, slots=True)
class Counts:
    """The events of a stream, counted since its beginning."""

    events: int = 0
    repeats: int = 0
    changed: int = 0
    """Repeats of recent events whose text differs from the stored text."""
    other_customers: int = 0
    """Events that named another customer than the stream's tenant."""
    other_customers_at: datetime | None = None
    """The time at which the last of them came."""

    def with_differences(self, changed: int, other_customers: int, now: datetime) -> Counts:
        """With a page's events that have another text, or name another customer, than expected."""
        return replace(
            self,
            changed=self.changed + changed,
            other_customers=self.other_customers + other_customers,
            other_customers_at=now if other_customers else self.other_customers_at,
        )

    def other_customers_lately(self, now: datetime) -> int:
        """The number of events that named another customer, if one came within the last day; otherwise 0."""
        at = self.other_customers_at
        return self.other_customers if at is not None and now - at < HORIZON else 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one stream has been read."""

    sequence: int = 1
    """The number of the stream's next batch."""
    cursor: str | None = None
    batch_cursor: str | None = None
    """The next cursor of the last polled batch."""
    as_of: datetime | None = None
    """Time by Sophos's clock up to which everything has been read. None before the first page."""
    day: str = ""
    recent: Recent = Recent()
    newest: NewestEvent = NewestEvent()
    counts: Counts = Counts()
    edits: int = 0
    """How often the object differed from the one that this program wrote."""
    excluded: tuple[str, ...] | None = None
    """The types that the run of pages under way leaves out; None if the cursor is that of a last page."""
    problem: Problem | None = None

    def silent_since(self, read_up_to: datetime | None) -> datetime | None:
        """The time of the last event if the stream is unusually silent; None otherwise."""
        return self.newest.silent_since(read_up_to) if self.counts.events >= SPEAKS_FROM else None

    def brought_back(self, served_at: datetime, now: datetime) -> Checkpoint:
        """The checkpoint without times in the future, measured by Sophos's time of an answer and this machine's time.

        An older version accepted any time and may have stored such times. If the two clocks agree, no time can lie
        after them. If they differ, only times beyond the accepted limit (FARTHEST) are removed.
        """
        limit = served_at + CLOSE if abs(served_at - now) <= CLOSE else max(served_at, now + FARTHEST)
        newest = max(limit, newest_believed(served_at))
        is_as_of_ahead = self.as_of is not None and self.as_of > limit
        is_event_ahead = self.newest.at is not None and self.newest.at > newest
        is_since_ahead = self.recent.since is not None and self.recent.since > newest
        return replace(
            self,
            as_of=served_at if is_as_of_ahead else self.as_of,
            day="" if self.day > to_text(limit)[:10] else self.day,
            newest=NewestEvent(served_at) if is_event_ahead else self.newest,
            recent=replace(self.recent, since=served_at) if is_since_ahead else self.recent,
        )

    def after(self, header: Header, keys: Sequence[str], newest_dropped: datetime | None) -> Checkpoint:
        """The checkpoint once the batch is stored, without marks.

        `keys` are the keys of its events, in order. `newest_dropped` is the newest time among the events before the
        last RECENT.
        """
        # Only a bound is kept of the keys dropped here: none is newer than the newest event stored before.
        dropped_until = _latest(self.recent.since, self.newest.at, newest_dropped)
        counts = self.counts
        moved = replace(
            self,
            sequence=header.sequence + 1,
            day=header.day,
            recent=self.recent.after(keys, dropped_until or max(header.as_of, header.fetched_at)),
            newest=self.newest.after(header.newest),
            counts=replace(counts, events=counts.events + header.events, repeats=counts.repeats + header.repeats),
            problem=None,
        )
        if header.origin != POLL:
            return moved
        cursor, as_of = header.cursors.next, _latest(self.as_of, header.as_of)
        return replace(moved, cursor=cursor, batch_cursor=cursor, as_of=as_of)

    def idle(self, next_cursor: str | None, as_of: datetime, repeats: int) -> Checkpoint:
        """The checkpoint after a page without a new event."""
        return replace(
            self,
            cursor=next_cursor,
            as_of=_latest(self.as_of, as_of),
            counts=replace(self.counts, repeats=self.counts.repeats + repeats),
            problem=None,
        )


def newest_believed(served_at: datetime) -> datetime:
    """The latest accepted time of an event in an answer. Clocks of computers may run ahead, but not by days."""
    return served_at + HORIZON


def _latest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


def oldest_request(now: datetime, lookback: timedelta) -> datetime:
    """The `from_date` for a look back from now, limited to OLDEST_REQUEST."""
    return now - min(lookback, OLDEST_REQUEST)


def lost_interval(as_of: datetime | None, served_at: datetime) -> tuple[datetime, datetime] | None:
    """The interval that Sophos no longer serves after reading up to `as_of`; None if there is none.

    Both times are by Sophos's clock.
    """
    edge = served_at - HORIZON
    return (as_of, edge) if as_of is not None and as_of < edge else None
