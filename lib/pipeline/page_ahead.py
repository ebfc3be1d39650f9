"""Asks for a stream's next page while the one before it is stored."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")

LARGEST_BYTES = 8 << 20
"""Of a page's items: while a larger one is stored none is asked for, so that two of them are never in memory."""


class PageAhead(Generic[T]):
    """At most one page that is asked for before it is needed.

    Asking early changes when Sophos is asked, and nothing else: an answer, or the error in its place, counts once the
    page is taken. A page that nobody takes has cost a call.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._asked: tuple[str, Future[T]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for an answer that is under way: nothing is asked behind a call's back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, cursor: str, ask: Callable[[], T]) -> None:
        """Ask for the page that follows the cursor, in a thread of its own."""
        self._pool = self._pool or ThreadPoolExecutor(1, "page-ahead")
        self._asked = cursor, self._pool.submit(ask)

    def take(self, cursor: str) -> T | None:
        """The page that follows the cursor, where it was asked for; raises what asking raised."""
        asked, self._asked = self._asked, None
        return asked[1].result() if asked is not None and asked[0] == cursor else None
