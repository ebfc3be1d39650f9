"""What one call of fetch-page did with one stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from lib.errors import OverBudgetError, ThrottledError, UnexpectedError
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
"""Outcomes of a call that asked Sophos and was answered."""


@dataclass(slots=True)
class ReadResult:
    """What one call did with one stream; also, without a tenant, with an integration that could not be asked."""

    integration: str
    tenant: str | None
    kind: str
    outcome: str = UP_TO_DATE
    pages: int = 0
    events: int = 0
    bytes: int = 0
    """Of the batches."""
    batches: list[str] = field(default_factory=list)
    has_more: bool = False
    changed: int = 0
    """Events that were stored before with another text: they are dropped as repeats."""
    other_customers: int = 0
    """Stored events that name another customer than the tenant."""
    lag_seconds: float | None = None
    reconciled: ReconcileReport | None = None
    problem: Problem | None = None
    error_id: str | None = None
    """Under which the log has the trace of an unexpected failure."""
    retry_at: datetime | None = None
    """When the credential's next call may go, where its calls were used up."""
    is_missed: bool = False
    """Whether the call was over before it came to this stream."""

    @classmethod
    def of(cls, stream: Stream, *, outcome: str = UP_TO_DATE, is_missed: bool = False) -> Self:
        """The result of a stream that nothing was read of as yet."""
        return cls(stream.integration, stream.tenant, stream.kind, outcome, is_missed=is_missed)

    @property
    def next_try(self) -> datetime | None:
        """Before when another call does nothing; None: it may come at once."""
        return self.retry_at or (self.problem.retry_at if self.problem else None)

    @property
    def goes_on(self) -> bool:
        """Whether the stream is asked for more before the next tick."""
        code = None if self.problem is None else self.problem.code
        return goes_on(has_more=self.has_more, outcome=self.outcome, problem_code=code)

    def put_off(self, error: OverBudgetError, now: datetime) -> None:
        """Tell that the credential's calls are used up, and until when; where nothing was read, that is all."""
        wait = timedelta(seconds=error.retry_after or 0.0)
        self.retry_at = now + wait
        if self.pages == 0:
            self.outcome, self.is_missed = RATE_LIMITED, True
            self.problem = problem_after(None, error, now, wait)

    def fail(self, error: UnexpectedError, now: datetime) -> None:
        """Tell of an unexpected failure; what was stored before it counts."""
        self.outcome, self.error_id = FAILED, error.id
        self.problem = problem_after(None, error, now, None)


def goes_on(*, has_more: bool, outcome: str, problem_code: str | None) -> bool:
    """Whether a stream is asked for more before the next tick: it has more, and nothing but the calls ran out."""
    return has_more and (outcome == FETCHED if problem_code is None else problem_code == OverBudgetError.code)


def outcome_of(problem: Problem) -> str:
    """The outcome of a stream, or an integration, that has the problem."""
    return RATE_LIMITED if problem.code == ThrottledError.code else FAILED
