"""Log entries of a run: an outage's beginning, a reminder while it lasts, and its end; sums of events every hour."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lib.errors import title_of
from lib.model.health import KINDS, WAITING
from lib.model.text import several

log = logging.getLogger(__name__)

TOLD_EVERY = 1800.0
"""Seconds between two entries about a lasting outage. An outage that returns sooner is not logged again."""
GROWN_AFTER = 60.0
"""Seconds after an entry until a new one may report that the outage concerns twice as many streams."""
FORGOTTEN_AFTER = 6 * 3600.0
"""Seconds after which a stream that no answer names counts as gone."""
SUMMED_UP_EVERY = 3600.0
NAMED = 3
"""How many streams an entry names; the others are counted."""
BUSY = "busy"

Line = Mapping[str, Any]


class ProblemSubject(NamedTuple):
    """The subject of a problem: a stream, an integration (no tenant), or a part of the connector (no integration)."""

    part: str
    """The function that reported the problem, or the part itself."""
    integration: str = ""
    tenant: str = ""
    kind: str = ""


@dataclass(slots=True)
class _Outage:
    since: float
    logged_at: float
    is_logged: bool = False
    detail: str = ""
    remedy: str = ""
    affected: dict[ProblemSubject, float] = field(default_factory=dict)
    """The subjects that have the problem now, with the time of the last report."""
    concerned: dict[ProblemSubject, None] = field(default_factory=dict)
    """All subjects that have or had the problem."""
    logged: int = 0
    """The number of subjects in the last entry."""
    failures: int = 0

    def is_news(self, now: float) -> bool:
        """Whether an entry is due: the first, a reminder, or one about growth. So an outage has few entries an hour."""
        silent = now - self.logged_at
        has_grown = self.is_logged and len(self.concerned) >= 2 * self.logged and silent >= GROWN_AFTER
        return has_grown or silent >= TOLD_EVERY


class Outages:
    """All problems by code; safe between threads."""

    def __init__(
        self, names: Callable[[str], Mapping[str, str]], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`names` returns the names of an integration's tenants by id."""
        self._names = names
        self._monotonic = monotonic
        self._open: dict[str, _Outage] = {}
        self._begun: dict[str, float] = {}
        """The time of the last entry about the beginning of an outage, by code."""
        self.counts: Counter[str] = Counter()
        """Outages that began, by code, logged or not."""
        self._lock = threading.Lock()

    def add_results(self, function: str, lines: Sequence[Line]) -> None:
        """Process an answer's lines, and write the entries that are due."""
        whole = {line["integration"]: not line["tenant"] for line in lines}
        with self._lock:
            # An integration's line replaces those of its streams, and their lines replace the integration's.
            self._leave(
                lambda subject: (
                    subject.part == function
                    and subject.integration in whole
                    and whole[subject.integration] == bool(subject.tenant)
                )
            )
            for line in lines:
                if line["outcome"] != BUSY:
                    subject = ProblemSubject(function, line["integration"], line["tenant"] or "", line["stream"])
                    self._take(subject, line.get("problem"))
            self._write_due()

    def note(self, part: str, problem: Line | None) -> None:
        """Process the problem of a part of the connector, or None; write the entries that are due."""
        with self._lock:
            self._take(ProblemSubject(part), problem)
            self._write_due()

    def _take(self, subject: ProblemSubject, problem: Line | None) -> None:
        code = "" if problem is None else problem["code"]
        if code in WAITING:
            return
        self._leave(lambda other: other == subject)
        if problem is None:
            return
        now = self._monotonic()
        self.counts[code] += code not in self._open
        outage = self._open.setdefault(code, _Outage(now, self._begun.get(code, now - TOLD_EVERY)))
        outage.detail, outage.remedy = problem["detail"], problem["remedy"]
        outage.affected[subject] = now
        outage.concerned[subject] = None
        outage.failures += 1

    def _leave(self, leaves: Callable[[ProblemSubject], bool]) -> None:
        for outage in self._open.values():
            for subject in filter(leaves, [*outage.affected]):
                del outage.affected[subject]

    def _write_due(self) -> None:
        now = self._monotonic()
        for code, outage in [*self._open.items()]:
            outage.affected = {subject: at for subject, at in outage.affected.items() if now - at < FORGOTTEN_AFTER}
            if not outage.affected:
                del self._open[code]
                if outage.is_logged:
                    log.warning("%s", self._end(code, outage, now))
            elif outage.is_news(now):
                log.warning("%s", self._state(code, outage, now))
                self._begun[code] = now if not outage.is_logged else self._begun[code]
                outage.is_logged, outage.logged_at, outage.logged = True, now, len(outage.concerned)

    def _state(self, code: str, outage: _Outage, now: float) -> str:
        concerned = self._described(outage.affected, with_id=not outage.is_logged)
        if outage.is_logged:
            return f"{_title(code)}, for {_length(outage, now)} ({code}): {outage.detail}{concerned}"
        return f"{_title(code)} ({code}): {outage.detail}{concerned}. {outage.remedy}"

    def _end(self, code: str, outage: _Outage, now: float) -> str:
        concerned = self._described(outage.concerned, with_id=False)
        return f"Resolved: {_title(code)} ({code}). It lasted {_length(outage, now)}{concerned}"

    def _described(self, subjects: Iterable[ProblemSubject], *, with_id: bool) -> str:
        """The number of streams, and the names of the first ones; empty for a part of the connector."""
        streams = sorted({subject[1:] for subject in subjects if subject.integration})
        if not streams:
            return ""
        named = [self._named(*stream, with_id=with_id) for stream in streams[:NAMED]]
        if len(streams) > NAMED:
            named.append(f"{len(streams) - NAMED} more")
        return f"; {several(len(streams), 'stream')}: {', '.join(named)}"

    def _named(self, integration: str, tenant: str, kind: str, *, with_id: bool) -> str:
        if not tenant:
            return f"{integration}/{kind}"
        name = self._names(integration).get(tenant)
        shown = tenant if not name else f"{name} ({tenant})" if with_id else name
        return f"{integration}/{shown}/{kind}"


class Summary:
    """Sums of events, logged at the first delivery and then every hour; safe between threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._logged_at: float | None = None
        self._begun = monotonic()
        self._counts: Counter[str] = Counter()
        self._streams: set[ProblemSubject] = set()
        self._lock = threading.Lock()

    def add_results(self, function: str, lines: Sequence[Line]) -> None:
        """Count an answer's lines, and log the sums if they are due."""
        with self._lock:
            for line in lines:
                if function == "fetch-page":
                    self._counts["fetched"] += line["events"]
                    if line["tenant"] and "problem" not in line:
                        self._streams.add(ProblemSubject("", line["integration"], line["tenant"], line["stream"]))
                else:
                    self._counts[line["outcome"]] += line["acked"]
                    self._counts["set_aside"] += line["set_aside"]
            self._write_due()

    def _write_due(self) -> None:
        now, counts = self._monotonic(), self._counts
        is_first = self._logged_at is None and (counts["delivered"] or counts["observed"])
        if not is_first and now - (self._begun if self._logged_at is None else self._logged_at) < SUMMED_UP_EVERY:
            return
        since = self._begun if self._logged_at is None else self._logged_at
        # A connector without fetch-page, or whose first fetch still runs, has fetched nothing that can be counted.
        fetched = f"{several(counts['fetched'], 'event')} fetched from {several(len(self._streams), 'stream')}, "
        log.info(
            "in %s: %s%d acknowledged, %d observed, %s",
            _lasting(now - since),
            fetched if self._streams or counts["fetched"] else "",
            counts["delivered"],
            counts["observed"],
            several(counts["set_aside"], "dead letter"),
        )
        self._logged_at = now
        self._counts.clear()
        self._streams.clear()


def _title(code: str) -> str:
    return KINDS[code].title if code in KINDS else title_of(code)


def _length(outage: _Outage, now: float) -> str:
    return f"{_lasting(now - outage.since)} and {several(outage.failures, 'try', 'tries')}"


def _lasting(seconds: float) -> str:
    """A duration for people, in its two largest units."""
    whole = round(seconds)
    for size, large, small, part in ((86_400, "d", "h", 3_600), (3_600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"
