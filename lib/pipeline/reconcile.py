"""Reconciliation: read the last 24 hours from Sophos again, and store the events that the ledger does not contain.

Sophos may add an event with a time that the live cursor has already passed. The live cursor never returns such a late
event. Reconciliation reads with its own cursor, a few pages each call, and never moves the live one.

Missing events are stored before the progress is written. A crash between the two leaves the page to be read again:
its events are in the store then, and are not stored twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar
from zlib import crc32

from lib.errors import ConflictError, ConnectorError, CursorRefusedError, NotFoundError, OverBudgetError, ThrottledError
from lib.model.batch import RECONCILE, Header, ids_of
from lib.model.checkpoint import HORIZON, OLDEST_REQUEST, Checkpoint
from lib.model.clock import day_before, day_of
from lib.model.lateness import in_order
from lib.model.reconciliation import Progress, ReconcileSums
from lib.model.stream import ENDPOINTS, Stream
from lib.pipeline.accounts import Accounts, known_targets
from lib.pipeline.integration import Integration, Target
from lib.pipeline.unexpected import unexpected
from lib.state.advance import Item, ReadFields, insert, is_stored, item_of, newest_of, stored_since
from lib.state.ledger import LOOKED_OVER, StoredKeys
from lib.state.looks import HourCounts
from lib.state.state import State
from lib.store.base import ABSENT

log = logging.getLogger(__name__)

PAGES_A_CALL = 5
"""Pages a call, of the 100 requests a minute that a credential has."""
BATCH_ITEMS = 1000
"""As many as a page of Sophos holds at most: a batch of missing events is no larger than any other."""
THROTTLED_SECONDS = 5.0
"""How long a command waits after a 429 that names no time."""
RECONCILED = "reconciled"
UNDER_WAY = "under_way"
FAILED = "failed"

T = TypeVar("T")

OnProgress = Callable[[int, datetime | None], None]
"""Called after each page with the number of events read and the newest event's time."""
OnStreamProgress = Callable[[str, int, datetime | None], None]
"""The same, with the stream's name as the first argument."""


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The result of reconciling one stream so far."""

    stream: Stream
    """Without tenant and kind if the integration could not be read and none of its streams is known."""
    outcome: str
    """`reconciled` at the end, `failed` after an error, else `under_way`."""
    batches: Sequence[str]
    """The keys of the batches that this call stored."""
    sums: ReconcileSums
    error: ConnectorError | None = None
    """The error that stopped it. The next call continues from there."""


@dataclass(frozen=True, slots=True)
class Reconcile:
    """The use case; safe to call while fetch-page and forward-batch run."""

    state: State
    event_fields: ReadFields
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]

    def due(self, stream: Stream, every: timedelta) -> bool:
        """Whether a reconciliation is under way or due. A new stream's first one comes half an interval later."""
        progress, generation = self.state.reconciliations.read(stream)
        if generation == ABSENT:
            # Everything has just been read for the first time. The hash spreads streams that began together.
            fraction = crc32(stream.path.encode()) / 2**32
            self.state.reconciliations.write(stream, Progress(ended_at=self.now() - fraction * every / 2), ABSENT)
            return False
        return progress.began_at is not None or progress.due(every, self.now())

    def all(
        self,
        integrations: Iterable[Integration],
        accounts: Accounts,
        tenant: str | None = None,
        since: timedelta | None = None,
        *,
        seconds: float,
        on_progress: OnStreamProgress = lambda _, __, ___: None,
    ) -> list[ReconcileReport]:
        """Reconcile each stream to the end: all that Sophos still serves, or the time since `since`.

        `tenant` is an id or a name. `seconds` is the limit for each stream. The rate limit is waited for. An error of
        one stream is in its report, and the others are read. Raises NotFoundError if the tenant has no stream.
        """
        reports = []
        for integration in integrations:
            end = self.monotonic() + seconds
            targets, error = self._attempt(integration.name, partial(accounts.targets, integration, deadline=end), end)
            if targets is None:
                streams = [
                    target.stream
                    for target in known_targets(integration.settings, accounts.read(integration.name))
                    if target.is_named(tenant) and target.stream.kind != ENDPOINTS
                ]
                reports += [_failed(stream, error) for stream in streams or [Stream(integration.name, "", "")]]
            for target in targets or ():
                # A device inventory needs no reconciliation: each scan reads all devices.
                if target.is_named(tenant) and target.stream.kind != ENDPOINTS:
                    on_stream = partial(on_progress, str(target.stream))
                    reports.append(self._to_end(integration, target, seconds, since, on_stream))
        if tenant is not None and not reports:
            raise NotFoundError(f"no stream of tenant {tenant!r}", remedy="`status` lists the tenants.")
        return reports

    def _to_end(
        self,
        integration: Integration,
        target: Target,
        seconds: float,
        since: timedelta | None,
        on_progress: OnProgress,
    ) -> ReconcileReport:
        if target.refusal is not None:
            return _failed(target.stream, target.refusal)
        end = self.monotonic() + seconds
        begun, error = self._attempt(
            target.stream, lambda: _Comparison(self, integration, target, since, on_progress), end
        )
        if begun is None:
            return _failed(target.stream, error)
        _, error = self._attempt(target.stream, lambda: begun.run(end, None), end)
        return begun.report(error)

    def _attempt(self, subject: object, do: Callable[[], T], end: float) -> tuple[T | None, ConnectorError | None]:
        """The result of `do()`, or its error. Waits for the rate limit up to the monotonic time `end`."""
        while True:
            try:
                return do(), None
            except (ThrottledError, OverBudgetError) as error:
                wait = error.retry_after or THROTTLED_SECONDS
                if self.monotonic() + wait > end:
                    return None, error
                self.sleep(wait)
            except ConnectorError as error:
                return None, error
            except Exception as error:  # noqa: BLE001 - logged with its trace; the other streams are read
                return None, unexpected(subject, error)

    def run(
        self,
        integration: Integration,
        target: Target,
        *,
        deadline: float,
        pages: int | None = PAGES_A_CALL,
        since: timedelta | None = None,
        on_progress: OnProgress = lambda _, __: None,
    ) -> ReconcileReport:
        """Continue for `pages` pages (None: to the end), store the missing events, and return the report so far.

        With `since`, a window of that length is read, with its own progress (`backfills/`).

        Raises ConnectorError after writing the progress.
        """
        comparison = _Comparison(self, integration, target, since, on_progress)
        with suppress(OverBudgetError):
            comparison.run(deadline, pages)
        return comparison.report()


def _failed(stream: Stream, error: ConnectorError | None) -> ReconcileReport:
    return ReconcileReport(stream, FAILED, (), ReconcileSums(), error)


class _Comparison:
    """One call's part of the reconciliation of one stream."""

    def __init__(
        self,
        reconcile: Reconcile,
        integration: Integration,
        target: Target,
        since: timedelta | None,
        on_progress: OnProgress,
    ) -> None:
        self._on_progress = on_progress
        self._reconcile = reconcile
        self._state = reconcile.state
        self._integration = integration
        self._target = target
        self._stream = target.stream
        self._ids = ids_of(target.stream, integration.settings.utmstack_tenant_id, RECONCILE)
        self._kept = reconcile.state.backfills if since else reconcile.state.reconciliations
        self._progress, self._generation = self._kept.read(target.stream)
        self._since = since
        self._hour_counts = HourCounts(None)
        self._stored = StoredKeys()
        self._as_of: datetime | None = None
        self._whole: tuple[datetime, datetime] | None = None
        """The interval that was read to the end; None before the end."""
        self._batches: list[str] = []

    def run(self, deadline: float, pages: int | None) -> None:
        now, before = self._reconcile.now(), self._progress
        if not before.goes_on(now, HORIZON, self._since):
            self._look_over(now)
            self._progress = Progress(
                began_at=now,
                held={},
                window=self._since.total_seconds() if self._since else None,
                ended_at=before.ended_at,
                last=before.last,
            )
        self._hour_counts = HourCounts(self._progress.held)
        # `as_of` before the stored ids: all events that the live cursor has passed by then are among the ids. In the
        # other order, events stored between the two reads would count as missing.
        self._as_of = self._state.checkpoints.read(self._stream).checkpoint.as_of
        self._stored = self._stored_ids()
        try:
            self._read(deadline, pages)
        finally:
            # The counts before the progress: after a crash between the two, the pages since are read again. Their
            # events are stored by then, so none counts as late twice. In the other order, late events would not count.
            self._hour_counts.keep(self._state.store, self._stream, self._whole, self._reconcile.now())
            self._keep()

    def _look_over(self, now: datetime) -> None:
        """Read a part of the stream's older receipts: so damage is named in time, on a stream without events too."""
        every = self._integration.settings.reconcile
        if self._since is None and every is not None:
            turns = max(1, LOOKED_OVER // every)
            self._state.ledger.look_over(self._stream, int(now.timestamp() // every.total_seconds()), turns)

    def _read(self, deadline: float, pages: int | None) -> None:
        read = 0
        while (pages is None or read < pages) and self._reconcile.monotonic() < deadline:
            read += 1
            if not self._page(deadline):
                self._end()
                return
            if read % PAGES_A_CALL == 0:
                self._keep()

    def _keep(self) -> None:
        """Write the progress, so that the next call continues here with the sums so far."""
        try:
            self._generation = self._kept.write(self._stream, self._progress, self._generation)
        except ConflictError:
            log.info("%s: another run reconciles it", self._stream)

    def _stored_ids(self) -> StoredKeys:
        """The events stored within the time that Sophos serves, delivered or waiting."""
        # Not the checkpoint's recent ids: they include the ids of a lost batch.
        # Receipts are filed under the day by Sophos's clock. This machine's clock may be far ahead of it.
        now = self._reconcile.now()
        day = day_before(min(self._as_of or now, now) - HORIZON)
        return stored_since(self._state, self._stream, day, self._reconcile.event_fields)

    def _page(self, deadline: float) -> bool:
        """Compare the next page with the store; returns whether more pages follow."""
        settings, progress = self._integration.settings, self._progress
        ask = partial(
            self._integration.source.page,
            self._target.host,
            self._stream.tenant,
            self._stream.kind,
            exclude_types=settings.excluded_types,
            offset_minutes=int(settings.settle.total_seconds()) // 60,
            deadline=deadline,
        )
        # The window's beginning is fixed: it is longer by the time since the reconciliation began.
        begun = self._reconcile.now() - (progress.began_at or self._reconcile.now())
        window = HORIZON if self._since is None else min(HORIZON, timedelta(seconds=progress.window or 0) + begun)
        start = self._integration.start(window, self._reconcile.now, deadline=deadline)
        try:
            page = ask(cursor=progress.cursor, from_date=None if progress.cursor else start)
        except CursorRefusedError:
            page = ask(cursor=None, from_date=start)
            self._hour_counts.restarted()
        items = [item_of(raw, self._ids, self._reconcile.event_fields) for raw in page.items]
        missing = [
            item
            for item in items
            if self._is_behind(item) and not is_stored(item, self._ids, self._stored, self._reconcile.event_fields)
        ]
        if missing:
            self._store(missing)
        stuck = page.next_cursor == progress.cursor  # The same page would come again and again.
        self._hour_counts.see(item.created_at for item in items)
        lateness = dict(progress.lateness)
        for item in missing:
            name = self._hour_counts.miss(item.created_at, self._reconcile.now())
            lateness[name] = lateness.get(name, 0) + 1
        self._progress = replace(
            progress,
            cursor=page.next_cursor,
            read=progress.read + len(items),
            missing=progress.missing + len(missing),
            lateness=lateness,
            held=self._hour_counts.held,
        )
        self._on_progress(self._progress.read, newest_of(items))
        return page.has_more and not stuck

    def _is_behind(self, item: Item) -> bool:
        """Whether the live cursor has passed the item's time. Fetching brings later items."""
        return self._as_of is not None and (item.created_at is None or item.created_at <= self._as_of)

    def _store(self, missing: Sequence[Item]) -> None:
        raws = [item.raw for item in missing]
        for at in range(0, len(raws), BATCH_ITEMS):
            key = insert(
                self._state,
                self._stream,
                raws[at : at + BATCH_ITEMS],
                ids=self._ids,
                header_of=self._header,
                stored_keys=lambda _: self._stored_ids().keys,
                event_fields=self._reconcile.event_fields,
            )
            if key is not None:
                self._batches.append(key)
        # A later page may contain an item again. It must not be stored twice.
        self._stored.keys.update(item.key for item in missing)

    def _header(self, checkpoint: Checkpoint, items: Sequence[Item]) -> Header:
        now = self._reconcile.now()
        return Header(
            stream=self._stream,
            envelope=self._integration.settings.envelope(self._stream.kind, self._target.data_source),
            sequence=checkpoint.sequence,
            fetched_at=now,
            as_of=checkpoint.as_of or now,
            day=max(checkpoint.day, day_of(checkpoint.as_of or now)),
            newest=newest_of(items),
            count=len(items),
            repeats=0,
            origin=RECONCILE,
        )

    def _end(self) -> None:
        now, progress = self._reconcile.now(), self._progress
        began = progress.began_at or now
        self._whole = (
            began - min(HORIZON if progress.window is None else timedelta(seconds=progress.window), OLDEST_REQUEST),
            began,
        )
        last = replace(_sums(progress), began_at=progress.began_at, ended_at=now)
        level = logging.INFO if progress.missing else logging.DEBUG
        log.log(level, "%s: reconciled: %d read, %d were missing", self._stream, progress.read, progress.missing)
        self._progress = Progress(ended_at=now, last=last)

    def report(self, error: ConnectorError | None = None) -> ReconcileReport:
        """The report so far, with the error that stopped it."""
        progress = self._progress
        ended = progress.began_at is None
        sums = progress.last if ended and progress.last else _sums(progress)
        outcome = FAILED if error else RECONCILED if ended else UNDER_WAY
        return ReconcileReport(self._stream, outcome, tuple(self._batches), sums, error)


def _sums(progress: Progress) -> ReconcileSums:
    return ReconcileSums(read=progress.read, missing=progress.missing, lateness=in_order(progress.lateness))
