"""Which types of events Sophos holds, and what leaving them out would save; the ledger knows no types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lib.errors import ConnectorError
from lib.model.families import FAMILIES, NEEDED, PREFIX, family_of
from lib.model.stream import EVENTS
from lib.pipeline.accounts import Integration, Target
from lib.state.advance import ReadFields

OTHER = "other"
"""Where types are shown that no family has; their own names leave them out."""


@dataclass(slots=True)
class Seen:
    """How many events of a type there were, and how large they are together."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CountTypes:
    """The use case; it stores nothing and moves no cursor."""

    event_fields: ReadFields
    now: Callable[[], datetime]
    monotonic: Callable[[], float]

    def run(
        self, integration: Integration, targets: Iterable[Target], *, window: timedelta, deadline: float
    ) -> dict[str, Any]:
        """What the window holds of all types, those that are left out included, in all the integration's tenants."""
        seen: dict[str, Seen] = {}
        problems = []
        for target in targets:
            if target.stream.kind == EVENTS:
                try:
                    if target.refusal is not None:
                        raise target.refusal
                    start = integration.start(window, self.now, deadline=deadline)
                    self._count(integration, target, start, seen, deadline)
                except ConnectorError as error:
                    tenant = {"tenant": target.stream.tenant, "tenant_name": target.tenant.name}
                    problems.append(tenant | {"code": error.code, "detail": str(error)})
        return {
            "integration": integration.feed.name,
            "hours": round(window.total_seconds() / 3600, 2),
            "complete": not problems,
            "problems": problems,
            **summed(seen, integration.feed.exclude_types),
        }

    def _count(
        self, integration: Integration, target: Target, start: datetime, seen: dict[str, Seen], deadline: float
    ) -> None:
        cursor: str | None = None
        ids: set[str] = set()
        while True:
            page = integration.source.page(
                target.host,
                target.stream.tenant,
                EVENTS,
                cursor=cursor,
                from_date=None if cursor else start,
                deadline=deadline,
            )
            for raw in page.items:
                read = self.event_fields(raw)
                if read.id is None or read.id not in ids:
                    one = seen.setdefault(read.type or "", Seen())
                    one.events += 1
                    one.bytes += len(raw)
                    ids.update([read.id] if read.id else [])
            if not page.has_more or page.next_cursor == cursor:
                return
            cursor = page.next_cursor


def summed(seen: Mapping[str, Seen], excluded: Collection[str]) -> dict[str, Any]:
    """Types by family, the largest first, each with its share; a family's line is what leaving it out saves."""
    all_events, all_bytes = _sums(seen.values())
    families = []
    for family in (*FAMILIES, OTHER):
        types = {name: one for name, one in seen.items() if (family_of(name) or OTHER) == family}
        events, size = _sums(one for name, one in types.items() if name not in NEEDED)
        families.append(
            {
                "family": family,
                "exclude": None if family == OTHER else PREFIX + family,
                "events": events,
                "bytes": size,
                "share_of_events": _share(events, all_events),
                "share_of_bytes": _share(size, all_bytes),
                "types": [
                    {
                        "type": name or None,
                        "events": one.events,
                        "bytes": one.bytes,
                        "share_of_events": _share(one.events, all_events),
                        "share_of_bytes": _share(one.bytes, all_bytes),
                        "excluded": name in excluded,
                        "needed": name in NEEDED,
                    }
                    for name, one in sorted(types.items(), key=lambda item: (-item[1].events, item[0]))
                ],
            }
        )
    excluded_events, excluded_bytes = _sums(one for name, one in seen.items() if name in excluded)
    return {
        "events": all_events,
        "bytes": all_bytes,
        "excluded_events": excluded_events,
        "excluded_bytes": excluded_bytes,
        "families": families,
    }


def _sums(seen: Iterable[Seen]) -> tuple[int, int]:
    each = list(seen)
    return sum(one.events for one in each), sum(one.bytes for one in each)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
