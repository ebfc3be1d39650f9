"""Expiry goes through all streams, however few of them a call has time for."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lib.model.batch import Cursors
from lib.model.checkpoint import Checkpoint
from lib.model.receipt import LastReceipt, NotAcknowledged
from lib.model.stream import Stream
from lib.pipeline.expiry import EXPIRED_A_CALL, Expiry
from lib.state.batches import StoredBatch
from lib.state.damage import damaged
from lib.state.state import State
from lib.store.base import Entry
from tests.fakes.headers import header_at
from tests.fakes.memory_store import MemoryStore

NOW = datetime(2026, 3, 10, tzinfo=UTC)


def archived(state: State, stream: Stream, sequence: int = 1) -> None:
    """Keep a batch of ten days ago."""
    moment = NOW - timedelta(days=10)
    header = header_at(moment, stream, sequence, cursors=Cursors(next="c"), count=1)
    state.batches.archive(StoredBatch(header, [b"{}"], 1))


def run(expiry: Expiry, state: State, streams: list[Stream], room: int, now: datetime = NOW) -> None:
    """A call with time for so many streams, or objects to look at."""
    left = iter([True] * room)
    expiry.run(
        state,
        streams,
        archive=timedelta(days=7),
        holder=lambda: "test",
        now=lambda: now,
        goes_on=lambda: next(left, False),
    )


def site(count: int) -> tuple[State, list[Stream]]:
    """So many streams, each read up to now, with a batch that was kept for too long."""
    state = State.of(MemoryStore())
    streams = [Stream("acme", f"t-{number:03}", "events") for number in range(count)]
    for stream in streams:
        state.checkpoints.write(stream, Checkpoint(as_of=NOW), expected=0)
        archived(state, stream)
    return state, streams


def test_streams_that_a_call_has_no_time_for_are_served_by_the_next_ones() -> None:
    state, streams = site(50)
    expiry = Expiry()
    for served in (20, 40, 50):
        run(expiry, state, streams, room=20)
        assert len(list(state.batches.archived())) == 50 - served


def test_a_stream_that_raises_keeps_none_of_the_others_from_their_turn() -> None:
    class Raises(MemoryStore):
        def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
            if prefix.startswith(f"archive/{streams[1].path}"):
                raise ValueError("nobody expected this")
            return super().list(prefix, after=after)

    whole, streams = site(4)
    store = Raises()
    for entry in whole.store.list(""):
        stored = whole.store.read(entry.key)
        assert stored is not None
        store.write(entry.key, stored.body, expected=0)
    expiry, state = Expiry(), State.of(store)
    for _ in range(2):
        try:
            run(expiry, state, streams, room=4)
        except ValueError:
            continue
    assert [key.split("/")[2] for key in state.batches.archived()] == ["t-001"]


def test_a_stream_with_more_than_a_call_removes_gets_the_rest_in_another_round() -> None:
    state, streams = site(2)
    for sequence in range(2, EXPIRED_A_CALL + 2):
        archived(state, streams[0], sequence)
    expiry = Expiry()
    run(expiry, state, streams, room=2)
    assert len(list(state.batches.archived())) == 1
    run(expiry, state, streams, room=2)
    assert not list(state.batches.archived())


def test_what_nobody_else_reads_is_looked_at_within_a_week() -> None:
    """Old receipts of a stream without deliveries and without reconciliation, and what is kept in the archive."""
    state, (stream,) = State.of(MemoryStore()), [Stream("acme", "t", "events")]
    tail = LastReceipt()
    for number in range(1, 10):
        header = header_at(NOW - timedelta(days=20 - number), stream, number, cursors=Cursors(next="c"), count=1)
        tail = state.ledger.write(
            header, ["k"], tail, acked_at=NOW, set_aside=0, not_acknowledged=NotAcknowledged(), outcome="delivered"
        )
    state.checkpoints.write(stream, Checkpoint(as_of=NOW), expected=0)
    kept = header_at(NOW - timedelta(days=1), stream, 10, cursors=Cursors(next="c"), count=1)
    state.batches.archive(StoredBatch(kept, [b"{}"], 1))
    spoiled = [key for key in (entry.key for entry in state.store.list("")) if "000003" in key or "archive/" in key]
    assert len(spoiled) == 2
    for key in spoiled:
        stored = state.store.read(key)
        assert stored is not None
        state.store.write(key, b"x", expected=stored.generation)
    # A foreign object is skipped, and stops nothing.
    state.store.write(f"archive/{stream.path}/README", b"", expected=0)
    expiry = Expiry()
    for day in range(7):
        moment = NOW + timedelta(days=day)
        saved = state.checkpoints.read(stream)
        state.checkpoints.write(stream, replace(saved.checkpoint, as_of=moment), expected=saved.generation)
        run(expiry, state, [stream], room=100, now=moment)
    assert sorted(damage.key for damage in damaged(state.store)) == sorted(spoiled)
    (told,) = [damage for damage in damaged(state.store) if damage.key.startswith("archive/")]
    assert "`replay` cannot send them again" in told.what
    assert told.remedy.startswith("Restore it from a backup, or remove it.")
