"""What every object store offers: whole objects, generations, compare-and-set.

The meaning of generations is Cloud Storage's (https://cloud.google.com/storage/docs/request-preconditions):
each write gives an object a new one, and 0 means "must not exist".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

LAYOUT = 1
"""The arrangement of keys that this version writes, and the newest that it reads."""
ABSENT = 0
"""The generation of an object that does not exist."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's bytes and the generation that they are at."""

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
    """A key's parts; ValueError for what is no key: an empty part, or one that begins with a dot."""
    segments = key.split("/")
    if any(not segment or segment.startswith(".") or "\0" in segment for segment in segments):
        raise ValueError(f"not an object's key: {key!r}")
    return segments


class ObjectStore(Protocol):
    """Objects under keys such as `batches/acme/t-1/events/7.ndjson`; segments are already percent-encoded.

    Every method raises StoreError when the store itself fails (disk full, out of reach).
    """

    def read(self, key: str) -> Stored | None:
        """The object, or None where there is none."""

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace the object if it is still at generation `expected` (ABSENT: create it), durably; the new generation.

        Raises ConflictError when it is at another one. A reader sees the old bytes or the new ones, never a mixture.
        """

    def delete(self, key: str, *, expected: int) -> None:
        """Remove the object if it is still at generation `expected`; ConflictError when it is not, or is gone."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` and sorts after `after`, in order of key; read page by page."""
