"""`batches/`: pages that wait for delivery; `archive/`: delivered ones that are kept, compressed.

A batch is one object of JSON lines that is its own write-ahead record. The first line is the header: the cursor the
page was read with, and the one that follows. Every other line is one event, as the very bytes that Sophos sent. Bytes
that cannot stand on a line of their own (a line break between two tokens, or no object at all) are kept as a JSON
string of the same text; such a line begins with a quote.

A damaged batch moves to `dead/`, a gap names what was lost, and its stream goes on. A damaged archive stays where it
is: `replay` names it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from lib.errors import ConflictError, DamagedError
from lib.model.batch import Header, archive_key, batch_key
from lib.model.stream import Stream, stream_of
from lib.state.codec import Codec
from lib.state.dead_letters import set_aside
from lib.store.base import ABSENT, Entry, ObjectStore

STREAM = {"integration": "integration", "tenant": "tenant", "kind": "kind"}
HEADER_PARTS = {
    "stream": STREAM,
    "envelope": {"data_type": "dataType", "data_source": "dataSource", "tenant_id": "tenantId"},
}
HEADER = Codec(Header, "a batch's header", flat=HEADER_PARTS)
_BATCH = re.compile(r"batches/([^/]+/[^/]+/[^/]+)/(\d{20})\.ndjson", re.ASCII)


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


def to_line(item: bytes) -> bytes:
    """The item as one line, without its line break."""
    if item[:1] == b"{" and b"\n" not in item:
        return item
    return json.dumps(item.decode("utf-8", "surrogateescape")).encode()


def from_line(line: bytes) -> bytes:
    """The exact bytes that `to_line` was given; DamagedError where no item can be read."""
    if line[:1] != b'"':
        return line
    try:
        text = json.loads(line)
        return str(text).encode("utf-8", "surrogateescape")
    except ValueError:
        raise DamagedError("a line of a batch cannot be read") from None


def to_body(header: Header, items: Sequence[bytes]) -> tuple[Header, bytes]:
    """The batch's bytes, and its header completed with their count and digest."""
    lines = _lines(items)
    header = replace(header, count=len(items), digest=sha256(lines).hexdigest())
    return header, HEADER.encode(header) + lines


def _lines(items: Sequence[bytes]) -> bytes:
    """The items' lines. Nearly always each item is its own line, which two passes over the whole batch tell."""
    lines = b"\n".join([b"", *items, b""])
    if lines.count(b"\n{") == len(items) == lines.count(b"\n") - 1:
        return lines[1:]
    return b"\n".join([*map(to_line, items), b""])


def from_body(body: bytes) -> tuple[Header, list[bytes]]:
    """Header and items of a stored batch; DamagedError where they are not what was written."""
    first, _, lines = body.partition(b"\n")
    header = HEADER.decode(first)
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
        """The batch, or None; DamagedError where the object is not what was written."""
        stored = self._store.read(batch_key(stream, sequence))
        if stored is None:
            return None
        header, items = from_body(stored.body)
        if (header.stream, header.sequence) != (stream, sequence):
            raise DamagedError(f"batch {sequence} of {stream} holds another batch")
        return StoredBatch(header, items, stored.generation)

    def is_there(self, stream: Stream, sequence: int) -> bool:
        """Whether there is a batch of that number: a read, which a bucket bills at a tenth of a listing."""
        return self._store.read(batch_key(stream, sequence)) is not None

    def create(self, header: Header, items: Sequence[bytes]) -> tuple[Header, int]:
        """Store the batch; its completed header and its size. ConflictError where its number is taken."""
        header, body = to_body(header, items)
        self._store.write(header.key, body, expected=ABSENT)
        return header, len(body)

    def waiting(self, stream: Stream | None = None) -> Iterator[Waiting]:
        """The batches that wait, of one stream or of all, in order."""
        prefix = "batches/" if stream is None else f"batches/{stream.path}/"
        for entry in self._store.list(prefix):
            found = waiting_of(entry)
            if found is not None:
                yield found

    def numbers(self, stream: Stream | None = None) -> dict[Stream, list[int]]:
        """The numbers of the batches that wait, in order, by stream."""
        found: dict[Stream, list[int]] = {}
        for waiting in self.waiting(stream):
            found.setdefault(waiting.stream, []).append(waiting.sequence)
        return found

    def move_to_dead_letters(self, stream: Stream, sequence: int) -> None:
        """Move a damaged batch to `dead/`."""
        key = batch_key(stream, sequence)
        stored = self._store.read(key)
        if stored is not None:
            set_aside(self._store, key, stored.body)
            self._store.delete(key, expected=stored.generation)

    def archive(self, batch: StoredBatch) -> None:
        """Keep a delivered batch, compressed; keeping it twice keeps one."""
        body = to_body(batch.header, batch.items)[1]
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
            header, items = from_body(gzip.decompress(stored.body))
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
    return (_stream_of(match[1]), int(match[2])) if match else None


_stream_of = lru_cache(maxsize=4096)(stream_of)
"""A listing names each stream as often as it has batches."""
