"""What of the store cannot be read, for `status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lib.errors import LayoutError
from lib.state import (
    accounts,
    acknowledgements,
    checkpoints,
    gaps,
    inventories,
    leases,
    rate_limits,
    reconciliations,
    schedules,
)
from lib.state.codec import UNREADABLE
from lib.state.dead_letters import PREFIX, holds_letters, letters_of, original_of
from lib.state.receipts import RECEIPT
from lib.store.base import ObjectStore

LARGEST_LETTERS = 1 << 20
"""Larger dead letters are not read: an event that is too large for the engine is one."""
_Reader = Callable[[bytes], object]
_READERS: dict[str, _Reader] = {
    accounts.PREFIX: accounts.ACCOUNT.decode,
    acknowledgements.PREFIX: acknowledgements.ACKNOWLEDGEMENT.decode,
    checkpoints.PREFIX: checkpoints.CHECKPOINT.decode,
    gaps.PREFIX: gaps.GAP.decode,
    inventories.PREFIX: inventories.INVENTORY.decode,
    rate_limits.PREFIX: rate_limits.RATE_LIMIT.decode,
    reconciliations.PREFIX: reconciliations.PROGRESS.decode,
    reconciliations.WINDOWS: reconciliations.PROGRESS.decode,
    schedules.PREFIX: schedules.SCHEDULE.decode,
}


@dataclass(frozen=True, slots=True, order=True)
class Damage:
    """A stored object that is not what was written."""

    key: str
    what: str
    """What is wrong with it, and what became of it, for people."""
    is_newer: bool = False
    """Whether it is sound, and a newer version's: whoever removes it loses it."""

    def fields(self) -> dict[str, str]:
        """As JSON fields."""
        return {"key": self.key, "what": self.what}


Whole = set[tuple[str, int]]
"""Keys and generations of objects that could be read."""


def damaged(store: ObjectStore, whole: Whole | None = None) -> list[Damage]:
    """The objects that cannot be read, and those that could not and were made again: each once, by key.

    Reads every object of the small kinds and each stream's last receipt. Batches are found when they are delivered,
    older receipts by `audit`. A damage that was mended is told as long as its copy is in `dead/`. A caller that looks
    again and again keeps `whole`: what it names is only listed.
    """
    found = {damage.key: damage for damage in _copies(store)}
    before, after = whole or set(), set()
    for prefix, look in _LOOKS.items():
        for entry in store.list(prefix):
            damage = {} if (entry.key, entry.generation) in before else look(store, entry.key)
            found |= damage
            if not damage:
                after.add((entry.key, entry.generation))
    if whole is not None:
        whole.clear()
        whole.update(after)
    return sorted(found.values())


def _copies(store: ObjectStore) -> Iterator[Damage]:
    for entry in store.list(PREFIX):
        if not holds_letters(entry.key):
            key = original_of(entry.key)
            yield Damage(key, f"was damaged, and its stream or integration went on without it; {entry.key} is a copy")
        elif entry.size <= LARGEST_LETTERS:
            yield from _damage(store, entry.key, letters_of).values()


def _damage(store: ObjectStore, key: str, read: _Reader) -> dict[str, Damage]:
    stored = store.read(key)
    try:
        if stored is not None:
            read(stored.body)
    except UNREADABLE as error:
        return {key: Damage(key, str(error), isinstance(error, LayoutError))}
    return {}


def _lease(store: ObjectStore, key: str) -> dict[str, Damage]:
    """The damage of a lease, or of the receipt that it names as the stream's last one."""
    stored = store.read(key)
    try:
        last = leases.from_body(stored.body).tail.key if stored else ""
    except UNREADABLE as error:
        return {key: Damage(key, str(error), isinstance(error, LayoutError))}
    # One that is no more was packed, or removed for its age.
    return _damage(store, last, RECEIPT.decode) if last else {}


_LOOKS: dict[str, Callable[[ObjectStore, str], dict[str, Damage]]] = {
    **{prefix: partial(_damage, read=read) for prefix, read in _READERS.items()},
    leases.PREFIX: _lease,
}
