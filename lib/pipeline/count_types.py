"""Which types of events Sophos holds, and what leaving them out would save; the ledger knows no types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from lib.errors import ConnectorError
from lib.model.families import FAMILIES, NEEDED, PREFIX, family_of
from lib.model.page import Tenant
from lib.model.stream import EVENTS
from lib.pipeline.accounts import Accounts
from lib.pipeline.integration import Integration, Target
from lib.pipeline.reconcile import OnProgress, OnStreamProgress
from lib.state.advance import ReadFields

OTHER = "other"
"""Where types are shown that no family has; their own names leave them out."""


@dataclass(slots=True)
class Seen:
    """How many events of a type there were, and how large they are together."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """How much of all that was seen something is."""

    events: int
    bytes: int
    of_events: float
    of_bytes: float

    @classmethod
    def of(cls, part: Iterable[Seen], whole: Seen) -> Share:
        """The share of the parts together."""
        summed = _sum(part)
        return cls(summed.events, summed.bytes, _share(summed.events, whole.events), _share(summed.bytes, whole.bytes))


@dataclass(frozen=True, slots=True)
class SeenType:
    """A type of events that Sophos holds."""

    name: str
    """Empty: events without a type."""
    share: Share
    is_excluded: bool
    is_needed: bool
    """Whether a family's name does not leave it out."""


@dataclass(frozen=True, slots=True)
class SeenFamily:
    """A family of types, and what leaving it out would save."""

    name: str
    exclude: str | None
    """What leaves it out; None: only the names of its types do."""
    share: Share
    types: Sequence[SeenType]


@dataclass(frozen=True, slots=True)
class TypesSeen:
    """The types that were seen, by family, the largest first."""

    all: Seen
    excluded: Seen
    families: Sequence[SeenFamily]


@dataclass(frozen=True, slots=True)
class UnreadTenant:
    """A tenant that could not be read to the end."""

    tenant: Tenant | None
    """None: the integration's tenants could not be told, and none was read."""
    error: ConnectorError


@dataclass(frozen=True, slots=True)
class TypesReport:
    """What an integration's tenants hold of a window."""

    integration: str
    hours: float
    problems: Sequence[UnreadTenant]
    seen: TypesSeen

    @property
    def is_complete(self) -> bool:
        """Whether every tenant was read."""
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
        """What the window holds for each integration, for each of which there are so many seconds.

        `on_progress` hears, after each page, of which stream how many events were read, and the newest one's time.
        """
        return [
            self._one(each, accounts, window=window, deadline=self.monotonic() + seconds, on_progress=on_progress)
            for each in integrations
        ]

    def _one(
        self,
        integration: Integration,
        accounts: Accounts,
        *,
        window: timedelta,
        deadline: float,
        on_progress: OnStreamProgress,
    ) -> TypesReport:
        """What the window holds for the integration; one that cannot be asked is told in its report."""
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
        """What the window holds of all types, those that are left out included, in all the integration's tenants."""
        seen: dict[str, Seen] = {}
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
        seen: dict[str, Seen],
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
                    of_type = seen.setdefault(read.type or "", Seen())
                    of_type.events += 1
                    of_type.bytes += len(raw)
                    ids.update([read.id] if read.id else [])
            is_last = not page.has_more or page.next_cursor == cursor
            count += len(page.items)
            on_progress(count, None if is_last else newest)
            if is_last:
                return
            cursor = page.next_cursor


def summed(seen: Mapping[str, Seen], excluded: Collection[str]) -> TypesSeen:
    """Types by family, the largest first, each with its share; a family's line is what leaving it out saves."""
    whole = _sum(seen.values())
    families = []
    for family in (*FAMILIES, OTHER):
        types = {name: each for name, each in seen.items() if (family_of(name) or OTHER) == family}
        largest = sorted(types.items(), key=lambda item: (-item[1].events, item[0]))
        families.append(
            SeenFamily(
                family,
                None if family == OTHER else PREFIX + family,
                Share.of((each for name, each in types.items() if name not in NEEDED), whole),
                [SeenType(name, Share.of([each], whole), name in excluded, name in NEEDED) for name, each in largest],
            )
        )
    return TypesSeen(whole, _sum(each for name, each in seen.items() if name in excluded), families)


def _sum(seen: Iterable[Seen]) -> Seen:
    each = list(seen)
    return Seen(sum(one.events for one in each), sum(one.bytes for one in each))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
