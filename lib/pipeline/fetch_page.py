"""fetch-page: ask Sophos for the next pages of each stream, and make each page durable before the cursor moves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

from lib.errors import ConflictError, ConnectorError, LayoutError, OverBudgetError
from lib.model.checkpoint import Problem, problem_after
from lib.model.rate_policy import Used
from lib.model.stream import ENDPOINTS
from lib.pipeline.in_flight import InFlight
from lib.pipeline.integration import Integration, Target
from lib.pipeline.pending import PendingBytes, Room
from lib.pipeline.read_result import BUSY, PAUSED, ReadResult, outcome_of
from lib.pipeline.read_stream import ReadBounds, ReadContext, StreamReader
from lib.pipeline.unexpected import unexpected
from lib.state.schedules import ALL_ASKED, Schedules

log = logging.getLogger(__name__)

Job = tuple[Integration, Target]


@dataclass(frozen=True, slots=True)
class CallsUsed:
    """What an integration's credential was used for up to now."""

    integration: str
    used: Used
    outcomes: Mapping[str, int]
    """Requests by outcome."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one call did."""

    results: list[ReadResult]
    """One a stream that was asked, or that cannot be."""
    deferred: int = 0
    """Streams that have to wait for a later call: their credential has not calls enough to ask all at once."""
    budgets: Sequence[CallsUsed] = ()
    queued: int | None = None
    """Calls that a task queue was asked for; None: this call did the work itself."""
    heartbeat: str | None = None
    """The batch of a heartbeat that a tick made."""


@dataclass(slots=True)
class Plan:
    """What one call has to do."""

    jobs: list[Job] = field(default_factory=list)
    results: list[ReadResult] = field(default_factory=list)
    """Of integrations that cannot be asked just now."""
    deferred: int = 0
    many: set[str] = field(default_factory=set)
    """The integrations that have more streams than are all asked at each tick."""


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
        """Fetch for every stream, or for those named.

        `deadline` is a monotonic time: no page is begun after it.
        """
        room = Room(self.pending, self.max_pending_bytes, self.context.state.batches)
        bounds = ReadBounds(room, max_pages, deadline)
        begun: list[Future[ReadResult]] = []
        with ThreadPoolExecutor(self.workers) as pool:

            def begin(job: Job) -> None:
                stream = job[1].stream
                reader = StreamReader(self.context, *job, bounds)
                otherwise = ReadResult.of(stream, outcome=BUSY, is_missed=True)
                begun.append(pool.submit(self.in_flight.alone, stream.path, reader.run, otherwise))

            plan = self.plan(integration=integration, tenant=tenant, kind=kind, deadline=deadline, begin=begin)
        done = [each.result() for each in begun]
        # The integration that answered first is no order for people.
        order = list(self.integrations)
        results = sorted([*plan.results, *done], key=lambda result: order.index(result.integration))
        self._note(plan, done)
        return Fetched(results, plan.deferred)

    def calls_used(self) -> list[CallsUsed]:
        """What each integration's credential was used for up to now."""
        return [
            CallsUsed(name, each.rate_limiter.used(), dict(each.source.counts))
            for name, each in self.integrations.items()
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
        """Which streams to ask now: all of them or those named, as far as their credentials have calls for them.

        `begin` hears of each at once: an integration of which Sophos tells nothing until the deadline delays no other.
        """
        names = list(self.integrations) if integration is None else [integration]
        plan = Plan()

        def wanted(target: Target) -> bool:
            return tenant in (None, target.stream.tenant) and kind in (None, target.stream.kind)

        with ThreadPoolExecutor(self.workers) as pool:
            asked = {pool.submit(self._targets, self.integrations[name], deadline): name for name in names}
            for answered in as_completed(asked):
                name, found = asked[answered], answered.result()
                if isinstance(found, ReadResult):
                    kinds = [each for each in self.integrations[name].settings.streams if kind in (None, each)]
                    plan.results += [replace(found, tenant=tenant, kind=each) for each in kinds]
                    continue
                try:
                    chosen = self._chosen(self.integrations[name], found, all_asked=tenant is not None)
                except LayoutError as error:
                    # Of its schedule: this version cannot tell which streams come first.
                    refused = self._refused(name, error)
                    plan.results += [
                        replace(refused, tenant=tenant, kind=each) for each in self.integrations[name].settings.streams
                    ]
                    continue
                jobs = [(self.integrations[name], target) for target in chosen if wanted(target)]
                for job in jobs:
                    begin(job)
                plan.jobs += jobs
                plan.deferred += len(found) - len(chosen)
                if len(found) > ALL_ASKED:
                    plan.many.add(name)
        return plan

    def _chosen(self, integration: Integration, targets: list[Target], *, all_asked: bool) -> list[Target]:
        """The streams to ask now: all of them, unless the credential has not calls enough."""
        by_path = {target.stream.path: target for target in targets if target.stream.kind != ENDPOINTS}
        most = integration.rate_limiter.reserve(len(by_path), self.every())
        if all_asked or len(by_path) <= ALL_ASKED:
            return targets
        try:
            chosen = self.schedules.choose(integration.name, list(by_path), most, self.context.now())
        except ConflictError:
            return []  # Another tick has just chosen.
        # Inventories come last, and take only what calls are left.
        slow = [target for target in targets if target.stream.kind == ENDPOINTS]
        return [*(by_path[path] for path in chosen), *slow]

    def _note(self, plan: Plan, done: Sequence[ReadResult]) -> None:
        """Keep what the results tell of integrations: that they work, and which of their streams speak."""
        accounts = self.context.accounts
        by_name: dict[str, list[tuple[str, ReadResult]]] = {}
        for (integration, target), result in zip(plan.jobs, done, strict=True):
            by_name.setdefault(integration.name, []).append((target.stream.path, result))
        for name, results in by_name.items():
            if any(result.problem is None and not result.is_missed for _, result in results):
                accounts.worked(name, self.integrations[name].source.in_use)
            spoke = {path for path, result in results if result.events}
            missed = {path for path, result in results if result.is_missed}
            if name in plan.many:
                self.schedules.answered(name, spoke=spoke, missed=missed, now=self.context.now())

    def _targets(self, integration: Integration, deadline: float) -> list[Target] | ReadResult:
        """The integration's streams, or what is said of all of them at once."""
        name, accounts = integration.name, self.context.accounts
        result = ReadResult(name, None, "")
        try:
            try:
                account = accounts.read(name)
            except LayoutError as error:
                return self._refused(name, error)
            if account.paused_at is not None:
                result.outcome = PAUSED
                return result
            held_back = accounts.held_back(integration, account)
            if held_back is not None:
                return _held_back(result, held_back)
            return accounts.targets(integration, deadline=deadline)
        except OverBudgetError as error:
            result.put_off(error, self.context.now())
        except ConnectorError as error:
            log.debug("integration %s: %s", name, error)
            return _held_back(result, accounts.failed(name, error))
        except Exception as error:  # noqa: BLE001 - logged with its trace; the other integrations' lines stand
            result.fail(unexpected(f"integration {name}", error), self.context.now())
        return result

    def _refused(self, name: str, error: LayoutError) -> ReadResult:
        """What is said of an integration whose own objects a newer version wrote: nothing of them is changed."""
        log.debug("integration %s: %s", name, error)
        return _held_back(ReadResult(name, None, ""), problem_after(None, error, self.context.now(), None))


def _held_back(result: ReadResult, problem: Problem) -> ReadResult:
    result.outcome, result.problem = outcome_of(problem), problem
    return result
