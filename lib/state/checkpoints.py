"""`cursors/`: each stream's checkpoint, with the cursor for the next page and the number of the next batch.

A damaged checkpoint is copied to `dead/`, and is rebuilt from the newest batch or receipt of the stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Any

from lib.errors import ConflictError, DamagedError
from lib.model.batch import POLL, Header, is_number
from lib.model.checkpoint import HORIZON, Checkpoint, Counts, NewestEvent, Recent
from lib.model.clock import to_text
from lib.model.stream import Stream, stream_of
from lib.state.batches import HEADER
from lib.state.codec import UNREADABLE, Codec, text_of
from lib.state.dead_letters import copy_damaged_to_dead
from lib.state.ledger import Ledger, last_of, place_of
from lib.store.base import ABSENT, ObjectStore

PREFIX = "cursors/"
CHECKPOINT = Codec(
    Checkpoint,
    "a cursor",
    later=("pace_seconds", "excluded", "recent_marks", "changed", "other_customers", "other_customers_at"),
    # The stored names of older versions stay, so that both read each other's objects.
    names={
        "recent": {"keys": "recent", "since": "recent_since", "marks": "recent_marks"},
        "newest": {"at": "newest"},
        "counts": {},
        "problem": "trouble",
    },
)


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint and the generation of its object."""

    checkpoint: Checkpoint
    generation: int
    is_sound: bool = True
    """False if the object is not there, was damaged, or was edited by hand: the checkpoint is worth a write then."""


def checkpoint_key(stream: Stream) -> str:
    """The key of the stream's checkpoint."""
    return f"{PREFIX}{stream.path}.json"


def to_body(stream: Stream, checkpoint: Checkpoint) -> bytes:
    """The checkpoint's stored form."""
    fields = CHECKPOINT.fields(checkpoint)
    fields |= {"integration": stream.integration, "tenant": stream.tenant, "kind": stream.kind}
    return text_of(fields | {"digest": _digest(fields)})


def from_body(body: bytes) -> Checkpoint:
    """The checkpoint of a stored object; DamagedError if it cannot be read, LayoutError if a newer version wrote it."""
    return _decoded(body)[0]


def _decoded(body: bytes) -> tuple[Checkpoint, bool]:
    """The checkpoint, and whether it was edited by hand: its digest does not match then."""
    fields = CHECKPOINT.load(body)
    checkpoint = CHECKPOINT.value(fields)
    if not is_number(checkpoint.sequence):
        raise DamagedError(f"a cursor cannot be read: {checkpoint.sequence} is not a valid batch number")
    if fields.get("digest") == _digest(fields):
        return checkpoint, False
    return replace(checkpoint, edits=checkpoint.edits + 1), True


def _digest(fields: dict[str, Any]) -> str:
    """The digest of all other fields. It does not match after an edit by hand."""
    rest = {name: value for name, value in fields.items() if name != "digest"}
    return sha256(json.dumps(rest, sort_keys=True, default=to_text).encode()).hexdigest()


class Checkpoints:
    """A store's checkpoints."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> SavedCheckpoint:
        """The saved checkpoint, or a new stream's. A damaged one is copied to `dead/` and rebuilt."""
        stored = self._store.read(checkpoint_key(stream))
        if stored is None:
            return SavedCheckpoint(self._rebuilt(stream), ABSENT, is_sound=False)
        try:
            checkpoint, is_edited = _decoded(stored.body)
            if is_edited:
                # Not a number that was used before: delivery would take the new batch for a delivered one.
                number = max(checkpoint.sequence, self._recovered(stream).sequence)
                checkpoint = replace(checkpoint, sequence=number)
            return SavedCheckpoint(checkpoint, stored.generation, is_sound=not is_edited)
        except DamagedError as error:
            copy_damaged_to_dead(self._store, checkpoint_key(stream), stored.body, error)
            return SavedCheckpoint(self._rebuilt(stream), stored.generation, is_sound=False)

    def write(self, stream: Stream, checkpoint: Checkpoint, *, expected: int) -> SavedCheckpoint:
        """Write the checkpoint; ConflictError if another run wrote it first."""
        body = to_body(stream, checkpoint)
        return SavedCheckpoint(checkpoint, self._store.write(checkpoint_key(stream), body, expected=expected))

    def is_there(self, stream: Stream) -> bool:
        """Whether the stream has a checkpoint."""
        return self._store.read(checkpoint_key(stream)) is not None

    def streams(self) -> Iterator[Stream]:
        """Every stream with a checkpoint. Foreign objects are skipped."""
        for entry in self._store.list(PREFIX):
            path = entry.key.removeprefix(PREFIX).removesuffix(".json")
            if entry.key.endswith(".json") and path.count("/") == 2:
                yield stream_of(path)

    def retry_now(self, integration: str) -> None:
        """Allow all the integration's streams to be tried at once. A stream that another run writes now is skipped."""
        for stream in self.streams():
            if stream.integration == integration:
                saved = self.read(stream)
                problem = saved.checkpoint.problem
                if problem is not None and problem.without_wait() != problem:
                    with suppress(ConflictError):
                        checkpoint = replace(saved.checkpoint, problem=problem.without_wait())
                        self.write(stream, checkpoint, expected=saved.generation)

    def _rebuilt(self, stream: Stream) -> Checkpoint:
        """As `_recovered`, with the number of events in all receipts and waiting batches. Other counts are lost."""
        checkpoint = self._recovered(stream)
        if checkpoint == Checkpoint():
            return checkpoint
        ledger, events, last = Ledger(self._store), 0, 0
        for place, body in ledger.before(stream, "~"):
            receipt = ledger.readable(stream, place, body)
            if receipt is not None:
                events, last = receipt.total, receipt.header.sequence
                break
        for entry in self._store.list(f"batches/{stream.path}/"):
            stored = self._store.read(entry.key)
            with suppress(*UNREADABLE):
                header = HEADER.decode(stored.body.partition(b"\n")[0]) if stored else None
                # A batch that has its receipt already is counted there.
                events += header.events if header and header.sequence > last else 0
        return replace(checkpoint, counts=Counts(events))

    def _recovered(self, stream: Stream) -> Checkpoint:
        """The checkpoint after the newest batch or receipt; a new stream's if there is neither."""
        headers = self._headers(stream)
        last = next(headers, None)
        if last is None:
            return self._behind_last_receipt(stream)
        polled, newest = None, last.newest
        for header in chain([last], headers):
            polled = polled or (header if header.origin == POLL else None)
            newest = max(filter(None, (newest, header.newest)), default=None)
            # An event's time may be ahead by HORIZON at most, so no older page has a newer event than the last page.
            if polled is not None and last.as_of - header.as_of > HORIZON:
                break
        # The recent ids are lost, so every event up to this time is looked up in the ledger.
        return Checkpoint(
            sequence=last.sequence + 1,
            cursor=polled.cursors.next if polled else None,
            batch_cursor=polled.cursors.next if polled else None,
            as_of=last.as_of,
            day=last.day,
            recent=Recent(since=max(filter(None, (last.as_of, newest)))),
            newest=NewestEvent(newest),
        )

    def _headers(self, stream: Stream) -> Iterator[Header]:
        """The headers of the stream's waiting batches, then of its receipts, newest first. Damaged ones are skipped."""
        for entry in reversed(list(self._store.list(f"batches/{stream.path}/"))):
            stored = self._store.read(entry.key)
            if stored is not None:
                with suppress(DamagedError):
                    yield HEADER.decode(stored.body.partition(b"\n")[0])
        for _, body in Ledger(self._store).before(stream, "~"):
            with suppress(DamagedError):
                yield HEADER.decode(body)

    def _behind_last_receipt(self, stream: Stream) -> Checkpoint:
        """The checkpoint after the last receipt's key, if no header can be read. Sophos's events are all read again."""
        last = last_of(self._store.list(f"ledger/{stream.path}/"))
        place = place_of(last.key) if last else None
        if last is None or place is None:
            return Checkpoint()
        return Checkpoint(sequence=place.last + 1, day=place.day, recent=Recent(since=last.updated))
