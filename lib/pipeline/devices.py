"""Scan a tenant's devices page by page, and store a batch of the records that changed since they were sent.

A page with changes takes three writes, in this order:

1. The batch.
2. The inventory: a mark of each record that was stored. Before the batch, a crash would lose the changes: the next scan
   would take them for sent.
3. The checkpoint: the key of the next page. Before the inventory, a crash would send the changes twice.

A crash after 1 or 2 leaves a batch with the checkpoint's number. The next run moves the checkpoint past it
(`advance.adopt`). After 1, the inventory lacks the batch: the next scan adds its records, and forward-batch does so too
before it removes the batch. Either way no change is lost, and none is sent twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.errors import CursorRefusedError, DamagedError
from lib.model.batch import POLL, Cursors, Header
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
    """Whether a scan is under way or due. A last scan in the future means the clock jumped back: due."""
    if checkpoint.cursor is not None or checkpoint.as_of is None:
        return True
    return not timedelta(0) <= now - checkpoint.as_of < every


@dataclass(frozen=True, slots=True)
class ScannedPage:
    """The result of one page of a scan."""

    saved: SavedCheckpoint
    header: Header | None
    """The header of the stored batch; None if no record has changed."""
    size: int
    has_more: bool


class DeviceScan:
    """One call's part of a scan of one tenant's devices."""

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
        self._inventory, self._generation = state.inventories.read(target.stream)
        self._is_dirty = False
        self._day = ""
        """The ledger's day, by Sophos's clock."""
        if self._inventory.folded >= saved.checkpoint.sequence:
            # The inventory contains a batch that is gone: it was damaged and moved to `dead/` before the checkpoint
            # was written. Its number is used again, so its records must be sent again.
            self._inventory = self._inventory.forgotten()
        self._fold_waiting()

    def page(self, deadline: float) -> ScannedPage:
        """Read the next page, and store the records that changed."""
        if self._saved.checkpoint.cursor is None:
            self._inventory = self._inventory.begun(self._lost())
        page, key = self._ask(deadline)
        inventory, changed = self._inventory.shown(page.items)
        if page.next_key == key and key is not None:
            log.warning(
                "%s: Sophos returned the same page key as the next one; the scan of devices ends here", self._stream
            )
            page = replace(page, next_key=None)
        self._set_right(page)
        unchanged = len(page.items) - len(changed)
        if page.next_key is None:
            inventory, gone = inventory.shown(inventory.gone())
            changed += gone
        header = self._header(page, key, unchanged, len(changed))
        if not changed:
            self._inventory, self._is_dirty = inventory, True
            self._idle(header)
            return ScannedPage(self._saved, None, 0, header.cursors.has_more)
        # Batch, inventory, checkpoint: the module's docstring says what a crash between two of them leaves.
        header, size = self._state.batches.create(header, changed)
        self._keep(replace(inventory, folded=header.sequence))
        items = [item_of(raw, header.id_scope, self._event_fields) for raw in changed]
        self._saved = advance(self._state.checkpoints, self._saved, header, items)
        return ScannedPage(self._saved, header, size, header.cursors.has_more)

    def _set_right(self, page: DevicePage) -> None:
        """Bring times in the checkpoint that lie in the future back to now: the clock was ahead and jumped back."""
        now, checkpoint = self._now(), self._saved.checkpoint
        served_at = believed([page.served_at] if page.served_at else [], now, None)
        if served_at is not None:
            checkpoint = checkpoint.brought_back(served_at, now)
        if checkpoint.as_of is not None and checkpoint.as_of > now:
            checkpoint = replace(checkpoint, as_of=now)
        self._saved = replace(self._saved, checkpoint=checkpoint)
        self._day = day_of(served_at or now)

    def _fold_waiting(self) -> None:
        """Add waiting batches to the inventory that a crashed run stored before it wrote the inventory.

        A batch that is gone already needs nothing: forward-batch added it before it removed it.
        """
        for waiting in self._state.batches.waiting(self._stream):
            if self._inventory.folded < waiting.sequence < self._saved.checkpoint.sequence:
                with suppress(DamagedError):  # Its records are sent again after a gap names the batch.
                    batch = self._state.batches.read(self._stream, waiting.sequence)
                    if batch is not None and batch.header.origin == POLL:
                        self._inventory = self._inventory.folding(waiting.sequence, batch.items)

    def pause(self) -> None:
        """Write the inventory and the checkpoint, if pages without changes have moved them since the last write.

        A crash between the two writes leaves the checkpoint at an earlier page. That page is read again.
        """
        if self._is_dirty:
            self._keep(self._inventory)
            checkpoint = self._saved.checkpoint
            self._saved = self._state.checkpoints.write(self._stream, checkpoint, expected=self._saved.generation)

    def _ask(self, deadline: float) -> tuple[DevicePage, str | None]:
        """The next page, and the key it was read with."""
        key = self._saved.checkpoint.cursor
        if key is not None:
            try:
                return self._page(key, deadline), key
            except CursorRefusedError as error:
                log.warning("%s: %s; the scan of devices starts again", self._stream, error)
        page = self._page(None, deadline)
        larger = self._inventory.asking(page.max_size)
        if page.next_key is not None and larger.page_size > self._inventory.page_size:
            self._inventory = larger
            page = self._page(None, deadline)
        return page, None

    def _page(self, key: str | None, deadline: float) -> DevicePage:
        return self._integration.source.devices(
            self._target.host, self._stream.tenant, page_key=key, page_size=self._inventory.page_size, deadline=deadline
        )

    def _header(self, page: DevicePage, key: str | None, unchanged: int, changed: int) -> Header:
        checkpoint, settings, now = self._saved.checkpoint, self._integration.settings, self._now()
        return Header(
            stream=self._stream,
            envelope=settings.envelope(self._stream.kind, self._target.data_source),
            sequence=checkpoint.sequence,
            cursors=Cursors(key, page.next_key, page.next_key is not None, previous=checkpoint.batch_cursor),
            fetched_at=now,
            # Only a finished scan has read everything up to a time.
            as_of=now if page.next_key is None else checkpoint.as_of or now - settings.inventory,
            day=max(checkpoint.day, self._day),
            newest=None,
            count=changed,
            repeats=unchanged,
        )

    def _idle(self, header: Header) -> None:
        """Move the checkpoint in memory only; `pause` writes it. A crash costs requests, no events."""
        checkpoint = self._saved.checkpoint.idle(header.cursors.next, header.as_of, header.repeats)
        self._saved = SavedCheckpoint(checkpoint, self._saved.generation)

    def _keep(self, inventory: Inventory) -> None:
        self._generation = self._state.inventories.write(self._stream, inventory, self._generation)
        self._inventory, self._is_dirty = inventory, False

    def _lost(self) -> int:
        """The number of gaps with lost batches: more than at the last scan makes the inventory send all records."""
        gaps = self._state.gaps.all(self._stream)
        return sum(1 for gap in gaps if gap.reason in (BATCH_DAMAGED, BATCH_MISSING))
