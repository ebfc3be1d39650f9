"""The store's size: objects and bytes of each part, counted in a thread so that no request waits for it."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from lib.errors import ConnectorError
from lib.model.clock import to_text
from lib.store.base import ObjectStore

log = logging.getLogger(__name__)

FRESH_SECONDS = 60.0
DEAR = 100.0
"""The pause after a count, as a multiple of its own time: a large store is counted rarely."""


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """One folder of the store."""

    name: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the store at one time."""

    at: str
    parts: tuple[StoreFolder, ...]
    """The largest first."""
    free: int | None
    """Free bytes on the store's disk; None for a bucket."""

    @property
    def bytes(self) -> int:
        """Of all parts together."""
        return sum(part.bytes for part in self.parts)

    @property
    def objects(self) -> int:
        """Of all parts together."""
        return sum(part.objects for part in self.parts)


class Footprint:
    """The newest count. Reading an old one starts a new one."""

    def __init__(self, store: Callable[[], ObjectStore], location: Callable[[], str]) -> None:
        """`location`: the store as the configuration names it."""
        self._store = store
        self._location = location
        self._lock = threading.Lock()
        self._size: Size | None = None
        self._due = 0.0
        """Monotonic time."""

    def size(self) -> Size | None:
        """The newest count; None until the first one has ended."""
        with self._lock:
            is_due = time.monotonic() >= self._due
            if is_due:
                self._due = inf  # Until this count has ended: a large bucket takes long.
        if is_due:
            threading.Thread(target=self._count, name="footprint", daemon=True).start()
        return self._size

    def _count(self) -> None:
        began, counts = time.monotonic(), dict[str, tuple[int, int]]()
        try:
            for entry in self._store().list(""):
                name = entry.key.partition("/")[0]
                objects, bytes_ = counts.get(name, (0, 0))
                counts[name] = (objects + 1, bytes_ + entry.size)
            parts = sorted((StoreFolder(name, *sums) for name, sums in counts.items()), key=lambda part: -part.bytes)
            self._size = Size(to_text(datetime.now(UTC)), tuple(parts), self._free())
        except ConnectorError as error:
            log.warning("the store cannot be counted: %s", error)
        finally:
            self._due = time.monotonic() + max(FRESH_SECONDS, DEAR * (time.monotonic() - began))

    def _free(self) -> int | None:
        location = self._location()
        if not location.startswith("file:"):
            return None
        try:
            return shutil.disk_usage(Path(location.removeprefix("file:"))).free
        except OSError:
            return None
