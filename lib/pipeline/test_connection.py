"""test-connection: test each step from DNS to the engine, with a remedy for each failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from lib.errors import ConflictError, ConnectorError, StoreError
from lib.pipeline.checks import CheckContext, Checks, NotNeededError, PartlyOk, Step, Subject
from lib.store.base import ABSENT, ObjectStore

OK = "ok"
WARNING = "warning"
"""What was asked works, but not for every tenant."""
FAILED = "failed"
SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found."""

    name: str
    outcome: str
    detail: str
    ok: bool = field(kw_only=True)
    milliseconds: int = 0
    code: str | None = None
    """Of a failed one and of a warning, as the two that follow."""
    title: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """What all checks found."""

    checks: Sequence[Check]
    tenant: Mapping[str, Any]
    """Whose the credential is."""
    streams: Mapping[str, Mapping[str, Any]]
    """What each kind of stream showed."""

    @property
    def ok(self) -> bool:
        """Whether everything works."""
        return all(check.ok for check in self.checks)


class TestConnection:
    """The use case: checks in the order in which a person would make them."""

    __test__ = False

    def __init__(self, context: CheckContext) -> None:
        self._context = context

    def run(
        self, subject: Subject, *, deadline: float, on_progress: Callable[[Check], None] = lambda _: None
    ) -> ConnectionReport:
        """Every check's outcome; a failed check is an answer, no error.

        `on_progress` hears of each check once it is made. At the deadline (a monotonic time) the answer is what was
        found so far, and what was not reached is listed as such.
        """
        examination = _Examination(Checks(subject, self._context, deadline), self._context.monotonic, on_progress)
        # A thread, since a name server, a disk or a bucket may keep whoever asks it for longer than there is time.
        worker = threading.Thread(target=examination.make, name="test-connection", daemon=True)
        worker.start()
        worker.join(max(0.0, deadline - self._context.monotonic()))
        return examination.answer()


def check_store(store: ObjectStore) -> None:
    """Create an object, replace it, read it and remove it; StoreError where that, or compare-and-set, does not work."""
    key = f"probes/{uuid4()}"
    first = store.write(key, b"first", expected=ABSENT)
    latest = first
    try:
        _has_to_conflict(store, key, ABSENT, "an object that exists was created again")
        latest = store.write(key, b"second", expected=first)
        _has_to_conflict(store, key, first, "an object that had changed was replaced")
        stored = store.read(key)
        if stored is None or (stored.body, stored.generation) != (b"second", latest):
            raise StoreError("what was written to the store could not be read again")
    finally:
        with suppress(ConflictError):
            store.delete(key, expected=latest)


def _has_to_conflict(store: ObjectStore, key: str, generation: int, what: str) -> None:
    try:
        store.write(key, b"stale", expected=generation)
    except ConflictError:
        return
    raise StoreError(
        f"the store does not support compare-and-set: {what}",
        remedy="Use a local disk or Google Cloud Storage. This store ignores generations.",
    )


class _Examination:
    """The making of the checks in a thread, up to when the answer is taken."""

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
        """Of each step that did not succeed, the one that is to blame."""

    def make(self) -> None:
        """Make all checks. What depends on a failed one is listed as not made."""
        try:
            for step in self._steps:
                if self._over:
                    return
                self._note(self._make(step))
        except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
            self._fault = error

    def answer(self) -> ConnectionReport:
        """What was found up to now; nothing is added to it any more."""
        with self._lock:
            self._over = True
        if self._fault is not None:
            raise self._fault
        made = len(self._made)
        for step in self._steps[made : made + 1]:
            remedy = "Try again. If it happens again, this step is slow: check the network and the host behind it."
            detail = "This check did not finish in time."
            self._made.append(Check(step.name, FAILED, detail, ok=False, code="too_slow", remedy=remedy))
        for step in self._steps[made + 1 :]:
            self._made.append(Check(step.name, SKIPPED, "Not started: the time ran out.", ok=False))
        return ConnectionReport(tuple(self._made), self._checks.tenant, self._checks.streams)

    def _make(self, step: Step) -> Check:
        blamed = self._blame.get(step.needs)
        if blamed is not None:
            self._blame[step.name] = blamed
            return Check(step.name, SKIPPED, f"Not tried, since {blamed} failed.", ok=False)
        began = self._monotonic()
        try:
            found = step.make()
            if isinstance(found, PartlyOk):
                check = _of_error(step.name, WARNING, found.detail, found.why)
            else:
                check = Check(step.name, OK, found, ok=True)
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
