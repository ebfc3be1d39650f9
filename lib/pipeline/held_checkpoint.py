"""A stream's checkpoint while one call reads the stream: in memory it may be past batches that the stored one is not.

Each batch is stored before the checkpoint that is past it. So whatever a crash leaves, the next call adopts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from lib.errors import ConflictError, DamagedError
from lib.model.batch import Header
from lib.model.checkpoint import RECENT, Checkpoint
from lib.model.stream import Stream
from lib.state.advance import Item, ReadFields, adopt_all, adopt_past_hole, after, marked
from lib.state.checkpoints import SavedCheckpoint
from lib.state.state import State

log = logging.getLogger(__name__)

BATCHES_A_CURSOR = 5
"""The number of batches after which the checkpoint is written at the latest."""


class HeldCheckpoint:
    """The checkpoint, and what of it is not stored yet."""

    def __init__(self, state: State, stream: Stream, event_fields: ReadFields) -> None:
        """Read the stored one. If a crash left batches that it has not passed, adopt them: Sophos is not asked again.

        Raises ConflictError if another call moves it at the same time.
        """
        self._state = state
        self._stream = stream
        self._event_fields = event_fields
        self.saved = self._healed()
        """The checkpoint as far as this call has come, and the generation of the stored one."""
        self._passed: dict[int, Checkpoint] = {}
        """Each batch of this call that the stored one has not passed: the checkpoint behind it, by the next number."""
        self._marks = ""
        self._unmarked: list[Item] = []
        """Items that it has passed since their marks were last added, RECENT at most; `_marks` are those before."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as far as this call has come."""
        return self.saved.checkpoint

    @property
    def is_due(self) -> bool:
        """Whether it is written before another batch is stored, however fast pages come.

        So is one that is not there, or is damaged: where forward-batch finds it rebuilt and past what it delivers, it
        writes none. Then nothing would tell this call that the stream went on.
        """
        return not self.saved.is_sound or len(self._passed) >= BATCHES_A_CURSOR

    def _healed(self) -> SavedCheckpoint:
        while True:
            saved = self._state.checkpoints.read(self._stream)
            try:
                return adopt_all(self._state, saved, self._stream, self._event_fields)
            except DamagedError as error:
                log.warning("%s: %s", self._stream, error)
            if not adopt_past_hole(self._state, self._stream, self._event_fields):
                # The cursor has not moved, so nothing is lost: the same page is read again, with the same number.
                saved = self._state.checkpoints.read(self._stream)
                self._state.batches.move_to_dead_letters(self._stream, saved.checkpoint.sequence)
                return saved

    def read_again(self) -> None:
        """Take the stored one, which another part of this call has moved."""
        self.saved = self._state.checkpoints.read(self._stream)

    def change(self, checkpoint: Checkpoint) -> None:
        """Change it in memory. The number of its next batch stays."""
        self.saved = replace(self.saved, checkpoint=checkpoint)

    def pass_batch(self, header: Header, items: Sequence[Item]) -> None:
        """Move it, in memory, past a batch that this call has just stored."""
        if not self._unmarked:
            self._marks = self.checkpoint.recent.marks
        self._unmarked = [*self._unmarked, *items][-RECENT:]
        self.change(after(self.checkpoint, header, items))
        self._passed[self.checkpoint.sequence] = self.checkpoint

    def mark(self) -> Checkpoint:
        """Add the marks of its last items. Not for each batch: they take time, and only RECENT of them count."""
        if self._unmarked:
            self.change(marked(self.checkpoint, self._marks, self._unmarked))
            self._unmarked = []
        return self.checkpoint

    def save(self) -> None:
        """Write it; ConflictError if another call has moved the stored one otherwise than past this call's batches."""
        self.mark()
        try:
            generation = self._write(self.saved.generation)
        except ConflictError:
            # forward-batch moves the checkpoint past what it delivers: what is stored is then what this call has read,
            # only not as far. Where it differs, another call has read the stream, even if its number is one of this
            # call's: that call's batch had the number before, and is delivered and removed.
            stored = self._state.checkpoints.read(self._stream)
            passed = self._passed.get(stored.checkpoint.sequence)
            if passed is None or _read(stored.checkpoint) not in (_read(passed), _read(self.checkpoint)):
                raise
            generation = self._write(stored.generation)
        self.saved, self._passed = replace(self.saved, generation=generation, is_sound=True), {}

    def _write(self, expected: int) -> int:
        return self._state.checkpoints.write(self._stream, self.checkpoint, expected=expected).generation

    def save_rest(self) -> None:
        """Write it if the stored one has not passed all batches."""
        if self._passed:
            self.save()


def _read(checkpoint: Checkpoint) -> tuple[str | None, tuple[str, ...]]:
    """How far was read, and what was read last."""
    return checkpoint.cursor, checkpoint.recent.keys
