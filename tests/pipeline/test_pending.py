"""How much waits: counted from a listing that is seldom made, and never wrong about a full store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lib.errors import StoreError
from lib.pipeline.pending import LISTED_CLOSE_SECONDS, LISTED_SECONDS, PendingBytes, PendingLimit
from lib.state.batches import Batches
from lib.store.base import ABSENT, Entry
from tests.fakes.memory_store import MemoryStore


class Store(MemoryStore):
    """Counts the listings, which may fail."""

    listings = 0
    fails = False

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        if self.fails:
            raise StoreError("no listing")
        self.listings += 1
        return super().list(prefix, after=after)


class Waiting:
    """A store in which batches come and go, and one process's count of it."""

    def __init__(self) -> None:
        self.store = Store()
        self.batches = Batches(self.store)
        self.now = 0.0
        self.pending = PendingBytes(lambda: self.now)
        self.number = 0

    def put(self, size: int, *, elsewhere: bool = False) -> None:
        self.number += 1
        self.store.write(f"batches/acme/t-1/events/{self.number:020d}.ndjson", b"x" * size, expected=ABSENT)
        if not elsewhere:
            self.pending.add(size)

    def deliver(self) -> None:
        for entry in list(self.store.list("batches/")):
            self.store.delete(entry.key, expected=entry.generation)

    def reach(self, most: int) -> bool:
        return self.pending.reach(most, self.batches)


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_what_this_process_stores_is_counted_without_a_listing(waiting: Waiting) -> None:
    assert not waiting.reach(1_000)
    for _ in range(9):
        waiting.put(100)
        assert not waiting.reach(1_000)
    assert waiting.store.listings == 1
    waiting.put(100)
    assert waiting.reach(1_000)


def test_what_was_delivered_makes_room_at_once(waiting: Waiting) -> None:
    waiting.put(1_000)
    assert waiting.reach(1_000)
    waiting.deliver()
    assert not waiting.reach(1_000)
    assert not waiting.reach(1_000)


def test_before_it_says_that_there_is_no_room_it_looks(waiting: Waiting) -> None:
    assert not waiting.reach(1_000)
    for _ in range(30):
        waiting.put(100)
        waiting.deliver()
        assert not waiting.reach(1_000)


@pytest.mark.parametrize(("size", "seconds"), [(400, LISTED_SECONDS), (600, LISTED_CLOSE_SECONDS)])
def test_what_others_store_is_seen_in_time(waiting: Waiting, size: int, seconds: float) -> None:
    waiting.put(size)
    assert not waiting.reach(1_000)
    waiting.deliver()
    waiting.put(1_000, elsewhere=True)
    waiting.now += seconds - 1
    listings = waiting.store.listings
    assert not waiting.reach(1_000)
    assert waiting.store.listings == listings
    waiting.now += 1
    assert waiting.reach(1_000)


@pytest.mark.parametrize("is_first", [True, False])
def test_after_a_listing_that_fails_nothing_counts_as_delivered(waiting: Waiting, *, is_first: bool) -> None:
    assert is_first or not waiting.reach(1_000)
    waiting.put(1_000)
    waiting.store.fails = True
    with pytest.raises(StoreError):
        waiting.reach(1_000)
    waiting.store.fails = False
    assert waiting.reach(1_000)


def test_room_that_is_used_up_stays_so_for_the_whole_call(waiting: Waiting) -> None:
    limit = PendingLimit(waiting.pending, 1_000, waiting.batches)
    assert not limit.is_used_up
    waiting.put(1_000, elsewhere=True)
    limit.add_stored(1_000)
    assert limit.is_used_up
    waiting.deliver()
    assert limit.is_used_up
    assert not PendingLimit(waiting.pending, 1_000, waiting.batches).is_used_up
