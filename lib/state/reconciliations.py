"""`reconciliations/`: each stream's progress of the reconciliation under way, and the result of the last one.

`backfills/` holds the same for windows that an operator requested. If an object is damaged, the next reconciliation
starts from the beginning.
"""

from __future__ import annotations

from contextlib import suppress

from lib.errors import ConflictError, DamagedError
from lib.model.reconciliation import Progress
from lib.model.stream import Stream
from lib.state.codec import Codec
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

PREFIX = "reconciliations/"
WINDOWS = "backfills/"
HASTEN_TRIES = 5
PROGRESS = Codec(Progress, "a reconciliation's progress", later=("held", "window"))


def progress_key(stream: Stream, prefix: str = PREFIX) -> str:
    """The key of the stream's progress."""
    return f"{prefix}{stream.path}.json"


class Reconciliations:
    """A store's reconciliations, or its backfills."""

    def __init__(self, store: ObjectStore, prefix: str = PREFIX) -> None:
        self._store = store
        self._prefix = prefix

    def read(self, stream: Stream) -> tuple[Progress, int]:
        """The stream's progress and its generation. A damaged one is copied to `dead/` and read as empty."""
        key = progress_key(stream, self._prefix)
        stored = self._store.read(key)
        if stored is None:
            return Progress(), ABSENT
        try:
            return PROGRESS.decode(stored.body), stored.generation
        except DamagedError as error:
            copy_damaged_to_dead(self._store, key, stored.body, error)
            return Progress(), stored.generation

    def hasten(self, stream: Stream) -> None:
        """Make the next call reconcile the stream: events were lost in the store that Sophos may still have."""
        for _ in range(HASTEN_TRIES):
            progress, generation = self.read(stream)
            with suppress(ConflictError):
                # Progress without `began_at` and `ended_at` is due at once. `last` stays, because `status` shows it.
                self.write(stream, Progress(last=progress.last), generation)
                return

    def write(self, stream: Stream, progress: Progress, generation: int) -> int:
        """Write the progress; ConflictError if another run wrote it first."""
        key = progress_key(stream, self._prefix)
        return self._store.write(key, PROGRESS.encode(progress), expected=generation)
