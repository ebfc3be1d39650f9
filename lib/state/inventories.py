"""`devices/`: a digest of the last sent record of each device of a tenant.

A damaged inventory is replaced by an empty one: every device's record is sent again.
"""

from __future__ import annotations

from contextlib import suppress

from lib.errors import ConflictError, DamagedError
from lib.model.batch import POLL
from lib.model.inventory import Inventory
from lib.model.stream import Stream
from lib.state.batches import StoredBatch
from lib.state.codec import Codec
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

PREFIX = "devices/"
INVENTORY = Codec(Inventory, "an inventory")


def inventory_key(stream: Stream) -> str:
    """The key of the stream's inventory."""
    return f"{PREFIX}{stream.path}.json"


class Inventories:
    """A store's inventories."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> tuple[Inventory, int]:
        """The stream's inventory with its generation. A damaged one is copied to `dead/` and reads as empty."""
        stored = self._store.read(inventory_key(stream))
        if stored is None:
            return Inventory(), ABSENT
        try:
            return INVENTORY.decode(stored.body), stored.generation
        except DamagedError as error:
            copy_damaged_to_dead(self._store, inventory_key(stream), stored.body, error)
            return Inventory(), stored.generation

    def write(self, stream: Stream, inventory: Inventory, generation: int) -> int:
        """Write the inventory; return its new generation. ConflictError if another run wrote it first."""
        return self._store.write(inventory_key(stream), INVENTORY.encode(inventory), expected=generation)

    def fold(self, batch: StoredBatch) -> int:
        """Add a stored batch's records to the inventory; return the number of the last batch that is included.

        A batch that is included already changes nothing, so that a crash after the batch was stored can be repaired.
        """
        stream, sequence = batch.header.stream, batch.header.sequence
        while True:
            before, generation = self.read(stream)
            if batch.header.origin != POLL or sequence <= before.folded:
                return before.folded
            with suppress(ConflictError):
                self.write(stream, before.folding(sequence, batch.items), generation)
                return sequence
