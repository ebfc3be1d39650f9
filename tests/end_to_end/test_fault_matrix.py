"""For every call that fetching and forwarding make: the process is killed right before it, and right after it.

The calls are those of a recorded run. After a second run that is left alone, every event has arrived, in order, and
the ledger adds up.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from emulator.central import CentralServer, Settings
from emulator.engine import StandInEngine
from lib.parts import open_store
from lib.state.state import State
from tests.audited import audit
from tests.fakes.dying import Life, live
from tests.fakes.gcs import FakeGcs, dropped, passed

ROOT = Path(__file__).resolve().parents[2]
SHARES = 4
LEASE_SECONDS = 13.0
WHOLE = "WHOLE_FAULT_MATRIX"
"""Set in the environment: every call is tried with a bucket too (`make faults`)."""
CHANGES = ("write batches/", "write cursors/", "write leases/", "write ledger/", "delete batches/")


@pytest.fixture(scope="module")
def central() -> Iterator[CentralServer]:
    with CentralServer(settings=Settings(page_cap=75)) as server:
        server.fill(150)
        yield server


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInEngine]:
    with StandInEngine(tmp_path_factory.mktemp("e", numbered=True) / "s") as server:
        yield server


class Nursery:
    """Processes that live a life each."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.dying"],
            cwd=ROOT,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def live(self, life: Life) -> int:
        """The exit status; a signal's as a negative number."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(life.to_text() + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        self._parent.communicate()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with closing(Nursery()) as found:
        yield found


def natives(engine: StandInEngine) -> list[str]:
    return [json.loads(log.raw)["id"] for log in engine.received]


def recorded(store: str, engine: StandInEngine, central: CentralServer) -> list[str]:
    """The calls of a run that is left alone."""
    calls, _ = live(Life(store, str(engine.socket), central.url))
    assert natives(engine) == central.ids(central.default_tenant)
    kinds = {call.partition(" ")[0] for call in calls}
    assert kinds >= {"read", "write", "delete", "list", "whoami", "page", "deliver", "ack", "delivered"}
    assert len(calls) > 40
    return calls


def die_and_heal(nursery: Nursery, life: Life, engine: StandInEngine, central: CentralServer, where: str) -> None:
    """A run that is killed, and one that is left alone: nothing is missing, and the ledger adds up."""
    ids = central.ids(central.default_tenant)
    engine.received.clear()
    assert nursery.live(life) == -signal.SIGKILL, where
    live(Life(life.store, life.socket, life.url, ahead=LEASE_SECONDS))
    assert list(dict.fromkeys(natives(engine))) == ids, where
    adds_up(life.store, len(ids), where)


def adds_up(store: str, events: int, where: str) -> None:
    state = State.of(open_store(store))
    told = audit(state)
    assert told["ok"], (where, told)
    assert [line["events"] for line in told["streams"]] == [events], where
    assert not list(state.batches.waiting()), where
    assert not list(state.gaps.all()), where


@pytest.mark.parametrize("share", range(SHARES))
def test_a_process_killed_at_any_call_loses_nothing(
    nursery: Nursery, central: CentralServer, engine: StandInEngine, tmp_path: Path, share: int
) -> None:
    calls = recorded(str(tmp_path / "recorded"), engine, central)
    for number in range(1 + share, len(calls) + 1, SHARES):
        for after in (False, True):
            where = f"{'after' if after else 'before'} call {number} of {len(calls)}, {calls[number - 1]}"
            store = str(tmp_path / f"{number}-{after}")
            life = Life(store, str(engine.socket), central.url, dies_at=number, after=after)
            die_and_heal(nursery, life, engine, central, where)


def test_a_process_killed_at_a_change_in_a_bucket_loses_nothing(
    bucket: str, nursery: Nursery, central: CentralServer, engine: StandInEngine
) -> None:
    calls = recorded(f"{bucket}/recorded", engine, central)
    points = [(number, after) for number in range(1, len(calls) + 1) for after in (False, True)]
    if not os.environ.get(WHOLE):
        # Killed right after the first batch, cursor, lease, receipt and removal: before each is after what precedes it.
        firsts = [next(number for number, call in enumerate(calls, 1) if call.startswith(change)) for change in CHANGES]
        points = [(number, True) for number in firsts]
    for number, after in points:
        where = f"{'after' if after else 'before'} call {number} of {len(calls)}, {calls[number - 1]}"
        life = Life(f"{bucket}/{number}-{after}", str(engine.socket), central.url, dies_at=number, after=after)
        die_and_heal(nursery, life, engine, central, where)


def test_a_bucket_that_answers_no_change_at_the_first_try_loses_and_repeats_nothing(
    central: CentralServer, engine: StandInEngine, gcs: FakeGcs, bucket: str
) -> None:
    for kind in ("upload", "delete"):
        for _ in range(20):
            gcs.fail(kind, dropped)
            gcs.fail(kind, passed)
    live(Life(bucket, str(engine.socket), central.url))
    gcs.planned.clear()
    assert natives(engine) == central.ids(central.default_tenant)
    adds_up(bucket, len(natives(engine)), "after lost answers")
