"""fetch-page: ask Sophos for the next pages of each stream, and make each page durable before the cursor moves."""

from __future__ import annotations

import logging
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from lib.errors import (
    ConflictError,
    ConnectorError,
    CredentialsError,
    CursorRefusedError,
    DamagedError,
    LayoutError,
    OverBudgetError,
    ProtocolError,
    ThrottledError,
    TokenRefusedError,
    WrongTenantError,
)
from lib.model.batch import Header
from lib.model.checkpoint import (
    HORIZON,
    IDLE_WRITE,
    Checkpoint,
    Problem,
    lost_interval,
    newest_believed,
    problem_after,
)
from lib.model.clock import believed, day_before, day_of, from_text, to_text
from lib.model.credential import RENEW
from lib.model.feed import Feed
from lib.model.page import Page
from lib.model.stream import ENDPOINTS
from lib.pipeline.accounts import Accounts, Integration, Target, wait_after
from lib.pipeline.devices import DeviceScan, is_due
from lib.pipeline.estimates import not_fetched
from lib.pipeline.reconcile import Reconcile
from lib.state.advance import Item, ReadFields, adopt, advance, announce, is_stored, item_of, newest_of, stored_since
from lib.state.checkpoints import SavedCheckpoint
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.ledger import Known
from lib.state.schedules import ALL_ASKED, Schedules
from lib.state.state import State
from lib.store.base import ABSENT

log = logging.getLogger(__name__)

FETCHED = "fetched"
UP_TO_DATE = "up_to_date"
RATE_LIMITED = "rate_limited"
BUSY = "busy"
PAUSED = "paused"
FAILED = "failed"

CLOCK_TOLERANCE = timedelta(minutes=1)
"""A hole shorter than this is within what the two clocks of an answer can differ by."""


@dataclass(slots=True)
class Run:
    """What one call did with one stream."""

    outcome: str = UP_TO_DATE
    pages: int = 0
    events: int = 0
    bytes: int = 0
    """Of the batches."""
    batches: list[str] = field(default_factory=list)
    has_more: bool = False
    lag_seconds: float | None = None
    reconciled: dict[str, Any] | None = None
    problem: Problem | None = None
    retry_at: datetime | None = None
    """When the credential's next call may go, where its calls were used up."""
    is_missed: bool = False
    """Whether the call was over before it came to this stream."""

    def result(self, integration: str, tenant: str | None, kind: str) -> dict[str, Any]:
        """The answer's line."""
        line: dict[str, Any] = {
            "integration": integration,
            "tenant": tenant,
            "stream": kind,
            "outcome": self.outcome,
            "pages": self.pages,
            "events": self.events,
            "bytes": self.bytes,
            "batches": self.batches,
            "has_more": self.has_more,
            "lag_seconds": self.lag_seconds,
        }
        if self.reconciled is not None:
            line["reconciled"] = self.reconciled
        if self.problem is not None:
            line["problem"] = self.problem.as_problem()
        retry_at = self.retry_at or (self.problem.retry_at if self.problem else None)
        if retry_at is not None:
            line["retry_at"] = to_text(retry_at)
        return line


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one call did."""

    lines: list[dict[str, Any]]
    """One a stream that was asked, or that cannot be."""
    deferred: int = 0
    """Streams that have to wait for a later call: their credential has not calls enough to ask all at once."""


Job = tuple[Integration, Target]


@dataclass(slots=True)
class Plan:
    """What one call has to do."""

    jobs: list[Job] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    """The answer's lines of integrations that cannot be asked just now."""
    deferred: int = 0
    many: set[str] = field(default_factory=set)
    """The integrations that have more streams than are all asked at each tick."""


class InFlight:
    """The streams that this process is reading just now: a call leaves those to the call that reads them.

    It only saves requests; calls of several processes may read one stream at once.
    """

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def alone(self, path: str, read: Callable[[], Run], otherwise: Run) -> Run:
        """What `read` returns, or `otherwise` where the stream is being read."""
        with self._lock:
            if path in self._held:
                return otherwise
            self._held.add(path)
        try:
            return read()
        finally:
            with self._lock:
                self._held.discard(path)


@dataclass(frozen=True, slots=True)
class FetchPage:
    """The use case; safe to call from several threads and processes at once."""

    state: State
    accounts: Accounts
    integrations: Mapping[str, Integration]
    event_fields: ReadFields
    reconcile: Reconcile
    schedules: Schedules
    max_pending_bytes: int
    every: Callable[[], float]
    """Seconds between two ticks."""
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
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
        room = PendingBytes(
            self.max_pending_bytes - sum(waiting.entry.size for waiting in self.state.batches.waiting())
        )
        begun: list[Future[Run]] = []
        with ThreadPoolExecutor(self.workers) as pool:

            def begin(job: Job) -> None:
                reading = Reading(self, job, room=room, max_pages=max_pages, deadline=deadline)
                otherwise = Run(outcome=BUSY, is_missed=True)
                begun.append(pool.submit(self.in_flight.alone, job[1].stream.path, reading.run, otherwise))

            plan = self.plan(integration=integration, tenant=tenant, kind=kind, deadline=deadline, begin=begin)
        runs = [each.result() for each in begun]
        lines = list(plan.lines)
        for (_, target), run in zip(plan.jobs, runs, strict=True):
            lines.append(run.result(target.stream.integration, target.stream.tenant, target.stream.kind))
        # Who answered first is no order for people.
        order = list(self.integrations)
        lines.sort(key=lambda line: order.index(line["integration"]))
        self._note(plan, runs)
        return Fetched(lines, plan.deferred)

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
                if isinstance(found, Run):
                    kinds = self.integrations[name].feed.kinds
                    plan.lines += [found.result(name, tenant, each) for each in kinds if kind in (None, each)]
                    continue
                try:
                    chosen = self._chosen(self.integrations[name], found, all_asked=tenant is not None)
                except LayoutError as error:
                    # Of its schedule: this version cannot tell which streams come first.
                    run = self._refused(name, error)
                    plan.lines += [run.result(name, tenant, each) for each in self.integrations[name].feed.kinds]
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
        most = integration.rate_limiter.expect(len(by_path), self.every())
        if all_asked or len(by_path) <= ALL_ASKED:
            return targets
        try:
            chosen = self.schedules.choose(integration.feed.name, list(by_path), most, self.now())
        except ConflictError:
            return []  # Another tick has just chosen.
        # Inventories come last, and take only what calls are left.
        slow = [target for target in targets if target.stream.kind == ENDPOINTS]
        return [*(by_path[path] for path in chosen), *slow]

    def _note(self, plan: Plan, runs: Sequence[Run]) -> None:
        """Keep what the runs told of integrations: that they work, and which of their streams speak."""
        done: dict[str, list[tuple[str, Run]]] = {}
        for (integration, target), run in zip(plan.jobs, runs, strict=True):
            done.setdefault(integration.feed.name, []).append((target.stream.path, run))
        for name, each in done.items():
            if any(run.problem is None and not run.is_missed for _, run in each):
                self.accounts.worked(name, self.integrations[name].in_use())
            spoke = {path for path, run in each if run.events}
            missed = {path for path, run in each if run.is_missed}
            if name in plan.many:
                self.schedules.answered(name, spoke=spoke, missed=missed, now=self.now())

    def _targets(self, integration: Integration, deadline: float) -> list[Target] | Run:
        """The integration's streams, or what is said of all of them at once."""
        feed = integration.feed
        try:
            account = self.accounts.read(feed.name)
        except LayoutError as error:
            return self._refused(feed.name, error)
        if account.paused_at is not None:
            return Run(outcome=PAUSED)
        held_back = self.accounts.held_back(feed, account)
        if held_back is not None:
            return Run(outcome=_outcome_of(held_back), problem=held_back)
        try:
            return self.accounts.targets(
                feed, integration.source, integration.client_id(), integration.api_url, deadline=deadline
            )
        except OverBudgetError as error:
            return _later(error, self.now())
        except ConnectorError as error:
            log.warning("integration %s: %s", feed.name, error)
            problem = self.accounts.failed(feed, error)
            return Run(outcome=_outcome_of(problem), problem=problem)

    def _refused(self, name: str, error: LayoutError) -> Run:
        """What is said of an integration whose own objects a newer version wrote: nothing of them is changed."""
        log.warning("integration %s: %s", name, error)
        return Run(outcome=FAILED, problem=problem_after(None, error, self.now(), None))


class PendingBytes:
    """The bytes that may still wait in the store, for all streams of a call: each may go a page beyond, no more."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    @property
    def is_used_up(self) -> bool:
        """Whether no further page is asked for."""
        return self._left <= 0

    def take(self, size: int) -> None:
        """Count what was stored."""
        with self._lock:
            self._left -= size


class Reading:
    """One call's reading of one stream."""

    def __init__(
        self,
        use_case: FetchPage,
        job: Job,
        *,
        room: PendingBytes,
        max_pages: int | None,
        deadline: float,
    ) -> None:
        self._use_case = use_case
        self._state = use_case.state
        self._integration = job[0]
        self._source = job[0].source
        self._rate_limiter = job[0].rate_limiter
        self._feed = job[0].feed
        self._target = job[1]
        self._stream = job[1].stream
        self._room = room
        self._max_pages = max_pages
        self._deadline = deadline
        self._known = _Known(use_case.state, use_case.event_fields)
        self._saved = SavedCheckpoint(Checkpoint(), ABSENT)
        self._run = Run()
        self._before: Problem | None = None
        """What the stream's trouble was."""
        self._asked: set[str | None] = set()
        """The cursors that pages were read with since the last one with anything new."""

    def run(self) -> Run:
        """Read until Sophos has no more, or pages, room or time are used up; every failure is an answer."""
        run = self._run
        if self._target.refusal is not None:
            run.problem = problem_after(None, self._target.refusal, self._use_case.now(), None)
            run.outcome = FAILED
            return run
        try:
            self._saved = self._healed(self._state.checkpoints.read(self._stream))
            problem = self._before = self._saved.checkpoint.problem
            if problem is not None and problem.holds_back(self._use_case.now()):
                run.outcome, run.problem = _outcome_of(problem), problem
            elif self._use_case.monotonic() >= self._deadline:
                run.outcome, run.has_more, run.is_missed = BUSY, True, True
            elif self._stream.kind == ENDPOINTS:
                self._devices()
            else:
                self._read(self._next_page)
                self._reconcile()
        except ConflictError:
            # Another call moved the stream meanwhile: what it stored counts, and ours is dropped or adopted.
            run.outcome = BUSY
        except OverBudgetError as error:
            self._over_budget(error)
        except (CredentialsError, ThrottledError) as error:
            if isinstance(error, TokenRefusedError) and self._target.one_of_many:
                # Sophos has just issued a token for the others.
                self._failed(WrongTenantError(f"{error}: this tenant does not take the credential's tokens"))
                return run
            # These concern the whole credential: its other streams wait too.
            log.warning("%s: %s", self._stream, error)
            run.problem = self._use_case.accounts.failed(self._feed, error)
            run.outcome = _outcome_of(run.problem)
        except ConnectorError as error:
            self._failed(error)
        return run

    def _healed(self, saved: SavedCheckpoint) -> SavedCheckpoint:
        """Rule 3: a batch that was stored before its cursor moved is adopted, without asking Sophos again."""
        sequence = saved.checkpoint.sequence
        try:
            batch = self._state.batches.read(self._stream, sequence)
        except DamagedError as error:
            log.warning("%s: %s", self._stream, error)
            # Its cursor has not moved: the same page is asked for again, under the same number.
            self._state.batches.move_to_dead_letters(self._stream, sequence)
            return saved
        if batch is None:
            return saved
        return adopt(self._state.checkpoints, saved, batch, self._use_case.event_fields)

    def _read(self, step: Callable[[], bool]) -> None:
        """Page by page, until there are no more, or pages, room or time are used up; `step` says whether to go on."""
        run = self._run
        while self._max_pages is None or run.pages < self._max_pages:
            run.has_more = True
            if self._room.is_used_up:
                run.outcome = PAUSED
                return
            if run.pages and self._use_case.monotonic() >= self._deadline:
                return
            if not step():
                return

    def _next_page(self) -> bool:
        run = self._run
        page, cursor = self._ask()
        run.pages += 1
        events = run.events
        self._take(page, cursor)
        run.has_more = page.has_more
        if run.events > events:
            self._asked.clear()
        self._asked.add(cursor)
        if page.has_more and page.next_cursor in self._asked:
            self._stuck()
            return False
        return page.has_more

    def _devices(self) -> None:
        """On its own slow clock, and only with calls that nothing else needs: a look at the tenant's devices."""
        run, use_case, every = self._run, self._use_case, self._feed.inventory
        if not is_due(self._saved.checkpoint, every, use_case.now()):
            return
        if not self._rate_limiter.has_room:
            run.has_more = True
            return
        look = DeviceScan(
            self._state,
            self._integration,
            self._target,
            self._saved,
            event_fields=use_case.event_fields,
            now=use_case.now,
        )
        try:
            self._read(partial(self._next_devices, look))
        finally:
            # What was read stays read, should the credential's calls be used up here.
            self._saved = look.pause()

    def _next_devices(self, look: DeviceScan) -> bool:
        run = self._run
        looked = look.page(self._deadline)
        run.pages += 1
        if looked.header is not None:
            self._stored(looked.header, looked.size)
        run.has_more = looked.has_more
        return looked.has_more

    def _stored(self, header: Header, size: int) -> None:
        """Count a batch that is durable."""
        run = self._run
        self._room.take(size)
        run.outcome = FETCHED
        run.events += header.count
        run.bytes += size
        run.batches.append(header.key)

    def _reconcile(self) -> None:
        """Where nothing new waits at Sophos: on the slower clock, look for what lies behind the cursor."""
        every, run = self._feed.reconcile, self._run
        if every is None or run.has_more or run.problem is not None or self._room.is_used_up:
            return
        if self._use_case.reconcile.due(self._stream, every) and self._rate_limiter.has_room:
            run.reconciled = self._use_case.reconcile.run(self._integration, self._target, deadline=self._deadline)
            run.batches += run.reconciled["batches"]

    def _ask(self) -> tuple[Page, str | None]:
        """The next page, and the cursor that it was read with."""
        checkpoint = self._saved.checkpoint
        if checkpoint.cursor is not None:
            try:
                return self._page(checkpoint.cursor, None), checkpoint.cursor
            except CursorRefusedError as error:
                log.warning("%s: %s; reading goes on from the oldest time that Sophos serves", self._stream, error)
        # After a refused cursor all that Sophos still has is read again: what repeats is dropped by id.
        lookback = self._feed.lookback if checkpoint.as_of is None else HORIZON
        return self._page(None, self._integration.start(lookback, self._use_case.now, deadline=self._deadline)), None

    def _page(self, cursor: str | None, from_date: datetime | None) -> Page:
        return self._source.page(
            self._target.host,
            self._stream.tenant,
            self._stream.kind,
            cursor=cursor,
            from_date=from_date,
            exclude_types=self._excluded(cursor),
            offset_minutes=int(self._feed.settle.total_seconds()) // 60,
            deadline=self._deadline,
        )

    def _excluded(self, cursor: str | None) -> tuple[str, ...]:
        """The types to leave out: throughout a run of pages the same ones, whatever is configured meanwhile.

        What a cursor in mid-run holds is not documented; that of a last page names a time and nothing else.
        """
        begun = self._saved.checkpoint.excluded
        return self._feed.exclude_types if cursor is None or begun is None else begun

    def _take(self, page: Page, cursor: str | None) -> None:
        """Store what is new in the page, then move the position."""
        run = self._run
        excluded = self._excluded(cursor) if page.has_more else None
        served_at = self._served_at(page)
        self._note_hole(served_at)
        checkpoint = replace(self._saved.checkpoint, excluded=excluded)
        self._saved = replace(self._saved, checkpoint=checkpoint)
        header = Header(
            stream=self._stream,
            envelope=self._feed.envelope(self._stream.kind, self._target.data_source),
            sequence=checkpoint.sequence,
            previous_cursor=checkpoint.batch_cursor,
            cursor=cursor,
            next_cursor=page.next_cursor,
            has_more=page.has_more,
            fetched_at=self._use_case.now(),
            as_of=served_at,
            day=max(checkpoint.day, day_of(served_at)),
            newest=None,
            count=0,
            repeats=0,
        )
        items = [item_of(raw, header, self._use_case.event_fields) for raw in page.items]
        fresh = _fresh(items, header, checkpoint, self._known)
        header = replace(
            header,
            as_of=_read_up_to(page, items, served_at, checkpoint, self._feed),
            newest=newest_of(fresh, newest_believed(max(served_at, checkpoint.as_of or served_at))),
            repeats=len(items) - len(fresh),
        )
        if fresh:
            self._heed(fresh, served_at)
            header, size = self._state.batches.create(header, [item.raw for item in fresh])
            self._saved = advance(self._state.checkpoints, self._saved, header, fresh)
            self._stored(header, size)
        else:
            self._idle(page, header)
        run.lag_seconds = round(max(0.0, (served_at - header.as_of).total_seconds()), 3)

    def _served_at(self, page: Page) -> datetime:
        """Sophos's time of the answer, else this machine's; a position that lies in the future is set right."""
        saved, now = self._saved, self._use_case.now()
        served_at = believed(times_told(page), now, saved.checkpoint.as_of)
        if served_at is None:
            return now
        checkpoint = saved.checkpoint.brought_back(served_at, now)
        if checkpoint != saved.checkpoint:
            log.warning("%s: its times lay in the future; they are set to Sophos's", self._stream)
            self._saved = self._state.checkpoints.write(self._stream, checkpoint, expected=saved.generation)
        return served_at

    def _heed(self, items: Sequence[Item], served_at: datetime) -> None:
        """Whether an event is meant for us: the announcement that a credential is about to end."""
        announced = [min(item.created_at or served_at, served_at) for item in items if item.type == RENEW]
        if announced:
            self._use_case.accounts.end_announced(self._feed.name, max(announced))

    def _note_hole(self, served_at: datetime) -> None:
        lost = lost_interval(self._saved.checkpoint.as_of, served_at)
        if lost is None or lost[1] - lost[0] < CLOCK_TOLERANCE:
            return
        start, end = lost
        sequence = self._saved.checkpoint.sequence
        lost_events = not_fetched(self._state, self._stream, start, end)
        gap = Gap(self._stream, sequence, CURSOR_EXPIRED, start, end, self._use_case.now(), lost_events)
        key = announce(self._state, gap, self._feed.gap_envelope(self._target.data_source), self._use_case.event_fields)
        if key is not None:
            self._run.batches.append(key)
            self._saved = self._state.checkpoints.read(self._stream)

    def _idle(self, page: Page, header: Header) -> None:
        """Nothing new: the cursor moves in memory, and in the store when that is worth a write."""
        before = self._saved.checkpoint
        checkpoint = before.idle(page.next_cursor or before.cursor, header.as_of, header.repeats)
        stale = before.as_of is None or header.as_of - before.as_of >= IDLE_WRITE
        if stale or before.problem or before.cursor is None or header.repeats or page.has_more:
            self._saved = self._state.checkpoints.write(self._stream, checkpoint, expected=self._saved.generation)
        else:
            self._saved = SavedCheckpoint(checkpoint, self._saved.generation)

    def _stuck(self) -> None:
        """Write the trouble down again, which the page itself has ended: it lasts until the cursor moves."""
        error = ProtocolError(
            f"{self._stream}: Sophos says that there is more, and returns a cursor that it was sent",
            remedy="Fetching goes on with the next tick. If it lasts, open a case with Sophos support.",
        )
        log.warning("%s", error)
        self._run.problem = problem_after(self._before, error, self._use_case.now(), None)
        checkpoint = replace(self._saved.checkpoint, problem=self._run.problem)
        self._saved = self._state.checkpoints.write(self._stream, checkpoint, expected=self._saved.generation)
        if self._run.outcome != FETCHED:
            self._run.outcome = FAILED

    def _over_budget(self, error: OverBudgetError) -> None:
        """Nothing is wrong: reading goes on when the credential may be used again."""
        run, later = self._run, _later(error, self._use_case.now())
        run.retry_at = later.retry_at
        if run.pages == 0:
            run.outcome, run.problem, run.is_missed = later.outcome, later.problem, True

    def _failed(self, error: ConnectorError) -> None:
        """Write the trouble down, where that tells anything new; the cursor stays."""
        log.warning("%s: %s", self._stream, error)
        now = self._use_case.now()
        try:
            saved = self._state.checkpoints.read(self._stream)
            before = saved.checkpoint.problem
            same = before is not None and before.code == error.code
            failures = before.failures if before and same else 0
            problem = problem_after(before, error, now, wait_after(error, failures, self._use_case.accounts.jitter()))
            if isinstance(error, WrongTenantError):
                self._use_case.accounts.ask_again(self._feed.name)
            if not same or problem.retry_at is not None:
                checkpoint = replace(saved.checkpoint, problem=problem)
                self._state.checkpoints.write(self._stream, checkpoint, expected=saved.generation)
        except ConnectorError:
            # The store itself fails, or another run is writing: the answer tells the trouble all the same.
            problem = problem_after(None, error, now, None)
        self._run.problem = problem
        self._run.outcome = _outcome_of(problem)


class _Known:
    """The events that a position no longer remembers, read from ledger and batches when first needed."""

    def __init__(self, state: State, event_fields: ReadFields) -> None:
        self._state = state
        self._event_fields = event_fields
        self._known: Known | None = None

    def holds(self, item: Item, header: Header) -> bool:
        """Whether the event has a receipt, or waits in a batch."""
        if self._known is None:
            # What Sophos serves was fetched within the last 24 h, and a receipt is filed under its day of fetching, by
            # Sophos's clock; where that is not known, by this machine's.
            day = day_before(min(header.as_of, header.fetched_at) - HORIZON)
            self._known = stored_since(self._state, header.stream, day, self._event_fields)
        return is_stored(item, header, self._known, self._event_fields)


def _fresh(items: Sequence[Item], header: Header, checkpoint: Checkpoint, known: _Known) -> list[Item]:
    """The items that were not stored before, each once, in the order of the page."""
    recent = set(checkpoint.recent)
    fresh: dict[str, Item] = {}
    for item in items:
        if item.key in recent or item.key in fresh:
            continue
        if checkpoint.remembers(item.created_at, header.as_of) or not known.holds(item, header):
            fresh[item.key] = item
    return list(fresh.values())


def times_told(page: Page) -> list[datetime]:
    """Sophos's time of the answer as the answer tells it: in its Date header, and in a last page's cursor.

    The cursor's form (`V2_CURSOR|time` in base64) is not documented; what cannot be read so is no hint.
    """
    told = [page.served_at] if page.served_at else []
    if not page.has_more:
        with suppress(ValueError):
            told.append(from_text(b64decode(page.next_cursor, validate=True).decode("ascii").rpartition("|")[2]))
    return told


def _read_up_to(page: Page, items: Sequence[Item], served_at: datetime, checkpoint: Checkpoint, feed: Feed) -> datetime:
    """Up to when all is read, by Sophos's clock: a last page reaches the present, another one its newest item."""
    settled = served_at - feed.settle
    if not page.has_more:
        return settled
    return min(newest_of(items) or checkpoint.as_of or settled - HORIZON, settled)


def _later(error: OverBudgetError, now: datetime) -> Run:
    """Nothing was asked, since the credential's calls are used up."""
    wait = timedelta(seconds=error.retry_after or 0.0)
    return Run(outcome=RATE_LIMITED, problem=problem_after(None, error, now, wait), retry_at=now + wait, is_missed=True)


def _outcome_of(problem: Problem) -> str:
    return RATE_LIMITED if problem.code == ThrottledError.code else FAILED
