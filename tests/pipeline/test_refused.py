"""Events that the engine refuses: each is at the engine or in `dead/`, as the receipts say, whenever a call ends."""

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.central import CentralServer
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Died, Life, live
from tests.fakes.picky import PickyEngine

NAMES = [f"e{number}" for number in range(10)]
REFUSED, DOWN = "INVALID_ARGUMENT", "UNAVAILABLE"
LEASE_SECONDS = 13.0


class Works:
    """A Sophos with ten events, e0 to e9, an engine that is picky, and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.central = CentralServer()
        self.engine = PickyEngine(folder / "e").start()
        self.append(*(b'{"id": "%s"}' % name.encode() for name in NAMES))

    def close(self) -> None:
        self.engine.close()
        self.central.close()

    def append(self, *raws: bytes) -> None:
        self.central.append(self.central.default_tenant, "events", list(raws))

    def answers(self, **statuses: str) -> None:
        self.engine.status = statuses.get

    def life(self, dies_at: int = 0, *, after: bool = False, ahead: float = 0.0) -> Life:
        return Life(
            str(self.store),
            str(self.engine.socket),
            self.central.url,
            ahead=ahead,
            dies_at=dies_at,
            after=after,
            kills=False,
            calls_per_minute=100_000,
        )

    def forward(self, life: Life) -> dict[str, Any]:
        """What forward-batch answers."""
        return live(life)[1][-1]

    def calls(self, life: Life) -> list[str]:
        """The calls of a run, none where it died."""
        with suppress(Died):
            return live(life)[0]
        return []

    def dead(self) -> list[str]:
        lines = [line for path in self.store.glob("dead/**/*.ndjson*") for line in path.read_text().splitlines()]
        return [json.loads(json.loads(line)["raw"])["id"] for line in lines]

    def adds_up(self) -> None:
        """Each event is at the engine or in `dead/`, as the receipts say."""
        state = State.of(DirectoryStore(self.store))
        told = audit(state)
        assert told["ok"], told
        (stream,) = state.ledger.streams()
        receipts = [receipt for _, receipt, _ in state.ledger.receipts(stream)]
        dead, arrived = self.dead(), {json.loads(log.raw)["id"] for log in self.engine.received}
        held = self.central.ids(self.central.default_tenant)
        assert arrived | set(dead) == set(held)
        assert sum(receipt.header.count for receipt in receipts) == len(held)
        assert sum(receipt.set_aside for receipt in receipts) == len(dead) == len(set(dead))
        assert not list(state.batches.waiting())


@pytest.fixture
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    found = Works(tmp_path_factory.mktemp("r"))
    yield found
    found.close()


def outage(works: Works) -> None:
    """A call that ends at e7, after e4 was refused."""
    works.answers(e4=REFUSED, e7=DOWN)
    line = works.forward(works.life())
    assert (line["outcome"], line["set_aside"], line["pending"]) == ("engine_unavailable", 0, 1)


@pytest.mark.parametrize("later", [{"e4": REFUSED}, {}], ids=["refused again", "taken by then"])
def test_what_was_refused_before_an_outage_is_set_aside_by_the_call_after_it(
    works: Works, later: dict[str, str]
) -> None:
    outage(works)
    works.answers(**later)
    line = works.forward(works.life())
    assert (line["outcome"], line["acked"], line["set_aside"], line["pending"]) == ("delivered", 9, 1, 0)
    assert [json.loads(log.raw)["id"] for log in works.engine.received] == [*NAMES[:4], *NAMES[5:]]
    assert works.dead() == ["e4"]
    works.adds_up()


def test_what_was_too_large_before_an_outage_is_set_aside_by_the_call_after_it(works: Works) -> None:
    works.engine.stop()
    works.engine.faults["max_bytes"] = "5000"
    works.engine.start()
    large = b'{"id": "large", "name": "%s"}' % (b"x" * 9000)
    works.append(large, b'{"id": "next"}', b'{"id": "last"}')
    works.answers(last=DOWN)
    assert works.forward(works.life())["outcome"] == "engine_unavailable"
    works.answers()
    line = works.forward(works.life())
    assert (line["acked"], line["set_aside"], line["pending"]) == (12, 1, 0)
    assert works.dead() == ["large"]
    works.adds_up()


@pytest.mark.parametrize("later", [{"e4": REFUSED}, {}], ids=["refused again", "taken by then"])
def test_killed_at_any_call_after_the_outage_it_stays_set_aside(works: Works, later: dict[str, str]) -> None:
    outage(works)
    before, taken = works.folder / "before", list(works.engine.received)
    shutil.copytree(works.store, before)
    for after in (False, True):
        for number in itertools.count(1):
            shutil.rmtree(works.store)
            shutil.copytree(before, works.store)
            works.engine.received[:] = taken
            works.answers(e4=REFUSED)
            calls = works.calls(works.life(number, after=after))
            works.answers(**later)
            works.forward(works.life(ahead=LEASE_SECONDS))
            assert works.dead() == ["e4"]
            works.adds_up()
            if calls:
                break
        assert any(call.startswith("write dead/") for call in calls)


def test_what_is_in_dead_is_not_sent_by_the_call_after_a_death(works: Works) -> None:
    """The lease knows of the refusal before the dead letter is written (G3): the engine may take the event by then."""
    works.answers(e4=REFUSED)
    assert works.calls(replace(works.life(after=True), dies_at_call="write dead/")) == []
    assert works.dead() == ["e4"]
    works.answers()
    works.forward(works.life(ahead=LEASE_SECONDS))
    assert "e4" not in {json.loads(log.raw)["id"] for log in works.engine.received}
    works.adds_up()


@given(
    refused=st.sets(st.sampled_from(NAMES)),
    down=st.sampled_from(NAMES),
    dies_at=st.integers(1, 60),
    after=st.booleans(),
    later=st.sets(st.sampled_from(NAMES)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_refused_and_whenever_a_call_ends_the_receipts_are_right(
    refused: set[str], down: str, dies_at: int, *, after: bool, later: set[str]
) -> None:
    with TemporaryDirectory(prefix="r-") as folder, closing(Works(Path(folder))) as works:
        works.answers(**dict.fromkeys(refused, REFUSED) | {down: DOWN})
        works.calls(works.life())
        works.answers(**dict.fromkeys(refused, REFUSED))
        works.calls(works.life(dies_at, after=after))
        works.answers(**dict.fromkeys(later, REFUSED))
        works.forward(works.life(ahead=LEASE_SECONDS))
        works.adds_up()
