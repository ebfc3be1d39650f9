"""Serves a recording (`python -m emulator record`): the same pages in the same order, with the recorded delays.

Times are shifted so that the recording begins with the replay. A request gets the page that was read with its cursor.
If that page is not due yet, the answer has no items and repeats the request's cursor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from emulator.central.accounts import Credential, Tenant
from emulator.central.clock import Clock, from_iso
from emulator.central.feed import KINDS, Feed, FeedPage, FeedQuery, record_of
from emulator.central.samples import shifted

FORMAT = 1
_NO_PAGE = "MHw="
"""The cursor of a stream without a due page."""


class _Line(msgspec.Struct):
    at: float
    tenant: str
    kind: str
    cursor: str | None
    next_cursor: str
    has_more: bool
    items: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class _TimedPage:
    """A page with the time from which it is served, in Unix milliseconds."""

    due: int
    cursor: str | None
    page: FeedPage


@dataclass(frozen=True, slots=True)
class Recording:
    """The content of a recording's file."""

    header: dict[str, Any]
    lines: list[_Line]

    @property
    def tenants(self) -> list[Tenant]:
        """The recorded tenants."""
        return [Tenant(id=tenant["id"], name=tenant["name"] or "Example Ltd") for tenant in self.header["tenants"]]

    @property
    def credential(self) -> Credential:
        """The credential that reads all tenants: a tenant's for a single one, otherwise a partner's."""
        if self.header["id_type"] == "tenant":
            return Credential(id_type="tenant", id=self.tenants[0].id)
        return Credential(id_type="partner", id="recorded-partner")

    def feeds(self, clock: Clock, speed: float) -> dict[tuple[str, str], Feed]:
        """All streams, starting now, at `speed` times the recorded speed; 0: everything at once."""
        now = clock.now()
        by = now - from_iso(self.header["began_at"])
        pages: dict[tuple[str, str], list[_TimedPage]] = {
            (tenant.id, kind): [] for tenant in self.tenants for kind in KINDS
        }
        for line in self.lines:
            due = now + (round(line.at * 1000 / speed) if speed else 0)
            page = FeedPage(shifted(map(_item, line.items), by), line.next_cursor, line.has_more)
            pages[line.tenant, line.kind].append(_TimedPage(due, line.cursor, page))
        return {stream: RecordedFeed(stream[1], clock, recorded) for stream, recorded in pages.items()}


def load_recording(path: Path) -> Recording:
    """The recording of a file; ValueError if it holds none, OSError if it cannot be read."""
    first, *rest = path.read_bytes().splitlines() or [b""]
    try:
        header = json.loads(first)
        if header["recording"] != FORMAT:
            raise ValueError(f"{path} is a recording of format {header['recording']}; this version reads {FORMAT}")
        decoder = msgspec.json.Decoder(_Line)
        recording = Recording(header, [decoder.decode(line) for line in rest])
        tenants = {tenant["id"] for tenant in header["tenants"]}
    except (KeyError, TypeError, RecursionError, msgspec.DecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a recording: {error}") from error
    if not tenants or {(line.tenant, line.kind) for line in recording.lines} - {(t, k) for t in tenants for k in KINDS}:
        raise ValueError(f"{path} is not a recording: it has no tenants, or pages of others")
    return recording


class RecordedFeed(Feed):
    """A recorded stream."""

    def __init__(self, kind: str, clock: Clock, pages: list[_TimedPage]) -> None:
        super().__init__(kind, clock)
        self._pages = pages
        self.add(record_of(raw, clock.now) for page in pages for raw in _values(page.page))

    def page(self, query: FeedQuery) -> FeedPage:
        """The newest due page that was read with the cursor; ValueError if the recording has no such cursor."""
        cursors = {_NO_PAGE, *(recorded.page.next_cursor for recorded in self._pages)}
        if query.cursor is not None and query.cursor not in cursors:
            raise ValueError("not a cursor of this recording")
        wanted = None if query.cursor == _NO_PAGE else query.cursor
        due = [recorded.page for recorded in self._pages if recorded.cursor == wanted and recorded.due <= query.now]
        if not due:
            return FeedPage([], query.cursor or _NO_PAGE, has_more=False)
        page = due[-1]
        if not query.excluded:
            return page
        kept = [raw for raw in page.raws if record_of(raw, lambda: 0).type not in query.excluded]
        return FeedPage(kept, page.next_cursor, page.has_more)


def _item(raw: msgspec.Raw) -> bytes:
    """An item's bytes. An item that is not an object was written as a string of its text."""
    item = bytes(raw)
    return str(json.loads(item)).encode() if item[:1] == b'"' else item


def _values(page: FeedPage) -> Iterator[bytes]:
    """The items that are JSON. Other items are served unchanged and not counted."""
    for raw in page.raws:
        try:
            json.loads(raw)
        except (ValueError, RecursionError):
            continue
        yield raw
