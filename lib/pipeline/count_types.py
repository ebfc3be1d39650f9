"""The `types` command: count the event types that Sophos holds, and how much excluding each would save.

The types are read from Sophos again, since the ledger does not record them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from lib.errors import ConnectorError
from lib.model.families import FAMILIES, NEEDED, PREFIX, family_of
from lib.model.page import SophosTenant
from lib.model.stream import EVENTS
from lib.pipeline.accounts import Accounts
from lib.pipeline.integration import Integration, Target
from lib.pipeline.reconcile import OnProgress, OnStreamProgress
from lib.state.advance import ReadFields

OTHER = "other"
"""The heading for types of no family. Only the type's own name excludes them."""


@dataclass(slots=True)
class TypeCount:
    """The number of events of a type, and their total size."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A type's or a family's part of all events that were read, from 0 to 1."""

    events: int
    bytes: int
    of_events: float
    of_bytes: float

    @classmethod
    def of(cls, part: Iterable[TypeCount], whole: TypeCount) -> Share:
        """The share of the sum of the parts."""
        total = _sum(part)
        return cls(total.events, total.bytes, _share(total.events, whole.events), _share(total.bytes, whole.bytes))


@dataclass(frozen=True, slots=True)
class SeenType:
    """A type of events that Sophos holds."""

    name: str
    """Empty: events without a type."""
    share: Share
    is_excluded: bool
    is_needed: bool
    """Whether excluding its family keeps it, because the connector needs it."""


@dataclass(frozen=True, slots=True)
class SeenFamily:
    """A family of types, and how much excluding it would save."""

    name: str
    exclude: str | None
    """The setting's value that excludes the family; None if only the names of its types do."""
    share: Share
    types: Sequence[SeenType]


@dataclass(frozen=True, slots=True)
class TypesSeen:
    """The types by family, largest first."""

    all: TypeCount
    excluded: TypeCount
    families: Sequence[SeenFamily]


@dataclass(frozen=True, slots=True)
class UnreadTenant:
    """A tenant that was not read to the end, and why."""

    tenant: SophosTenant | None
    """None: the integration's tenants could not be listed, so none was read."""
    error: ConnectorError


@dataclass(frozen=True, slots=True)
class TypesReport:
    """The event types that an integration's tenants hold within a window of time."""

    integration: str
    hours: float
    problems: Sequence[UnreadTenant]
    seen: TypesSeen

    @property
    def is_complete(self) -> bool:
        """Whether every tenant was read to the end."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class CountTypes:
    """The use case; it stores nothing and moves no cursor."""

    event_fields: ReadFields
    now: Callable[[], datetime]
    monotonic: Callable[[], float]

    def all(
        self,
        integrations: Iterable[Integration],
        accounts: Accounts,
        *,
        window: timedelta,
        seconds: float,
        on_progress: OnStreamProgress = lambda _, __, ___: None,
    ) -> list[TypesReport]:
        """Count each integration's types within the window; `seconds` is the limit for each integration.

        `on_progress` is called after each page with the stream, the number of events read and the newest event's time.
        """
        return [
            self._count_integration(
                integration, accounts, window=window, deadline=self.monotonic() + seconds, on_progress=on_progress
            )
            for integration in integrations
        ]

    def _count_integration(
        self,
        integration: Integration,
        accounts: Accounts,
        *,
        window: timedelta,
        deadline: float,
        on_progress: OnStreamProgress,
    ) -> TypesReport:
        """Count one integration's types. If its tenants cannot be listed, the report contains the error."""
        refusal: list[UnreadTenant] = []
        targets: Iterable[Target] = ()
        try:
            targets = accounts.targets(integration, kinds=(EVENTS,))
        except ConnectorError as error:
            refusal = [UnreadTenant(None, error)]
        report = self.run(integration, targets, window=window, deadline=deadline, on_progress=on_progress)
        return replace(report, problems=[*refusal, *report.problems])

    def run(
        self,
        integration: Integration,
        targets: Iterable[Target],
        *,
        window: timedelta,
        deadline: float,
        on_progress: OnStreamProgress = lambda _, __, ___: None,
    ) -> TypesReport:
        """Count the types in all the integration's tenants, including the excluded types."""
        seen: dict[str, TypeCount] = {}
        problems = []
        for target in targets:
            if target.stream.kind == EVENTS:
                try:
                    if target.refusal is not None:
                        raise target.refusal
                    start = integration.start(window, self.now, deadline=deadline)
                    self._count(
                        integration,
                        target,
                        start,
                        seen,
                        deadline=deadline,
                        on_progress=partial(on_progress, str(target.stream)),
                    )
                except ConnectorError as error:
                    problems.append(UnreadTenant(target.tenant, error))
        hours = round(window.total_seconds() / 3600, 2)
        return TypesReport(integration.name, hours, problems, summed(seen, integration.settings.excluded_types))

    def _count(
        self,
        integration: Integration,
        target: Target,
        start: datetime,
        seen: dict[str, TypeCount],
        *,
        deadline: float,
        on_progress: OnProgress,
    ) -> None:
        cursor: str | None = None
        ids: set[str] = set()
        count, newest = 0, start
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
                newest = max(newest, read.created_at or newest)
                if read.id is None or read.id not in ids:
                    of_type = seen.setdefault(read.type or "", TypeCount())
                    of_type.events += 1
                    of_type.bytes += len(raw)
                    ids.update([read.id] if read.id else [])
            is_last = not page.has_more or page.next_cursor == cursor
            count += len(page.items)
            on_progress(count, None if is_last else newest)
            if is_last:
                return
            cursor = page.next_cursor


def summed(seen: Mapping[str, TypeCount], excluded: Collection[str]) -> TypesSeen:
    """Types by family, largest first, with their shares. A family's share is what excluding the family saves."""
    whole = _sum(seen.values())
    families = []
    for family in (*FAMILIES, OTHER):
        types = {name: counted for name, counted in seen.items() if (family_of(name) or OTHER) == family}
        largest = sorted(types.items(), key=lambda item: (-item[1].events, item[0]))
        families.append(
            SeenFamily(
                family,
                None if family == OTHER else PREFIX + family,
                Share.of((counted for name, counted in types.items() if name not in NEEDED), whole),
                [
                    SeenType(name, Share.of([counted], whole), name in excluded, name in NEEDED)
                    for name, counted in largest
                ],
            )
        )
    return TypesSeen(whole, _sum(counted for name, counted in seen.items() if name in excluded), families)


def _sum(seen: Iterable[TypeCount]) -> TypeCount:
    parts = list(seen)
    return TypeCount(sum(part.events for part in parts), sum(part.bytes for part in parts))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
