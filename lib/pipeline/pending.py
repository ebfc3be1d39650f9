"""How many bytes wait in the store, without listing them at each call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.state.batches import Batches

LISTED_SECONDS = 600.0
"""How old the listing may be: only what other processes store is missing in it."""
LISTED_CLOSE_SECONDS = 60.0
"""The same, where over half of the bound is used up."""


class PendingBytes:
    """A process's count of the bytes that wait: those of its latest listing, and all that it has stored since.

    What is delivered meanwhile is still counted, so that the count is too high rather than too low. Before it says
    that there is no room, it lists anew; what it counts cannot drift. Safe between threads.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._listed = 0
        self._listed_at: float | None = None
        self._stored = 0
        """Since the latest listing began; what was stored while it lasted may be counted twice."""
        self._listing = threading.Lock()
        self._counting = threading.Lock()

    def add(self, size: int) -> None:
        """Count what this process has stored."""
        with self._counting:
            self._stored += size

    def reach(self, most: int, batches: Batches) -> bool:
        """Whether so many bytes wait, or more."""
        with self._listing:
            if self._is_old(most):
                with self._counting:
                    self._stored = 0
                self._listed_at = self._monotonic()
                self._listed = sum(waiting.entry.size for waiting in batches.waiting())
            return self.counted >= most

    @property
    def counted(self) -> int:
        """Those of the latest listing, and all that this process has stored since."""
        return self._listed + self._stored

    def _is_old(self, most: int) -> bool:
        if self._listed_at is None or self.counted >= most:
            return True
        bound = LISTED_SECONDS if 2 * self.counted < most else LISTED_CLOSE_SECONDS
        return self._monotonic() - self._listed_at >= bound


class Room:
    """The room for one call's pages: once it is used up, it is for the whole call. Safe between threads."""

    def __init__(self, pending: PendingBytes, most: int, batches: Batches) -> None:
        self._pending = pending
        self._most = most
        self._batches = batches
        self._is_used_up = False

    @property
    def is_used_up(self) -> bool:
        """Whether no further page is asked for."""
        self._is_used_up = self._is_used_up or self._pending.reach(self._most, self._batches)
        return self._is_used_up

    def has_room_for(self, size: int) -> bool:
        """Whether a further page is asked for once so many bytes are stored, as far as is known without a listing."""
        return not self._is_used_up and self._pending.counted + size < self._most

    def take(self, size: int) -> None:
        """Count what was stored: each stream may go a page beyond, no more."""
        self._pending.add(size)
