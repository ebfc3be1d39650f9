"""The streams that this process is reading just now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class InFlight:
    """The streams that this process is reading just now: a call leaves those to the call that reads them.

    It only saves requests; calls of several processes may read one stream at once.
    """

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def alone(self, path: str, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns, or `otherwise` where the stream is being read."""
        with self._lock:
            if path in self._held:
                return otherwise
            self._held.add(path)
        try:
            return read()
        finally:
            with self._lock:
                self._held.discard(path)
