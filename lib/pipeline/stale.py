"""Detect pages in a row without anything new, although each reports more pages."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from lib.model.page import Page

STALE_PAGES = 5
"""The number of such pages after which a call ends."""


class StalePages:
    """The pages since the last page with a new event."""

    def __init__(self) -> None:
        self._cursors: set[str | None] = set()
        """The cursors that these pages were read with."""
        self._seen: set[str] = set()
        """The keys of the events in these pages."""
        self._count = 0
        """The number of the last of these pages, in a row, without a key that the others lack."""

    def fault(self, page: Page, cursor: str | None, keys: AbstractSet[str], *, has_new: bool) -> str | None:
        """Count a page that was read with the cursor; returns the reason to stop after it, or None."""
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
        """Whether reading continues after the page, whatever events it contains."""
        return page.has_more and page.next_cursor not in {*self._cursors, cursor} and self._count + 1 < STALE_PAGES
