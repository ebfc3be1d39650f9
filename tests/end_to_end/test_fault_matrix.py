"""For every call that fetching and forwarding make: the process is killed right before it, and right after it.

The calls are those of a recorded run. After a second run that is left alone, every event has arrived, in order, and
the ledger adds up.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.central import CentralServer, Settings
from emulator.engine import StandInEngine
from lib.pipeline.audit import audit
from lib.pipeline.records import Books
from lib.store.directory import DirectoryStore
from tests.fakes.dying import Life, live

ROOT = Path(__file__).resolve().parents[2]
SHARES = 4
LEASE_SECONDS = 13.0


@pytest.fixture(scope="module")
def central() -> Iterator[CentralServer]:
    with CentralServer(settings=Settings(page_cap=150)) as server:
        server.fill(300)
        yield server


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInEngine]:
    with StandInEngine(tmp_path_factory.mktemp("e", numbered=True) / "s") as server:
        yield server


def run(life: Life) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fakes.dying", life.to_text()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def natives(engine: StandInEngine) -> list[str]:
    return [json.loads(log.raw)["id"] for log in engine.received]


@pytest.mark.parametrize("share", range(SHARES))
def test_a_process_killed_at_any_call_loses_nothing(
    central: CentralServer, engine: StandInEngine, tmp_path: Path, share: int
) -> None:
    socket, ids = str(engine.socket), central.ids(central.default_tenant)
    calls, _ = live(Life(str(tmp_path / "recorded"), socket, central.url))
    assert natives(engine) == ids
    kinds = {call.partition(" ")[0] for call in calls}
    assert kinds >= {"read", "write", "delete", "list", "whoami", "page", "deliver", "ack", "delivered"}
    assert len(calls) > 40
    for number in range(1 + share, len(calls) + 1, SHARES):
        for after in (False, True):
            where = f"{'after' if after else 'before'} call {number} of {len(calls)}, {calls[number - 1]}"
            store = str(tmp_path / f"{number}-{after}")
            engine.received.clear()
            died = run(Life(store, socket, central.url, dies_at=number, after=after))
            assert died.returncode == -signal.SIGKILL, f"{where}: {died.stderr}"
            live(Life(store, socket, central.url, ahead=LEASE_SECONDS))
            assert list(dict.fromkeys(natives(engine))) == ids, where
            books = Books.of(DirectoryStore(Path(store)))
            told = audit(books)
            assert told["ok"], (where, told)
            assert [line["events"] for line in told["streams"]] == [len(ids)], where
            assert not list(books.batches.waiting()), where
            assert not list(books.gaps.all()), where
