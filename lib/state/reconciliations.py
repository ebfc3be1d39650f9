"""`reconciliations/`: how far the reading again of each stream has come, and what the last one found.

`backfills/` holds the same of windows that an operator asked for. A damaged one is made again: the next begins anew.
"""

from __future__ import annotations

from contextlib import suppress

from lib.errors import ConflictError, DamagedError
from lib.model.reconciliation import Progress
from lib.model.stream import Stream
from lib.state.codec import Codec
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "reconciliations/"
WINDOWS = "backfills/"
HASTEN_TRIES = 5
PROGRESS = Codec(Progress, "a reconciliation's progress", later=("held", "window"))


def progress_key(stream: Stream, prefix: str = PREFIX) -> str:
    """Where the stream's progress is."""
    return f"{prefix}{stream.path}.json"


class Reconciliations:
    """A store's reconciliations, or its backfills."""

    def __init__(self, store: ObjectStore, prefix: str = PREFIX) -> None:
        self._store = store
        self._prefix = prefix

    def read(self, stream: Stream) -> tuple[Progress, int]:
        """The stream's progress, and the generation of its object; of a damaged one nothing is known."""
        key = progress_key(stream, self._prefix)
        stored = self._store.read(key)
        if stored is None:
            return Progress(), ABSENT
        try:
            return PROGRESS.decode(stored.body), stored.generation
        except DamagedError as error:
            set_damaged_aside(self._store, key, stored.body, error)
            return Progress(), stored.generation

    def hasten(self, stream: Stream) -> None:
        """Have the stream reconciled anew at the next call: events were lost here that Sophos may still have."""
        for _ in range(HASTEN_TRIES):
            progress, generation = self.read(stream)
            with suppress(ConflictError):
                self.write(stream, Progress(last=progress.last), generation)
                return

    def write(self, stream: Stream, progress: Progress, generation: int) -> int:
        """Keep the progress; ConflictError where another run was quicker."""
        key = progress_key(stream, self._prefix)
        return self._store.write(key, PROGRESS.encode(progress), expected=generation)
