"""All repositories of a store in one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from lib.state.batches import Batches
from lib.state.checkpoints import Checkpoints
from lib.state.gaps import Gaps
from lib.state.inventories import Inventories
from lib.state.ledger import Ledger
from lib.state.reconciliations import WINDOWS, Reconciliations
from lib.store.base import ObjectStore


@dataclass(frozen=True, slots=True)
class State:
    """All repositories of a store."""

    store: ObjectStore
    checkpoints: Checkpoints
    batches: Batches
    ledger: Ledger
    gaps: Gaps
    inventories: Inventories
    reconciliations: Reconciliations
    backfills: Reconciliations

    @classmethod
    def of(cls, store: ObjectStore) -> Self:
        """The repositories of a store."""
        return cls(
            store,
            Checkpoints(store),
            Batches(store),
            Ledger(store),
            Gaps(store),
            Inventories(store),
            Reconciliations(store),
            Reconciliations(store, WINDOWS),
        )
