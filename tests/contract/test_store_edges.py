"""What every object store has to do, at its edges: long names, late starts, listings that change underway."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lib.errors import ConflictError, StoreError
from lib.model.stream import Stream, stream_of
from lib.store.base import ABSENT, ObjectStore, Stored
from lib.store.directory import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]


def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix, after=after)]


LONG = ["x" * 240 + ".log", "x" * 240 + ".", "x" * 240 + "..", "x" * 480 + "..", "." * 400, "x" * 239 + "%", "ü" * 80]


@pytest.mark.parametrize("name", LONG)
def test_long_names_go_round_wherever_their_dots_are(store: ObjectStore, name: str) -> None:
    key = f"cursors/{Stream('i', name, 'events').path}.json"
    store.write(key, b"1", expected=ABSENT)
    assert keys(store) == [key]
    assert stream_of(key.removeprefix("cursors/").removesuffix(".json")) == Stream("i", name, "events")


def test_a_long_name_is_no_other_objects(store: ObjectStore) -> None:
    store.write("a/y", b"other", expected=ABSENT)
    store.write(f"a/{'x' * 240}z/q", b"", expected=ABSENT)
    assert store.read(f"a/{'x' * 240}../y") is None


def test_a_key_that_is_another_keys_folder_is_refused_and_not_retried_for_ever(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("a/b", b"", expected=ABSENT)
    assert store.read("a") is None
    with pytest.raises(StoreError):
        store.write("a", b"", expected=ABSENT)
    assert keys(store) == ["a/b"]


def test_what_shares_a_long_beginning_is_listed_in_order(store: ObjectStore) -> None:
    start = "x" * 240
    written = [f"{start}-", f"{start}/y", f"{start}0", f"{start}a/y", "w", "y", start[1:], f"{start[1:]}-/y"]
    for key in written:
        store.write(key, b"", expected=ABSENT)
    for prefix in ("", "x", start, f"{start}/", f"{start}a"):
        for after in ("", "x", *written):
            expected = sorted(key for key in written if key.startswith(prefix) and key > after)
            assert keys(store, prefix, after) == expected


def test_keys_sort_by_their_own_characters_not_by_folder(store: ObjectStore) -> None:
    written = ["a/b-c", "a/b.d", "a/b/c", "a/b0"]
    for key in reversed(written):
        store.write(key, b"", expected=ABSENT)
    assert keys(store, "a/b") == written
    assert keys(store, "a/b", after="a/b.d") == written[2:]


def test_a_listing_begins_behind_any_key_of_any_prefix(store: ObjectStore) -> None:
    long = "L" * 300
    keys = sorted(
        [f"p/{folder}/k" for folder in ("ab", "ab-c", "ab.c", "a", "b", long, f"{long}-m")] + ["p/ab-d", "p/z"]
    )
    for key in keys:
        store.write(key, b"{}", expected=ABSENT)
    for prefix in ("", "p", "p/", "p/a", "p/ab", "p/ab/", "p/ab-", f"p/{long}", f"p/{long}/", "p//", "q/"):
        for after in ("", *keys, "p/ab", "p/ab/", "p/ab0", f"p/{long}"):
            expected = [key for key in keys if key.startswith(prefix) and key > after]
            assert [entry.key for entry in store.list(prefix, after=after)] == expected


def test_listing_one_folder_looks_into_no_folder_beside_it(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for number in range(3):
        store.write(f"ledger/acme/t-{number}/events/1.json", b"{}", expected=ABSENT)
    scanned: list[str] = []
    is_listing = True
    sys.addaudithook(lambda name, args: scanned.append(str(args[0])) if is_listing and name == "os.scandir" else None)
    found = [entry.key for entry in store.list("ledger/acme/t-1/events/")]
    is_listing = False
    assert (found, scanned) == (["ledger/acme/t-1/events/1.json"], [str(tmp_path / "ledger/acme/t-1/events")])


def test_a_listing_goes_on_while_what_it_names_is_removed(store: ObjectStore) -> None:
    written = [f"d{number}/{number}" for number in range(10)]
    for key in written:
        store.write(key, b"", expected=ABSENT)
    seen = []
    for entry in store.list(""):
        seen.append(entry.key)
        store.delete(entry.key, expected=entry.generation)
    assert seen == written
    assert keys(store) == []


def test_a_listing_tells_generation_size_and_time(store: ObjectStore) -> None:
    generation = store.write("k", b"four", expected=ABSENT)
    (entry,) = store.list("")
    assert (entry.generation, entry.size) == (generation, 4)
    assert abs(entry.updated - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_refused_write_or_delete_changes_nothing(store: ObjectStore) -> None:
    first = store.write("k", b"1", expected=ABSENT)
    second = store.write("k", b"2", expected=first)
    before = list(store.list(""))
    for stale in (ABSENT, first, second + 1):
        with pytest.raises(ConflictError):
            store.write("k", b"3", expected=stale)
        with pytest.raises(ConflictError):
            store.delete("k", expected=stale)
    with pytest.raises(ConflictError):
        store.write("new", b"", expected=first)
    assert list(store.list("")) == before


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/..", ".hidden", "a/.b", "a\0b"])
def test_what_is_no_key_is_neither_read_nor_removed(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not an object's key"):
        store.read(key)
    with pytest.raises(ValueError, match="not an object's key"):
        store.delete(key, expected=1)


STARTED = """
import sys
from pathlib import Path
from lib.errors import ConflictError, StoreError
from lib.store.directory import DirectoryStore
print("ready", flush=True)
sys.stdin.readline()
"""
RACING = """
won = []
store = DirectoryStore(Path(sys.argv[1]))
for number in range(100):
    try:
        store.write(f"race/{number}", sys.argv[2].encode(), expected=0)
        won.append(number)
    except ConflictError:
        pass
print(*won)
"""
OPENING = """
for number in range(300):
    DirectoryStore(Path(sys.argv[1]) / str(number))
print("opened")
"""


def together(code: str, folder: Path, count: int) -> list[str]:
    """What each process prints, all let go once all have started."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", STARTED + code, str(folder), str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    said = [each.communicate(timeout=60)[0] for each in started]
    assert [each.returncode for each in started] == [0] * count
    return said


def test_exactly_one_of_eight_processes_makes_an_object(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    won = [[int(number) for number in said.split()] for said in together(RACING, tmp_path, 8)]
    assert sorted(number for each in won for number in each) == list(range(100))
    for racer, each in enumerate(won):
        for number in each:
            stored = store.read(f"race/{number}")
            assert stored is not None
            assert stored.body == b"%d" % racer


def test_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    assert together(OPENING, tmp_path, 4) == ["opened\n"] * 4


def test_a_generation_rises_though_the_clock_is_behind(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("k", b"1", expected=ABSENT)
    ahead = 4_000_000_000_000_000_000
    os.utime(tmp_path / "k", ns=(ahead, ahead))
    generation = store.write("k", b"2", expected=ahead)
    assert generation > ahead
    stored = store.read("k")
    assert stored is not None
    assert stored.generation == generation


def test_an_object_is_the_file_of_its_key(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).write("a/b.json", b"\x00\r\n", expected=ABSENT)
    assert (tmp_path / "a" / "b.json").read_bytes() == b"\x00\r\n"


def test_a_store_that_was_copied_without_its_empty_folders_works(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("a/0", b"1", expected=ABSENT)
    for name in (".tmp", ".locks"):
        shutil.rmtree(tmp_path / name)
    for each in (store, DirectoryStore(tmp_path)):
        each.write(f"a/{id(each)}", b"1", expected=ABSENT)
    assert len(keys(store)) == 3


@pytest.mark.parametrize("left", [b"", b"\n"])
def test_a_layout_whose_content_a_power_cut_took_is_written_again(tmp_path: Path, left: bytes) -> None:
    DirectoryStore(tmp_path).write("a", b"1", expected=ABSENT)
    (tmp_path / ".layout").write_bytes(left)
    assert keys(DirectoryStore(tmp_path)) == ["a"]
    assert json.loads((tmp_path / ".layout").read_bytes()) == {"layout": 1}


def test_nobody_else_can_read_what_is_stored_though_the_folder_was_open_to_all(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    DirectoryStore(tmp_path).write("batches/acme/t/events/1.ndjson", b"raw", expected=ABSENT)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


MOUNTED = """
import subprocess, sys
from pathlib import Path
from lib.store.directory import DirectoryStore
root = Path(sys.argv[1])
store = DirectoryStore(root)
(root / "batches").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root / "batches")], check=True)
first = store.write("batches/a/t/events/1.ndjson", b"1", expected=0)
store.write("batches/a/t/events/1.ndjson", b"2", expected=first)
print([(entry.key, store.read(entry.key).body) for entry in store.list("")])
"""


def in_own_mounts(code: str, folder: Path) -> str:
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_part_of_the_store_may_be_a_mount_of_its_own(tmp_path: Path) -> None:
    assert in_own_mounts(MOUNTED, tmp_path) == "[('batches/a/t/events/1.ndjson', b'2')]"


FULL = """
import subprocess, sys
from pathlib import Path
from lib.errors import StoreError
from lib.store.directory import DirectoryStore
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", OPTIONS, "tmpfs", str(root)], check=True)
store, stored = DirectoryStore(root), {}
for number in range(1, 1000):
    key = f"batches/a/t/events/{number}.ndjson"
    try:
        stored[key] = store.write(key, BODY, expected=0)
    except StoreError as error:
        assert "space" in error.remedy
        break
store.write("leases/a/t/events.json", b"x" * 300, expected=0)
for key, generation in stored.items():
    store.write(key.replace("batches/", "ledger/"), b"y" * 700, expected=0)
    store.delete(key, expected=generation)
print(3 < len(stored) < 999, [entry.key for entry in store.list("batches/")])
"""


@pytest.mark.parametrize(
    ("options", "body"),
    [("size=400k", "b'z' * 20_000"), ("size=30m,nr_inodes=90", "b'z' * 100")],
    ids=["blocks", "inodes"],
)
def test_a_full_disk_still_takes_what_delivery_needs_and_empties(tmp_path: Path, options: str, body: str) -> None:
    assert in_own_mounts(f"OPTIONS = {options!r}\nBODY = {body}\n{FULL}", tmp_path) == "True []"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):
        listener.bind(path.name)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [fifo, bound_socket, link_to_itself], ids=lambda make: make.__name__)
def test_what_is_no_file_is_an_empty_object_that_nobody_waits_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    store = DirectoryStore(tmp_path)
    store.write("gaps/a/1.json", b"before", expected=ABSENT)
    store.write("gaps/a/3.json", b"behind", expected=ABSENT)
    make(tmp_path / "gaps/a/2.json")
    assert [entry.key for entry in store.list("gaps/")] == [f"gaps/a/{number}.json" for number in (1, 2, 3)]
    stored = store.read("gaps/a/2.json")
    assert stored is not None
    assert stored.body == b""
    with pytest.raises(ConflictError):
        store.write("gaps/a/2.json", b"x", expected=ABSENT)
    generation = store.write("gaps/a/2.json", b"again", expected=stored.generation)
    assert store.read("gaps/a/2.json") == Stored(b"again", generation)
    (tmp_path / "gaps/a/2.json").unlink()
    make(tmp_path / "gaps/a/2.json")
    stored = store.read("gaps/a/2.json")
    assert stored is not None
    store.delete("gaps/a/2.json", expected=stored.generation)
    assert store.read("gaps/a/2.json") is None


def test_an_empty_folder_in_place_of_an_object_is_replaced_and_another_is_kept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    (tmp_path / "cursors/a/t/events.json").mkdir(parents=True)
    assert store.read("cursors/a/t/events.json") is None
    generation = store.write("cursors/a/t/events.json", b"x", expected=ABSENT)
    assert store.read("cursors/a/t/events.json") == Stored(b"x", generation)
    (tmp_path / "cursors/a/t/alerts.json").mkdir()
    (tmp_path / "cursors/a/t/alerts.json/note").write_bytes(b"kept")
    with pytest.raises(StoreError):
        store.write("cursors/a/t/alerts.json", b"x", expected=ABSENT)
    assert (tmp_path / "cursors/a/t/alerts.json/note").read_bytes() == b"kept"
