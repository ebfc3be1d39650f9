"""Pages in a row that tell nothing new, though each says that there is more."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from lib.model.page import Page

STALE_PAGES = 5
"""After so many of them a call ends."""


class StalePages:
    """The pages since the last one with anything to store."""

    def __init__(self) -> None:
        self._cursors: set[str | None] = set()
        """What they were read with."""
        self._seen: set[str] = set()
        """The keys of the events in them."""
        self._count = 0
        """How many of them, the last in a row, held none that the others had not."""

    def fault(self, page: Page, cursor: str | None, keys: AbstractSet[str], *, has_new: bool) -> str | None:
        """Count a page that was read with the cursor; what is wrong with going on after it, None where nothing is."""
        if has_new:
            self._cursors.clear()
            self._seen.clear()
        self._cursors.add(cursor)
        self._count = 0 if keys - self._seen else self._count + 1
        self._seen |= keys
        if page.has_more and page.next_cursor in self._cursors:
            return "returns a cursor that it was sent"
        if page.has_more and self._count >= STALE_PAGES:
            return f"sends nothing new, {STALE_PAGES} pages in a row"
        return None

    def may_follow(self, page: Page, cursor: str | None) -> bool:
        """Whether nothing is wrong with going on after the page, whatever it holds."""
        return page.has_more and page.next_cursor not in {*self._cursors, cursor} and self._count + 1 < STALE_PAGES
