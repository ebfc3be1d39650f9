"""Read one stream page by page. Each page is stored as a batch before the cursor moves.

The writes for a page with new events are: first the batch, then the checkpoint. `lib/state/advance.py` says why, and
what a crash between them leaves. While pages come faster than they can be stored, the checkpoint is written once for
several batches (`held_checkpoint`), and always before the call ends. A gap before the page is announced before both, so
the lost interval is known before the checkpoint's `as_of` moves past it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from lib.errors import (
    ConflictError,
    ConnectorError,
    CredentialsError,
    CursorRefusedError,
    OverBudgetError,
    ProtocolError,
    ThrottledError,
    TokenRefusedError,
    WrongTenantError,
)
from lib.model.batch import Cursors, Header, ids_of
from lib.model.checkpoint import (
    HORIZON,
    IDLE_WRITE,
    Checkpoint,
    Problem,
    lost_interval,
    newest_believed,
    problem_after,
)
from lib.model.clock import believed, day_of
from lib.model.credential import RENEW
from lib.model.page import Page
from lib.model.served import answer_times, read_up_to
from lib.model.stream import ENDPOINTS
from lib.pipeline.accounts import Accounts, wait_after
from lib.pipeline.devices import DeviceScan, is_due
from lib.pipeline.estimates import not_fetched
from lib.pipeline.held_checkpoint import HeldCheckpoint
from lib.pipeline.integration import Integration, Target
from lib.pipeline.page_ahead import LARGEST_BYTES, PageAhead
from lib.pipeline.pending import PendingLimit
from lib.pipeline.read_result import BUSY, FAILED, FETCHED, PAUSED, ReadResult, outcome_of
from lib.pipeline.reconcile import Reconcile
from lib.pipeline.repeats import StoredIds, changed_of, fresh_of
from lib.pipeline.stale import StalePages
from lib.pipeline.unexpected import unexpected
from lib.state.advance import Item, ReadFields, announce, item_of, newest_of
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.state import State

log = logging.getLogger(__name__)

Read = tuple[Page, list[Item]]
"""A page, and its items."""
CLOCK_TOLERANCE = timedelta(minutes=1)
"""A shorter gap is ignored: the clocks behind an answer may differ by this much."""
SLOW_SECONDS = 0.05
"""A page that is waited for longer than this is slower than the store, so the checkpoint is written meanwhile."""


@dataclass(frozen=True, slots=True)
class ReadContext:
    """The environment for reading any stream."""

    state: State
    accounts: Accounts
    reconcile: Reconcile
    event_fields: ReadFields
    gap_data_type: str | None
    """The data type of an event about a gap; None: no such event is sent."""
    now: Callable[[], datetime]
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class ReadBounds:
    """The limits of one call."""

    pending_limit: PendingLimit
    max_pages: int | None
    """For each stream; None: no limit."""
    deadline: float
    """A monotonic time. No page is requested after it."""


class StreamReader:
    """Reads one stream in one call."""

    def __init__(self, context: ReadContext, integration: Integration, target: Target, bounds: ReadBounds) -> None:
        self._context = context
        self._state = context.state
        self._integration = integration
        self._source = integration.source
        self._rate_limiter = integration.rate_limiter
        self._settings = integration.settings
        self._target = target
        self._stream = target.stream
        self._ids = ids_of(target.stream, integration.settings.utmstack_tenant_id)
        self._pending_limit = bounds.pending_limit
        self._max_pages = bounds.max_pages
        self._deadline = bounds.deadline
        self._stored_ids = StoredIds(context.state, target.stream, context.event_fields)
        self._result = ReadResult.of(target.stream)
        self._before: Problem | None = None
        """The stream's problem before this call."""
        self._stale = StalePages()
        self._ahead = PageAhead[Read]()
        self._in_run = False
        """Whether this call's last page had `has_more`: the next page follows it without a gap."""
        self._is_slow = False
        """Whether the last page was waited for longer than SLOW_SECONDS."""

    def run(self) -> ReadResult:
        """Read until Sophos has no more pages, or a limit is reached. Every error becomes part of the result."""
        try:
            self._read_or_fail()
        except Exception as error:  # noqa: BLE001 - logged with its trace; the other streams' lines stand
            self._result.fail(unexpected(self._stream, error), self._context.now())
        return self._result

    def _read_or_fail(self) -> None:
        result = self._result
        if self._target.refusal is not None:
            result.problem = problem_after(None, self._target.refusal, self._context.now(), None)
            result.outcome = FAILED
            return
        try:
            self._held = HeldCheckpoint(self._state, self._stream, self._context.event_fields)
            problem = self._before = self._held.checkpoint.problem
            if problem is not None and problem.holds_back(self._context.now(), changed=self._target.outdates(problem)):
                result.outcome, result.problem = outcome_of(problem), problem
            elif self._context.monotonic() >= self._deadline:
                result.outcome, result.has_more, result.is_missed = BUSY, True, True
            elif self._stream.kind == ENDPOINTS:
                self._devices()
            else:
                self._pages()
                self._reconcile()
        except ConflictError:
            # Another call moved the checkpoint first. Its batch counts; this call's is dropped, or adopted later.
            result.outcome = BUSY
        except OverBudgetError as error:
            # Not an error: reading continues when the credential has calls again.
            result.put_off(error, self._context.now())
        except (CredentialsError, ThrottledError) as error:
            if isinstance(error, TokenRefusedError) and self._target.one_of_many:
                # The token works for the credential's other tenants, so the fault is this tenant's.
                self._failed(WrongTenantError(f"{error}: this tenant does not take the credential's tokens"))
                return
            # The error concerns the whole credential: its other streams wait too.
            log.debug("%s: %s", self._stream, error)
            result.problem = self._context.accounts.failed(self._settings.name, error)
            result.outcome = outcome_of(result.problem)
        except ConnectorError as error:
            self._failed(error)

    def _pages(self) -> None:
        try:
            with self._ahead:
                self._read(self._next_page)
        except ConnectorError:
            # The error is written behind what was read. If another call has moved the cursor, it still counts.
            with suppress(ConflictError):
                self._held.save_rest()
            raise
        self._held.save_rest()

    def _read(self, step: Callable[[], bool]) -> None:
        """Call `step` for each page until it returns False, or pages, room or time are used up."""
        result = self._result
        while self._max_pages is None or result.read.pages < self._max_pages:
            result.has_more = True
            if self._pending_limit.is_used_up:
                result.outcome = PAUSED
                return
            if result.read.pages and self._context.monotonic() >= self._deadline:
                return
            if not step():
                return

    def _next_page(self) -> bool:
        result = self._result
        (page, items), cursor = self._ask()
        result.read.pages += 1
        if self._is_next_wanted(page, cursor):
            self._ahead.begin(page.next_cursor, self._asking(page.next_cursor, None, self._excluded(cursor)))
        events = result.read.events
        keys = self._take(page, items, cursor)
        result.has_more = self._in_run = page.has_more
        fault = self._stale.fault(page, cursor, keys, has_new=result.read.events > events)
        return page.has_more if fault is None else self._stuck(fault)

    def _is_next_wanted(self, page: Page, cursor: str | None) -> bool:
        """Whether the page after this one will be requested, as far as is known before this one is stored."""
        size = sum(map(len, page.items))
        return (
            self._stale.may_follow(page, cursor)
            and (self._max_pages is None or self._result.read.pages < self._max_pages)
            and size <= LARGEST_BYTES
            and self._pending_limit.has_room_for(size)
            and self._context.monotonic() < self._deadline
        )

    def _devices(self) -> None:
        """Scan the tenant's devices if a scan is due and the credential has calls that no other stream needs."""
        result, context, every = self._result, self._context, self._settings.inventory
        if not is_due(self._held.checkpoint, every, context.now()):
            return
        if not self._rate_limiter.has_room:
            result.has_more = True
            return
        scan = DeviceScan(
            self._state,
            self._integration,
            self._target,
            self._held.saved,
            event_fields=context.event_fields,
            now=context.now,
        )
        try:
            self._read(partial(self._next_devices, scan))
        finally:
            # Also after an error, such as used-up calls: the pages read so far are not read again.
            scan.pause()

    def _next_devices(self, scan: DeviceScan) -> bool:
        result = self._result
        scanned = scan.page(self._deadline)
        result.read.pages += 1
        if scanned.header is not None:
            self._stored(scanned.header, scanned.size, scanned.saved.checkpoint)
        result.has_more = scanned.has_more
        return scanned.has_more

    def _stored(self, header: Header, size: int, passed: Checkpoint) -> None:
        """Count a stored batch. `passed`: the checkpoint after it."""
        result = self._result
        self._pending_limit.add_stored(size)
        result.outcome = FETCHED
        result.read.add(header, size, passed.counts.events)

    def _reconcile(self) -> None:
        """Reconcile the stream if that is due, and fetching has read everything that Sophos has."""
        every, result = self._settings.reconcile, self._result
        if every is None or result.has_more or result.problem is not None or self._pending_limit.is_used_up:
            return
        if self._context.reconcile.due(self._stream, every) and self._rate_limiter.has_room:
            result.reconciled = self._context.reconcile.run(self._integration, self._target, deadline=self._deadline)
            result.read.batches += result.reconciled.batches

    def _ask(self) -> tuple[Read, str | None]:
        """The next page with its items, and the cursor it was read with."""
        began = self._context.monotonic()
        try:
            return self._answer()
        finally:
            self._is_slow = self._context.monotonic() - began > SLOW_SECONDS

    def _answer(self) -> tuple[Read, str | None]:
        checkpoint = self._held.checkpoint
        if (cursor := checkpoint.cursor) is not None:
            try:
                return self._ahead.take(cursor) or self._asking(cursor, None, self._excluded(cursor))(), cursor
            except CursorRefusedError as error:
                log.warning("%s: %s; reading continues from the oldest time that Sophos serves", self._stream, error)
                self._in_run = False
        # After a refused cursor, everything that Sophos still has is read again. Duplicates are dropped by id.
        lookback = self._settings.lookback if checkpoint.as_of is None else HORIZON
        start = self._integration.start(lookback, self._context.now, deadline=self._deadline)
        return self._asking(None, start, self._excluded(None))(), None

    def _asking(self, cursor: str | None, from_date: datetime | None, excluded: Sequence[str]) -> Callable[[], Read]:
        """A function that requests a page and reads its items, for use in any thread."""
        ask = partial(
            self._source.page,
            self._target.host,
            self._stream.tenant,
            self._stream.kind,
            cursor=cursor,
            from_date=from_date,
            exclude_types=excluded,
            offset_minutes=int(self._settings.settle.total_seconds()) // 60,
            deadline=self._deadline,
        )

        def read() -> Read:
            page = ask()
            return page, [item_of(raw, self._ids, self._context.event_fields) for raw in page.items]

        return read

    def _excluded(self, cursor: str | None) -> tuple[str, ...]:
        """The types to exclude. They stay the same throughout a run of pages, even if the configuration changes.

        Sophos does not document whether a cursor within a run contains them. The cursor of a last page contains only
        a time.
        """
        begun = self._held.checkpoint.excluded
        return self._settings.excluded_types if cursor is None or begun is None else begun

    def _take(self, page: Page, items: Sequence[Item], cursor: str | None) -> set[str]:
        """Store the page's new events, then move the checkpoint; returns the keys of all its events."""
        result = self._result
        excluded = self._excluded(cursor) if page.has_more else None
        served_at = self._served_at(page)
        now = self._context.now()
        self._note_hole(served_at, items)
        checkpoint = self._held.checkpoint
        fresh = fresh_of(items, self._ids, checkpoint, self._stored_ids, served_at=served_at, now=now)
        if len(fresh) < len(items):
            checkpoint = self._held.mark()
        changed, others = changed_of(items, fresh, checkpoint), self._others(fresh)
        counts = checkpoint.counts.with_differences(changed, others, now)
        self._held.change(replace(checkpoint, excluded=excluded, counts=counts))
        result.read.changed += changed
        result.read.other_customers += others
        header = Header(
            stream=self._stream,
            envelope=self._settings.envelope(self._stream.kind, self._target.data_source),
            sequence=checkpoint.sequence,
            cursors=Cursors(cursor, page.next_cursor, page.has_more, previous=checkpoint.batch_cursor),
            fetched_at=now,
            as_of=read_up_to(page, served_at, newest_of(items), checkpoint.as_of, self._settings.settle),
            day=max(checkpoint.day, day_of(served_at)),
            newest=newest_of(fresh, newest_believed(max(served_at, checkpoint.as_of or served_at))),
            count=len(fresh),
            repeats=len(items) - len(fresh),
        )
        if fresh:
            self._note_announced_end(fresh, served_at)
            # The batch before the checkpoint: a crash between the two leaves a batch that the next call adopts.
            header, size = self._state.batches.create(header, [item.raw for item in fresh])
            self._held.pass_batch(header, fresh)
            if self._is_slow or self._held.is_due or not self._ahead.is_asked:
                self._held.save()
            self._stored(header, size, self._held.checkpoint)
        else:
            self._idle(page, header)
        result.lag_seconds = round(max(0.0, (served_at - header.as_of).total_seconds()), 3)
        return {item.key for item in items}

    def _others(self, items: Sequence[Item]) -> int:
        """The number of events with another customer id than the tenant's: a proxy may have mixed up answers."""
        tenant = self._stream.tenant.lower()
        others = sum(item.customer_id is not None and item.customer_id.lower() != tenant for item in items)
        if others:
            log.error("%s: events that name another customer: %d; check the proxy to Sophos", self._stream, others)
        return others

    def _served_at(self, page: Page) -> datetime:
        """Sophos's time of the answer, or else this machine's. Times of the checkpoint in the future are corrected."""
        before, now = self._held.checkpoint, self._context.now()
        served_at = believed(answer_times(page), now, before.as_of)
        if served_at is None:
            return now
        checkpoint = before.brought_back(served_at, now)
        if checkpoint != before:
            log.warning("%s: its stored times were in the future; they are set to Sophos's time", self._stream)
            self._held.change(checkpoint)
            self._held.save()
        return served_at

    def _note_announced_end(self, items: Sequence[Item], served_at: datetime) -> None:
        """Store Sophos's announcement that the tenant's own credential expires soon.

        An announcement to a partner's customer is about the customer's credentials, and is ignored here.
        """
        if self._target.one_of_many:
            return
        announced = [min(item.created_at or served_at, served_at) for item in items if item.type == RENEW]
        if announced:
            self._context.accounts.end_announced(self._settings.name, max(announced))

    def _note_hole(self, served_at: datetime, items: Sequence[Item]) -> None:
        """Announce a gap if the cursor is older than Sophos serves, unless the page shows that nothing is missing.

        A page that follows another of the same run misses nothing. An event from within the interval shows that Sophos
        still serves the events after the cursor.
        """
        lost = lost_interval(self._held.checkpoint.as_of, served_at)
        if lost is None or lost[1] - lost[0] < CLOCK_TOLERANCE or self._in_run:
            return
        start, end = lost
        if any(item.created_at and start < item.created_at < end - CLOCK_TOLERANCE for item in items):
            return
        self._held.save_rest()  # The gap's event takes the number after the stored checkpoint's.
        sequence = self._held.checkpoint.sequence
        lost_events = not_fetched(self._state, self._stream, start, end)
        gap = Gap(self._stream, sequence, CURSOR_EXPIRED, start, end, self._context.now(), lost_events)
        envelope = self._settings.gap_envelope(self._target.data_source, self._context.gap_data_type)
        key = announce(self._state, gap, envelope, self._context.event_fields)
        if key is not None:
            self._result.read.batches.append(key)
            self._held.read_again()

    def _idle(self, page: Page, header: Header) -> None:
        """Move the cursor without new events: in memory, and in the store only if the change is worth a write.

        A crash before the write leaves the older cursor. The next call reads the same empty pages again.
        """
        before = self._held.checkpoint
        self._held.change(before.idle(page.next_cursor or before.cursor, header.as_of, header.repeats))
        stale = before.as_of is None or header.as_of - before.as_of >= IDLE_WRITE or not self._held.saved.is_sound
        if stale or before.problem or before.cursor is None or header.repeats or page.has_more:
            self._held.save()

    def _stuck(self, how: str) -> bool:
        """Write the problem again, which storing the page has removed. It stays until a page has new events."""
        error = ProtocolError(
            f"{self._stream}: Sophos reports more pages, but {how}",
            remedy="Fetching continues with the next tick. If the problem persists, open a case with Sophos support.",
        )
        log.debug("%s", error)
        self._result.problem = problem_after(self._before, error, self._context.now(), None)
        self._held.change(replace(self._held.checkpoint, problem=self._result.problem))
        self._held.save()
        if self._result.outcome != FETCHED:
            self._result.outcome = FAILED
        return False

    def _failed(self, error: ConnectorError) -> None:
        """Write the problem to the checkpoint if it is new. The cursor does not move."""
        log.debug("%s: %s", self._stream, error)
        now = self._context.now()
        try:
            saved = self._state.checkpoints.read(self._stream)
            before = saved.checkpoint.problem
            same = before is not None and before.code == error.code
            failures = before.failures if before and same else 0
            problem = problem_after(before, error, now, wait_after(error, failures, self._context.accounts.jitter()))
            if isinstance(error, WrongTenantError):
                self._context.accounts.ask_again(self._settings.name)
            if not same or problem.retry_at is not None:
                checkpoint = replace(saved.checkpoint, problem=problem)
                self._state.checkpoints.write(self._stream, checkpoint, expected=saved.generation)
        except ConnectorError:
            # The store fails, or another run is writing the checkpoint: the problem is in the result only.
            problem = problem_after(None, error, now, None)
        self._result.problem = problem
        self._result.outcome = outcome_of(problem)
