"""Duplicate detection: the items of a page that were stored before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from lib.model.checkpoint import HORIZON, Checkpoint
from lib.model.clock import day_before
from lib.model.ids import IdScope
from lib.model.stream import Stream
from lib.state.advance import Item, ReadFields, is_stored, stored_since
from lib.state.ledger import StoredKeys
from lib.state.state import State


class StoredIds:
    """The stored events that the checkpoint no longer lists, read from ledger and batches on first use."""

    def __init__(self, state: State, stream: Stream, event_fields: ReadFields) -> None:
        self._state = state
        self._stream = stream
        self._event_fields = event_fields
        self._stored: StoredKeys | None = None

    def holds(self, item: Item, ids: IdScope, served_at: datetime, now: datetime) -> bool:
        """Whether the event has a receipt or waits in a batch."""
        if self._stored is None:
            # An event that Sophos still serves was fetched within the last 24 h. A receipt is filed under the day of
            # the fetch by Sophos's clock, or by this machine's if Sophos named no time.
            day = day_before(min(served_at, now) - HORIZON)
            self._stored = stored_since(self._state, self._stream, day, self._event_fields)
        return is_stored(item, ids, self._stored, self._event_fields)


def fresh_of(
    items: Sequence[Item],
    ids: IdScope,
    checkpoint: Checkpoint,
    stored: StoredIds,
    *,
    served_at: datetime,
    now: datetime,
) -> list[Item]:
    """The items that were not stored before, without duplicates, in the order of the page."""
    recent = set(checkpoint.recent.keys)
    fresh: dict[str, Item] = {}
    for item in items:
        if item.key in recent or item.key in fresh:
            continue
        if checkpoint.recent.remembers(item.created_at, served_at) or not stored.holds(item, ids, served_at, now):
            fresh[item.key] = item
    return list(fresh.values())


def changed_of(items: Sequence[Item], fresh: Sequence[Item], checkpoint: Checkpoint) -> int:
    """The number of duplicates whose text differs from the stored event's. Only recent events are compared."""
    if len(items) == len(fresh):
        return 0
    marks = checkpoint.recent.marks_by_key() | {item.key: item.mark for item in fresh}
    return sum(item.mark != marks.get(item.key, item.mark) for item in items)
