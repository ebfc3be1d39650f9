"""A queue of keyed work. Repeated requests for a key are done once, and never two at a time; work can be delayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class WorkQueue(Generic[K]):
    """Threads that call `do(key)` for each requested key. `do` returns the seconds until a retry, or None.

    A request during the work on its key is done after it, so that no request is lost.
    """

    def __init__(self, do: Callable[[K], float | None], name: str, workers: int) -> None:
        self._do = do
        self._change = threading.Condition()
        self._due: dict[K, float] = {}
        self._busy: dict[K, float] = {}
        """The keys of the work under way, with the time of its beginning."""
        self._over = False
        self._threads = [threading.Thread(target=self._run, name=f"{name} {n}", daemon=True) for n in range(workers)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def ask(self, key: K, delay: float = 0.0) -> None:
        """Request the work, due in `delay` seconds. A waiting request for the key keeps the earlier of both times."""
        with self._change:
            due = time.monotonic() + delay
            self._due[key] = min(due, self._due.get(key, due))
            self._change.notify()

    def under_way(self) -> dict[K, float]:
        """The keys of the work under way, with the seconds since its beginning."""
        with self._change:
            now = time.monotonic()
            return {key: now - since for key, since in self._busy.items()}

    def drain(self, seconds: float) -> bool:
        """Wait until no work is due or under way; return whether that came in time. Delayed work is left."""
        end = time.monotonic() + seconds
        with self._change:
            return self._change.wait_for(lambda: not self._busy and not self._ready(), end - time.monotonic())

    def stop(self) -> None:
        """Stop the threads, each after its work under way."""
        with self._change:
            self._over = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _ready(self) -> list[K]:
        now = time.monotonic()
        return [key for key, due in self._due.items() if due <= now and key not in self._busy]

    def _run(self) -> None:
        while True:
            with self._change:
                while not (ready := self._ready()) and not self._over:
                    waiting = [due for key, due in self._due.items() if key not in self._busy]
                    self._change.wait(max(0.0, min(waiting) - time.monotonic()) if waiting else None)
                if self._over:
                    return
                key = ready[0]
                del self._due[key]
                self._busy[key] = time.monotonic()
            # Outside the lock: the work takes seconds, and requests must not wait for it.
            delay = self._do(key)
            with self._change:
                del self._busy[key]
                if delay is not None:
                    self._due[key] = min(time.monotonic() + delay, self._due.get(key, float("inf")))
                self._change.notify_all()  # Wakes `drain` too.
