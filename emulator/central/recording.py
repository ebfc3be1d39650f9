"""Serves a recording again (`python -m emulator record`): the same pages in the same order, each when it was recorded.

Times are moved so that the recording begins when the replay does. A page is served to whoever sends the cursor that it
was read with; where it is not due yet, the answer has no items and the cursor that was sent.
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
from emulator.central.feed import KINDS, Feed, Page, Query, record_of
from emulator.central.samples import shifted

FORMAT = 1
_NO_PAGE = "MHw="
"""The cursor of a stream of which no page is due yet."""


class _Line(msgspec.Struct):
    at: float
    tenant: str
    kind: str
    cursor: str | None
    next_cursor: str
    has_more: bool
    items: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A page, and from when on it is served, Unix milliseconds."""

    due: int
    cursor: str | None
    page: Page


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds."""

    header: dict[str, Any]
    lines: list[_Line]

    @property
    def tenants(self) -> list[Tenant]:
        """The customers."""
        return [Tenant(id=each["id"], name=each["name"] or "Example Ltd") for each in self.header["tenants"]]

    @property
    def credential(self) -> Credential:
        """Reads all of it: a tenant's where there is one, else a partner's."""
        one = self.header["id_type"] == "tenant"
        return Credential(id_type="tenant" if one else "partner", id=self.tenants[0].id if one else "recorded-partner")

    def feeds(self, clock: Clock, speed: float) -> dict[tuple[str, str], Feed]:
        """Every stream, from now on at that many times the speed; 0: all of it at once."""
        now = clock.now()
        by = now - from_iso(self.header["began_at"])
        pages: dict[tuple[str, str], list[_Recorded]] = {
            (tenant.id, kind): [] for tenant in self.tenants for kind in KINDS
        }
        for line in self.lines:
            due = now + (round(line.at * 1000 / speed) if speed else 0)
            page = Page(shifted(map(_item, line.items), by), line.next_cursor, line.has_more)
            pages[line.tenant, line.kind].append(_Recorded(due, line.cursor, page))
        return {stream: RecordedFeed(stream[1], clock, found) for stream, found in pages.items()}


def load_recording(path: Path) -> Recording:
    """The recording of a file; ValueError where it is none, OSError where it cannot be read."""
    first, *rest = path.read_bytes().splitlines() or [b""]
    try:
        header = json.loads(first)
        if header["recording"] != FORMAT:
            raise ValueError(f"{path} is a recording of form {header['recording']}; this version reads {FORMAT}")
        decoder = msgspec.json.Decoder(_Line)
        recording = Recording(header, [decoder.decode(line) for line in rest])
        known = {each["id"] for each in header["tenants"]}
    except (KeyError, TypeError, msgspec.DecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no recording: {error}") from error
    if not known or {(line.tenant, line.kind) for line in recording.lines} - {(t, k) for t in known for k in KINDS}:
        raise ValueError(f"{path} is no recording: it has no tenants, or pages of others")
    return recording


class RecordedFeed(Feed):
    """A stream that is served as it was recorded."""

    def __init__(self, kind: str, clock: Clock, pages: list[_Recorded]) -> None:
        super().__init__(kind, clock)
        self._pages = pages
        self.add(record_of(raw, clock.now) for page in pages for raw in _values(page.page))

    def page(self, query: Query) -> Page:
        """The newest page that is due and was read with the cursor; ValueError where no page names the cursor."""
        known = {_NO_PAGE, *(each.page.next_cursor for each in self._pages)}
        if query.cursor is not None and query.cursor not in known:
            raise ValueError("not a cursor of this recording")
        wanted = None if query.cursor == _NO_PAGE else query.cursor
        due = [each.page for each in self._pages if each.cursor == wanted and each.due <= query.now]
        if not due:
            return Page([], query.cursor or _NO_PAGE, has_more=False)
        page = due[-1]
        if not query.excluded:
            return page
        kept = [raw for raw in page.raws if record_of(raw, lambda: 0).type not in query.excluded]
        return Page(kept, page.next_cursor, page.has_more)


def _item(raw: msgspec.Raw) -> bytes:
    """An item's bytes; what is no object was written as a string of the same text."""
    item = bytes(raw)
    return str(json.loads(item)).encode() if item[:1] == b'"' else item


def _values(page: Page) -> Iterator[bytes]:
    """The items that are JSON; others are served as they are, and counted nowhere."""
    for raw in page.raws:
        try:
            json.loads(raw)
        except ValueError:
            continue
        yield raw
