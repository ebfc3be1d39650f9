"""`cursors/`: where each stream stands.

A damaged one moves to `dead/`, and is made again from the newest batch or receipt beside it.
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
from lib.model.checkpoint import HORIZON, Checkpoint
from lib.model.clock import to_text
from lib.model.stream import Stream, stream_of
from lib.state.batches import HEADER
from lib.state.codec import Codec, text_of
from lib.state.dead_letters import set_damaged_aside
from lib.state.ledger import Ledger, last_of, place_of
from lib.store.base import ABSENT, ObjectStore

PREFIX = "cursors/"
CHECKPOINT = Codec(
    Checkpoint,
    "a cursor",
    later=("pace_seconds", "excluded", "recent_marks", "changed", "other_customers", "other_customers_at"),
    names={"problem": "trouble"},
)


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A position and the generation of its object."""

    checkpoint: Checkpoint
    generation: int


def checkpoint_key(stream: Stream) -> str:
    """Where the stream's position is."""
    return f"{PREFIX}{stream.path}.json"


def to_body(stream: Stream, checkpoint: Checkpoint) -> bytes:
    """The position as a stored object."""
    fields = CHECKPOINT.fields(checkpoint)
    fields |= {"integration": stream.integration, "tenant": stream.tenant, "kind": stream.kind}
    return text_of(fields | {"digest": _digest(fields)})


def from_body(body: bytes) -> Checkpoint:
    """The position that an object holds; DamagedError where it holds none, LayoutError for a newer one."""
    return _decoded(body)[0]


def _decoded(body: bytes) -> tuple[Checkpoint, bool]:
    """The position, and whether it is another than the one that was written."""
    fields = CHECKPOINT.load(body)
    checkpoint = CHECKPOINT.value(fields)
    if not is_number(checkpoint.sequence):
        raise DamagedError(f"a cursor cannot be read: no batch has the number {checkpoint.sequence}")
    if fields.get("digest") == _digest(fields):
        return checkpoint, False
    return replace(checkpoint, edits=checkpoint.edits + 1), True


def _digest(fields: dict[str, Any]) -> str:
    """Of everything else: an object that was edited by hand has another one."""
    rest = {name: value for name, value in fields.items() if name != "digest"}
    return sha256(json.dumps(rest, sort_keys=True, default=to_text).encode()).hexdigest()


class Checkpoints:
    """A store's positions."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> SavedCheckpoint:
        """The saved position, or a new stream's; a damaged one is set aside and made again from what lies beside it."""
        stored = self._store.read(checkpoint_key(stream))
        if stored is None:
            return SavedCheckpoint(self._recovered(stream), ABSENT)
        try:
            checkpoint, is_edited = _decoded(stored.body)
            if is_edited:
                # A batch whose number was given before would be taken for the delivered one, and removed.
                number = max(checkpoint.sequence, self._recovered(stream).sequence)
                checkpoint = replace(checkpoint, sequence=number)
            return SavedCheckpoint(checkpoint, stored.generation)
        except DamagedError as error:
            set_damaged_aside(self._store, checkpoint_key(stream), stored.body, error)
            return SavedCheckpoint(self._recovered(stream), stored.generation)

    def write(self, stream: Stream, checkpoint: Checkpoint, *, expected: int) -> SavedCheckpoint:
        """Move the position; ConflictError when another run moved it first."""
        body = to_body(stream, checkpoint)
        return SavedCheckpoint(checkpoint, self._store.write(checkpoint_key(stream), body, expected=expected))

    def streams(self) -> Iterator[Stream]:
        """Every stream that has a position; foreign objects are none."""
        for entry in self._store.list(PREFIX):
            path = entry.key.removeprefix(PREFIX).removesuffix(".json")
            if entry.key.endswith(".json") and path.count("/") == 2:
                yield stream_of(path)

    def lift(self, integration: str) -> None:
        """Let the integration's streams be tried at once; one that another run has just tried needs it no more."""
        for stream in self.streams():
            if stream.integration == integration:
                saved = self.read(stream)
                problem = saved.checkpoint.problem
                if problem is not None and problem.lifted() != problem:
                    with suppress(ConflictError):
                        lifted = replace(saved.checkpoint, problem=problem.lifted())
                        self.write(stream, lifted, expected=saved.generation)

    def _recovered(self, stream: Stream) -> Checkpoint:
        """The position that follows the newest batch or receipt; a new stream's where there is neither."""
        headers = self._headers(stream)
        last = next(headers, None)
        if last is None:
            return self._behind_last_receipt(stream)
        polled, newest = None, last.newest
        for header in chain([last], headers):
            polled = polled or (header if header.origin == POLL else None)
            newest = max(filter(None, (newest, header.newest)), default=None)
            # Events may be dated ahead, but not by more than this: no older page has one newer than the last page.
            if polled is not None and last.as_of - header.as_of > HORIZON:
                break
        # Nothing is known of what was stored before: every event up to now is looked up in the ledger.
        return Checkpoint(
            sequence=last.sequence + 1,
            cursor=polled.next_cursor if polled else None,
            batch_cursor=polled.next_cursor if polled else None,
            as_of=last.as_of,
            newest=newest,
            recent_since=max(filter(None, (last.as_of, newest))),
            day=last.day,
        )

    def _headers(self, stream: Stream) -> Iterator[Header]:
        """The headers of the stream's waiting batches, then of its receipts, the newest first; of damaged ones none."""
        for entry in reversed(list(self._store.list(f"batches/{stream.path}/"))):
            stored = self._store.read(entry.key)
            if stored is not None:
                with suppress(DamagedError):
                    yield HEADER.decode(stored.body.partition(b"\n")[0])
        for _, body in Ledger(self._store).before(stream, "~"):
            with suppress(DamagedError):
                yield HEADER.decode(body)

    def _behind_last_receipt(self, stream: Stream) -> Checkpoint:
        """The position where at most the last receipt's key can be read: what Sophos still has is read again."""
        last = last_of(self._store.list(f"ledger/{stream.path}/"))
        place = place_of(last.key) if last else None
        if last is None or place is None:
            return Checkpoint()
        return Checkpoint(sequence=place.last + 1, recent_since=last.updated, day=place.day)
