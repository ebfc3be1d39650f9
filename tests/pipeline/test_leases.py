"""Two forwarders of one stream: whoever holds the lease keeps it, and who has lost it stops."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from emulator.central import CentralServer
from emulator.engine import StandInEngine
from lib.errors import ConflictError
from lib.model.lease import TERM
from lib.model.stream import Stream
from lib.state.leases import LEASE, lease_key, lease_of
from lib.state.state import State
from tests.fakes.dying import Life, live
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
