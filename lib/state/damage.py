"""Finds damaged objects in the store, for `status`."""

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
"""Larger dead letters are not read. An event that is too large for the engine can be one."""
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
    """A stored object that this version cannot read."""

    key: str
    what: str
    """The damage and its consequence, in words for people."""
    is_newer: bool = False
    """Whether a newer version wrote the object. It is not damaged then, and must not be removed."""

    def fields(self) -> dict[str, str]:
        """The damage as JSON fields."""
        return {"key": self.key, "what": self.what}


Whole = set[tuple[str, int]]
"""Keys and generations of objects that were readable."""


def damaged(store: ObjectStore, whole: Whole | None = None) -> list[Damage]:
    """The damaged objects, with those that were rebuilt, without duplicates and ordered by key.

    This reads every object of the small kinds and each stream's last receipt. Delivery finds damaged batches; `audit`
    finds older damaged receipts. Damage of a rebuilt object is reported as long as its copy is in `dead/`. A caller
    that calls repeatedly keeps `whole`: objects in it are listed but not read again.
    """
    by_key = {damage.key: damage for damage in _copies(store)}
    before, after = whole or set(), set()
    for prefix, look in _LOOKS.items():
        for entry in store.list(prefix):
            damage = {} if (entry.key, entry.generation) in before else look(store, entry.key)
            by_key |= damage
            if not damage:
                after.add((entry.key, entry.generation))
    if whole is not None:
        whole.clear()
        whole.update(after)
    return sorted(by_key.values())


def _copies(store: ObjectStore) -> Iterator[Damage]:
    for entry in store.list(PREFIX):
        if not holds_letters(entry.key):
            key = original_of(entry.key)
            yield Damage(key, f"was damaged; its stream or integration continued without it. {entry.key} is a copy")
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
    """The damage of a lease, or of the stream's last receipt, which the lease names."""
    stored = store.read(key)
    try:
        last = leases.from_body(stored.body).tail.key if stored else ""
    except UNREADABLE as error:
        return {key: Damage(key, str(error), isinstance(error, LayoutError))}
    # A receipt that no longer exists was packed, or removed for its age.
    return _damage(store, last, RECEIPT.decode) if last else {}


_LOOKS: dict[str, Callable[[ObjectStore, str], dict[str, Damage]]] = {
    **{prefix: partial(_damage, read=read) for prefix, read in _READERS.items()},
    leases.PREFIX: _lease,
}
