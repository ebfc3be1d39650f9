"""Looks at a tenant's devices: page by page, a batch of the records that changed since they were sent last.

Three objects change for a page with changes, in this order: the batch, the inventory (what was sent of each device),
the position (the key of the next page). A batch that the inventory does not know is noted there by the next look, or by
forward-batch before it removes the batch, whoever is first: no change is lost, and none is sent in two versions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.errors import CursorRefusedError, DamagedError
from lib.model.batch import POLL, Header
from lib.model.checkpoint import Checkpoint
from lib.model.clock import believed, day_of
from lib.model.inventory import Inventory
from lib.model.page import DevicePage
from lib.pipeline.integration import Integration, Target
from lib.state.advance import ReadFields, advance, item_of
from lib.state.checkpoints import SavedCheckpoint
from lib.state.gaps import BATCH_DAMAGED, BATCH_MISSING
from lib.state.state import State

log = logging.getLogger(__name__)


def is_due(checkpoint: Checkpoint, every: timedelta, now: datetime) -> bool:
    """Whether a look is under way, or time for one has come. An end in the future is a clock that jumped back."""
    if checkpoint.cursor is not None or checkpoint.as_of is None:
        return True
    return not timedelta(0) <= now - checkpoint.as_of < every


@dataclass(frozen=True, slots=True)
class ScannedPage:
    """What one page of a look brought."""

    saved: SavedCheckpoint
    header: Header | None
    """Of the batch, where records had changed."""
    size: int
    has_more: bool


class DeviceScan:
    """One call's part of a look at one tenant's devices."""

    def __init__(
        self,
        state: State,
        integration: Integration,
        target: Target,
        saved: SavedCheckpoint,
        *,
        event_fields: ReadFields,
        now: Callable[[], datetime],
    ) -> None:
        self._state = state
        self._integration = integration
        self._target = target
        self._stream = target.stream
        self._saved = saved
        self._event_fields = event_fields
        self._now = now
        self._known, self._generation = state.inventories.read(target.stream)
        self._is_dirty = False
        self._day = ""
        """The ledger's day, by Sophos's clock."""
        if self._known.folded >= saved.checkpoint.sequence:
            # It knows of a batch that is not there: set aside as damaged before the position had moved.
            self._known = self._known.forgotten()
        self._fold_waiting()

    def page(self, deadline: float) -> ScannedPage:
        """Ask for the next page, and store what changed in it."""
        if self._saved.checkpoint.cursor is None:
            self._known = self._known.begun(self._lost())
        page, key = self._ask(deadline)
        known, changed = self._known.shown(page.items)
        if page.next_key == key and key is not None:
            log.warning(
                "%s: Sophos names the page that was asked for as the next one; the look ends here", self._stream
            )
            page = replace(page, next_key=None)
        self._set_right(page)
        unchanged = len(page.items) - len(changed)
        if page.next_key is None:
            known, gone = known.shown(known.gone())
            changed += gone
        header = self._header(page, key, unchanged, len(changed))
        if not changed:
            self._known, self._is_dirty = known, True
            self._idle(header)
            return ScannedPage(self._saved, None, 0, header.has_more)
        # Batch, inventory, position: in this order a crash between two leaves what the next look or delivery notes.
        header, size = self._state.batches.create(header, changed)
        self._keep(replace(known, folded=header.sequence))
        items = [item_of(raw, header.id_scope, self._event_fields) for raw in changed]
        self._saved = advance(self._state.checkpoints, self._saved, header, items)
        return ScannedPage(self._saved, header, size, header.has_more)

    def _set_right(self, page: DevicePage) -> None:
        """No look ended in the future: such a time is one of a clock that jumped back, and goes with this page."""
        now, checkpoint = self._now(), self._saved.checkpoint
        served_at = believed([page.served_at] if page.served_at else [], now, None)
        if served_at is not None:
            checkpoint = checkpoint.brought_back(served_at, now)
        if checkpoint.as_of is not None and checkpoint.as_of > now:
            checkpoint = replace(checkpoint, as_of=now)
        self._saved = replace(self._saved, checkpoint=checkpoint)
        self._day = day_of(served_at or now)

    def _fold_waiting(self) -> None:
        """Note what a run stored that died before it noted it. What is gone was noted by whoever delivered it."""
        for waiting in self._state.batches.waiting(self._stream):
            if self._known.folded < waiting.sequence < self._saved.checkpoint.sequence:
                with suppress(DamagedError):  # Its records are sent again, once it is named as a gap.
                    batch = self._state.batches.read(self._stream, waiting.sequence)
                    if batch is not None and batch.header.origin == POLL:
                        self._known = self._known.folding(waiting.sequence, batch.items)

    def pause(self) -> SavedCheckpoint:
        """Write down how far the look has come, where that is not written yet."""
        if self._is_dirty:
            self._keep(self._known)
            checkpoint = self._saved.checkpoint
            self._saved = self._state.checkpoints.write(self._stream, checkpoint, expected=self._saved.generation)
        return self._saved

    def _ask(self, deadline: float) -> tuple[DevicePage, str | None]:
        """The next page, and the key that it was read with."""
        key = self._saved.checkpoint.cursor
        if key is not None:
            try:
                return self._page(key, deadline), key
            except CursorRefusedError as error:
                log.warning("%s: %s; the look begins anew", self._stream, error)
        page = self._page(None, deadline)
        larger = self._known.asking(page.max_size)
        if page.next_key is not None and larger.page_size > self._known.page_size:
            self._known = larger
            page = self._page(None, deadline)
        return page, None

    def _page(self, key: str | None, deadline: float) -> DevicePage:
        return self._integration.source.devices(
            self._target.host, self._stream.tenant, page_key=key, page_size=self._known.page_size, deadline=deadline
        )

    def _header(self, page: DevicePage, key: str | None, unchanged: int, changed: int) -> Header:
        checkpoint, settings, now = self._saved.checkpoint, self._integration.settings, self._now()
        return Header(
            stream=self._stream,
            envelope=settings.envelope(self._stream.kind, self._target.data_source),
            sequence=checkpoint.sequence,
            previous_cursor=checkpoint.batch_cursor,
            cursor=key,
            next_cursor=page.next_key,
            has_more=page.next_key is not None,
            fetched_at=now,
            # Only a look that has come to its end tells up to when all is known.
            as_of=now if page.next_key is None else checkpoint.as_of or now - settings.inventory,
            day=max(checkpoint.day, self._day),
            newest=None,
            count=changed,
            repeats=unchanged,
        )

    def _idle(self, header: Header) -> None:
        """Nothing changed: the look goes on in memory, and is written down when it ends or pauses."""
        checkpoint = self._saved.checkpoint.idle(header.next_cursor, header.as_of, header.repeats)
        self._saved = SavedCheckpoint(checkpoint, self._saved.generation)

    def _keep(self, known: Inventory) -> None:
        self._generation = self._state.inventories.write(self._stream, known, self._generation)
        self._known, self._is_dirty = known, False

    def _lost(self) -> int:
        gaps = self._state.gaps.all(self._stream)
        return sum(1 for gap in gaps if gap.reason in (BATCH_DAMAGED, BATCH_MISSING))
