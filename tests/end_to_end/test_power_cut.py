"""A power cut after any system call: what the store has promised is there.

strace records what fetching, delivery, archiving, packing and expiry really ask of the system. A disk that keeps as
little as POSIX allows replays it: content that is not synced is lost, and so are names whose folder is not, and what
was removed comes back; or the names stay, as a journal may have it, and only the content is lost.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emulator.central import CentralServer, Settings
from emulator.engine import StandInEngine
from lib.state.leases import lease_of
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Life

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
CALLS = (
    *("open", "openat", "creat", "write", "pwrite64", "writev", "truncate", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
)
CALL = re.compile(r"(\w+)\((.*)\) += (\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
OPENED = re.compile(r"^\d+<([^>]*)>")


@dataclass(slots=True)
class File:
    """A file on the disk."""

    content: bytes = b""
    synced: bytes = b""


Node = File | None
"""A file; None: a folder."""


@dataclass(slots=True)
class Disk:
    """What the system was asked for below a folder, and what of it outlives a power cut."""

    root: str
    names: dict[str, Node] = field(default_factory=dict)
    """By path, as a running process sees them."""
    durable: dict[str, dict[str, Node]] = field(default_factory=dict)
    """By folder, the names in it that outlive a cut."""

    def apply(self, call: str, rest: str) -> None:
        strings = [bytes.fromhex(each.replace("\\x", "")) for each in STRING.findall(rest)]
        opened = OPENED.match(rest)
        if opened is not None:
            found = opened[1]
            path = bytes.fromhex(found.replace("\\x", "")).decode() if found.startswith("\\x") else found
            data = b"".join(strings)
        else:
            paths = [each.decode() for each in strings]
            path, data = paths[0] if paths else "", b""
        if not path.startswith(self.root):
            return
        match call:
            case "write" | "pwrite64" | "writev":
                file = self.names[path]
                assert file is not None
                file.content += data
            case "fsync" | "fdatasync":
                self._sync(path)
            case "open" | "openat" | "creat":
                if ("O_CREAT" in rest or call == "creat") and path not in self.names:
                    self.names[path] = File()
            case "mkdir" | "mkdirat":
                self.names[path] = None
            case "rename" | "renameat" | "renameat2":
                self.names[paths[1]] = self.names.pop(path)
            case "unlink" | "unlinkat" | "rmdir":
                del self.names[path]
            case _:
                raise AssertionError(f"nobody thought of {call} {path}")

    def _sync(self, path: str) -> None:
        node = self.names.get(path)
        if node is not None:
            node.synced = node.content
        else:
            self.durable[path] = {name: each for name, each in self.names.items() if str(Path(name).parent) == path}

    def cut(self, *, keeps_names: bool) -> dict[str, bytes]:
        """The files that are there after a power cut, by path."""
        if keeps_names:
            return {name: node.synced for name, node in self.names.items() if node is not None}
        return dict(self._below(self.root))

    def _below(self, folder: str) -> Iterator[tuple[str, bytes]]:
        for name, node in self.durable.get(folder, {}).items():
            if node is None:
                yield from self._below(name)
            else:
                yield name, node.synced


def recording(trace: Path, *arguments: str) -> list[str]:
    """The command that runs Python and records its calls."""
    calls = f"trace={','.join(f'?{call}' for call in CALLS)}"
    how = ("-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", "10000000", "-e", calls, "-e", "signal=none")
    return ["strace", *how, "-o", str(trace), sys.executable, *arguments]


def lines_of(trace: Path) -> Iterator[tuple[str, str]]:
    """Each call that was successful, with its arguments, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        thread, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if text.startswith("<... "):
            text = begun.pop(thread) + text.partition(" resumed>")[2]
        found = CALL.match(text)
        if found is not None:
            yield found[1], found[2]


def objects(files: dict[str, bytes], root: str) -> dict[str, bytes]:
    """Those of the files that are objects of the store, or its mark."""
    inside = {path.removeprefix(root + "/"): body for path, body in files.items()}
    return {key: body for key, body in inside.items() if not key.startswith(".") or key == ".layout"}


def holds(found: dict[str, bytes], folder: Path) -> None:
    """Every batch before the cursor is there or has its receipt, and everything can be read."""
    shutil.rmtree(folder, ignore_errors=True)
    for key, body in found.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    state = State.of(DirectoryStore(folder))
    lines = audit(state)["streams"]
    # Between a stream's first batch and its first cursor, there is none.
    told = [(line["receipts"], found) for line in lines for found in line["findings"]]
    assert [each for each in told if each[0] or each[1]["code"] != "cursor_missing"] == []
    for stream in [*state.checkpoints.streams()]:
        sequence = state.checkpoints.read(stream).checkpoint.sequence
        lease_of(state.store, stream)
        pruned = state.ledger.prune_point(stream)
        known = set(range(1, pruned.sequence + 1)) if pruned else set()
        known |= {receipt.header.sequence for _, receipt, _ in state.ledger.receipts(stream)}
        known |= {each.sequence for each in state.batches.waiting(stream) if state.batches.read(stream, each.sequence)}
        assert known >= set(range(1, sequence)), "a batch before the cursor is lost"
    for key in state.batches.archived():
        assert state.batches.kept(key)
    assert not (folder / "dead").exists(), "an object was damaged"


def test_a_power_cut_after_any_system_call_loses_nothing(tmp_path: Path) -> None:
    trace, root = tmp_path / "trace", str(tmp_path / "store")
    lives = subprocess.Popen(
        recording(trace, "-m", "tests.fakes.dying"),
        cwd=ROOT,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert lives.stdin is not None
    assert lives.stdout is not None
    with CentralServer(settings=Settings(page_cap=4)) as central, StandInEngine(tmp_path / "e") as engine:
        ahead = 0.0
        # Two polls of the first day; a day later its receipts are packed; what is archived is removed after 7 days, and
        # receipts after 90.
        for days in (0, 0, 1, 8, 100):
            central.clock.advance(days * DAY)
            ahead += days * DAY + 60
            central.emit(6)
            lives.stdin.write(Life(root, str(engine.socket), central.url, ahead=ahead).to_text() + "\n")
            lives.stdin.flush()
            assert lives.stdout.readline() == "0\n"
        lives.communicate()
    disk, seen, keys = Disk(str(tmp_path)), set[int](), set[str]()
    for call, rest in lines_of(trace):
        disk.apply(call, rest)
        for keeps_names in (False, True):
            found = objects(disk.cut(keeps_names=keeps_names), root)
            state = hash(frozenset(found.items()))
            if state not in seen:
                seen.add(state)
                keys |= found.keys()
                holds(found, tmp_path / "cut")
    files = {str(path): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}
    kept, cut = objects(files, root), objects(disk.cut(keeps_names=False), root)
    assert cut == cut | kept, "what was written is durable"
    assert any(key.startswith("batches/") for key in cut.keys() - kept.keys()), "what was removed came back"
    assert any(key.endswith(".jsonl.gz") for key in keys), "receipts were packed"
    assert any(key.endswith("/0-removed.json") for key in keys), "receipts were removed"
    assert len(seen) > 60


KILLED = """
import sys
from pathlib import Path
from lib.store.directory import DirectoryStore
root = Path(sys.argv[1])
if sys.argv[2] != ".":
    DirectoryStore(root)
(root / sys.argv[2]).mkdir(parents=True)
DirectoryStore(root).write("batches/a/1", b"x", expected=0)
"""
"""A process was killed between making a folder and syncing what holds it; the next one stores an object."""


@pytest.mark.parametrize("folder", [".", "batches", "batches/a"])
def test_what_is_stored_in_a_folder_that_a_killed_process_made_outlives_a_power_cut(
    folder: str, tmp_path: Path
) -> None:
    trace, root = tmp_path / "trace", str(tmp_path / "site" / "store")
    subprocess.run(recording(trace, "-c", KILLED, root, folder), cwd=ROOT, check=True)
    disk = Disk(str(tmp_path))
    for call, rest in lines_of(trace):
        disk.apply(call, rest)
    found = objects(disk.cut(keeps_names=False), root)
    assert (found["batches/a/1"], "layout" in found[".layout"].decode()) == (b"x", True)
