"""Where a stream stands: its cursor, what it has counted, and what troubles it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.errors import ConnectorError, ThrottledError, title_of
from lib.model.batch import POLL, Header
from lib.model.clock import CLOSE, FARTHEST, to_text

RECENT = 1000
"""How many ids of stored events a position remembers: a full page."""
MARK_LENGTH = 8
"""Hex digits of the digest that tells one text of a recent event from another: one change in 4 billion is missed."""
HORIZON = timedelta(hours=24)
"""Sophos serves nothing older (https://developer.sophos.com/docs/siem-v1)."""
OLDEST_REQUEST = HORIZON - timedelta(minutes=5)
"""The farthest look back that is asked for: the API answers 400 beyond its edge, and clocks differ."""
IDLE_WRITE = timedelta(minutes=15)
"""How old a stored cursor may grow while nothing happens: an idle tick writes nothing, an idle hour four times."""
SPEAKS_FROM = 50
"""Events from which on a stream is known well enough to say that it usually speaks."""
SILENCE_SECONDS = 3600.0
SILENCE_PACES = 20.0
"""A stream is silent after so long without an event, and after so many times its usual pace."""
SLOWEST = timedelta(minutes=15)
"""The longest wait between two tries with refused credentials."""
SKEW = timedelta(seconds=15)
"""How far the clocks of two instances differ."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a stream or an integration does not get on."""

    code: str
    detail: str
    remedy: str
    since: datetime
    failures: int
    retry_at: datetime | None
    """No earlier try; None: with the next tick."""
    tried_at: datetime | None = None
    """When it was met last; None where an older version wrote it."""

    def holds_back(self, now: datetime) -> bool:
        """Whether it is too early to try again. A try in the future is a clock that jumped back: nothing holds then."""
        if self.retry_at is None or not now < self.retry_at <= now + 2 * SLOWEST:
            return False
        return self.tried_at is None or self.tried_at <= now + SKEW

    def lifted(self) -> Problem:
        """The same, to be tried again at once; what Sophos asked for holds."""
        return self if self.code == ThrottledError.code else replace(self, retry_at=None)

    def as_problem(self) -> dict[str, str]:
        """What people are shown."""
        return {
            "code": self.code,
            "title": title_of(self.code),
            "detail": self.detail,
            "remedy": self.remedy,
        }


def problem_after(before: Problem | None, error: ConnectorError, now: datetime, wait: timedelta | None) -> Problem:
    """The trouble after one more failure; `wait` is how long to hold back."""
    same = before is not None and before.code == error.code
    return Problem(
        code=error.code,
        detail=str(error),
        remedy=error.remedy,
        since=before.since if before and same else now,
        failures=before.failures + 1 if before and same else 1,
        retry_at=None if wait is None else now + wait,
        tried_at=now,
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One stream's place in Sophos's feed."""

    sequence: int = 1
    """The number of the stream's next batch."""
    cursor: str | None = None
    batch_cursor: str | None = None
    """The `next_cursor` of the last polled batch."""
    as_of: datetime | None = None
    """By Sophos's clock: everything stored up to then has been read. None before the first page."""
    newest: datetime | None = None
    """The newest `created_at` ever stored, but for events dated later than `newest_believed` allows."""
    recent: tuple[str, ...] = ()
    """Keys of the events stored last, at most RECENT."""
    recent_since: datetime | None = None
    """`recent` holds every stored event created after this; None: every one there is."""
    day: str = ""
    events: int = 0
    repeats: int = 0
    recent_marks: str = ""
    """MARK_LENGTH digits of the text's digest for each of the last of `recent`; an older version wrote none."""
    changed: int = 0
    """Repeats of recent events whose text was another than the one that was stored."""
    other_customers: int = 0
    """Events that named another customer than the stream's tenant."""
    other_customers_at: datetime | None = None
    """When the last of them was met."""
    edits: int = 0
    """How often the object was found to be another than the one that was written."""
    pace_seconds: float | None = None
    """How far apart the newest events of batches usually are; None until there were two batches."""
    excluded: tuple[str, ...] | None = None
    """The types that are left out of the run under way; None where the cursor is that of a last page."""
    problem: Problem | None = None

    def other_customers_lately(self, now: datetime) -> int:
        """The events that named another customer, where one was met within the last day."""
        at = self.other_customers_at
        return self.other_customers if at is not None and now - at < HORIZON else 0

    def silent_since(self, read_up_to: datetime | None) -> datetime | None:
        """Since when a stream that usually speaks has said nothing; None where it speaks, or never spoke much."""
        if self.newest is None or self.pace_seconds is None or read_up_to is None or self.events < SPEAKS_FROM:
            return None
        quiet = (read_up_to - self.newest).total_seconds()
        return self.newest if quiet > max(SILENCE_SECONDS, SILENCE_PACES * self.pace_seconds) else None

    def remembers(self, created_at: datetime | None, served_at: datetime) -> bool:
        """Whether `recent` alone can tell if an event of that time was stored before."""
        if self.recent_since is None:
            return True
        return created_at is not None and self.recent_since < created_at <= newest_believed(served_at)

    def brought_back(self, served_at: datetime, now: datetime) -> Checkpoint:
        """The position without times that lie in the future, by Sophos's time of an answer and this machine's.

        They come from an older version, which believed any. Where the two clocks agree, nothing can lie beyond them;
        where they do not, only what is farther ahead than anything that is believed.
        """
        limit = served_at + CLOSE if abs(served_at - now) <= CLOSE else max(served_at, now + FARTHEST)
        newest = max(limit, newest_believed(served_at))
        is_dated_ahead = self.newest is not None and self.newest > newest
        return replace(
            self,
            as_of=served_at if self.as_of is not None and self.as_of > limit else self.as_of,
            day="" if self.day > to_text(limit)[:10] else self.day,
            newest=served_at if is_dated_ahead else self.newest,
            pace_seconds=None if is_dated_ahead else self.pace_seconds,
            recent_since=served_at
            if self.recent_since is not None and self.recent_since > newest
            else self.recent_since,
        )

    def marks(self) -> dict[str, str]:
        """The marks of the recent events' texts, by key, as far as they are known."""
        known = [self.recent_marks[at : at + MARK_LENGTH] for at in range(0, len(self.recent_marks), MARK_LENGTH)]
        return dict(zip(reversed(self.recent), reversed(known), strict=False))

    def after(
        self, header: Header, keys: Sequence[str], newest_dropped: datetime | None, marks: Sequence[str] = ()
    ) -> Checkpoint:
        """The position once the batch is durable.

        `keys` are those of its events, in order; `newest_dropped` the newest time among those beyond the last RECENT;
        `marks` those of the last RECENT.
        """
        recent = (*self.recent, *keys)
        since = self.recent_since
        if len(recent) > RECENT:
            # Of those forgotten here only a bound is known: none is newer than the newest ever stored before.
            since = _latest(since, self.newest, newest_dropped) or max(header.as_of, header.fetched_at)
        return replace(
            self,
            sequence=header.sequence + 1,
            cursor=header.next_cursor if header.origin == POLL else self.cursor,
            batch_cursor=header.next_cursor if header.origin == POLL else self.batch_cursor,
            as_of=_latest(self.as_of, header.as_of) if header.origin == POLL else self.as_of,
            newest=_latest(self.newest, header.newest),
            recent=recent[-RECENT:],
            recent_marks=(self.recent_marks + "".join(marks))[-RECENT * MARK_LENGTH :] if marks else "",
            recent_since=since,
            day=header.day,
            events=self.events + header.events,
            repeats=self.repeats + header.repeats,
            pace_seconds=_pace(self, header.newest),
            problem=None,
        )

    def idle(self, next_cursor: str | None, as_of: datetime, repeats: int) -> Checkpoint:
        """The position after a page that held nothing new."""
        return replace(
            self,
            cursor=next_cursor,
            as_of=_latest(self.as_of, as_of),
            repeats=self.repeats + repeats,
            problem=None,
        )


def newest_believed(served_at: datetime) -> datetime:
    """The latest time that an event of an answer may have: computers' clocks may run ahead, but not by days."""
    return served_at + HORIZON


def _pace(before: Checkpoint, newest: datetime | None) -> float | None:
    """The pace, with the newest batch's step: each counts a tenth, so that some twenty decide."""
    if before.newest is None or newest is None or newest <= before.newest:
        return before.pace_seconds
    step = (newest - before.newest).total_seconds()
    return step if before.pace_seconds is None else 0.9 * before.pace_seconds + 0.1 * step


def _latest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


def oldest_request(now: datetime, lookback: timedelta) -> datetime:
    """The `from_date` for a look back from now, clamped to what the API allows."""
    return now - min(lookback, OLDEST_REQUEST)


def lost_interval(as_of: datetime | None, served_at: datetime) -> tuple[datetime, datetime] | None:
    """What can no longer be fetched after reading up to `as_of`, at `served_at`; both by Sophos's clock."""
    edge = served_at - HORIZON
    return (as_of, edge) if as_of is not None and as_of < edge else None
