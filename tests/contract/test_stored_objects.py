"""Every kind of stored object: what older versions wrote is read; what is damaged is named, and stops nobody else."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.central import CentralServer, Credential, Settings
from emulator.central.clock import Clock
from emulator.cli import standing
from emulator.web import chart_days, charts, counted_days, health_changes
from emulator.web.completeness import Completeness
from emulator.web.history import History
from emulator.web.snapshot import Snapshot
from emulator.web.status import collect, site_status
from lib.app import App
from lib.config import environment, loading
from lib.config.settings import Config
from lib.errors import DamagedError, LayoutError
from lib.model.checkpoint import Checkpoint
from lib.model.credential import Life
from lib.model.stream import Stream
from lib.pipeline import attest
from lib.state import (
    accounts,
    acknowledgements,
    batches,
    checkpoints,
    gaps,
    inventories,
    leases,
    ledger,
    looks,
    rate_limits,
    receipts,
    reconciliations,
    schedules,
)
from lib.state.codec import Codec
from lib.state.damage import Whole, damaged
from lib.state.dead_letters import letters_of, original_of
from lib.state.state import State
from lib.store.base import ABSENT
from lib.store.directory import DirectoryStore
from lib.store.reserve import Reserve
from tests.audited import audit
from tests.pipeline.test_faults import ONE, Connector
from tests.site import ROOT, Site, site, until

OLD = Path(__file__).parents[1] / "fixtures/store-0.1"
"""What version 0.1 wrote, before there was one codec."""
TENANT = "894af375-a52f-4d5a-a92d-9d9c279b1489"


@dataclass(frozen=True)
class Kind:
    """A kind of stored object."""

    codec: Codec[Any]
    read: Callable[[bytes], Any]
    sample: dict[str, Any] = field(default_factory=dict)
    """Of a kind that version 0.1 did not have."""


def kind_of(codec: Codec[Any], **sample: Any) -> Kind:
    return Kind(codec, codec.decode, {"layout": codec.layout, **sample} if sample else {})


DAY = "2026-06-15"
WHEN = f"{DAY}T06:02:00.032000Z"
LINE = {
    "integration": "acme",
    "tenant": TENANT,
    "stream": "events",
    "completeness": 0.9,
    "held_by_sophos": {"events": None},
    "received": 10,
    "delivered": 9,
    "waiting": 0,
    "dead_letters": {"events": 1},
    "late": {"events": 0},
    "gaps": 0,
    "ledger": {"receipts": 2, "whole": True},
}
TOTALS = {
    "held_by_sophos": None,
    "received": 10,
    "delivered": 9,
    "observed": 0,
    "waiting": 0,
    "dead_letters": 1,
    "late": 0,
    "gaps": 0,
    "lost": 0,
}
PROPOSED = {"integration": "acme", "setting": "settle", "now": "0m", "proposed": "2m", "why": "late events"}
KINDS: dict[str, Kind] = {
    "cursors": Kind(checkpoints.CHECKPOINT, checkpoints.from_body),
    "batches": Kind(batches.HEADER, lambda body: batches.HEADER.decode(body.partition(b"\n")[0])),
    "ledger": Kind(receipts.RECEIPT, receipts.from_body),
    "ledger/…/0-removed.json": kind_of(ledger.PRUNE_POINT),
    "leases": Kind(leases.LEASE, leases.from_body),
    "gaps": kind_of(gaps.GAP),
    "integrations": kind_of(accounts.ACCOUNT),
    "devices": kind_of(inventories.INVENTORY),
    "schedules": kind_of(schedules.SCHEDULE),
    "budgets": kind_of(rate_limits.RATE_LIMIT),
    "reconciliations": kind_of(reconciliations.PROGRESS),
    "backfills": kind_of(
        reconciliations.PROGRESS,
        began_at=WHEN,
        cursor="c",
        read=7,
        missing=1,
        lateness={"1m": 1},
        held={},
        window=3600.0,
        ended_at=None,
        last={"began_at": WHEN, "ended_at": WHEN, "read": 9, "missing": 2, "lateness": {"1m": 2}},
    ),
    "acknowledged": kind_of(acknowledgements.ACKNOWLEDGEMENT, key="gaps/x", by="a person", at=WHEN),
    "looks": kind_of(looks.DAY_COUNTS, hours={"06": 12}, late={"1m": 1}, looked_at=WHEN),
    "charts": Kind(
        chart_days.CHART_DAY,
        chart_days.day_from_body,
        {
            "layout": 3,
            "day": DAY,
            "until": 1_800_000_000.5,
            "minutes": {"acme": {"29683922": [3, 2]}},
            "streams": {"acme": {f"{TENANT}/events": [30, 20, chart_days.StreamFigures().stored().buckets]}},
            "samples": {"7": {"acme": [1.5, 2, 3]}},
            "numbered": True,
            "following": "2026-06-16",
        },
    ),
    "charts/…, layout 2": kind_of(
        chart_days.OLDER_CHART_DAY,
        day=DAY,
        until=1_800_000_000.5,
        minutes={"acme": {"29683922": [3, 2]}},
        hours={"acme": {f"{TENANT}/events": {"494732": [3, 2]}}},
        samples={"7": {"acme": [1.5, 2, 3]}},
    ),
    "charts/marks.json": Kind(
        charts.MARKS,
        charts.marks_from_body,
        {
            "layout": 2,
            "seen": 1_800_000_000.5,
            "known_since": 1_700_000_000.0,
            "marks": [{"kind": "outage", "from": 1.5, "to": 2.0, "text": "The engine took no events"}],
        },
    ),
    "charts/health.json": kind_of(
        health_changes.HEALTH,
        changes=[
            {
                "at": WHEN,
                "of": "integrations",
                "from": "ok",
                "to": "failing",
                "names": ["acme"],
                "count": 1,
                "reasons": [{"code": "gap", "title": "Events can no longer be fetched"}],
            }
        ],
        site="failing",
        integrations={"acme": "failing"},
        streams=[["acme", TENANT, "events", "attention"]],
    ),
    "charts/completeness": kind_of(
        counted_days.COUNTED_DAY,
        day=DAY,
        gaps="",
        made_at=WHEN,
        final=True,
        completeness=0.9,
        totals=TOTALS,
        proposals=[PROPOSED],
        faults=0,
        remarks=["1 event"],
        streams=[LINE],
        stream_count=1,
    ),
    "charts/completeness/first.json": kind_of(counted_days.FIRST_DAY, day=DAY),
}
NOT_OF_A_CODEC = {"dead", "archive"}
"""Lines of logs, and a batch within gzip: tests of their own below."""
NOT_READ = {"cursors": {"integration", "tenant", "kind", "digest"}, "integrations": {"integration"}}
"""For people: the key tells the same. A cursor whose digest is another one is edited, not damaged."""
LATER: dict[str, dict[str, Any]] = {
    "cursors": {"pace_seconds": None, "excluded": None},
    "leases": {"refused": {}, "tidied": ""},
    "integrations": {"paused_at": None, "life": None, "left_out": None},
    "ledger": {"windows": None},
    "budgets": {"told_at": None},
    "backfills": {"held": None, "window": None},
    "charts": {"following": None},
    "charts/marks.json": {"known_since": None},
    "charts/completeness": {"proposals": None},
}
"""Fields that versions before the fixture's did not write."""
PLACES = {"pace_seconds": "newest.pace_seconds"}
"""Fields that stand in a group of the value."""


def sample(kind: str) -> bytes:
    """An object of the kind, one line, as version 0.1 wrote it, or the first version that had the kind."""
    if KINDS[kind].sample:
        return body_of(KINDS[kind].sample)
    if kind == "ledger/…/0-removed.json":
        return next(OLD.glob("ledger/**/0-removed.json")).read_bytes()
    return max(path for path in (OLD / kind).rglob("*[0-9a-z].*json") if "removed" not in path.name).read_bytes()


def fields_of(kind: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(sample(kind).partition(b"\n")[0])
    return fields


def body_of(fields: object) -> bytes:
    return json.dumps(fields).encode()


BROKEN = {
    "empty": b"",
    "rubbish": b"\x00\xff rubbish \xfe",
    "an empty object": b"{}",
    "a list": b"[]",
    "a number": b"7",
    "nothing but a layout": b'{"layout": 1}',
    "no number": b'{"layout": NaN}',
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_object_of_the_kind_is_damaged(kind: str, broken: str) -> None:
    with pytest.raises(DamagedError, match="cannot be read"):
        KINDS[kind].read(BROKEN[broken])


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_type_or_a_missing_field_is_damage_that_names_the_field(kind: str) -> None:
    fields = fields_of(kind)
    for name in fields.keys() - NOT_READ.get(kind, set()) - {"layout"}:
        with pytest.raises(DamagedError, match=r"cannot be read: Expected .* at `\$\."):
            KINDS[kind].read(body_of(fields | {name: [[]]}))
        if name not in LATER.get(kind, {}) and not (kind == "charts/completeness" and name in counted_days.COUNTS):
            with pytest.raises(DamagedError, match=f"{name}.* is missing"):
                KINDS[kind].read(body_of({each: fields[each] for each in fields if each != name}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_as_text_is_damage(kind: str) -> None:
    fields = fields_of(kind)
    numbers = [name for name, value in fields.items() if type(value) in (int, float) and name != "layout"]
    for name in numbers:
        with pytest.raises(DamagedError, match="Expected"):
            KINDS[kind].read(body_of(fields | {name: str(fields[name])}))
    assert numbers or not any(type(value) in (int, float) for name, value in fields.items() if name != "layout")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_cut_object_is_damaged(kind: str, data: st.DataObject) -> None:
    line = sample(kind).partition(b"\n")[0]
    with pytest.raises(DamagedError):
        KINDS[kind].read(line[: data.draw(st.integers(0, len(line) - 1))])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_whatever_stands_in_a_field_the_object_is_read_or_named(kind: str, data: st.DataObject) -> None:
    fields = fields_of(kind)
    name = data.draw(st.sampled_from([*fields, "another"]))
    try:
        KINDS[kind].read(body_of(fields | {name: data.draw(JSON)}))
    except (DamagedError, LayoutError) as error:
        assert str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_layout_is_refused_and_an_unknown_field_is_not(kind: str) -> None:
    fields = fields_of(kind)
    newer = KINDS[kind].codec.layout + 1
    with pytest.raises(LayoutError, match=f"has layout {newer}"):
        KINDS[kind].read(body_of(fields | {"layout": newer}))
    more = KINDS[kind].read(body_of(fields | {"of a later version": {"\ud800": 1}}))
    if isinstance(more, Checkpoint):
        assert more.edits == 1, "its digest is that of other fields"
    else:
        assert more == KINDS[kind].read(body_of(fields))


@pytest.mark.parametrize("kind", LATER)
def test_a_field_that_an_older_version_did_not_write_gets_its_default(kind: str) -> None:
    fields = {name: value for name, value in fields_of(kind).items() if name not in LATER[kind]}
    value = KINDS[kind].read(body_of(fields))
    for name, default in LATER[kind].items():
        assert attrgetter(PLACES.get(name, name))(value) == (Life() if name == "life" else default)


def without_null(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cursors"])
def test_what_is_written_is_what_the_older_version_wrote(kind: str) -> None:
    fields = {name: value for name, value in fields_of(kind).items() if name not in NOT_READ.get(kind, set())}
    written = json.loads(KINDS[kind].codec.encode(KINDS[kind].read(sample(kind))))
    assert without_null(written) == without_null(fields)


def codecs_of_the_code() -> dict[str, Codec[Any]]:
    """Every codec that a module of ours makes, by its place."""
    found: dict[str, Codec[Any]] = {}
    for path in (path for room in ("lib", "emulator", "functions") for path in (ROOT / room).rglob("*.py")):
        if re.search(r"^\w+ = Codec\(", path.read_text(), re.MULTILINE):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            values = vars(importlib.import_module(name)).items()
            found |= {f"{name}.{key}": value for key, value in values if isinstance(value, Codec)}
    return found


def test_no_kind_of_stored_object_is_forgotten_here() -> None:
    tested = {id(kind.codec) for kind in KINDS.values()}
    assert [name for name, codec in codecs_of_the_code().items() if id(codec) not in tested] == []
    kinds = {kind.partition("/")[0] for kind in KINDS} | NOT_OF_A_CODEC
    documented, _, users = (ROOT / "docs/store.md").read_text().partition("## Who uses them")
    for text in (documented.partition("## Objects")[2].partition("## How much")[0], users.partition("## Damage")[0]):
        rows = [row for row in text.splitlines() if row.startswith("| `")]
        assert {key for row in rows for key in re.findall(r"`(\w+)/", row.split("|")[1])} == kinds


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_dead_letter_no_archived_batch_and_no_pack_is_damage_of_that_object_alone(
    old: Path, broken: str
) -> None:
    body, state = BROKEN[broken], State.of(DirectoryStore(old))
    with pytest.raises(DamagedError, match="dead letters cannot be read"):
        letters_of(body)
    for packed in (body, gzip.compress(body)):
        archived, key = max(old.glob("archive/*/*/events/*/*")), next(state.batches.archived("2026-06-15"))
        archived.write_bytes(packed)
        with pytest.raises(DamagedError, match=f"the archived batch {archived.relative_to(old)} is damaged"):
            state.batches.kept(str(archived.relative_to(old)))
        assert state.batches.kept(key) is not None
        pack = min(old.glob("ledger/*/*/events/*/*.gz"))
        pack.write_bytes(packed)
        lines = {line["stream"]: line for line in audit(state)["streams"]}
        assert [name for name, line in lines.items() if not line["ok"]] == ["events"]
        assert str(pack.relative_to(old)) in {damage.key for damage in damaged(state.store)}


def test_a_cursor_and_a_lease_of_0_1_are_read_to_the_letter() -> None:
    stream = next(iter(State.of(DirectoryStore(OLD)).checkpoints.streams()))
    checkpoint = checkpoints.from_body(sample("cursors"))
    assert checkpoint.edits == 0, "its digest stands"
    again = checkpoints.to_body(stream, checkpoint)
    assert checkpoints.from_body(again) == checkpoint
    lease = fields_of("leases") | {"acked": 5}
    assert leases.from_body(body_of(lease)).acked == 5
    del lease["refused"]
    assert leases.from_body(body_of(lease)).acked == 0, "it counted without the refused"


@pytest.mark.parametrize("number", [-2, 0, 10**20])
def test_a_cursor_with_a_number_that_no_batch_can_have_is_damaged(number: int) -> None:
    with pytest.raises(DamagedError, match=f"{number} is not a valid batch number"):
        checkpoints.from_body(body_of(fields_of("cursors") | {"sequence": number}))


def test_a_time_without_zone_is_damage_and_another_zone_is_the_same_moment() -> None:
    fields = fields_of("gaps")
    with pytest.raises(DamagedError, match="without a zone"):
        gaps.GAP.decode(body_of(fields | {"noticed_at": "2026-03-10T01:02:03"}))
    gap = gaps.GAP.decode(body_of(fields | {"noticed_at": "2026-03-10T01:02:03+01:00"}))
    assert gap.noticed_at.utcoffset() == timedelta(0)
    assert gap.fields()["noticed_at"] == "2026-03-10T00:02:03.000000Z"


def test_what_a_reconciliation_counted_is_checked_too() -> None:
    fields = fields_of("backfills")
    last = fields["last"]
    for broken in (last | {"missing": "2"}, last | {"lateness": {"1m": None}}, last | {"ended_at": 7}, [last]):
        with pytest.raises(DamagedError, match="Expected"):
            KINDS["backfills"].read(body_of(fields | {"last": broken}))


# In a store


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the store that version 0.1 wrote."""
    shutil.copytree(OLD, tmp_path / "store")
    for folder in (".tmp", ".locks"):  # Empty, and so none of Git's.
        (tmp_path / "store" / folder).mkdir(exist_ok=True)
    return tmp_path / "store"


def objects(store: Path) -> Iterator[str]:
    """One object of each kind that is named, in order of key."""
    for pattern in (
        *("budgets/*", "cursors/*/*/events.json", "dead/*/*/*/*", "devices/*/*/*", "gaps/*/*/events/*"),
        *("integrations/*", "ledger/*/*/events/2026-06-15/*09.json"),
        *("leases/*/*/events.json", "reconciliations/*/*/events.json", "schedules/*"),
    ):
        yield str(max(store.glob(pattern)).relative_to(store))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"layout": 2}'])
def test_one_damaged_object_of_each_kind_is_named_and_no_listing_stops(old: Path, body: bytes) -> None:
    store = DirectoryStore(old)
    assert damaged(store) == []
    before = len(list(State.of(store).gaps.all()))
    broken: set[str] = set()
    for key in objects(old):
        (old / key).write_bytes(body)
        broken.add(key)
        if key.startswith("leases/"):  # Without it nobody knows which receipt is the last: audit names that one.
            broken = {each for each in broken if not each.startswith("ledger/")}
        assert {damage.key for damage in damaged(store)} == broken
    state = State.of(store)
    assert len(list(state.gaps.all())) == before - 1
    assert [line["stream"] for line in audit(state)["streams"]] == ["alerts", "endpoints", "events"]


def test_a_foreign_object_is_no_stream(old: Path) -> None:
    state = State.of(DirectoryStore(old))
    streams = list(state.checkpoints.streams())
    for key in ("cursors/note.txt", "cursors/a/b.json", "cursors/a/b/c/d.json", "ledger/note.txt", "ledger/a/b.json"):
        (old / key).parent.mkdir(parents=True, exist_ok=True)
        (old / key).write_bytes(b"x")
    assert list(state.checkpoints.streams()) == list(state.ledger.streams()) == streams


def test_what_was_whole_is_read_again_only_once_it_has_changed(old: Path) -> None:
    store, whole = DirectoryStore(old), Whole()
    (old / "schedules/acme.json").write_bytes(b"{")
    assert [damage.key for damage in damaged(store, whole)] == ["schedules/acme.json"]
    path = old / "integrations/acme.json"
    written = path.stat().st_mtime_ns
    path.write_bytes(b"{")
    os.utime(path, ns=(written, written))
    assert [damage.key for damage in damaged(store, whole)] == ["schedules/acme.json"], "its generation is the same"
    os.utime(path, ns=(written, written + 1))
    assert [damage.key for damage in damaged(store, whole)] == ["integrations/acme.json", "schedules/acme.json"]


NAMES = ("acme", "beta", "gamma")
KEYS = [Credential(f"{name}-client", f"{name}-secret", id=TENANT) for name in NAMES]


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Three integrations, each with a credential of its own; objects of every kind are there, and all is delivered."""
    integrations = [
        {
            "name": name,
            "client_id": f"{name}-client",
            "client_secret": f"{name}-secret",
            "streams": ["events", "endpoints"],
            "reconcile": "1h",
        }
        for name in NAMES
    ]
    with (
        CentralServer(credentials=KEYS) as central,
        site(central, integrations=integrations, keep_central=True) as found,
    ):
        monkeypatch.setenv(environment.CONFIG, str(found.config))
        go_on(found, NAMES)
        yield found


def go_on(found: Site, names: Collection[str]) -> None:
    """One call of each function, in which new events of each of those integrations are fetched and delivered."""
    found.central.emit(2)
    fetched = found.post("fetch-page")
    forwarded = found.post("forward-batch")
    assert fetched.status == 200, fetched.body
    lines = [line for line in json.loads(fetched.body)["results"] if line["stream"] == "events"]
    assert {line["integration"] for line in lines if line["outcome"] == "fetched"} >= set(names), lines
    results = json.loads(forwarded.body).get("results", [])
    sent = {line["integration"] for line in results if line["stream"] == "events" and line["outcome"] == "delivered"}
    assert sent >= set(names), forwarded.body


def plant(found: Site, kind: str) -> Path:
    """An object of beta of that kind, to be damaged; where there is none, one of the older version's."""
    folder = found.folder / "store"
    places = {
        "budgets": rate_limits.rate_limit_key("beta-client"),
        "integrations": "integrations/beta.json",
        "schedules": "schedules/beta.json",
        "acknowledged": "acknowledged/gaps/beta.json",
        "looks": f"looks/beta/{TENANT}/events/2026-06-15.json",
        "dead": f"dead/beta/{TENANT}/events/{7:020d}.ndjson",
        "gaps": f"gaps/beta/{TENANT}/events/{7:020d}-batch.json",
        "devices": f"devices/beta/{TENANT}/endpoints.json",
        "ledger": f"ledger/beta/{TENANT}/events/*/*.json",
        "batches": f"batches/beta/{TENANT}/events/*.ndjson",
    }
    pattern = places.get(kind, f"{kind}/beta/{TENANT}/events.json")
    if kind == "batches":
        found.central.emit(2)
        found.results("fetch-page", {"integration": "beta"})
    path = max(folder.glob(pattern), default=folder / pattern)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_any_other_stored_object_is_damaged(three: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """One of each kind: the other integrations go on in the same call, and status names it."""
    folder = three.folder / "store"
    kinds = sorted(kind for kind in {*KINDS, "dead"} if "/" not in kind and kind != "charts")
    for body in (b"{}", b"[]"):
        for kind in kinds:
            path = plant(three, kind)
            path.write_bytes(body)
            go_on(three, ("acme", "gamma"))
            if kind == "looks":  # Too many to be read for each status: who counts a day reads them.
                lines = attest.counted(three.state, [path.stem], attest.streams_of(three.state))[path.stem]
                assert {line.stream.integration for line in lines} == {*NAMES}
            key = str(path.relative_to(folder))
            named = {each["key"]: each["what"] for each in collect(App(lambda: loading.load(None)))["damaged"]}
            assert key in named, kind
            go_on(three, NAMES)
            standing.status(None, as_json=False)
            assert capsys.readouterr().out.count(f"{key}: ") == 1
    assert {line["ok"] for line in audit(three.state)["streams"] if line["integration"] != "beta"} == {True}
    copies = {original_of(str(path.relative_to(folder))) for path in (folder / "dead").rglob("*") if path.is_file()}
    assert {f"cursors/beta/{TENANT}/events.json", f"leases/beta/{TENANT}/events.json"} <= copies


CHARTS = ("charts/{today}.json", *("charts/marks.json", "charts/health.json"))
COMPLETENESS = ("charts/completeness/2026-06-15.json", "charts/completeness/first.json")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"layout": 1}', b'{"layout": 9}'])
def test_a_damaged_object_of_the_page_is_named_and_made_again_and_a_newer_one_stays(old: Path, body: bytes) -> None:
    store = DirectoryStore(old)
    keys = {key.format(today=f"{datetime.now(UTC):%Y-%m-%d}") for key in (*CHARTS, *COMPLETENESS)}
    for key in keys:
        store.write(key, body, expected=ABSENT)
    app = App(lambda: Config(store=f"file:{old}", engine="unix:/x", integrations=()))
    snapshot = Snapshot(lambda: store, lambda store, record: site_status(app, store=store, record=record))
    past = History(lambda: store, snapshot.current, time.time)
    past.start()
    until(lambda: past.is_complete, "the past")
    past.changes.note(snapshot.current().site, is_settled=True)
    line = {"integration": "acme", "tenant": TENANT, "stream": "events", "outcome": "fetched", "events": 1}
    past.add_results("fetch-page", [line])
    past.stop()
    days = Completeness(lambda: store, dict, lambda: None, {})
    assert [cell.kind for cell in days.cells()] == ["today"]
    is_newer = b"9" in body
    assert {damage.key for damage in damaged(store)} == (set() if is_newer else keys)
    made = {key for key in keys if (old / key).read_bytes() != body}
    assert made == (set() if is_newer else {key for key in keys if "completeness" not in key})


@pytest.mark.parametrize("damage", ["a file", "a folder with a file and a folder", "a link to nothing"])
def test_a_damaged_reserve_stops_no_write(tmp_path: Path, damage: str) -> None:
    DirectoryStore(tmp_path).write("batches/a/b/c/1.ndjson", b"1", expected=ABSENT)
    reserve = tmp_path / ".reserve"
    shutil.rmtree(reserve, ignore_errors=True)
    if damage == "a file":
        reserve.write_bytes(b"x")
    elif damage == "a link to nothing":
        reserve.symlink_to(tmp_path / "nothing")
    else:
        (reserve / "folder").mkdir(parents=True)
        (reserve / "space").write_bytes(b"x")
    store = DirectoryStore(tmp_path)
    for key in ("batches/a/b/c/2.ndjson", "cursors/a/b/c.json"):
        store.write(key, b"1", expected=ABSENT)
    assert [entry.key for entry in store.list("")] == ["batches/a/b/c/1.ndjson", "batches/a/b/c/2.ndjson", key]
    assert Reserve(reserve).give_up() == (damage == "a folder with a file and a folder"), "what a full disk asks for"


def test_a_newer_days_counts_are_unknown_and_not_overwritten(old: Path) -> None:
    store, stream = DirectoryStore(old), Stream("acme", TENANT, "events")
    key = looks.look_key(stream, DAY)
    store.write(key, b'{"layout": 2}', expected=ABSENT)
    assert looks.day_counts(store, stream, DAY) == looks.DayCounts()
    counts = looks.HourCounts(None)
    counts.miss(datetime.fromisoformat(WHEN), datetime.fromisoformat(WHEN))
    with pytest.raises(LayoutError):
        counts.keep(store, stream, None, datetime.fromisoformat(WHEN))
    assert (old / key).read_bytes() == b'{"layout": 2}'
    assert damaged(store) == []


@pytest.mark.parametrize("kind", ["cursors", "integrations", "leases"])
def test_an_object_of_a_newer_version_fails_its_own_integration_alone_and_is_not_overwritten(
    three: Site, kind: str
) -> None:
    path = plant(three, kind)
    path.write_bytes(b'{"layout": 2}')
    go_on(three, ("acme", "gamma"))
    assert path.read_bytes() == b'{"layout": 2}'
    told = collect(App(lambda: loading.load(None)))
    assert [each["key"] for each in told["damaged"]] == [str(path.relative_to(three.folder / "store"))]
    assert "layout 2" in told["damaged"][0]["what"]


def test_a_file_of_the_store_cannot_be_read(three: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad place on the disk, or another owner: its bytes may be whole, so nothing replaces them."""
    for kind in sorted(kind for kind in {*KINDS, "dead"} if "/" not in kind and kind not in ("charts", "looks")):
        path = plant(three, kind)
        path.unlink(missing_ok=True)
        path.symlink_to("/proc/self/mem")  # Reading it fails with EIO, for root too.
        go_on(three, ("acme", "gamma"))
        told = collect(App(lambda: loading.load(None)))
        if kind != "batches":  # Nobody reads a waiting batch to show it: the log names it, and `undelivered` follows.
            named = {each["key"]: each for each in told["damaged"]}[str(path.relative_to(three.folder / "store"))]
            assert (str(path) in named["what"], "owner of that file" in named["remedy"]) == (True, True), kind
            assert "object_unreadable" in {each["code"] for each in told["reasons"]}
            assert all(line["events"] >= line["acked"] for line in told["streams"]), kind
            standing.status(None, as_json=False)
            assert "An object of the store cannot be read" in capsys.readouterr().out
        assert {line["ok"] for line in audit(three.state)["streams"] if line["integration"] != "beta"} == {True}
        assert path.readlink() == Path("/proc/self/mem"), kind
        path.unlink()
        go_on(three, ("acme", "gamma"))


def test_a_store_of_0_1_is_read_and_goes_on(old: Path, tmp_path: Path) -> None:
    clock = Clock(start=datetime(2026, 6, 15, 7, tzinfo=UTC).timestamp())
    with CentralServer(clock=clock, settings=Settings(seed=1)) as central:  # Other events than those of the store.
        works = Connector(tmp_path, central, ONE | {"streams": ["events", "alerts", "endpoints"]})
        assert audit(works.state)["ok"]
        told = works.status()
        assert (told["damaged"], told["events"], told["pending_batches"]) == ([], 78, 1)
        new = central.emit(3)
        with works.engine:
            assert works.tick()[TENANT]["outcome"] != "failed"
            lines = {line["stream"]: line for line in works.forward()}
            sent = [json.loads(log.raw)["id"] for log in works.engine.received if log.dataType == "sophos-central"]
        assert lines["events"]["acked"] == 2 + len(new), "the batch that waited, and the new one"
        assert sent[-len(new) :] == new
        assert audit(works.state)["ok"]
        assert works.status()["damaged"] == []
