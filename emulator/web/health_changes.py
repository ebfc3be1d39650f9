"""Changes of health of the site, of integrations and of streams: the time, the old and new health, and the reasons.

Each pass over the store compares the health with the last one. A change and its end between two passes are not noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

import msgspec

from emulator.web.chart_objects import read_object, update_object
from emulator.web.charts import Scope
from emulator.web.status import SiteStatus
from lib.errors import ConnectorError, KeptError
from lib.model.clock import to_text
from lib.model.stream import Stream, encode_segment
from lib.state.codec import Codec
from lib.store.base import ObjectStore

HEALTH_KEY = "charts/health.json"
MOST_CHANGES = 300
SAME = timedelta(minutes=10)
"""Two connectors that note the same change within this time saw one change: each looks when it looks."""
KEPT = timedelta(days=90)
SHOWN = 50
WHOLE: Final = "all"
INTEGRATIONS: Final = "integrations"
STREAMS: Final = "streams"
NAMED = {INTEGRATIONS: 30, STREAMS: 10}
"""The most names in a change of several integrations or streams. The change has their number too."""
MOST_STREAMS = 1_000
"""The most streams whose health is saved for a restart. With more, changes during the restart are not noticed."""
UNKNOWN: Final = "unknown"
BADNESS = {UNKNOWN: 0, "ok": 0, "attention": 1, "failing": 2}

Part = Literal["all", "integrations", "streams"]
HealthName = Literal["unknown", "ok", "attention", "failing"]
Status = Mapping[str, Any]
Place = tuple[str, str, str]
"""A stream's integration, tenant and kind."""


class Why(msgspec.Struct, frozen=True):
    """The code and the title of a reason."""

    code: str
    title: str


NOT_RUNNING = Why("not_running", "The connector was not running")


class HealthChange(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A change of the site, or one of all integrations or streams with the same change at the same time."""

    at: datetime
    of: Part
    before: HealthName
    after: HealthName
    reasons: Sequence[Why]
    """The reasons for the new health; none for `ok`."""
    names: Sequence[str] = ()
    """Names of integrations, or paths of streams: the first ones."""
    count: int = 1

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("a time without a zone")

    @property
    def what(self) -> tuple[object, ...]:
        """What changed, without the time."""
        return self.of, self.before, self.after, tuple(self.reasons), tuple(self.names), self.count

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        fields: dict[str, Any] = msgspec.to_builtins(self) | {"at": to_text(self.at)}
        return fields

    @property
    def names_all(self) -> bool:
        """Whether `names` is complete."""
        return self.of == WHOLE or self.count <= len(self.names)

    def is_of(self, scope: Scope) -> bool:
        """Whether the scope's own health changed. A tenant has no health of its own."""
        if scope.integration is None:
            return self.of == WHOLE
        if scope.tenant is None:
            return self.of == INTEGRATIONS and scope.integration in self.names
        return self.of == STREAMS and scope.kind is not None and scope.streams[0].path in self.names

    def may_be_of(self, scope: Scope) -> bool:
        """Whether it may be the scope's change: `names` is not complete."""
        return not self.names_all and self.of == (INTEGRATIONS if scope.tenant is None else STREAMS)

    def concerns(self, scope: Scope) -> bool:
        """Whether the change is, or may be, one of the scope, of its parts, or of what contains it."""
        if scope.integration is None or not self.names_all or self.of == WHOLE:
            return True
        if self.of == INTEGRATIONS:
            return scope.integration in self.names
        if scope.tenant is None:
            return any(path.startswith(f"{encode_segment(scope.integration)}/") for path in self.names)
        return not {stream.path for stream in scope.streams}.isdisjoint(self.names)


@dataclass(slots=True)
class _LastHealth:
    """The health at the last pass. Streams that are `ok` are left out."""

    site: HealthName = UNKNOWN
    integrations: dict[str, HealthName] = field(default_factory=dict)
    streams: dict[Place, HealthName] = field(default_factory=dict)

    @classmethod
    def of_status(cls, status: Status) -> Self:
        """The health in a status."""
        return cls(
            status["health"],
            {line["name"]: line["health"] for line in status["integrations"]},
            {_place(line): line["health"] for line in status["streams"] if line["health"] != "ok"},
        )

    def of(self, scope: Scope) -> HealthName:
        """The scope's health."""
        if scope.integration is None:
            return self.site
        if scope.tenant is None:
            return self.integrations.get(scope.integration, UNKNOWN)
        return UNKNOWN if scope.kind is None else self.streams.get((scope.integration, scope.tenant, scope.kind), "ok")


@dataclass(frozen=True, slots=True)
class HealthRecord:
    """The stored changes, the oldest first, and the health at the last pass."""

    changes: Sequence[HealthChange] = ()
    site: HealthName = UNKNOWN
    integrations: Mapping[str, HealthName] = field(default_factory=dict)
    streams: Sequence[tuple[str, str, str, HealthName]] = ()
    """A stream's integration, tenant and kind, with its health. Streams that are `ok` are left out."""


HEALTH = Codec(HealthRecord, "the changes of health")


class HealthChanges:
    """The newest changes, in one object below `charts/`. It is written only after a change, at most once a sample.

    Two connectors on one store write it in turn: each adds its changes to those of the other.
    """

    def __init__(self, store: Callable[[], ObjectStore]) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._saved: list[HealthChange] = []
        """As they were last read or written, the oldest first."""
        self._unsaved: list[HealthChange] = []
        self._others: list[HealthChange] = []
        """Newest changes that another connector on this store has noted, and this one has not."""
        self._last = _LastHealth()
        self.is_loaded = False
        """Whether the object has been read. Before that, no change is noted."""

    def load(self, seen: float | None) -> None:
        """Read the object. `seen`: the end of the last run, if the connector was down since (Unix seconds)."""
        record = _read(self._store())
        with self._lock:
            self._saved, self.is_loaded = [*record.changes], True
            self._last = _LastHealth(
                record.site,
                {**record.integrations},
                {(name, tenant, kind): health for name, tenant, kind, health in record.streams},
            )
            if seen is not None and self._saved:
                self._lose_sight(datetime.fromtimestamp(seen, UTC), NOT_RUNNING)

    def note(self, site: SiteStatus, *, is_settled: bool) -> None:
        """Compare a status with the last one.

        Until it is settled, no health gets better: after a start, an old problem may not be known again yet.
        """
        with self._lock:
            if not self.is_loaded:
                return
            now = _LastHealth.of_status(site.fields)
            if not is_settled:
                now = _worse(self._last, now)
            differences = [*_compared(self._last, now, site)]
            self._last = now
            self._add(differences)

    def cannot_be_read(self, error: ConnectorError) -> None:
        """Note that the store cannot be read: the health is unknown from now on."""
        with self._lock:
            if self.is_loaded and self._last.site != UNKNOWN:
                self._lose_sight(datetime.now(UTC), Why(error.code, error.title))

    def newest(self, scope: Scope = Scope(), most: int = SHOWN) -> list[HealthChange]:  # noqa: B008 - it is frozen
        """The newest changes that concern the scope, newest first."""
        with self._lock:
            return [change for change in reversed(self._changes()) if change.concerns(scope)][:most]

    def spans(self, scope: Scope, since: float, now: float) -> list[tuple[float, float, HealthName]]:
        """The intervals in which the scope's health is known: begin, end (Unix seconds) and the health."""
        with self._lock:
            changes, health = self._changes(), self._last.of(scope)
        first = next((change for change in changes if change.is_of(scope) or change.may_be_of(scope)), None)
        if first is not None:
            health = first.before if first.is_of(scope) else UNKNOWN
        begins: list[tuple[float, HealthName]] = []
        for change in changes:
            # While the connector did not run, the health of all parts is unknown.
            is_dark = change.of == WHOLE and change.after == UNKNOWN
            if change.is_of(scope) and not is_dark:
                health = change.after
            elif change.may_be_of(scope):
                health = UNKNOWN
            begins.append((change.at.timestamp(), UNKNOWN if is_dark else health))
        ends = [*(at for at, _ in begins), now][1:]
        return [
            (max(begin, since), end, health)
            for (begin, health), end in zip(begins, ends, strict=True)
            if end > max(begin, since) and health != UNKNOWN
        ]

    def save(self) -> None:
        """Add the changes since the last write to the object."""
        with self._lock:
            own, before, waiting = [*self._unsaved], [*self._saved], [*self._others]
            streams = self._last.streams if len(self._last.streams) <= MOST_STREAMS else {}
            health = HealthRecord(
                (),
                self._last.site,
                {**self._last.integrations},
                [(*place, health) for place, health in streams.items()],
            )
        if not own:
            return

        noted = {(change.at, change.what) for change in before}
        saved, others = [*before, *own], waiting

        def add(record: HealthRecord | None) -> HealthRecord | None:
            nonlocal saved, others
            stored = record.changes if record else ()
            news = [change for change in stored if (change.at, change.what) not in noted]
            added, others = _not_noted(own, [*waiting, *news])
            oldest = datetime.now(UTC) - KEPT
            kept = (change for change in (*stored, *added) if change.at > oldest)
            saved = sorted(kept, key=lambda change: change.at)[-MOST_CHANGES:]
            return replace(health, changes=saved) if added else None

        update_object(self._store(), HEALTH_KEY, HEALTH, add)
        with self._lock:
            self._saved, self._others = saved, others
            self._unsaved = [change for change in self._unsaved if not any(change is written for written in own)]

    def _changes(self) -> list[HealthChange]:
        """The newest changes, the oldest first."""
        return [*self._saved, *self._unsaved][-MOST_CHANGES:]

    def _lose_sight(self, at: datetime, reason: Why) -> None:
        self._add([HealthChange(at, WHOLE, self._last.site, UNKNOWN, [reason])])
        self._last.site = UNKNOWN

    def _add(self, changes: Sequence[HealthChange]) -> None:
        self._unsaved = [*self._unsaved, *changes][-MOST_CHANGES:]


def _not_noted(
    own: Iterable[HealthChange], others: Sequence[HealthChange]
) -> tuple[list[HealthChange], list[HealthChange]]:
    """Our changes that no other connector noted, and the newest of theirs that we have not noted."""
    left, added = [*others], []
    for change in own:
        twin = next((other for other in left if other.what == change.what and abs(other.at - change.at) <= SAME), None)
        if twin is None:
            added.append(change)
        else:
            left.remove(twin)
    return added, left[-SHOWN:]


def stored_changes(store: ObjectStore) -> list[HealthChange]:
    """The newest stored changes, newest first."""
    return [*_read(store).changes][::-1][:SHOWN]


def _read(store: ObjectStore) -> HealthRecord:
    with suppress(KeptError):
        return read_object(store, HEALTH_KEY, HEALTH.decode) or HealthRecord()
    return HealthRecord()


def together(changes: Iterable[HealthChange]) -> list[HealthChange]:
    """One entry for changes to one health at the same time: a single stream's or integration's, else the site's."""
    groups: dict[tuple[datetime, str], list[HealthChange]] = {}
    for change in changes:
        groups.setdefault((change.at, change.after), []).append(change)
    shown: list[HealthChange] = []
    for group in groups.values():
        whole = [change for change in group if change.of == WHOLE]
        parts = [change for change in group if change.of == STREAMS] or [
            change for change in group if change.of == INTEGRATIONS
        ]
        shown += whole if whole and sum(change.count for change in parts) != 1 else parts
    return shown


def _worse(before: _LastHealth, now: _LastHealth) -> _LastHealth:
    """For each part the worse health of both."""

    def worst(old: HealthName, new: HealthName) -> HealthName:
        return new if BADNESS[new] > BADNESS[old] else old

    integrations = {name: worst(before.integrations.get(name, UNKNOWN), new) for name, new in now.integrations.items()}
    streams = {place: worst(before.streams.get(place, "ok"), new) for place, new in now.streams.items()}
    return _LastHealth(worst(before.site, now.site), before.integrations | integrations, before.streams | streams)


def _compared(before: _LastHealth, now: _LastHealth, site: SiteStatus) -> Iterator[HealthChange]:
    """The differences, the site's first. Equal ones are one change: a refused credential is not a thousand."""
    at, status = site.now, site.fields
    reasons = status["reasons"]
    if now.site != before.site:
        of_site = [Why(reason["code"], reason["title"]) for reason in reasons if reason["health"] == now.site]
        yield HealthChange(at, WHOLE, before.site, now.site, of_site)
    alike: dict[tuple[Part, HealthName, HealthName, tuple[Why, ...]], list[str]] = {}
    concerned = [frozenset((*reason["integrations"], *reason["streams"])) for reason in reasons]

    def gather(of: Part, name: str, was: HealthName, health: HealthName) -> None:
        own = [reason for reason, names in zip(reasons, concerned, strict=True) if not names or name in names]
        why = tuple(Why(reason["code"], reason["title"]) for reason in own if reason["health"] == health)
        alike.setdefault((of, was, health, why), []).append(name)

    for name, health in now.integrations.items():
        was = before.integrations.get(name, UNKNOWN)
        # A new integration that is `ok` is no change.
        if health not in (was, UNKNOWN) and (was, health) != (UNKNOWN, "ok"):
            gather(INTEGRATIONS, name, was, health)
    changed = {place for place, _ in before.streams.items() ^ now.streams.items()}
    here = {_place(line) for line in status["streams"] if line["state"] != "retired"} if changed else set()
    for place in sorted(changed & here):
        was, health = before.streams.get(place, "ok"), now.streams.get(place, "ok")
        if health != was:
            gather(STREAMS, Stream(*place).path, was, health)
    for (of, was, health, why), names in alike.items():
        yield HealthChange(at, of, was, health, why, names[: NAMED[of]], len(names))


def _place(line: Mapping[str, Any]) -> Place:
    return line["integration"], line["tenant"], line["stream"]
