"""fetch-page: read the next pages of each stream, and store each page as a batch before the cursor moves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import datetime

from lib.errors import ConflictError, ConnectorError, KeptError, OverBudgetError
from lib.model.checkpoint import Problem, problem_after
from lib.model.rate_policy import Used
from lib.model.stream import ENDPOINTS
from lib.pipeline.in_flight import InFlight
from lib.pipeline.integration import Integration, Target
from lib.pipeline.pending import PendingBytes, PendingLimit
from lib.pipeline.read_result import BUSY, PAUSED, ReadResult, outcome_of
from lib.pipeline.read_stream import ReadBounds, ReadContext, StreamReader
from lib.pipeline.unexpected import unexpected
from lib.state.schedules import ALL_ASKED, Schedules

log = logging.getLogger(__name__)

Job = tuple[Integration, Target]


@dataclass(frozen=True, slots=True)
class CallsUsed:
    """The calls made with an integration's credential since this process started."""

    integration: str
    used: Used
    outcomes: Mapping[str, int]
    """The number of requests by outcome."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of one call."""

    results: list[ReadResult]
    """One for each stream that was polled or that could not be polled."""
    deferred: int = 0
    """The streams left for a later call: their credential has too few calls to poll all streams at once."""
    budgets: Sequence[CallsUsed] = ()
    queued: int | None = None
    """The tasks added to a task queue; None if this call read the streams itself."""
    heartbeat: str | None = None
    """The key of the heartbeat's batch that this tick stored."""


@dataclass(slots=True)
class Plan:
    """The work of one call."""

    jobs: list[Job] = field(default_factory=list)
    results: list[ReadResult] = field(default_factory=list)
    """The results of integrations that cannot be read now."""
    deferred: int = 0
    many: set[str] = field(default_factory=set)
    """The integrations with more streams than one tick always polls (ALL_ASKED)."""


@dataclass(frozen=True, slots=True)
class FetchPage:
    """The use case; safe to call from several threads and processes at once."""

    context: ReadContext
    integrations: Mapping[str, Integration]
    schedules: Schedules
    pending: PendingBytes
    max_pending_bytes: int
    every: Callable[[], float]
    """Seconds between two ticks."""
    in_flight: InFlight = field(default_factory=InFlight)
    workers: int = 8

    def run(
        self,
        *,
        integration: str | None = None,
        tenant: str | None = None,
        kind: str | None = None,
        max_pages: int | None = None,
        deadline: float,
    ) -> Fetched:
        """Fetch for every stream, or for the named ones.

        `deadline` is a monotonic time. No page is requested after it.
        """
        now = self.context.now()
        pending_limit = PendingLimit(self.pending, self.max_pending_bytes, self.context.state.batches)
        bounds = ReadBounds(pending_limit, max_pages, deadline)
        begun: list[Future[ReadResult]] = []
        with ThreadPoolExecutor(self.workers) as pool:

            def begin(job: Job) -> None:
                stream = job[1].stream
                reader = StreamReader(self.context, *job, bounds)
                otherwise = ReadResult.of(stream, outcome=BUSY, is_missed=True)
                begun.append(pool.submit(self.in_flight.alone, stream.path, reader.run, otherwise))

            plan = self.plan(integration=integration, tenant=tenant, kind=kind, deadline=deadline, begin=begin)
        done = [future.result() for future in begun]
        # In the order of the configuration, not in the order of the answers.
        order = list(self.integrations)
        results = sorted([*plan.results, *done], key=lambda result: order.index(result.integration))
        self._note(plan, done, now)
        return Fetched(results, plan.deferred)

    def calls_used(self) -> list[CallsUsed]:
        """Each integration's calls since this process started."""
        return [
            CallsUsed(name, integration.rate_limiter.used(), dict(integration.source.counts))
            for name, integration in self.integrations.items()
        ]

    def plan(
        self,
        *,
        integration: str | None = None,
        tenant: str | None = None,
        kind: str | None = None,
        deadline: float,
        begin: Callable[[Job], None] = lambda _: None,
    ) -> Plan:
        """The streams to poll now: all or the named ones, as far as their credentials have calls left.

        `begin` is called with each stream as soon as it is known, so an integration whose account Sophos is slow to
        return delays no other.
        """
        names = list(self.integrations) if integration is None else [integration]
        plan = Plan()

        def wanted(target: Target) -> bool:
            return tenant in (None, target.stream.tenant) and kind in (None, target.stream.kind)

        with ThreadPoolExecutor(self.workers) as pool:
            futures = {pool.submit(self._targets, self.integrations[name], deadline): name for name in names}
            for future in as_completed(futures):
                name, targets = futures[future], future.result()
                streams = self.integrations[name].settings.streams
                if isinstance(targets, ReadResult):
                    kinds = [stream_kind for stream_kind in streams if kind in (None, stream_kind)]
                    plan.results += [replace(targets, tenant=tenant, kind=stream_kind) for stream_kind in kinds]
                    continue
                try:
                    chosen = self._chosen(self.integrations[name], targets, all_asked=tenant is not None)
                except KeptError as error:
                    # Without the schedule it is not known which streams come first.
                    refused = self._refused(name, error)
                    plan.results += [replace(refused, tenant=tenant, kind=stream_kind) for stream_kind in streams]
                    continue
                jobs = [(self.integrations[name], target) for target in chosen if wanted(target)]
                for job in jobs:
                    begin(job)
                plan.jobs += jobs
                plan.deferred += len(targets) - len(chosen)
                if len(targets) > ALL_ASKED:
                    plan.many.add(name)
        return plan

    def _chosen(self, integration: Integration, targets: list[Target], *, all_asked: bool) -> list[Target]:
        """The streams to poll now: all of them, unless the credential has too few calls left."""
        by_path = {target.stream.path: target for target in targets if target.stream.kind != ENDPOINTS}
        most = integration.rate_limiter.reserve(len(by_path), self.every())
        if all_asked or len(by_path) <= ALL_ASKED:
            return targets
        try:
            chosen = self.schedules.choose(integration.name, list(by_path), most, self.context.now())
        except ConflictError:
            return []  # Another tick has just chosen the streams, and polls them.
        # Inventories come last and use only the calls that remain.
        slow = [target for target in targets if target.stream.kind == ENDPOINTS]
        return [*(by_path[path] for path in chosen), *slow]

    def _note(self, plan: Plan, done: Sequence[ReadResult], began: datetime) -> None:
        """Store from the results which integrations work, and which of their streams brought events."""
        accounts = self.context.accounts
        by_name: dict[str, list[tuple[str, ReadResult]]] = {}
        for (integration, target), result in zip(plan.jobs, done, strict=True):
            by_name.setdefault(integration.name, []).append((target.stream.path, result))
        for name, results in by_name.items():
            if any(result.problem is None and not result.is_missed for _, result in results):
                accounts.worked(name, self.integrations[name].source.in_use, began=began)
            spoke = {path for path, result in results if result.read.events}
            missed = {path for path, result in results if result.is_missed}
            if name in plan.many:
                self.schedules.answered(name, spoke=spoke, missed=missed, now=self.context.now())

    def _targets(self, integration: Integration, deadline: float) -> list[Target] | ReadResult:
        """The integration's streams, or one result for all of them if the integration cannot be read now."""
        name, accounts = integration.name, self.context.accounts
        result = ReadResult(name, None, "")
        try:
            try:
                account = accounts.read(name)
            except KeptError as error:
                return self._refused(name, error)
            if account.paused_at is not None:
                result.outcome = PAUSED
                return result
            held_back = accounts.held_back(integration, account)
            if held_back is not None:
                return _held_back(result, held_back)
            is_changed = accounts.has_changed(integration)
            targets = accounts.targets(integration, deadline=deadline, is_changed=is_changed)
            return [replace(target, is_changed=True) for target in targets] if is_changed else targets
        except OverBudgetError as error:
            result.put_off(error, self.context.now())
        except ConnectorError as error:
            log.debug("integration %s: %s", name, error)
            return _held_back(result, accounts.failed(name, error))
        except Exception as error:  # noqa: BLE001 - logged with its trace; the other integrations' lines stand
            result.fail(unexpected(f"integration {name}", error), self.context.now())
        return result

    def _refused(self, name: str, error: KeptError) -> ReadResult:
        """The result of an integration whose objects cannot be used. The objects are not changed."""
        log.debug("integration %s: %s", name, error)
        return _held_back(ReadResult(name, None, ""), problem_after(None, error, self.context.now(), None))


def _held_back(result: ReadResult, problem: Problem) -> ReadResult:
    result.outcome, result.problem = outcome_of(problem), problem
    return result
