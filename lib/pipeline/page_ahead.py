"""Read a stream's next page while the page before it is stored."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")

LARGEST_BYTES = 8 << 20
"""The largest size of a page's items. While a larger page is stored, the next one is not read, to limit memory."""


class PageAhead(Generic[T]):
    """At most one page that is requested before it is needed.

    This changes only the time of the request: the answer, or its error, counts when the page is taken. A page that is
    not taken costs one call.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._asked: tuple[str, Future[T]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for a request in flight, so that none continues after the call."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def is_asked(self) -> bool:
        """Whether a page is requested and not taken."""
        return self._asked is not None

    def begin(self, cursor: str, ask: Callable[[], T]) -> None:
        """Request the page after the cursor in another thread."""
        self._pool = self._pool or ThreadPoolExecutor(1, "page-ahead")
        self._asked = cursor, self._pool.submit(ask)

    def take(self, cursor: str) -> T | None:
        """The page after the cursor, or None if it was not requested; raises the request's error."""
        asked, self._asked = self._asked, None
        return asked[1].result() if asked is not None and asked[0] == cursor else None
