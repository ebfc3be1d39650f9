"""The interface of every object store: whole objects, generations, compare-and-set.

Generations mean the same as in Cloud Storage (https://cloud.google.com/storage/docs/request-preconditions): each write
gives the object a new generation, and 0 means "must not exist".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

LAYOUT = 1
"""The version of the layout of keys that this program writes, and the newest that it reads."""
ABSENT = 0
"""The generation of an object that does not exist."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's bytes with their generation."""

    body: bytes
    generation: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a listing."""

    key: str
    generation: int
    size: int
    updated: datetime


def segments_of(key: str) -> list[str]:
    """The segments of a key; ValueError if a segment is empty, begins with a dot or holds a null byte."""
    segments = key.split("/")
    if any(not segment or segment.startswith(".") or "\0" in segment for segment in segments):
        raise ValueError(f"not an object's key: {key!r}")
    return segments


class ObjectStore(Protocol):
    """Objects under keys such as `batches/acme/t-1/events/7.ndjson`; segments are already percent-encoded.

    Every method raises StoreError if the store itself fails (disk full, unreachable). After a StoreError of `write` or
    `delete` the change may have happened or not; it is never half done.
    """

    def read(self, key: str) -> Stored | None:
        """The object; None if there is none. UnreadableError if this object cannot be read, though others can."""

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace the object if its generation is still `expected` (ABSENT: create it); return the new generation.

        The write is durable on return. Raises ConflictError if the generation differs. A reader sees the old bytes or
        the new bytes, never a mixture.
        """

    def delete(self, key: str, *, expected: int) -> None:
        """Remove the object if its generation is still `expected`; otherwise raise ConflictError.

        A power cut may bring back what was removed shortly before. So every removal is safe to repeat, and what was
        written before it decides: a batch with a receipt, for example, is not sent again.
        """

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` and sorts after `after`, in order of key.

        The listing is read page by page. It may miss objects that are created meanwhile.
        """

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        """Every path of `depth` segments below `prefix` with an object below it, in order; the prefix ends in a slash.

        For `a/` and 2: `a/b/c` if there is an object `a/b/c/d/e`. It costs the same however many objects there are.
        """
