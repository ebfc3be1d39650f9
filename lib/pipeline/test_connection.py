"""test-connection: test each step from DNS to the engine. Each failure has a remedy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from lib.errors import ConflictError, ConnectorError, StoreError
from lib.pipeline.checks import CheckContext, Checks, CheckStep, CheckSubject, NotNeededError, PartlyOk
from lib.store.base import ABSENT, ObjectStore

OK = "ok"
WARNING = "warning"
"""The check works, but not for every tenant."""
FAILED = "failed"
SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    outcome: str
    detail: str
    ok: bool = field(kw_only=True)
    milliseconds: int = 0
    code: str | None = None
    """Set for a failed check and a warning, like `title` and `remedy`."""
    title: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """The results of all checks."""

    checks: Sequence[Check]
    tenant: Mapping[str, Any]
    """The account that the credential belongs to."""
    streams: Mapping[str, Mapping[str, Any]]
    """The result for each kind of stream."""

    @property
    def ok(self) -> bool:
        """Whether every check is ok."""
        return all(check.ok for check in self.checks)


class TestConnection:
    """The use case: checks in order, from the network to the engine."""

    __test__ = False

    def __init__(self, context: CheckContext) -> None:
        self._context = context

    def run(
        self, subject: CheckSubject, *, deadline: float, on_progress: Callable[[Check], None] = lambda _: None
    ) -> ConnectionReport:
        """Run every check and return the results. A failed check is a result, not an exception.

        `on_progress` is called after each check. At the deadline (a monotonic time) the report contains the results so
        far, and lists the other checks as not finished or not started.
        """
        examination = _Examination(Checks(subject, self._context, deadline), self._context.monotonic, on_progress)
        # In a thread, since a name server, a disk or a bucket may block for longer than the deadline.
        worker = threading.Thread(target=examination.make, name="test-connection", daemon=True)
        worker.start()
        worker.join(max(0.0, deadline - self._context.monotonic()))
        return examination.answer()


def check_store(store: ObjectStore) -> None:
    """Create, replace, read and remove an object; StoreError if any of these, or compare-and-set, does not work."""
    key = f"probes/{uuid4()}"
    first = store.write(key, b"first", expected=ABSENT)
    latest = first
    try:
        _has_to_conflict(store, key, ABSENT, "it let an existing object be created again")
        latest = store.write(key, b"second", expected=first)
        _has_to_conflict(store, key, first, "it let a changed object be replaced by its old generation")
        stored = store.read(key)
        if stored is None or (stored.body, stored.generation) != (b"second", latest):
            raise StoreError("the store did not return the object that was written to it")
    finally:
        with suppress(ConflictError):
            store.delete(key, expected=latest)


def _has_to_conflict(store: ObjectStore, key: str, generation: int, fault: str) -> None:
    try:
        store.write(key, b"stale", expected=generation)
    except ConflictError:
        return
    raise StoreError(
        f"the store does not support compare-and-set: {fault}",
        remedy="Use a local disk or Google Cloud Storage. This store ignores generations.",
    )


class _Examination:
    """Runs the checks in a thread until the report is taken."""

    def __init__(self, checks: Checks, monotonic: Callable[[], float], on_progress: Callable[[Check], None]) -> None:
        self._checks = checks
        self._monotonic = monotonic
        self._on_progress = on_progress
        self._steps = checks.steps()
        self._lock = threading.Lock()
        self._made: list[Check] = []
        self._over = False
        self._fault: BaseException | None = None
        self._blame: dict[str, str] = {}
        """For each step that did not succeed: the failed step that caused it."""

    def make(self) -> None:
        """Run all checks. A check that depends on a failed one is listed as skipped."""
        try:
            for step in self._steps:
                if self._over:
                    return
                self._note(self._make(step))
        except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
            self._fault = error

    def answer(self) -> ConnectionReport:
        """The report of the checks so far. Later results are dropped."""
        with self._lock:
            self._over = True
        if self._fault is not None:
            raise self._fault
        made = len(self._made)
        for step in self._steps[made : made + 1]:
            remedy = "Try again. If it happens again, this step is slow: check the network and the host it connects to."
            detail = "This check did not finish in time."
            self._made.append(Check(step.name, FAILED, detail, ok=False, code="too_slow", remedy=remedy))
        for step in self._steps[made + 1 :]:
            self._made.append(Check(step.name, SKIPPED, "Not started: the time ran out.", ok=False))
        return ConnectionReport(tuple(self._made), self._checks.tenant, self._checks.streams)

    def _make(self, step: CheckStep) -> Check:
        blamed = self._blame.get(step.needs)
        if blamed is not None:
            self._blame[step.name] = blamed
            return Check(step.name, SKIPPED, f"Not tried, because {blamed} failed.", ok=False)
        began = self._monotonic()
        try:
            result = step.make()
            if isinstance(result, PartlyOk):
                check = _of_error(step.name, WARNING, result.detail, result.why)
            else:
                check = Check(step.name, OK, result, ok=True)
        except NotNeededError as reason:
            check = Check(step.name, SKIPPED, str(reason), ok=True)
        except ConnectorError as error:
            self._blame[step.name] = step.name
            check = _of_error(step.name, FAILED, str(error), error)
        return replace(check, milliseconds=round((self._monotonic() - began) * 1000))

    def _note(self, check: Check) -> None:
        with self._lock:
            if self._over:
                return
            self._made.append(check)
        self._on_progress(check)


def _of_error(name: str, outcome: str, detail: str, error: ConnectorError) -> Check:
    is_ok = outcome == WARNING
    return Check(name, outcome, detail, ok=is_ok, code=error.code, title=error.title, remedy=error.remedy)
