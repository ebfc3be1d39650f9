"""The size of the waiting batches, without a listing at each call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.state.batches import Batches

LISTED_SECONDS = 600.0
"""The longest use of a listing. It lacks only what other processes have stored since."""
LISTED_CLOSE_SECONDS = 60.0
"""The same, when more than half of the limit is used."""


class PendingBytes:
    """The bytes that wait: those of this process's latest listing, and all it has stored since.

    Delivered bytes stay in the count until the next listing, so it is rather too high than too low. Before it reports
    the limit as reached, it makes a new listing, so errors do not accumulate. Safe for use from several threads.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._listed = 0
        self._listed_at: float | None = None
        self._stored = 0
        """Bytes stored since the latest listing began. Those stored during the listing may be counted twice."""
        self._listing = threading.Lock()
        self._counting = threading.Lock()

    def add(self, size: int) -> None:
        """Count bytes that this process has stored."""
        with self._counting:
            self._stored += size

    def reach(self, most: int, batches: Batches) -> bool:
        """Whether at least `most` bytes wait."""
        with self._listing:
            if self._is_old(most):
                began, stored = self._monotonic(), self._stored
                listed = sum(waiting.entry.size for waiting in batches.waiting())
                # Only now: if the listing fails, the next call lists again.
                with self._counting:
                    self._listed_at, self._listed, self._stored = began, listed, self._stored - stored
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


class PendingLimit:
    """The limit as one call sees it: once reached, it stays so for the call. Safe for use from several threads."""

    def __init__(self, pending: PendingBytes, most: int, batches: Batches) -> None:
        self._pending = pending
        self._most = most
        self._batches = batches
        self._is_used_up = False

    @property
    def is_used_up(self) -> bool:
        """Whether the limit is reached: no further page is requested."""
        self._is_used_up = self._is_used_up or self._pending.reach(self._most, self._batches)
        return self._is_used_up

    def has_room_for(self, size: int) -> bool:
        """Whether a further page is asked for once so many bytes are stored, as far as is known without a listing."""
        return not self._is_used_up and self._pending.counted + size < self._most

    def add_stored(self, size: int) -> None:
        """Count a stored batch. Each stream may exceed the limit by one page."""
        self._pending.add(size)
