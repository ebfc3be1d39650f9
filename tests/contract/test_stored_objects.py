"""Every kind of stored object: what older versions wrote is read; what is damaged is named, and stops nobody else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
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
from emulator.web.status import collect
from lib.app import App
from lib.config import environment, loading
from lib.errors import DamagedError, LayoutError
from lib.model.checkpoint import Checkpoint
from lib.model.credential import Life
from lib.state import (
    accounts,
    batches,
    checkpoints,
    gaps,
    inventories,
    leases,
    ledger,
    rate_limits,
    receipts,
    reconciliations,
    schedules,
)
from lib.state.damage import Whole, damaged
from lib.state.dead_letters import original_of
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.pipeline.test_faults import ONE, Connector
from tests.site import Site, site

OLD = Path(__file__).parents[1] / "fixtures/store-0.1"
"""What version 0.1 wrote, before there was one codec."""
TENANT = "894af375-a52f-4d5a-a92d-9d9c279b1489"
READERS: dict[str, Callable[[bytes], Any]] = {
    "cursors": checkpoints.from_body,
    "batches": lambda body: batches.HEADER.decode(body.partition(b"\n")[0]),
    "ledger": receipts.from_body,
    "leases": leases.from_body,
    "gaps": gaps.GAP.decode,
    "integrations": accounts.ACCOUNT.decode,
    "devices": inventories.INVENTORY.decode,
    "schedules": schedules.SCHEDULE.decode,
    "budgets": rate_limits.RATE_LIMIT.decode,
    "reconciliations": reconciliations.PROGRESS.decode,
    "removed": ledger.PRUNE_POINT.decode,
}
NOT_READ = {"cursors": {"integration", "tenant", "kind", "digest"}, "integrations": {"integration"}}
"""For people: the key tells the same. A cursor whose digest is another one is edited, not damaged."""
LATER: dict[str, dict[str, Any]] = {
    "cursors": {"pace_seconds": None, "excluded": None},
    "leases": {"refused": {}, "tidied": ""},
    "integrations": {"paused_at": None, "life": None, "left_out": None},
    "ledger": {"windows": None},
    "budgets": {"told_at": None},
}
"""Fields that versions before the fixture's did not write."""
PLACES = {"pace_seconds": "newest.pace_seconds"}
"""Fields that stand in a group of the value."""


def sample(kind: str) -> bytes:
    """An object of the kind, one line, as version 0.1 wrote it."""
    if kind == "removed":
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
@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_object_of_the_kind_is_damaged(kind: str, broken: str) -> None:
    with pytest.raises(DamagedError, match="cannot be read"):
        READERS[kind](BROKEN[broken])


@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_type_or_a_missing_field_is_damage_that_names_the_field(kind: str) -> None:
    fields = fields_of(kind)
    for name in fields.keys() - NOT_READ.get(kind, set()) - {"layout"}:
        with pytest.raises(DamagedError, match=r"cannot be read: Expected .* at `\$\."):
            READERS[kind](body_of(fields | {name: [[]]}))
        if name not in LATER.get(kind, {}):
            with pytest.raises(DamagedError, match=f"{name}.* is missing"):
                READERS[kind](body_of({each: fields[each] for each in fields if each != name}))


@pytest.mark.parametrize("kind", READERS)
def test_a_number_as_text_is_damage(kind: str) -> None:
    fields = fields_of(kind)
    numbers = [name for name, value in fields.items() if type(value) in (int, float) and name != "layout"]
    for name in numbers:
        with pytest.raises(DamagedError, match="Expected"):
            READERS[kind](body_of(fields | {name: str(fields[name])}))
    assert numbers or kind in ("gaps", "integrations", "schedules")


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_a_cut_object_is_damaged(kind: str, data: st.DataObject) -> None:
    line = sample(kind).partition(b"\n")[0]
    with pytest.raises(DamagedError):
        READERS[kind](line[: data.draw(st.integers(0, len(line) - 1))])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_whatever_stands_in_a_field_the_object_is_read_or_named(kind: str, data: st.DataObject) -> None:
    fields = fields_of(kind)
    name = data.draw(st.sampled_from([*fields, "another"]))
    try:
        READERS[kind](body_of(fields | {name: data.draw(JSON)}))
    except (DamagedError, LayoutError) as error:
        assert str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize("kind", READERS)
def test_a_newer_layout_is_refused_and_an_unknown_field_is_not(kind: str) -> None:
    fields = fields_of(kind)
    with pytest.raises(LayoutError, match="has layout 2"):
        READERS[kind](body_of(fields | {"layout": 2}))
    more = READERS[kind](body_of(fields | {"of a later version": {"\ud800": 1}}))
    if isinstance(more, Checkpoint):
        assert more.edits == 1, "its digest is that of other fields"
    else:
        assert more == READERS[kind](body_of(fields))


@pytest.mark.parametrize("kind", LATER)
def test_a_field_that_an_older_version_did_not_write_gets_its_default(kind: str) -> None:
    fields = {name: value for name, value in fields_of(kind).items() if name not in LATER[kind]}
    value = READERS[kind](body_of(fields))
    for name, default in LATER[kind].items():
        assert attrgetter(PLACES.get(name, name))(value) == (Life() if name == "life" else default)


def without_null(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


WRITERS: dict[str, Callable[[Any], bytes]] = {
    "batches": batches.HEADER.encode,
    "ledger": receipts.RECEIPT.encode,
    "leases": leases.LEASE.encode,
    "gaps": gaps.GAP.encode,
    "integrations": accounts.ACCOUNT.encode,
    "devices": inventories.INVENTORY.encode,
    "schedules": schedules.SCHEDULE.encode,
    "budgets": rate_limits.RATE_LIMIT.encode,
    "reconciliations": reconciliations.PROGRESS.encode,
    "removed": ledger.PRUNE_POINT.encode,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_is_what_the_older_version_wrote(kind: str) -> None:
    fields = {name: value for name, value in fields_of(kind).items() if name not in NOT_READ.get(kind, set())}
    written = json.loads(WRITERS[kind](READERS[kind](sample(kind))))
    assert without_null(written) == without_null(fields)


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
    kinds = ("budgets", "cursors", "dead", "devices", "gaps", "integrations", "leases", "reconciliations", "schedules")
    for body in (b"{}", b"[]"):
        for kind in (*kinds, "ledger", "batches"):
            path = plant(three, kind)
            path.write_bytes(body)
            go_on(three, ("acme", "gamma"))
            key = str(path.relative_to(folder))
            named = {each["key"]: each["what"] for each in collect(App(lambda: loading.load(None)))["damaged"]}
            assert key in named, kind
            go_on(three, NAMES)
            standing.status(None, as_json=False)
            assert f"damaged  {key}: " in capsys.readouterr().out
    assert {line["ok"] for line in audit(three.state)["streams"] if line["integration"] != "beta"} == {True}
    copies = {original_of(str(path.relative_to(folder))) for path in (folder / "dead").rglob("*") if path.is_file()}
    assert {f"cursors/beta/{TENANT}/events.json", f"leases/beta/{TENANT}/events.json"} <= copies


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
