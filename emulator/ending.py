"""Waits for the request to end a process: SIGTERM or SIGINT."""

from __future__ import annotations

import signal
from queue import Empty, SimpleQueue


class EndRequest:
    """Handles both signals from its creation on. Create it in the main thread.

    A second signal can interrupt the handler of the first, for example if `make` passes on a SIGTERM that the whole
    process group has received. `threading.Event.set` would then deadlock on its own lock. `queue.SimpleQueue.put` is
    documented as reentrant.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[None] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.put(None))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the request, at most so many seconds; return whether it came. Later calls return at once."""
        try:
            self._asked.get(timeout=seconds)
        except Empty:
            return False
        self._asked.put(None)
        return True
