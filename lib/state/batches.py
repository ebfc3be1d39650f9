"""`batches/`: batches that wait for delivery. `archive/`: delivered batches that are kept, compressed.

A batch is one object of JSON lines, and its own write-ahead record. The first line is the header, with the cursor the
page was read with and the next cursor. Each other line is one event, byte for byte as Sophos sent it. An event with a
line break, or one that is not a JSON object, is stored as a JSON string of its text. Such a line begins with a quote.

A damaged batch moves to `dead/`, a gap names the lost events, and the stream continues. A damaged archived batch stays
where it is, and `replay` names it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from lib.errors import ConflictError, DamagedError, KeptError
from lib.model.batch import Header, archive_key, batch_key
from lib.model.clock import is_turn_of
from lib.model.stream import Stream, stream_of
from lib.state.codec import Codec, Names
from lib.state.dead_letters import copy_damaged_to_dead, copy_to_dead
from lib.store.base import ABSENT, Entry, ObjectStore, Stored

HEADER_NAMES: Names = {
    "stream": {},
    "envelope": {"data_type": "dataType", "data_source": "dataSource", "tenant_id": "tenantId"},
    "cursors": {"read_with": "cursor", "next": "next_cursor", "previous": "previous_cursor"},
}
HEADER = Codec(Header, "a batch's header", names=HEADER_NAMES)
_ARCHIVED = re.compile(r".*/(\d{4}-\d\d-\d\d)/[^/]+", re.ASCII)
_BATCH = re.compile(r"batches/([^/]+/[^/]+/[^/]+)/(\d{20})\.ndjson", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch read from the store."""

    header: Header
    items: list[bytes]
    generation: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting batch from a listing, not read yet."""

    stream: Stream
    sequence: int
    entry: Entry


def to_line(item: bytes) -> bytes:
    """The item as one line, without its line break."""
    if item[:1] == b"{" and b"\n" not in item:
        return item
    return json.dumps(item.decode("utf-8", "surrogateescape")).encode()


def from_line(line: bytes) -> bytes:
    """The exact bytes of the item that `to_line` wrote; DamagedError if the line cannot be read."""
    if line[:1] != b'"':
        return line
    try:
        text = json.loads(line)
        return str(text).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError):
        raise DamagedError("a line of a batch cannot be read") from None


def to_body(header: Header, items: Sequence[bytes]) -> tuple[Header, bytes]:
    """The header completed with the items' count and digest, and the batch's bytes."""
    lines = _lines(items)
    header = replace(header, count=len(items), digest=sha256(lines).hexdigest())
    return header, HEADER.encode(header) + lines


def _lines(items: Sequence[bytes]) -> bytes:
    """The items' lines. Nearly always each item is its own line."""
    return b"\n".join([*map(to_line, items), b""])


def from_body(body: bytes) -> tuple[Header, list[bytes]]:
    """Header and items of a stored batch; DamagedError if they differ from what was written."""
    first, _, lines = body.partition(b"\n")
    header = HEADER.decode(first)
    # Checked before the lines are read: a batch that was cut off at the end of a line looks whole.
    if sha256(lines).hexdigest() != header.digest:
        raise DamagedError(f"batch {header.sequence} of {header.stream} is not what was written: its digest differs")
    items = lines.split(b"\n")[:-1]
    if not all(line.startswith(b"{") for line in items):
        items = [from_line(line) for line in items]
    return header, items


class Batches:
    """A store's batches."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, stream: Stream, sequence: int) -> StoredBatch | None:
        """The batch, or None; DamagedError if the object differs from what was written."""
        stored = self._store.read(batch_key(stream, sequence))
        return None if stored is None else _read(stored, stream, sequence)

    def is_there(self, stream: Stream, sequence: int) -> bool:
        """Whether the batch exists. This reads it: a bucket bills a read at a tenth of a listing."""
        with suppress(KeptError):
            return self._store.read(batch_key(stream, sequence)) is not None
        return True

    def is_damaged(self, stream: Stream, sequence: int) -> bool:
        """Whether the batch exists and differs from what was written."""
        try:
            self.read(stream, sequence)
        except DamagedError:
            return True
        return False

    def create(self, header: Header, items: Sequence[bytes]) -> tuple[Header, int]:
        """Store the batch; returns its completed header and its size. ConflictError if its number is taken."""
        header, body = to_body(header, items)
        # Create-only: of two runs with the same number, one gets a ConflictError and adopts the other's batch.
        self._store.write(header.key, body, expected=ABSENT)
        return header, len(body)

    def waiting(self, stream: Stream | None = None) -> Iterator[Waiting]:
        """The waiting batches of one stream or of all, in order."""
        prefix = "batches/" if stream is None else f"batches/{stream.path}/"
        for entry in self._store.list(prefix):
            waiting = waiting_of(entry)
            if waiting is not None:
                yield waiting

    def numbers(self, stream: Stream | None = None) -> dict[Stream, list[int]]:
        """The numbers of the waiting batches, in order, by stream."""
        sequences: dict[Stream, list[int]] = {}
        for waiting in self.waiting(stream):
            sequences.setdefault(waiting.stream, []).append(waiting.sequence)
        return sequences

    def move_to_dead_letters(self, stream: Stream, sequence: int) -> None:
        """Move a damaged batch to `dead/`. Does nothing if another run has replaced it with a readable one.

        The copy is written before the batch is removed. A crash between the two leaves both. The next run finds the
        same copy there, and removes the batch.
        """
        key = batch_key(stream, sequence)
        stored = self._store.read(key)
        if stored is None:
            return
        try:
            _read(stored, stream, sequence)
        except DamagedError:
            copy_to_dead(self._store, key, stored.body)
            self._store.delete(key, expected=stored.generation)

    def archive(self, batch: StoredBatch) -> None:
        """Store a delivered batch in the archive, compressed. A second call changes nothing."""
        body = to_body(batch.header, batch.items)[1]
        with suppress(ConflictError):
            # mtime=0, so that the same batch always gives the same bytes.
            self._store.write(archive_key(batch.header), gzip.compress(body, 6, mtime=0), expected=ABSENT)

    def archived(self, since: str = "", stream: Stream | None = None) -> Iterator[str]:
        """The keys of the archived batches from the day `since` on, of one stream or of all, in order."""
        for entry in self._store.list("archive/" if stream is None else f"archive/{stream.path}/"):
            match = _ARCHIVED.fullmatch(entry.key)  # None for a foreign object.
            if match and match[1] >= since:
                yield entry.key

    def kept(self, key: str) -> StoredBatch | None:
        """The archived batch with the key, or None; DamagedError if it is damaged."""
        stored = self._store.read(key)
        if stored is None:
            return None
        try:
            header, items = from_body(gzip.decompress(stored.body))
        except (OSError, EOFError, zlib.error, DamagedError):
            raise DamagedError(
                f"the archived batch {key} is damaged", remedy="Restore it from a backup, or remove it from the store."
            ) from None
        return StoredBatch(header, items, stored.generation)

    def look_over_archive(self, stream: Stream, turn: int, turns: int, goes_on: Callable[[], bool]) -> None:
        """Read the archived batches of each `turns`th day. A damaged one stays; a copy in `dead/` names it."""
        for key in self.archived(stream=stream):
            if not is_turn_of(key.split("/")[-2], turn, turns):
                continue
            if not goes_on():
                return
            try:
                self.kept(key)
            except DamagedError as error:
                stored = self._store.read(key)
                if stored is not None:
                    copy_damaged_to_dead(self._store, key, stored.body, error)
            except KeptError:
                continue  # A newer version wrote it.

    def expire(self, stream: Stream, before: str, most: int) -> int:
        """Remove at most `most` archived batches of days before `before`; returns how many were removed."""
        removed = 0
        for entry in self._store.list(f"archive/{stream.path}/"):
            if entry.key.split("/")[-2] >= before or removed == most:
                break
            with suppress(ConflictError):
                self._store.delete(entry.key, expected=entry.generation)
                removed += 1
        return removed

    def delete(self, batch: StoredBatch) -> None:
        """Remove a delivered batch. It may be gone already."""
        try:
            self._store.delete(batch.header.key, expected=batch.generation)
        except ConflictError:
            # Another run removed or replaced it after the receipt was written. The next listing shows which.
            return


def _read(stored: Stored, stream: Stream, sequence: int) -> StoredBatch:
    header, items = from_body(stored.body)
    if (header.stream, header.sequence) != (stream, sequence):
        raise DamagedError(f"batch {sequence} of {stream} holds another batch")
    return StoredBatch(header, items, stored.generation)


def waiting_of(entry: Entry) -> Waiting | None:
    """The waiting batch of a listed object, or None for a foreign object."""
    batch = batch_of(entry.key)
    return None if batch is None else Waiting(*batch, entry)


def batch_of(key: str) -> tuple[Stream, int] | None:
    """The stream and number in a batch's key; None for any other key."""
    match = _BATCH.fullmatch(key)
    return (_stream_of(match[1]), int(match[2])) if match else None


_stream_of = lru_cache(maxsize=4096)(stream_of)
"""A listing names each stream as often as it has batches."""
