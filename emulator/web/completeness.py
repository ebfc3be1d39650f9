"""The last 90 days, each with a word and its numbers: the statement of `attest`, counted when the day is over.

The counts are stored below `charts/completeness/`. They can be counted again from the ledger.
A day is final when reconciliation no longer reads it and none of its batches waits.
A final day is counted again only if a gap that touches it has appeared or changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from emulator.web.background import folder, work
from emulator.web.chart_objects import read_object
from emulator.web.charts import DAY, day_name
from emulator.web.counted_days import COUNTED_DAY, FIRST_DAY, CountedDay, ProposedSetting
from emulator.web.history import PREFIX as CHARTS
from emulator.web.status import RecordedGap
from lib.errors import ConnectorError, KeptError
from lib.model.stream import Stream
from lib.state.gaps import CURSOR_EXPIRED
from lib.store.base import ABSENT, Entry, ObjectStore

log = logging.getLogger(__name__)

PREFIX = f"{CHARTS}completeness/"
FIRST = "first"
"""The name of the object with the ledger's first day."""
DAYS = 90
COUNT_SECONDS = 1800.0
LIST_SECONDS = 30.0
"""Shortest time between two listings of the store."""
AGAIN_SECONDS = 3600.0
"""Time until a day that is not final is counted again, and until a failed count is tried again."""
NEVER = "9999"
"""A day after all others: no day counts until the first one is known."""
WORDS = {
    "whole": "whole",
    "gap": "gap",
    "letters": "dead letters",
    "fault": "ledger fault",
    "waiting": "waiting",
    "observed": "observed only",
    "unread": "not read to the end",
    "nothing": "no event",
    "removed": "removed",
    "unknown": "not counted",
    "today": "under way",
}
PHRASES = WORDS | {
    "gap": "with a gap",
    "letters": "with dead letters",
    "fault": "with a ledger fault",
    "unknown": "not counted yet",
}
"""The words in a sentence, after a number of days."""
LOOKS = {
    "whole": "ok",
    "gap": "failing",
    "letters": "attention",
    "fault": "failing",
    "waiting": "attention",
    "unread": "attention",
}
"""The colour of each kind; any other kind has the colour of `waiting`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One day of the view."""

    day: str
    kind: str

    @property
    def word(self) -> str:
        """The word for the day's kind."""
        return WORDS[self.kind]

    @property
    def look(self) -> str:
        """The CSS class of its colour."""
        return LOOKS.get(self.kind, "waiting")

    @property
    def title(self) -> str:
        """The day, as people write it."""
        return f"{datetime.fromisoformat(self.day):%-d %b}"


class Completeness:
    """The counted days, and the thread that counts the others."""

    def __init__(
        self,
        store: Callable[[], ObjectStore],
        gaps: Callable[[], Mapping[Stream, Sequence[RecordedGap]]],
        known_since: Callable[[], float | None],
        env: Mapping[str, str],
    ) -> None:
        """`gaps`: the recorded gaps. `known_since`: the time from which there is data (Unix time), when it is known.
        `env`: the environment with which another process finds the configuration.
        """
        self._store = store
        self._gaps = gaps
        self._known_since = known_since
        self._env = env
        self._lock = threading.Lock()
        self._read: dict[str, tuple[int, CountedDay]] = {}
        self._newer: set[str] = set()
        """Days that a newer version counted. This one neither reads them nor counts them again."""
        self._first: str | None = None
        """The ledger's first day; None: not known yet."""
        self._listed_at = -LIST_SECONDS
        self._failed_at = -AGAIN_SECONDS
        self._counting: threading.Thread | None = None
        self.progress = ""
        """The progress of the counting; empty while none runs."""

    def cells(self, *, count: bool = False) -> list[Cell]:
        """The last days, oldest first, from the first known day on. `count`: start to count the missing ones."""
        now = datetime.now(UTC)
        gaps = gaps_by_day(self._gaps())
        self._refresh()
        days = [day_name(now.timestamp() - back * DAY) for back in range(DAYS - 1, -1, -1)]
        began = [day for day in days[:-1] if day >= self._first_day() or day in gaps]
        missing = [day for day in reversed(began) if self._is_missing(day, gaps.get(day, ""), now)]
        if count and missing:
            self._count([{"day": day, "gaps": gaps.get(day, "")} for day in missing])
        first = min([*began, days[-1]])
        kinds = dict.fromkeys(began, "unknown") | {day: counted.kind for day, (_, counted) in self._read.items()}
        return [*(Cell(day, kinds.get(day, "nothing")) for day in days[:-1] if day >= first), Cell(days[-1], "today")]

    def day(self, day: str) -> CountedDay | None:
        """The counts of the day; None if it is not counted yet."""
        self._refresh()
        return self._read[day][1] if day in self._read else None

    def proposals(self) -> tuple[str, Sequence[ProposedSetting]]:
        """The newest day with proposals, and the proposals; both empty if there is none."""
        for day in sorted(self._read, reverse=True):
            proposals = self._read[day][1].proposals
            if proposals is not None:
                return day, proposals
        return "", []

    def _is_missing(self, day: str, gaps: str, now: datetime) -> bool:
        if day not in self._read:
            return day not in self._newer
        counted = self._read[day][1]
        age = (now - counted.made_at).total_seconds()
        return counted.gaps != gaps or (not counted.final and age > AGAIN_SECONDS)

    def _first_day(self) -> str:
        """The first day of the ledger. Earlier days are not missing: they have nothing to count."""
        since = self._known_since()
        return self._first or (NEVER if since is None else day_name(since))

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._listed_at < LIST_SECONDS:
                return
            self._listed_at = time.monotonic()
            store = self._store()
            for entry in store.list(PREFIX):
                day = entry.key.removeprefix(PREFIX).removesuffix(".json")
                if self._read.get(day, (ABSENT,))[0] != entry.generation:
                    self._read_day(store, day, entry)

    def _read_day(self, store: ObjectStore, day: str, entry: Entry) -> None:
        try:
            if day == FIRST:
                first = read_object(store, entry.key, FIRST_DAY.decode)
                self._first = first.day if first else None
            elif (counted := read_object(store, entry.key, COUNTED_DAY.decode)) is not None:
                self._read[day] = (entry.generation, counted)
        except KeptError:
            self._newer.add(day)

    def _count(self, days: Sequence[Mapping[str, str]]) -> None:
        with self._lock:
            is_due = time.monotonic() - self._failed_at > AGAIN_SECONDS
            if (self._counting and self._counting.is_alive()) or not is_due:
                return
            self.progress = "Counting"
            self._counting = threading.Thread(target=self._run, args=(days,), name="completeness", daemon=True)
            self._counting.start()

    def _run(self, days: Sequence[Mapping[str, str]]) -> None:
        def on_progress(text: str) -> None:
            self.progress = text
            self._listed_at = -LIST_SECONDS

        try:
            with folder() as place:
                work(place, {"work": "attest", "days": days}, self._env, seconds=COUNT_SECONDS, on_progress=on_progress)
        except ConnectorError as error:
            self._failed_at = time.monotonic()
            log.warning("the days cannot be counted: %s", error)
        finally:
            self._listed_at = -LIST_SECONDS
            self.progress = ""


def gaps_by_day(gaps: Mapping[Stream, Sequence[RecordedGap]]) -> dict[str, str]:
    """A digest of the gaps of each day: the days of the missing interval, or the day on which the loss was noticed."""
    touched: dict[str, list[str]] = {}
    for gap in (recorded.gap for of_stream in gaps.values() for recorded in of_stream):
        is_interval = gap.reason == CURSOR_EXPIRED and gap.start and gap.end
        bounds = (gap.start, gap.end) if is_interval else (gap.noticed_at, gap.noticed_at)
        at, end = (bound.timestamp() for bound in bounds if bound)
        for number in range(int(at // DAY), min(int(end // DAY), int(at // DAY) + 2 * DAYS) + 1):
            touched.setdefault(day_name(number * DAY), []).append(f"{gap.key} {gap.estimated}")
    return {day: sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16] for day, keys in touched.items()}


def in_words(cells: Sequence[Cell]) -> str:
    """The days in one sentence."""
    counts = Counter(cell.kind for cell in cells)
    counts.pop("today", None)
    phrases = [f"{counts[kind]} {PHRASES[kind]}" for kind in WORDS if counts[kind] and kind != "nothing"]
    if not phrases:
        return "No complete day with events yet"
    return f"Of the last {DAYS} days: {', '.join(phrases)}"
