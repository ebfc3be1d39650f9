"""Finds damaged objects in the store, for `status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lib.errors import ConnectorError, LayoutError, UnreadableError
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
from lib.state.acknowledgements import short_id
from lib.state.codec import UNREADABLE
from lib.state.dead_letters import PREFIX, holds_letters, letters_of, original_of
from lib.state.receipts import RECEIPT
from lib.store.base import ObjectStore

LARGEST_LETTERS = 1 << 20
"""Larger dead letters are not read. An event that is too large for the engine can be one."""
_ACKNOWLEDGE = "Then run `dead-letters --acknowledge ID`."
_COPIED = {
    "archive": (
        "is damaged; its events are delivered, but `replay` cannot send them again",
        f"Restore it from a backup, or remove it. {_ACKNOWLEDGE}",
    ),
    "batches": (
        "was damaged; its stream continued with the next batch",
        f"The connector reads Sophos again by itself, and recovers events of the last 24 hours. {_ACKNOWLEDGE}",
    ),
    "charts": (
        "was damaged; the page continued without it",
        f"The page counts the last two days again. Restore it from a backup to see older ones. {_ACKNOWLEDGE}",
    ),
    "ledger": (
        "is damaged; its events are delivered, but not proved",
        f"Restore it from a backup, so that `audit` holds again. {_ACKNOWLEDGE}",
    ),
}
"""The consequence and the remedy for a damaged object whose copy is in `dead/`, by the first part of its key."""
_STAY = ("acknowledged", "dead", "gaps")
_KEPT = f"Restore it from a backup, or remove it. {_ACKNOWLEDGE}"
"""The remedy for kinds that are not made again."""
_REBUILT = (
    "was damaged; its stream or integration continued without it",
    f"The connector makes it again by itself. Look for the cause, such as a failing disk. {_ACKNOWLEDGE}",
)
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
    remedy: str = ""
    is_newer: bool = False
    """Whether a newer version wrote the object. It is not damaged then, and must not be removed."""
    is_unreadable: bool = False
    """Whether this machine refuses to read the object. It may be whole."""

    def fields(self) -> dict[str, str]:
        """The damage as JSON fields."""
        return {"id": short_id(self.key), "key": self.key, "what": self.what, "remedy": self.remedy}


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
            what, remedy = _COPIED.get(key.partition("/")[0], _REBUILT)
            yield Damage(key, f"{what}. {entry.key} is a copy", remedy)
        elif entry.size <= LARGEST_LETTERS:
            yield from _damage(store, entry.key, letters_of).values()


def _damage(store: ObjectStore, key: str, read: _Reader) -> dict[str, Damage]:
    try:
        stored = store.read(key)
        if stored is not None:
            read(stored.body)
    except UNREADABLE as error:
        return _unreadable(key, error)
    return {}


def _unreadable(key: str, error: ConnectorError) -> dict[str, Damage]:
    if isinstance(error, LayoutError):
        return {key: Damage(key, str(error), "Install the newer version again.", is_newer=True)}
    if isinstance(error, UnreadableError):
        return {key: Damage(key, str(error), error.remedy, is_unreadable=True)}
    kind = key.partition("/")[0]
    remedy = _COPIED[kind][1] if kind in _COPIED else _KEPT if kind in _STAY else _REBUILT[1]
    return {key: Damage(key, str(error), remedy)}


def _lease(store: ObjectStore, key: str) -> dict[str, Damage]:
    """The damage of a lease, or of the stream's last receipt, which the lease names."""
    try:
        stored = store.read(key)
        last = leases.from_body(stored.body).tail.key if stored else ""
    except UNREADABLE as error:
        return _unreadable(key, error)
    # A receipt that no longer exists was packed, or removed for its age.
    return _damage(store, last, RECEIPT.decode) if last else {}


_LOOKS: dict[str, Callable[[ObjectStore, str], dict[str, Damage]]] = {
    **{prefix: partial(_damage, read=read) for prefix, read in _READERS.items()},
    leases.PREFIX: _lease,
}
