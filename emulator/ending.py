"""The request to end, by SIGTERM or SIGINT, that a process waits for."""

from __future__ import annotations

import signal
from queue import Empty, SimpleQueue


class EndRequest:
    """Made in the main thread; from then on both signals are taken.

    A second signal interrupts the handler of the first, for example where `make` hands on a SIGTERM that its whole
    group has already had. `threading.Event.set` would then wait for ever, for a lock that it holds itself;
    `queue.SimpleQueue.put` is documented as reentrant.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[None] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.put(None))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for it, at most so many seconds; whether it has come."""
        try:
            self._asked.get(timeout=seconds)
        except Empty:
            return False
        self._asked.put(None)
        return True
