"""A stream's objects in the store: its position, and the batches that wait."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from lib.errors import ConflictError, DamagedError
from lib.model import batch as batches
from lib.model import checkpoint as checkpoints
from lib.model import inventory as inventories
from lib.model.batch import POLL, Header, archive_key, batch_key
from lib.model.checkpoint import Checkpoint, checkpoint_key
from lib.model.inventory import Inventory, inventory_key
from lib.model.stream import Stream, stream_of
from lib.state.gaps import Gaps
from lib.state.ledger import Ledger, last_of
from lib.store.base import ABSENT, Entry, ObjectStore

_BATCH = re.compile(r"batches/([^/]+/[^/]+/[^/]+)/(\d{20})\.ndjson", re.ASCII)
_DEAD = re.compile(r"dead/(?:batches/)?([^/]+/[^/]+/[^/]+)/\d{20}\.ndjson~*", re.ASCII)


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A position and the generation of its object."""

    checkpoint: Checkpoint
    generation: int


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch as it lies in the store."""

    header: Header
    items: list[bytes]
    generation: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch of a listing."""

    stream: Stream
    sequence: int
    entry: Entry


def set_aside(store: ObjectStore, key: str, body: bytes) -> None:
    """Keep under `dead/` what cannot be used; doing it twice keeps one."""
    try:
        store.write(f"dead/{key}", body, expected=ABSENT)
    except ConflictError:
        present = store.read(f"dead/{key}")
        if present is None or present.body != body:
            set_aside(store, f"{key}~", body)


def set_aside_by_stream(store: ObjectStore) -> dict[Stream, list[str]]:
    """The keys of what is set aside of each stream: undeliverable events of a batch, or a damaged batch."""
    found: dict[Stream, list[str]] = {}
    for entry in store.list("dead/"):
        match = _DEAD.fullmatch(entry.key)
        if match:
            found.setdefault(stream_of(match[1]), []).append(entry.key)
    return found


class Checkpoints:
    """`cursors/`: where each stream stands."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> SavedCheckpoint:
        """The saved position, or a new stream's; a damaged one is set aside and made again from what lies beside it."""
        stored = self._store.read(checkpoint_key(stream))
        if stored is None:
            return SavedCheckpoint(self._recovered(stream), ABSENT)
        try:
            return SavedCheckpoint(checkpoints.from_body(stored.body), stored.generation)
        except DamagedError:
            set_aside(self._store, checkpoint_key(stream), stored.body)
            return SavedCheckpoint(self._recovered(stream), stored.generation)

    def write(self, stream: Stream, checkpoint: Checkpoint, *, expected: int) -> SavedCheckpoint:
        """Move the position; ConflictError when another run moved it first."""
        body = checkpoints.to_body(stream, checkpoint)
        return SavedCheckpoint(checkpoint, self._store.write(checkpoint_key(stream), body, expected=expected))

    def streams(self) -> Iterator[Stream]:
        """Every stream that has a position."""
        for entry in self._store.list("cursors/"):
            yield stream_of(entry.key.removeprefix("cursors/").removesuffix(".json"))

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
        header = self._last_header(stream)
        if header is None:
            return Checkpoint()
        # Nothing is known of what was stored before: every event up to now is looked up in the ledger.
        return Checkpoint(
            sequence=header.sequence + 1,
            cursor=header.next_cursor,
            batch_cursor=header.next_cursor,
            as_of=header.as_of,
            newest=header.newest,
            recent_since=header.as_of,
            day=header.day,
        )

    def _last_header(self, stream: Stream) -> Header | None:
        for entry in reversed(list(self._store.list(f"batches/{stream.path}/"))):
            stored = self._store.read(entry.key)
            if stored is not None:
                try:
                    return batches.header_of(stored.body.partition(b"\n")[0])
                except DamagedError:
                    continue
        last = last_of(self._store.list(f"ledger/{stream.path}/"))
        stored = self._store.read(last.key) if last else None
        return batches.header_of(stored.body) if stored else None


class Batches:
    """`batches/`: pages that wait for delivery."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream, sequence: int) -> StoredBatch | None:
        """The batch, or None; DamagedError where the object is not what was written."""
        stored = self._store.read(batch_key(stream, sequence))
        if stored is None:
            return None
        header, items = batches.from_body(stored.body)
        if (header.stream, header.sequence) != (stream, sequence):
            raise DamagedError(f"batch {sequence} of {stream} holds another batch")
        return StoredBatch(header, items, stored.generation)

    def create(self, header: Header, items: Sequence[bytes]) -> tuple[Header, int]:
        """Store the batch; its completed header and its size. ConflictError where its number is taken."""
        header, body = batches.to_body(header, items)
        self._store.write(header.key, body, expected=ABSENT)
        return header, len(body)

    def waiting(self, stream: Stream | None = None) -> Iterator[Waiting]:
        """The batches that wait, of one stream or of all, in order."""
        prefix = "batches/" if stream is None else f"batches/{stream.path}/"
        for entry in self._store.list(prefix):
            found = waiting_of(entry)
            if found is not None:
                yield found

    def move_to_dead_letters(self, stream: Stream, sequence: int) -> None:
        """Move a damaged batch to `dead/`."""
        key = batch_key(stream, sequence)
        stored = self._store.read(key)
        if stored is not None:
            set_aside(self._store, key, stored.body)
            self._store.delete(key, expected=stored.generation)

    def archive(self, batch: StoredBatch) -> None:
        """Keep a delivered batch, compressed; keeping it twice keeps one."""
        body = batches.to_body(batch.header, batch.items)[1]
        with suppress(ConflictError):
            # No time in it: the same batch is the same object.
            self._store.write(archive_key(batch.header), gzip.compress(body, 6, mtime=0), expected=ABSENT)

    def archived(self, since: str = "", stream: Stream | None = None) -> Iterator[str]:
        """The keys of the batches that were kept, from a day on, of one stream or stream by stream, in order."""
        for entry in self._store.list("archive/" if stream is None else f"archive/{stream.path}/"):
            if entry.key.split("/")[-2] >= since:
                yield entry.key

    def kept(self, key: str) -> StoredBatch | None:
        """The batch that was kept under the key, or None; DamagedError where it is damaged."""
        stored = self._store.read(key)
        if stored is None:
            return None
        try:
            header, items = batches.from_body(gzip.decompress(stored.body))
        except (OSError, EOFError, zlib.error, DamagedError):
            raise DamagedError(
                f"{key} is not what was written", remedy="It lies where it was; put it back from a copy, or remove it."
            ) from None
        return StoredBatch(header, items, stored.generation)

    def expire(self, stream: Stream, before: str, most: int) -> int:
        """Remove batches that were kept from days before that one, at most so many; how many were."""
        removed = 0
        for entry in self._store.list(f"archive/{stream.path}/"):
            if entry.key.split("/")[-2] >= before or removed == most:
                break
            with suppress(ConflictError):
                self._store.delete(entry.key, expected=entry.generation)
                removed += 1
        return removed

    def delete(self, batch: StoredBatch) -> None:
        """Remove a delivered batch; one that is gone already is no matter."""
        try:
            self._store.delete(batch.header.key, expected=batch.generation)
        except ConflictError:
            # Whoever replaced or removed it did so after our receipt: the next listing shows what there is.
            return


def waiting_of(entry: Entry) -> Waiting | None:
    """The batch that a listed object is, or None for a foreign object."""
    batch = batch_of(entry.key)
    return None if batch is None else Waiting(*batch, entry)


def batch_of(key: str) -> tuple[Stream, int] | None:
    """The stream and number of the batch with this key; None for any other key."""
    match = _BATCH.fullmatch(key)
    return (stream_of(match[1]), int(match[2])) if match else None


class Inventories:
    """`devices/`: what was sent last of each device of a tenant."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream) -> tuple[Inventory, int]:
        """The stream's inventory, and the generation of its object; of a damaged one nothing is known."""
        stored = self._store.read(inventory_key(stream))
        if stored is None:
            return Inventory(), ABSENT
        with suppress(DamagedError):
            return inventories.from_body(stored.body), stored.generation
        # Nothing is lost with it: every record is sent again.
        return Inventory(), stored.generation

    def write(self, stream: Stream, inventory: Inventory, generation: int) -> int:
        """Keep the inventory; ConflictError where another run was quicker."""
        return self._store.write(inventory_key(stream), inventories.to_body(inventory), expected=generation)

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


@dataclass(frozen=True, slots=True)
class State:
    """All of a store's records."""

    store: ObjectStore
    checkpoints: Checkpoints
    batches: Batches
    ledger: Ledger
    gaps: Gaps
    inventories: Inventories

    @classmethod
    def of(cls, store: ObjectStore) -> Self:
        """The records that the store holds."""
        return cls(store, Checkpoints(store), Batches(store), Ledger(store), Gaps(store), Inventories(store))


def day_of(moment: datetime) -> str:
    """The ledger's day of the moment."""
    return moment.strftime("%Y-%m-%d")


def day_before(moment: datetime) -> str:
    """The ledger's day a day earlier."""
    return day_of(moment - timedelta(days=1))
