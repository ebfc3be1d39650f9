"""Two forwarders of one stream: whoever holds the lease keeps it, and who has lost it stops."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from emulator.central import CentralServer
from emulator.engine import StandInEngine
from lib.model.lease import TERM
from lib.state.leases import LEASE, lease_key, lease_of
from tests.fakes.dying import Life, live
from tests.site import site, until

EVENTS = 1000


def test_a_forwarder_whose_clock_is_ahead_keeps_its_lease(tmp_path: Path) -> None:
    with CentralServer() as central, StandInEngine(tmp_path / "s") as engine:
        central.fill(EVENTS)
        engine.faults["delay"] = "0.002"
        life = Life(str(tmp_path / "store"), str(engine.socket), central.url)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(live, replace(life, ahead=4.0))
            until(lambda: len(engine.received) > 0, "the first event")
            _, answers = live(life)
            assert not ahead.done()
            assert answers[-1]["outcome"] == "busy"
            assert ahead.result()[1][-1]["outcome"] == "delivered"
        ids = [json.loads(log.raw)["id"] for log in engine.received]
        assert ids == central.ids(central.default_tenant)


def test_a_forwarder_that_has_lost_its_lease_stops_sending() -> None:
    with site() as found:
        found.central.fill(EVENTS)
        found.results("fetch-page")
        found.engine.faults["delay"] = "0.008"
        with ThreadPoolExecutor(1) as pool:
            stalled = pool.submit(found.results, "forward-batch")
            until(lambda: len(found.engine.received) > 0, "the first event")
            (waiting,) = found.state.batches.waiting()
            stream = waiting.stream
            lease, generation = lease_of(found.state.store, stream)
            taken = replace(lease, holder="another", until=datetime.now(UTC) + TERM)
            found.state.store.write(lease_key(stream), LEASE.encode(taken), expected=generation)
            (line,) = stalled.result()
        assert (line["outcome"], line["pending"]) == ("busy", 1)
        assert len(found.engine.received) < EVENTS
        assert lease_of(found.state.store, stream)[0].holder == "another"
