"""Moving a stream's position past a stored batch: by whoever stored it, or by whoever finds it stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lib.model.batch import Header
from lib.model.event import Facts
from lib.model.ids import KEY_LENGTH, group_key, log_id
from lib.model.position import RECENT
from lib.pipeline.records import Positions, SavedPosition, StoredBatch

ReadFacts = Callable[[bytes], Facts]


@dataclass(frozen=True, slots=True)
class Item:
    """An event of a page or a batch, with what decides whether it is new."""

    raw: bytes
    key: str
    created_at: datetime | None


def item_of(raw: bytes, header: Header, facts: ReadFacts) -> Item:
    """The item that the bytes are in that batch's stream."""
    read = facts(raw)
    group = group_key(header.envelope.tenant_id, header.envelope.data_source)
    return Item(raw, log_id(group, header.stream.kind, read.id, raw)[:KEY_LENGTH], read.created_at)


def newest_of(items: Sequence[Item]) -> datetime | None:
    """The newest time among the items."""
    return max((item.created_at for item in items if item.created_at), default=None)


def advance(positions: Positions, saved: SavedPosition, header: Header, items: Sequence[Item]) -> SavedPosition:
    """Move the saved position past a batch that is durable; ConflictError when another run moved it first."""
    position = saved.position.after(
        replace(header, count=len(items)),
        [item.key for item in items],
        newest_of(items[: max(0, len(items) - RECENT)]),
    )
    return positions.write(header.stream, position, expected=saved.generation)


def adopt(positions: Positions, saved: SavedPosition, batch: StoredBatch, facts: ReadFacts) -> SavedPosition:
    """Move the position past a batch that somebody else stored: the cursor is in its header."""
    return advance(positions, saved, batch.header, [item_of(raw, batch.header, facts) for raw in batch.items])
