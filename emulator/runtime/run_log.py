"""What the log tells of a run: an outage at its beginning, now and then, and at its end; what flows, once an hour."""

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

log = logging.getLogger(__name__)

TOLD_EVERY = 1800.0
"""Seconds between two lines about an outage that lasts; one that comes again sooner is not told anew."""
GROWN_AFTER = 60.0
"""Seconds after which it is told that an outage concerns twice as many as was told before."""
FORGOTTEN_AFTER = 6 * 3600.0
"""Seconds after which a stream that no answer names any more counts as gone."""
SUMMED_UP_EVERY = 3600.0
NAMED = 3
"""How many streams a line names; the others are counted."""
BUSY = "busy"

Line = Mapping[str, Any]


class Subject(NamedTuple):
    """Who has a trouble: a stream; without a tenant an integration; without an integration a part of the connector."""

    part: str
    """The function that told of it, or the part itself."""
    integration: str = ""
    tenant: str = ""
    kind: str = ""


@dataclass(slots=True)
class _Outage:
    since: float
    told_at: float
    is_told: bool = False
    detail: str = ""
    remedy: str = ""
    troubled: dict[Subject, float] = field(default_factory=dict)
    """Who has the trouble now, and when that was heard last."""
    concerned: dict[Subject, None] = field(default_factory=dict)
    """Who has it or had it."""
    told: int = 0
    """How many it concerned when it was told last."""
    failures: int = 0

    def is_news(self, now: float) -> bool:
        """Whether the log has to tell of it; it has at most a few lines an hour."""
        silent = now - self.told_at
        has_grown = self.is_told and len(self.concerned) >= 2 * self.told and silent >= GROWN_AFTER
        return has_grown or silent >= TOLD_EVERY


class Outages:
    """Every trouble by its code; safe between threads."""

    def __init__(
        self, names: Callable[[str], Mapping[str, str]], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`names` tells the names of an integration's tenants by id."""
        self._names = names
        self._monotonic = monotonic
        self._open: dict[str, _Outage] = {}
        self._begun: dict[str, float] = {}
        """When the beginning of an outage of that code was told last."""
        self.counts: Counter[str] = Counter()
        """Outages that began, by code, told or not."""
        self._lock = threading.Lock()

    def hear(self, function: str, lines: Sequence[Line]) -> None:
        """Take in an answer's lines, and log what is new."""
        whole = {line["integration"]: not line["tenant"] for line in lines}
        with self._lock:
            # An integration's line stands for all its streams, and their lines for the integration.
            self._leave(
                lambda who: (
                    who.part == function and who.integration in whole and whole[who.integration] == bool(who.tenant)
                )
            )
            for line in lines:
                if line["outcome"] != BUSY:
                    subject = Subject(function, line["integration"], line["tenant"] or "", line["stream"])
                    self._take(subject, line.get("problem"))
            self._tell()

    def note(self, part: str, problem: Line | None) -> None:
        """Take in the problem of a part of the connector, or that it has none; log what is new."""
        with self._lock:
            self._take(Subject(part), problem)
            self._tell()

    def _take(self, subject: Subject, problem: Line | None) -> None:
        code = "" if problem is None else problem["code"]
        if code in WAITING:
            return
        self._leave(lambda who: who == subject)
        if problem is None:
            return
        now = self._monotonic()
        self.counts[code] += code not in self._open
        outage = self._open.setdefault(code, _Outage(now, self._begun.get(code, now - TOLD_EVERY)))
        outage.detail, outage.remedy = problem["detail"], problem["remedy"]
        outage.troubled[subject] = now
        outage.concerned[subject] = None
        outage.failures += 1

    def _leave(self, leaves: Callable[[Subject], bool]) -> None:
        for outage in self._open.values():
            for subject in filter(leaves, [*outage.troubled]):
                del outage.troubled[subject]

    def _tell(self) -> None:
        now = self._monotonic()
        for code, outage in [*self._open.items()]:
            outage.troubled = {who: at for who, at in outage.troubled.items() if now - at < FORGOTTEN_AFTER}
            if not outage.troubled:
                del self._open[code]
                if outage.is_told:
                    log.warning("%s", self._end(code, outage, now))
            elif outage.is_news(now):
                log.warning("%s", self._state(code, outage, now))
                self._begun[code] = now if not outage.is_told else self._begun[code]
                outage.is_told, outage.told_at, outage.told = True, now, len(outage.concerned)

    def _state(self, code: str, outage: _Outage, now: float) -> str:
        concerned = self._described(outage.troubled, with_id=not outage.is_told)
        if outage.is_told:
            lasts = _lasting(now - outage.since)
            return f"{_title(code)}, for {lasts} and {outage.failures} tries ({code}): {outage.detail}{concerned}"
        return f"{_title(code)} ({code}): {outage.detail}{concerned}. {outage.remedy}"

    def _end(self, code: str, outage: _Outage, now: float) -> str:
        lasted, concerned = _lasting(now - outage.since), self._described(outage.concerned, with_id=False)
        return f"It is over: {_title(code)} ({code}). It lasted {lasted} and {outage.failures} tries{concerned}"

    def _described(self, subjects: Iterable[Subject], *, with_id: bool) -> str:
        """How many streams it concerns, and the first of them by name; a part of the connector says so itself."""
        found = sorted({who[1:] for who in subjects if who.integration})
        if not found:
            return ""
        named = [self._named(*each, with_id=with_id) for each in found[:NAMED]]
        if len(found) > NAMED:
            named.append(f"{len(found) - NAMED} more")
        what = "1 stream" if len(found) == 1 else f"{len(found)} streams"
        return f"; {what}: {', '.join(named)}"

    def _named(self, integration: str, tenant: str, kind: str, *, with_id: bool) -> str:
        if not tenant:
            return f"{integration}/{kind}"
        name = self._names(integration).get(tenant)
        shown = tenant if not name else f"{name} ({tenant})" if with_id else name
        return f"{integration}/{shown}/{kind}"


class Summary:
    """What flowed, told at the first delivery and once an hour; safe between threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told_at: float | None = None
        self._begun = monotonic()
        self._counts: Counter[str] = Counter()
        self._streams: set[Subject] = set()
        self._lock = threading.Lock()

    def hear(self, function: str, lines: Sequence[Line]) -> None:
        """Count an answer's lines, and log the sums where it is time."""
        with self._lock:
            for line in lines:
                if function == "fetch-page":
                    self._counts["fetched"] += line["events"]
                    if line["tenant"] and "problem" not in line:
                        self._streams.add(Subject("", line["integration"], line["tenant"], line["stream"]))
                else:
                    self._counts[line["outcome"]] += line["acked"]
                    self._counts["set_aside"] += line["set_aside"]
            self._tell()

    def _tell(self) -> None:
        now, counts = self._monotonic(), self._counts
        is_first = self._told_at is None and (counts["delivered"] or counts["observed"])
        if not is_first and now - (self._begun if self._told_at is None else self._told_at) < SUMMED_UP_EVERY:
            return
        since = self._begun if self._told_at is None else self._told_at
        log.info(
            "in %s: %d events fetched from %d streams, %d acknowledged, %d observed, %d set aside",
            _lasting(now - since),
            counts["fetched"],
            len(self._streams),
            counts["delivered"],
            counts["observed"],
            counts["set_aside"],
        )
        self._told_at = now
        self._counts.clear()
        self._streams.clear()


def _title(code: str) -> str:
    return KINDS[code].title if code in KINDS else title_of(code)


def _lasting(seconds: float) -> str:
    """A length of time for people, in its two largest units."""
    whole = round(seconds)
    for size, large, small, part in ((86_400, "d", "h", 3_600), (3_600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"
