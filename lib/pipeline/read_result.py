"""The result of one fetch-page call for one stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from lib.errors import OverBudgetError, ThrottledError, UnexpectedError
from lib.model.batch import Header
from lib.model.checkpoint import Problem, problem_after
from lib.model.stream import Stream
from lib.pipeline.reconcile import ReconcileReport

FETCHED = "fetched"
UP_TO_DATE = "up_to_date"
RATE_LIMITED = "rate_limited"
BUSY = "busy"
PAUSED = "paused"
FAILED = "failed"
THAT_READ = (FETCHED, UP_TO_DATE)
"""The outcomes after an answer from Sophos."""


@dataclass(slots=True)
class PagesRead:
    """The pages that one call read of one stream, and what was new in them."""

    pages: int = 0
    events: int = 0
    bytes: int = 0
    """The size of the stored batches."""
    batches: list[str] = field(default_factory=list)
    changed: int = 0
    """Events dropped as duplicates although the text of the stored event differs."""
    other_customers: int = 0
    """Stored events whose customer id differs from the tenant's."""
    total: int | None = None
    """All events of the stream that were stored so far; None: this call stored none."""

    def add(self, header: Header, size: int, total: int) -> None:
        """Count a stored batch. `total`: all events of the stream with it."""
        self.events += header.count
        self.total = total
        self.bytes += size
        self.batches.append(header.key)


@dataclass(slots=True)
class ReadResult:
    """The result of one call for one stream. Without a tenant: the result for an integration that cannot be read."""

    integration: str
    tenant: str | None
    kind: str
    outcome: str = UP_TO_DATE
    read: PagesRead = field(default_factory=PagesRead)
    has_more: bool = False
    lag_seconds: float | None = None
    reconciled: ReconcileReport | None = None
    problem: Problem | None = None
    error_id: str | None = None
    """The id in the log with the stack trace of an unexpected error."""
    retry_at: datetime | None = None
    """The time of the credential's next call, if its calls are used up."""
    is_missed: bool = False
    """Whether the call ended before it polled this stream."""

    @classmethod
    def of(cls, stream: Stream, *, outcome: str = UP_TO_DATE, is_missed: bool = False) -> Self:
        """The result of a stream before anything is read."""
        return cls(stream.integration, stream.tenant, stream.kind, outcome, is_missed=is_missed)

    @property
    def next_try(self) -> datetime | None:
        """The earliest time at which another call does anything; None: now."""
        return self.retry_at or (self.problem.retry_at if self.problem else None)

    @property
    def goes_on(self) -> bool:
        """Whether the stream is polled again before the next tick."""
        code = None if self.problem is None else self.problem.code
        return goes_on(has_more=self.has_more, outcome=self.outcome, problem_code=code)

    def put_off(self, error: OverBudgetError, now: datetime) -> None:
        """Record that the credential's calls are used up, and until when. It is a problem only if nothing was read."""
        wait = timedelta(seconds=error.retry_after or 0.0)
        self.retry_at = now + wait
        if self.read.pages == 0:
            self.outcome, self.is_missed = RATE_LIMITED, True
            self.problem = problem_after(None, error, now, wait)

    def fail(self, error: UnexpectedError, now: datetime) -> None:
        """Record an unexpected error. The batches stored before it still count."""
        self.outcome, self.error_id = FAILED, error.id
        self.problem = problem_after(None, error, now, None)


def goes_on(*, has_more: bool, outcome: str, problem_code: str | None) -> bool:
    """Whether a stream is polled again before the next tick: it has more pages, and no problem except used-up calls."""
    return has_more and (outcome == FETCHED if problem_code is None else problem_code == OverBudgetError.code)


def outcome_of(problem: Problem) -> str:
    """The outcome of a stream or an integration with the problem."""
    return RATE_LIMITED if problem.code == ThrottledError.code else FAILED
