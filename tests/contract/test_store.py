"""What every object store has to do: whole objects, generations, compare-and-set, listings in order."""

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from lib.errors import ConflictError, LayoutError, StoreError
from lib.model.stream import Stream, stream_of
from lib.parts import open_store
from lib.store.base import ABSENT, ObjectStore
from lib.store.directory import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]


def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix, after=after)]


def test_what_was_written_is_read_with_its_generation(store: ObjectStore) -> None:
    assert store.read("a/b.json") is None
    generation = store.write("a/b.json", b"one", expected=ABSENT)
    stored = store.read("a/b.json")
    assert stored is not None
    assert (stored.body, stored.generation) == (b"one", generation)
    assert generation > ABSENT


@pytest.mark.parametrize("body", [b"", b"\x00\xff\r\n", b"x" * (5 << 20)], ids=["empty", "binary", "large"])
def test_bodies_are_bytes(store: ObjectStore, body: bytes) -> None:
    store.write("k", body, expected=ABSENT)
    stored = store.read("k")
    assert stored is not None
    assert stored.body == body
    assert [entry.size for entry in store.list("k")] == [len(body)]


def test_only_the_generation_that_was_read_can_be_replaced(store: ObjectStore) -> None:
    first = store.write("k", b"1", expected=ABSENT)
    second = store.write("k", b"2", expected=first)
    assert second > first
    for stale in (ABSENT, first, second + 1):
        with pytest.raises(ConflictError):
            store.write("k", b"3", expected=stale)
        if stale != ABSENT:
            with pytest.raises(ConflictError):
                store.delete("k", expected=stale)
    stored = store.read("k")
    assert stored is not None
    assert (stored.body, stored.generation) == (b"2", second)


def test_what_is_gone_can_be_made_again_under_another_generation(store: ObjectStore) -> None:
    first = store.write("k", b"1", expected=ABSENT)
    store.delete("k", expected=first)
    assert store.read("k") is None
    for expected in (ABSENT, first):
        with pytest.raises(ConflictError):
            store.delete("k", expected=expected)
    with pytest.raises(ConflictError):
        store.write("k", b"2", expected=first)
    assert store.write("k", b"1", expected=ABSENT) != first


def test_a_listing_is_in_order_of_key_however_long(store: ObjectStore) -> None:
    names = [f"batches/a/b/events/{number:020d}.ndjson" for number in range(1, 1301)]
    shuffled = list(names)
    random.Random(1).shuffle(shuffled)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: store.write(name, b"", expected=ABSENT), shuffled))
    store.write("batches/a-b/b/events/1.ndjson", b"", expected=ABSENT)
    store.write("batches/a.b/b/events/1.ndjson", b"", expected=ABSENT)
    store.write("cursors/a/b/events.json", b"", expected=ABSENT)
    assert keys(store, "batches/a/") == names
    assert keys(store, "batches/a/b/events/", after=names[1200]) == names[1201:]
    assert keys(store, "batches/a/b/events/0000000000000000000") == names[:9]
    assert keys(store, "nothing/") == []
    every = keys(store)
    assert every == sorted(every)
    assert len(every) == 1303


def test_the_folders_of_a_depth_are_those_with_an_object_below(store: ObjectStore) -> None:
    long, names = "x" * 600, ["a", "a-b", "a.b", "%C3%BC"]
    for name in (*names, long):
        store.write(f"ledger/{name}/t/events/2026-03-10/1.json", b"", expected=ABSENT)
        store.write(f"ledger/{name}/t/events/2026-03-11/2.json", b"", expected=ABSENT)
    store.write("ledger/a/u/one.json", b"", expected=ABSENT)
    gone = store.write("ledger/gone/t/events/1.json", b"", expected=ABSENT)
    store.delete("ledger/gone/t/events/1.json", expected=gone)
    found = list(store.folders("ledger/", 3))
    assert found == [f"ledger/{name}/t/events" for name in sorted([*names, long], key=lambda name: f"{name}/")]
    assert list(store.folders("ledger/a/", 1)) == ["ledger/a/t", "ledger/a/u"]
    assert list(store.folders("nothing/", 2)) == []


NAMES = st.text(min_size=0, max_size=12) | st.sampled_from(
    ["", ".", "..", "a/b", "%", "%+", "~", "ü" * 60, "x" * 400, "\ud800", "\0"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Stream, NAMES, NAMES, NAMES), min_size=1, max_size=5, unique=True))
def test_any_names_go_round(streams: list[Stream]) -> None:
    with TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder))
        for number, stream in enumerate(streams):
            store.write(f"cursors/{stream.path}.json", b"%d" % number, expected=ABSENT)
        found = keys(store, "cursors/")
        assert found == sorted(found)
        assert {stream_of(key.removeprefix("cursors/").removesuffix(".json")) for key in found} == set(streams)
        for number, stream in enumerate(streams):
            stored = store.read(f"cursors/{stream.path}.json")
            assert stored is not None
            assert stored.body == b"%d" % number


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/..", ".hidden", "a/.b", "a\0b"])
def test_what_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not an object's key"):
        store.write(key, b"", expected=ABSENT)


class StoreMachine(RuleBasedStateMachine):
    """A store against a dictionary."""

    objects = Bundle("objects")

    root: str
    numbers = count()

    def __init__(self) -> None:
        super().__init__()
        self.location = f"{self.root}/{next(self.numbers)}"
        self.store = open_store(self.location)
        self.model: dict[str, tuple[bytes, int]] = {}
        self.generations: dict[str, set[int]] = {}

    def _written(self, key: str, body: bytes, generation: int) -> None:
        assert generation not in self.generations.setdefault(key, {ABSENT})
        self.generations[key].add(generation)
        self.model[key] = (body, generation)

    @rule(
        target=objects,
        name=st.sampled_from(["a", "b", "a-b", "a.b", "é"]),
        deep=st.booleans(),
        body=st.binary(max_size=9),
    )
    def create(self, name: str, body: bytes, *, deep: bool) -> str:
        key = f"x/{name}/{name}.json" if deep else f"x/{name}.json"
        if key in self.model:
            with pytest.raises(ConflictError):
                self.store.write(key, body, expected=ABSENT)
        else:
            self._written(key, body, self.store.write(key, body, expected=ABSENT))
        return key

    @rule(key=objects, body=st.binary(max_size=9))
    def replace(self, key: str, body: bytes) -> None:
        present = self.model.get(key)
        if present is None:
            with pytest.raises(ConflictError):
                self.store.write(key, body, expected=max(self.generations[key]))
        else:
            self._written(key, body, self.store.write(key, body, expected=present[1]))

    @rule(key=objects, body=st.binary(max_size=9), data=st.data())
    def write_stale(self, key: str, body: bytes, data: st.DataObject) -> None:
        present = self.model.get(key, (b"", ABSENT))[1]
        stale = data.draw(st.sampled_from(sorted(self.generations[key])))
        if stale != present:
            with pytest.raises(ConflictError):
                self.store.write(key, body, expected=stale)

    @rule(target=objects, key=consumes(objects))
    def delete(self, key: str) -> object:
        present = self.model.pop(key, None)
        if present is None:
            with pytest.raises(ConflictError):
                self.store.delete(key, expected=max(self.generations[key]))
            return multiple()
        self.store.delete(key, expected=present[1])
        return key

    @rule()
    def open_again(self) -> None:
        self.store = open_store(self.location)

    @rule(prefix=st.sampled_from(["", "x", "x/", "x/a", "x/a/", "x/a-", "y"]), data=st.data())
    def listed(self, prefix: str, data: st.DataObject) -> None:
        after = data.draw(st.sampled_from(["", "x/a", *sorted(self.generations)]))
        expected = sorted(key for key in self.model if key.startswith(prefix) and key > after)
        assert [(entry.key, entry.generation) for entry in self.store.list(prefix, after=after)] == [
            (key, self.model[key][1]) for key in expected
        ]

    @invariant()
    def the_same_is_read(self) -> None:
        for key in self.generations:
            stored = self.store.read(key)
            assert (None if stored is None else (stored.body, stored.generation)) == self.model.get(key)


def test_a_store_is_a_dictionary_with_generations(location: str) -> None:
    examples = 60 if location.startswith("file:") else 12

    class Located(StoreMachine):
        root = location

    run_state_machine_as_test(Located, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))


COUNTING = """
import sys
from pathlib import Path
from lib.errors import ConflictError
from lib.store.directory import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]))
for _ in range(100):
    while True:
        stored = store.read("counter")
        try:
            store.write("counter", str(int(stored.body) + 1).encode(), expected=stored.generation)
            break
        except ConflictError:
            pass
"""
CREATING = """
import sys
from pathlib import Path
from lib.errors import ConflictError
from lib.store.directory import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]))
won = 0
for number in range(50):
    try:
        store.write(f"race/{number}", sys.argv[2].encode(), expected=0)
        won += 1
    except ConflictError:
        pass
print(won)
"""
WRITING = """
import sys
from pathlib import Path
from lib.store.directory import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]))
stored = store.read("big")
generation = stored.generation if stored else 0
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        generation = store.write("big", letter * 3_000_000, expected=generation)
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_that_count_together_lose_no_count(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("counter", b"0", expected=ABSENT)
    counters = [python(COUNTING, str(tmp_path)) for _ in range(4)]
    assert [(each.communicate(timeout=60), each.returncode)[1] for each in counters] == [0] * 4
    stored = store.read("counter")
    assert stored is not None
    assert stored.body == b"400"


def test_one_of_several_processes_makes_each_object(tmp_path: Path) -> None:
    racers = [python(CREATING, str(tmp_path), str(number)) for number in range(4)]
    won = [int(each.communicate(timeout=60)[0]) for each in racers]
    store = DirectoryStore(tmp_path)
    owners = [int(stored.body) for entry in store.list("race/") if (stored := store.read(entry.key))]
    assert sum(won) == len(owners) == 50
    assert [owners.count(number) for number in range(4)] == won


def test_a_writer_killed_at_any_moment_leaves_a_whole_object(tmp_path: Path) -> None:
    rng = random.Random(7)
    for _ in range(10):
        writer = python(WRITING, str(tmp_path))
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        store = DirectoryStore(tmp_path)
        for _ in range(rng.randrange(1, 40)):
            store.read("big")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        stored = store.read("big")
        if stored is not None:
            assert stored.body in (b"a" * 3_000_000, b"b" * 3_000_000)
        assert keys(store) in ([], ["big"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one object."""
    DirectoryStore(tmp_path).write("k", b"1", expected=ABSENT)
    return tmp_path


def test_a_newer_layout_is_refused(folder: Path) -> None:
    (folder / ".layout").write_text(json.dumps({"layout": 99}))
    with pytest.raises(LayoutError, match="layout 99"):
        DirectoryStore(folder)


def test_a_damaged_layout_is_refused(folder: Path) -> None:
    (folder / ".layout").write_text("{")
    with pytest.raises(LayoutError):
        DirectoryStore(folder)


def test_a_store_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        DirectoryStore(tmp_path / "file" / "store")


def test_leftovers_are_removed_and_what_is_being_written_is_not(folder: Path) -> None:
    old, new = folder / ".tmp" / "old", folder / ".tmp" / "new"
    for path, age in ((old, 7200), (new, 60)):
        path.write_text("half")
        os.utime(path, (time() - age, time() - age))
    DirectoryStore(folder)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_edited_by_hand_has_a_new_generation(folder: Path) -> None:
    store = DirectoryStore(folder)
    before = store.read("k")
    (folder / "k").write_text("by hand")
    after = store.read("k")
    assert before is not None
    assert after is not None
    assert after.generation != before.generation
    with pytest.raises(ConflictError):
        store.write("k", b"2", expected=before.generation)
