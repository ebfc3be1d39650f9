"""Two forwarders of one stream: whoever holds the lease keeps it, and who has lost it stops."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emulator.central import CentralServer
from emulator.engine import StandInEngine
from lib.errors import ConflictError
from lib.model.lease import TERM
from lib.model.stream import Stream
from lib.state.leases import LEASE, lease_key, lease_of
from lib.state.state import State
from tests.fakes.dying import Died, Life, live
from tests.site import site, until

EVENTS = 1000


def test_a_forwarder_whose_clock_is_ahead_keeps_its_lease(tmp_path: Path) -> None:
    with CentralServer() as central, StandInEngine(tmp_path / "s") as engine:
        central.fill(EVENTS)
        engine.faults["delay"] = "0.05"
        life = Life(str(tmp_path / "store"), str(engine.socket), central.url)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(live, replace(life, ahead=4.0))
            until(lambda: len(engine.received) > 0, "the first event")
            _, answers = live(life)
            assert not ahead.done()
            assert answers[-1]["outcome"] == "busy"
            engine.faults.clear()
            assert ahead.result()[1][-1]["outcome"] == "delivered"
        ids = [json.loads(log.raw)["id"] for log in engine.received]
        assert ids == central.ids(central.default_tenant)


@pytest.mark.parametrize(
    ("call", "after"), [("write ledger/", True), ("delete batches/", False), ("write leases/", False)]
)
def test_what_has_a_receipt_is_not_sent_again_after_a_kill(tmp_path: Path, call: str, *, after: bool) -> None:
    """The dead holder's lease does not tell of the receipt."""
    with CentralServer() as central, StandInEngine(tmp_path / "s") as engine:
        life = Life(str(tmp_path / "store"), str(engine.socket), central.url, kills=False)
        for ahead in (0.0, 1.0):
            central.emit(5)
            live(replace(life, ahead=ahead, steps=["fetch", "event"]))
        central.emit(5)
        live(replace(life, ahead=2.0, steps=["fetch"]))
        with suppress(Died):
            live(replace(life, ahead=2.0, steps=["event"], dies_at_call=call, after=after))
        live(replace(life, ahead=20.0, steps=["event", "forward"]))
        assert [json.loads(log.raw)["id"] for log in engine.received] == central.ids(central.default_tenant)


def test_a_forwarder_that_has_lost_its_lease_stops_sending() -> None:
    with site() as found:
        found.central.fill(EVENTS)
        found.results("fetch-page")
        found.engine.faults["delay"] = "0.02"
        with ThreadPoolExecutor(1) as pool:
            stalled = pool.submit(found.results, "forward-batch")
            until(lambda: len(found.engine.received) > 0, "the first event")
            (waiting,) = found.state.batches.waiting()
            stream = waiting.stream
            until(lambda: takes_lease(found.state, stream), "the lease, between two renewals")
            (line,) = stalled.result()
        assert (line["outcome"], line["pending"]) == ("busy", 1)
        assert len(found.engine.received) < EVENTS
        assert lease_of(found.state.store, stream)[0].holder == "another"


def takes_lease(state: State, stream: Stream) -> bool:
    lease, generation = lease_of(state.store, stream)
    taken = replace(lease, holder="another", until=datetime.now(UTC) + TERM)
    with suppress(ConflictError):
        state.store.write(lease_key(stream), LEASE.encode(taken), expected=generation)
        return True
    return False
