"""The streams that this process is reading at the moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class InFlight:
    """The streams that this process is reading at the moment. A second call skips them.

    This only saves requests. Correctness does not depend on it: several processes may read a stream at the same time.
    """

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def alone(self, path: str, read: Callable[[], T], otherwise: T) -> T:
        """Return `read()`, or `otherwise` if another thread is reading the stream."""
        with self._lock:
            if path in self._held:
                return otherwise
            self._held.add(path)
        try:
            return read()
        finally:
            with self._lock:
                self._held.discard(path)
