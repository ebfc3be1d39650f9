"""A store in memory, for tests that make many stores."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

from lib.errors import ConflictError
from lib.store.base import ABSENT, Entry, Stored


class MemoryStore:
    """What `ObjectStore` says, without durability; not for threads."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Stored, datetime]] = {}
        self._generations = count(1)

    def read(self, key: str) -> Stored | None:
        """The object, or None."""
        found = self._objects.get(key)
        return found[0] if found else None

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace or create it; the new generation."""
        self._check(key, expected)
        stored = Stored(body, next(self._generations))
        self._objects[key] = stored, datetime.now(UTC)
        return stored.generation

    def delete(self, key: str, *, expected: int) -> None:
        """Remove it."""
        self._check(key, expected)
        if self._objects.pop(key, None) is None:
            raise ConflictError(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects in order of key."""
        for key in sorted(self._objects):
            if key.startswith(prefix) and key > after and key in self._objects:
                stored, updated = self._objects[key]
                yield Entry(key, stored.generation, len(stored.body), updated)

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        """Paths of so many segments with an object below."""
        keys = (key.removeprefix(prefix).split("/") for key in sorted(self._objects) if key.startswith(prefix))
        yield from dict.fromkeys(prefix + "/".join(key[:depth]) for key in keys if len(key) > depth)

    def _check(self, key: str, expected: int) -> None:
        found = self.read(key)
        if (found.generation if found else ABSENT) != expected:
            raise ConflictError(key)
