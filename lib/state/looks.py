"""Reconciliation's counts of each day: `looks/<stream>/<yyyy-mm-dd>.json`. They are kept as long as receipts.

An hour counts when one reconciliation has read all of it. Of several counts the largest stays, because a later
reconciliation also sees late events.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lib.errors import ConflictError, DamagedError, KeptError
from lib.model.clock import day_of
from lib.model.lateness import UNKNOWN, bound_of
from lib.model.stream import Stream
from lib.state.codec import Codec
from lib.state.dead_letters import copy_damaged_to_dead
from lib.state.ledger import KEPT
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)

EDGE = timedelta(minutes=5)
"""An hour this close to an end of the read interval does not count: clocks differ, so it may be incomplete."""
HOUR = timedelta(hours=1)
WRITE_TRIES = 3
"""Two runs write the same day only if both reconcile the stream."""


@dataclass(frozen=True, slots=True)
class DayCounts:
    """The counts of one day of one stream."""

    hours: Mapping[str, int] = field(default_factory=dict)
    """Sophos's number of events in each hour (`00` to `23`) that was read completely."""
    late: Mapping[str, int] = field(default_factory=dict)
    """The day's events that only reconciliation found, by lateness."""
    looked_at: datetime | None = None

    @property
    def held(self) -> int | None:
        """Sophos's number of events of the day; None until every hour of it was read completely."""
        return sum(self.hours.values()) if len(self.hours) == 24 else None


DAY_COUNTS = Codec(DayCounts, "a day of reconciliation")


def look_key(stream: Stream, day: str) -> str:
    """The key of a day's counts."""
    return f"looks/{stream.path}/{day}.json"


def day_counts(store: ObjectStore, stream: Stream, day: str) -> DayCounts:
    """The counts of the day. A damaged object is copied to `dead/`. It reads as empty, and so does a newer one."""
    try:
        return _load(store, look_key(stream, day))[0]
    except KeptError as error:
        log.warning("%s: %s", look_key(stream, day), error)
        return DayCounts()


def _load(store: ObjectStore, key: str) -> tuple[DayCounts, int]:
    stored = store.read(key)
    if stored is None:
        return DayCounts(), ABSENT
    try:
        return DAY_COUNTS.decode(stored.body), stored.generation
    except DamagedError as error:
        copy_damaged_to_dead(store, key, stored.body, error)
        return DayCounts(), stored.generation


class HourCounts:
    """The counts of one call's part of a reconciliation."""

    def __init__(self, held: Mapping[str, int] | None) -> None:
        """`held` are the counts of earlier calls of the same reconciliation; None: they did not count."""
        self.held: dict[str, int] | None = None if held is None else dict(held)
        self._late: dict[str, dict[str, int]] = {}

    def see(self, times: Iterable[datetime | None]) -> None:
        """Count a page's items by the hour of their creation."""
        if self.held is not None:
            for moment in filter(None, times):
                name = f"{moment.astimezone(UTC):%Y-%m-%dT%H}"
                self.held[name] = self.held.get(name, 0) + 1

    def restarted(self) -> None:
        """Drop the counts: the reading started again, and some items would count twice."""
        self.held = None

    def miss(self, created_at: datetime | None, now: datetime) -> str:
        """Count an item that was missing in the store; return the name of its lateness."""
        bound = bound_of(now - created_at) if created_at else UNKNOWN
        day = self._late.setdefault(day_of((created_at or now).astimezone(UTC)), {})
        day[bound] = day.get(bound, 0) + 1
        return bound

    def keep(self, store: ObjectStore, stream: Stream, whole: tuple[datetime, datetime] | None, now: datetime) -> None:
        """Write the counts of late events and, with the interval `whole` of a finished reading, the hours in it."""
        hours: dict[str, dict[str, int]] = {}
        if whole is not None and self.held is not None:
            for hour in _hours(*whole):
                hours.setdefault(day_of(hour), {})[f"{hour:%H}"] = self.held.get(f"{hour:%Y-%m-%dT%H}", 0)
        for day in sorted({*hours, *self._late}):
            _merge(store, stream, day, DayCounts(hours.get(day, {}), self._late.get(day, {}), now))
        self._late.clear()


def _hours(start: datetime, end: datetime) -> Iterable[datetime]:
    """The whole hours between the two times, without EDGE at both ends."""
    hour = (start + EDGE).astimezone(UTC).replace(minute=0, second=0, microsecond=0) + HOUR
    while hour + HOUR <= end - EDGE:
        yield hour
        hour += HOUR


def _merge(store: ObjectStore, stream: Stream, day: str, new: DayCounts) -> None:
    key = look_key(stream, day)
    for _ in range(WRITE_TRIES):
        old, generation = _load(store, key)
        late = {bound: old.late.get(bound, 0) + new.late.get(bound, 0) for bound in {*old.late, *new.late}}
        # Lateness adds up, because each late event is found only once. An hour is counted whole each time.
        hours = {hour: max(old.hours.get(hour, 0), new.hours.get(hour, 0)) for hour in {*old.hours, *new.hours}}
        merged = DayCounts(dict(sorted(hours.items())), late, new.looked_at)
        with suppress(ConflictError):
            store.write(key, DAY_COUNTS.encode(merged), expected=generation)
            if generation == ABSENT:  # The first write of a day: old days are looked for once a day, not at each write.
                _expire(store, stream, day)
            return


def _expire(store: ObjectStore, stream: Stream, day: str) -> None:
    oldest = look_key(stream, day_of(datetime.fromisoformat(f"{day}T00:00:00+00:00") - KEPT))
    for entry in store.list(f"looks/{stream.path}/"):
        if entry.key >= oldest:
            return
        with suppress(ConflictError):
            store.delete(entry.key, expected=entry.generation)
