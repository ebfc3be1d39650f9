"""`reconciliations/`: how far the reading again of each stream has come, and what the last one found.

A damaged one is made again: the next reconciliation begins anew.
"""

from __future__ import annotations

from lib.errors import DamagedError
from lib.model.reconciliation import Progress
from lib.model.stream import Stream
from lib.state.codec import Codec
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "reconciliations/"
PROGRESS = Codec(Progress, "a reconciliation's progress", later=("held",))


def progress_key(stream: Stream) -> str:
    """Where the stream's progress is."""
    return f"{PREFIX}{stream.path}.json"


class Reconciliations:
    """A store's reconciliations."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> tuple[Progress, int]:
        """The stream's progress, and the generation of its object; of a damaged one nothing is known."""
        stored = self._store.read(progress_key(stream))
        if stored is None:
            return Progress(), ABSENT
        try:
            return PROGRESS.decode(stored.body), stored.generation
        except DamagedError as error:
            set_damaged_aside(self._store, progress_key(stream), stored.body, error)
            return Progress(), stored.generation

    def write(self, stream: Stream, progress: Progress, generation: int) -> int:
        """Keep the progress; ConflictError where another run was quicker."""
        return self._store.write(progress_key(stream), PROGRESS.encode(progress), expected=generation)
