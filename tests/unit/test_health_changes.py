"""When the health changed: what is told, what is kept over a restart, and how much."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from emulator.web.charts import Scope
from emulator.web.health_changes import HEALTH_KEY, MOST_CHANGES, HealthChanges, stored_changes, together
from emulator.web.status import SiteStatus
from lib.errors import StoreError
from lib.store.base import ABSENT, Stored
from tests.fakes.memory_store import MemoryStore

BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
REFUSED = {"code": "credentials_refused", "title": "Sophos refuses the credential", "health": "failing"}
GAP = {"code": "gap", "title": "Events can no longer be fetched", "health": "attention"}
ENGINE = {"code": "engine_down", "title": "The engine takes no events", "health": "failing"}


def line(tenant: str, health: str = "ok", integration: str = "acme", state: str = "idle") -> dict[str, Any]:
    return {"integration": integration, "tenant": tenant, "stream": "events", "health": health, "state": state}


def site(
    minute: float,
    health: str,
    *streams: dict[str, Any],
    reasons: list[dict[str, Any]] | None = None,
    integrations: dict[str, str] | None = None,
) -> SiteStatus:
    """A status, as far as its changes are made of it."""
    fields = {
        "health": health,
        "reasons": [{"integrations": [], "streams": [], **each} for each in reasons or []],
        "integrations": [{"name": name, "health": each} for name, each in (integrations or {"acme": "ok"}).items()],
        "streams": [*streams],
    }
    return SiteStatus(fields, BEGIN + timedelta(minutes=minute))


def told(changes: HealthChanges, scope: Scope = Scope()) -> list[tuple[Any, ...]]:  # noqa: B008 - it is frozen
    """The changes, oldest first."""
    return [
        (each.of, each.before, each.after, [why.code for why in each.reasons], [*each.names], each.count)
        for each in reversed(changes.newest(scope))
    ]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def changes(store: MemoryStore) -> HealthChanges:
    return opened(store)


def opened(store: MemoryStore, seen: float | None = None) -> HealthChanges:
    found = HealthChanges(lambda: store)
    found.load(seen)
    return found


def test_a_gap_is_told_of_the_whole_the_integration_and_the_stream_with_its_reason(changes: HealthChanges) -> None:
    changes.note(site(0, "ok", line("t1"), line("t2")), is_settled=True)
    gap = {**GAP, "integrations": ["acme"], "streams": ["acme/t1/events"]}
    now = site(1, "attention", line("t1", "attention"), line("t2"), reasons=[gap], integrations={"acme": "attention"})
    changes.note(now, is_settled=True)
    changes.note(now, is_settled=True)
    changes.note(site(2, "ok", line("t1"), line("t2")), is_settled=True)
    assert told(changes) == [
        ("all", "unknown", "ok", [], [], 1),
        ("all", "ok", "attention", ["gap"], [], 1),
        ("integrations", "ok", "attention", ["gap"], ["acme"], 1),
        ("streams", "ok", "attention", ["gap"], ["acme/t1/events"], 1),
        ("all", "attention", "ok", [], [], 1),
        ("integrations", "attention", "ok", [], ["acme"], 1),
        ("streams", "attention", "ok", [], ["acme/t1/events"], 1),
    ]
    assert [of for of, *_ in told(changes, Scope("acme", "t1", "events"))].count("streams") == 2
    assert [of for of, *_ in told(changes, Scope("acme", "t2", "events"))].count("streams") == 0
    assert [of for of, *_ in told(changes, Scope("other"))] == ["all", "all", "all"]
    # For a person it is one line, by the name of what it is.
    assert [each.of for each in together(changes.newest())] == ["streams", "streams", "all"]


def test_what_changes_alike_is_one_change_however_many_they_are(changes: HealthChanges) -> None:
    tenants = [f"t{number:03d}" for number in range(500)]
    names = [f"site {number:03d}" for number in range(300)]
    changes.note(site(0, "ok", *map(line, tenants), integrations=dict.fromkeys(names, "ok")), is_settled=True)
    down = site(
        1,
        "failing",
        *(line(tenant, "failing") for tenant in tenants),
        reasons=[ENGINE],
        integrations=dict.fromkeys(names, "failing"),
    )
    changes.note(down, is_settled=True)
    found = told(changes)[1:]
    assert [(of, len(named), count) for of, _, _, _, named, count in found] == [
        ("all", 0, 1),
        ("integrations", 30, 300),
        ("streams", 10, 500),
    ]
    assert [each.of for each in together(changes.newest())] == ["all", "all"]
    # Of a stream that is not named nothing is claimed.
    times = (BEGIN.timestamp(), (BEGIN + timedelta(minutes=2)).timestamp())
    assert [health for *_, health in changes.spans(Scope("acme", "t400", "events"), *times)] == []
    assert [health for *_, health in changes.spans(Scope("acme", "t001", "events"), *times)] == ["ok", "failing"]
    assert ("streams", 500) in [(each[0], each[-1]) for each in told(changes, Scope("acme", "t400", "events"))]


def test_after_a_start_nothing_is_called_better_before_it_is_known(store: MemoryStore, changes: HealthChanges) -> None:
    changes.note(site(0, "failing", line("t1"), reasons=[ENGINE]), is_settled=True)
    changes.save()
    changes = opened(store)
    changes.note(site(1, "ok", line("t1")), is_settled=False)
    assert len(told(changes)) == 1
    gap = {**GAP, "integrations": ["acme"], "streams": ["acme/t1/events"]}
    changes.note(
        site(2, "attention", line("t1", "attention"), reasons=[gap], integrations={"acme": "attention"}),
        is_settled=False,
    )
    assert [each[:3] for each in told(changes)[1:]] == [
        ("integrations", "ok", "attention"),
        ("streams", "ok", "attention"),
    ]
    changes.note(site(3, "ok", line("t1")), is_settled=True)
    assert [each[:3] for each in told(changes)[3:]] == [
        ("all", "failing", "ok"),
        ("integrations", "attention", "ok"),
        ("streams", "attention", "ok"),
    ]


def test_a_time_in_which_the_connector_did_not_run_is_unknown(store: MemoryStore, changes: HealthChanges) -> None:
    changes.note(site(0, "ok", line("t1")), is_settled=True)
    changes.save()
    changes = opened(store, seen=(BEGIN + timedelta(minutes=5)).timestamp())
    changes.note(site(30, "ok", line("t1")), is_settled=True)
    assert [each[:4] for each in told(changes)] == [
        ("all", "unknown", "ok", []),
        ("all", "ok", "unknown", ["not_running"]),
        ("all", "unknown", "ok", []),
    ]
    begin = BEGIN.timestamp()
    for scope in (Scope(), Scope("acme"), Scope("acme", "t1", "events")):
        assert changes.spans(scope, begin - 60, begin + 3600) == [
            (begin, begin + 300, "ok"),
            (begin + 1800, begin + 3600, "ok"),
        ]
    assert changes.spans(Scope("acme", "t1"), begin, begin + 3600) == []


def test_where_no_change_is_known_no_health_is_claimed(changes: HealthChanges) -> None:
    assert changes.spans(Scope(), 0.0, BEGIN.timestamp()) == []
    assert changes.spans(Scope("acme", "t1", "events"), 0.0, BEGIN.timestamp()) == []


def test_a_store_that_cannot_be_read_is_unknown_once(changes: HealthChanges) -> None:
    changes.note(site(0, "ok"), is_settled=True)
    for _ in range(2):
        changes.cannot_be_read(StoreError("no answer"))
    assert [each[:4] for each in told(changes)] == [
        ("all", "unknown", "ok", []),
        ("all", "ok", "unknown", [StoreError.code]),
    ]


def test_what_is_retired_or_gone_has_not_recovered(changes: HealthChanges) -> None:
    changes.note(
        site(0, "failing", line("t1", "failing"), line("t2", "failing"), integrations={"acme": "failing"}),
        is_settled=True,
    )
    known = len(told(changes))
    changes.note(site(1, "failing", line("t1", state="retired"), integrations={"other": "ok"}), is_settled=True)
    assert len(told(changes)) == known


class Counting(MemoryStore):
    """Counts what is written."""

    writes = 0

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        self.writes += 1
        return super().write(key, body, expected=expected)


def test_nothing_is_written_while_nothing_changes_and_the_object_stays_small() -> None:
    store = Counting()
    changes = opened(store)
    for minute in range(3):
        changes.note(site(minute, "ok", line("t1")), is_settled=True)
        changes.save()
    assert store.writes == 1
    tenants = [f"00000000-0000-4000-8000-{number:012d}" for number in range(50)]
    for minute in range(4, 4 + 2 * MOST_CHANGES):
        health = "failing" if minute % 2 else "ok"
        changes.note(site(minute, health, *(line(each, health) for each in tenants), reasons=[ENGINE]), is_settled=True)
    changes.save()
    stored = store.read(HEALTH_KEY)
    assert stored is not None
    assert len(json.loads(stored.body)["changes"]) == MOST_CHANGES
    assert len(stored.body) < 300_000


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"7", b'{"layout": 1}', b'{"layout": 1, "changes": [{}]}', b"\xff"]
)
def test_a_damaged_object_is_begun_anew(body: bytes) -> None:
    store = MemoryStore()
    store.write(HEALTH_KEY, body, expected=ABSENT)
    changes = opened(store)
    changes.note(site(0, "ok"), is_settled=True)
    changes.save()
    assert [each.after for each in stored_changes(store)] == ["ok"]


def test_an_object_of_a_newer_version_is_left_alone() -> None:
    store = MemoryStore()
    store.write(HEALTH_KEY, b'{"layout": 2}', expected=ABSENT)
    changes = opened(store)
    changes.note(site(0, "ok"), is_settled=True)
    changes.save()
    stored = store.read(HEALTH_KEY)
    assert stored is not None
    assert stored.body == b'{"layout": 2}'
    assert len(changes.newest()) == 1


def test_two_connectors_on_one_store_keep_the_changes_of_both_and_what_both_saw_once(store: MemoryStore) -> None:
    one, other = opened(store), opened(store)
    gap = site(1.5, "attention", line("t1", "attention"), reasons=[GAP])
    one.note(site(0, "ok", line("t1")), is_settled=True)
    one.save()
    other.note(site(0.5, "ok", line("t1")), is_settled=True)
    other.save()
    one.note(site(1, "attention", line("t1", "attention"), reasons=[GAP]), is_settled=True)
    one.save()
    other.note(site(1, "failing", line("t1", "ok"), reasons=[ENGINE]), is_settled=True)
    other.save()  # It reads here what the first one noted, and notes the same itself later.
    other.note(gap, is_settled=True)
    other.save()
    one.note(site(2, "ok", line("t1")), is_settled=True)
    one.save()
    kept = [(each.of, each.before, each.after) for each in reversed(stored_changes(store))]
    assert kept == [
        ("all", "unknown", "ok"),
        ("all", "ok", "attention"),
        ("streams", "ok", "attention"),
        ("all", "ok", "failing"),
        ("all", "failing", "attention"),
        ("all", "attention", "ok"),
        ("streams", "attention", "ok"),
    ]
    assert told(one) == told(opened(store))
    # A stream that goes up and down quickly is no second look at the same change.
    one.note(site(3, "attention", line("t1", "attention"), reasons=[GAP]), is_settled=True)
    one.save()
    assert len(stored_changes(store)) == len(kept) + 2


class Overtaken(Counting):
    """Lets another connector write between a reading and the writing after it."""

    def __init__(self) -> None:
        super().__init__()
        self.minutes: list[float] = []

    def read(self, key: str) -> Stored | None:
        found = super().read(key)
        if self.minutes:
            minute, other = self.minutes.pop(), HealthChanges(lambda: self)
            other.load(None)
            other.note(site(minute, "failing", reasons=[ENGINE]), is_settled=True)
            other.save()
        return found


def test_a_write_that_another_connector_overtakes_is_made_again_with_its_changes() -> None:
    store = Overtaken()
    changes = opened(store)
    changes.note(site(0, "attention", reasons=[GAP]), is_settled=True)
    store.minutes = [1]
    changes.save()
    assert [each.after for each in stored_changes(store)] == ["failing", "attention"]
    assert [each.after for each in changes.newest()] == ["failing", "attention"]
    writes = store.writes
    changes.save()
    assert store.writes == writes
