"""`devices/`: what was sent last of each device of a tenant.

A damaged one is made again: nothing is known then, and every device's record is sent again.
"""

from __future__ import annotations

from contextlib import suppress

from lib.errors import ConflictError, DamagedError
from lib.model.batch import POLL
from lib.model.inventory import Inventory
from lib.model.stream import Stream
from lib.state.batches import StoredBatch
from lib.state.codec import Codec
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "devices/"
INVENTORY = Codec(Inventory, "an inventory")


def inventory_key(stream: Stream) -> str:
    """Where the stream's inventory is."""
    return f"{PREFIX}{stream.path}.json"


class Inventories:
    """A store's inventories."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> tuple[Inventory, int]:
        """The stream's inventory, and the generation of its object; of a damaged one nothing is known."""
        stored = self._store.read(inventory_key(stream))
        if stored is None:
            return Inventory(), ABSENT
        try:
            return INVENTORY.decode(stored.body), stored.generation
        except DamagedError as error:
            set_damaged_aside(self._store, inventory_key(stream), stored.body, error)
            return Inventory(), stored.generation

    def write(self, stream: Stream, inventory: Inventory, generation: int) -> int:
        """Keep the inventory; ConflictError where another run was quicker."""
        return self._store.write(inventory_key(stream), INVENTORY.encode(inventory), expected=generation)

    def fold(self, batch: StoredBatch) -> int:
        """Note that a stored batch's records are sent, unless that is noted; up to which batch it is, then."""
        stream, sequence = batch.header.stream, batch.header.sequence
        while True:
            before, generation = self.read(stream)
            if batch.header.origin != POLL or sequence <= before.folded:
                return before.folded
            with suppress(ConflictError):
                self.write(stream, before.folding(sequence, batch.items), generation)
                return sequence
