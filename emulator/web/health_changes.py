"""Changes of health of the site, of integrations and of streams: the time, the old and new health, and the reasons.

Each pass over the store compares the health with the last one. A change and its end between two passes are not noticed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from emulator.web.charts import Scope
from lib.errors import ConflictError, ConnectorError
from lib.model.clock import from_text, to_text
from lib.model.stream import Stream, encode_segment
from lib.store.base import ABSENT, ObjectStore

HEALTH_KEY = "charts/health.json"
LAYOUT = 1
MOST_CHANGES = 300
KEPT = timedelta(days=90)
SHOWN = 50
WHOLE, INTEGRATIONS, STREAMS = "all", "integrations", "streams"
NAMED = {INTEGRATIONS: 30, STREAMS: 10}
"""The most names in a change of several integrations or streams. The change has their number too."""
MOST_STREAMS = 1_000
"""The most streams whose health is saved for a restart. With more, changes during the restart are not noticed."""
UNKNOWN = "unknown"
BADNESS = {UNKNOWN: 0, "ok": 0, "attention": 1, "failing": 2}
NOT_RUNNING = ("not_running", "The connector was not running")

Status = Mapping[str, Any]
Place = tuple[str, str, str]
"""A stream's integration, tenant and kind."""


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A change of the site, or one of all integrations or streams with the same change at the same time."""

    at: str
    of: str
    """WHOLE, INTEGRATIONS or STREAMS."""
    before: str
    after: str
    reasons: Sequence[tuple[str, str]]
    """Code and title of each reason for the new health; none for `ok`."""
    names: Sequence[str] = ()
    """Names of integrations, or paths of streams: the first ones."""
    count: int = 1

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        return {
            "at": self.at,
            "of": self.of,
            "from": self.before,
            "to": self.after,
            "reasons": [{"code": code, "title": title} for code, title in self.reasons],
            "names": [*self.names],
            "count": self.count,
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The change from its JSON fields; ValueError, KeyError, TypeError or AttributeError for others."""
        if fields["of"] not in (WHOLE, INTEGRATIONS, STREAMS) or not {fields["from"], fields["to"]} <= BADNESS.keys():
            raise ValueError("not a change of health")
        return cls(
            to_text(from_text(fields["at"])),
            fields["of"],
            fields["from"],
            fields["to"],
            [(str(reason["code"]), str(reason["title"])) for reason in fields["reasons"]],
            [str(name) for name in fields["names"]],
            int(fields["count"]),
        )

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
class _Known:
    """The health at the last pass. Streams that are `ok` are left out."""

    site: str = UNKNOWN
    integrations: dict[str, str] = field(default_factory=dict)
    streams: dict[Place, str] = field(default_factory=dict)

    @classmethod
    def of_status(cls, status: Status) -> Self:
        """The health in a status."""
        return cls(
            status["health"],
            {line["name"]: line["health"] for line in status["integrations"]},
            {_place(line): line["health"] for line in status["streams"] if line["health"] != "ok"},
        )

    def of(self, scope: Scope) -> str:
        """The scope's health."""
        if scope.integration is None:
            return self.site
        if scope.tenant is None:
            return self.integrations.get(scope.integration, UNKNOWN)
        return UNKNOWN if scope.kind is None else self.streams.get((scope.integration, scope.tenant, scope.kind), "ok")


class HealthChanges:
    """The newest changes, in one object below `charts/`. It is written only after a change, at most once a sample."""

    def __init__(self, store: Callable[[], ObjectStore]) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._changes: list[HealthChange] = []
        """The oldest first."""
        self._known = _Known()
        self._is_changed = self._is_newer = False
        self.is_loaded = False
        """Whether the object has been read. Before that, no change is noted."""

    def load(self, seen: float | None) -> None:
        """Read the object. `seen`: the end of the last run, if the connector was down since (Unix seconds)."""
        changes, health, is_newer = _read(self._store())
        with self._lock:
            self._changes, self._known, self._is_newer, self.is_loaded = changes, health, is_newer, True
            if seen is not None and changes:
                self._lose_sight(to_text(datetime.fromtimestamp(seen, UTC)), NOT_RUNNING)

    def note(self, status: Status, *, is_settled: bool) -> None:
        """Compare a status with the last one.

        Until it is settled, no health gets better: after a start, an old problem may not be known again yet.
        """
        with self._lock:
            if not self.is_loaded:
                return
            now = _Known.of_status(status)
            if not is_settled:
                now = _worse(self._known, now)
            differences = [*_compared(self._known, now, status)]
            self._known = now
            self._add(differences)

    def cannot_be_read(self, error: ConnectorError) -> None:
        """Note that the store cannot be read: the health is unknown from now on."""
        with self._lock:
            if self.is_loaded and self._known.site != UNKNOWN:
                self._lose_sight(to_text(datetime.now(UTC)), (error.code, error.title))

    def newest(self, scope: Scope = Scope(), most: int = SHOWN) -> list[HealthChange]:  # noqa: B008 - it is frozen
        """The newest changes that concern the scope, newest first."""
        with self._lock:
            return [change for change in reversed(self._changes) if change.concerns(scope)][:most]

    def spans(self, scope: Scope, since: float, now: float) -> list[tuple[float, float, str]]:
        """The intervals in which the scope's health is known: begin, end (Unix seconds) and the health."""
        with self._lock:
            changes, health = [*self._changes], self._known.of(scope)
        first = next((change for change in changes if change.is_of(scope) or change.may_be_of(scope)), None)
        if first is not None:
            health = first.before if first.is_of(scope) else UNKNOWN
        begins: list[tuple[float, str]] = []
        for change in changes:
            # While the connector did not run, the health of all parts is unknown.
            is_dark = change.of == WHOLE and change.after == UNKNOWN
            if change.is_of(scope) and not is_dark:
                health = change.after
            elif change.may_be_of(scope):
                health = UNKNOWN
            begins.append((from_text(change.at).timestamp(), UNKNOWN if is_dark else health))
        ends = [*(at for at, _ in begins), now][1:]
        return [
            (max(begin, since), end, health)
            for (begin, health), end in zip(begins, ends, strict=True)
            if end > max(begin, since) and health != UNKNOWN
        ]

    def save(self) -> None:
        """Write the object, if there was a change since the last write."""
        with self._lock:
            if not self._is_changed or self._is_newer:
                return
            self._is_changed = False
            oldest = to_text(datetime.now(UTC) - KEPT)
            self._changes = [change for change in self._changes if change.at > oldest]
            streams = self._known.streams if len(self._known.streams) <= MOST_STREAMS else {}
            fields = {
                "layout": LAYOUT,
                "changes": [change.fields() for change in self._changes],
                "site": self._known.site,
                "integrations": self._known.integrations,
                "streams": [[*place, health] for place, health in streams.items()],
            }
        body, store = json.dumps(fields, ensure_ascii=False).encode(), self._store()
        try:
            stored = store.read(HEALTH_KEY)
            with suppress(ConflictError):  # Another connector on this store keeps its own.
                store.write(HEALTH_KEY, body, expected=stored.generation if stored else ABSENT)
        except ConnectorError:
            self._is_changed = True
            raise

    def _lose_sight(self, at: str, reason: tuple[str, str]) -> None:
        self._add([HealthChange(at, WHOLE, self._known.site, UNKNOWN, [reason])])
        self._known.site = UNKNOWN

    def _add(self, changes: Sequence[HealthChange]) -> None:
        self._changes = [*self._changes, *changes][-MOST_CHANGES:]
        self._is_changed = self._is_changed or bool(changes)


def stored_changes(store: ObjectStore) -> list[HealthChange]:
    """The newest stored changes, newest first."""
    return _read(store)[0][::-1][:SHOWN]


def together(changes: Iterable[HealthChange]) -> list[HealthChange]:
    """One entry for changes to one health at the same time: a single stream's or integration's, else the site's."""
    groups: dict[tuple[str, str], list[HealthChange]] = {}
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


def _read(store: ObjectStore) -> tuple[list[HealthChange], _Known, bool]:
    """The object's content, and whether a newer version wrote it; empty for a missing or damaged object."""
    stored = store.read(HEALTH_KEY)
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        fields = json.loads(stored.body) if stored else {}
        if fields["layout"] != LAYOUT:
            return [], _Known(), True
        last = _Known(
            str(fields["site"]),
            {str(name): str(health) for name, health in fields["integrations"].items()},
            {(str(name), str(tenant), str(kind)): str(health) for name, tenant, kind, health in fields["streams"]},
        )
        if not {last.site, *last.integrations.values(), *last.streams.values()} <= BADNESS.keys():
            raise ValueError("not a health")
        return [HealthChange.of_fields(change) for change in fields["changes"]][-MOST_CHANGES:], last, False
    return [], _Known(), False


def _worse(before: _Known, now: _Known) -> _Known:
    """For each part the worse health of both."""

    def worst(old: str, new: str) -> str:
        return new if BADNESS[new] > BADNESS[old] else old

    integrations = {name: worst(before.integrations.get(name, UNKNOWN), new) for name, new in now.integrations.items()}
    streams = {place: worst(before.streams.get(place, "ok"), new) for place, new in now.streams.items()}
    return _Known(worst(before.site, now.site), before.integrations | integrations, before.streams | streams)


def _compared(before: _Known, now: _Known, status: Status) -> Iterator[HealthChange]:
    """The differences, the site's first. Equal ones are one change: a refused credential is not a thousand."""
    at, reasons = status["now"], status["reasons"]
    if now.site != before.site:
        of_site = [(reason["code"], reason["title"]) for reason in reasons if reason["health"] == now.site]
        yield HealthChange(at, WHOLE, before.site, now.site, of_site)
    alike: dict[tuple[str, str, str, tuple[tuple[str, str], ...]], list[str]] = {}
    concerned = [frozenset((*reason["integrations"], *reason["streams"])) for reason in reasons]

    def gather(of: str, name: str, was: str, health: str) -> None:
        own = [reason for reason, names in zip(reasons, concerned, strict=True) if not names or name in names]
        why = tuple((reason["code"], reason["title"]) for reason in own if reason["health"] == health)
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
