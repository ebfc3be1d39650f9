"""The heartbeat: each so often an event of ours goes the way of all events, so that its absence tells something.

It is a batch of a stream of its own, made by a tick of fetch-page. Its id hangs on its slot of time alone, so that two
ticks, or two instances, make one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from lib.errors import ConflictError
from lib.model.batch import HEARTBEAT, Envelope, Header, ids_of
from lib.model.checkpoint import Checkpoint
from lib.model.clock import day_before, day_of, text_or_none, to_text
from lib.model.duration import duration_text
from lib.model.stream import Stream
from lib.state import receipts
from lib.state.advance import Item, ReadFields, insert, item_of, newest_of
from lib.state.codec import UNREADABLE
from lib.state.state import State

STREAM = Stream("connector", "connector", "heartbeat")
"""No stream of Sophos's: nothing else has that kind."""
DATA_TYPE = "sophos-central-heartbeat"
DATA_SOURCE = "sophos-central-connector"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Beat:
    """The last heartbeat that the engine has acknowledged."""

    sent_at: datetime
    acked_at: datetime

    @property
    def round_trip(self) -> float:
        """Seconds from being made to being acknowledged."""
        return max(0.0, (self.acked_at - self.sent_at).total_seconds())


def slot_of(now: datetime, every: timedelta) -> datetime:
    """The beginning of the slot that the time is in."""
    return now - (now - _EPOCH) % every


def event_of(slot: datetime, every: timedelta, *, missed: int, waiting: int) -> bytes:
    """The slot's event, one JSON object; its id is the slot's."""
    is_well = not missed and not waiting
    fields = {
        "id": sha256(f"Connector::Heartbeat|{to_text(slot)}".encode()).hexdigest(),
        "type": "Connector::Heartbeat",
        "severity": "low" if is_well else "high",
        "name": "The connector is alive" if is_well else "The connector is alive again after an interruption",
        "created_at": to_text(slot),
        "every": duration_text(every),
        "missed": missed,
        "waiting": waiting,
    }
    return json.dumps(fields).encode()


def beat(state: State, every: timedelta, *, now: datetime, tenant_id: str, event_fields: ReadFields) -> str | None:
    """Make the slot's heartbeat, unless that was done or another run does it just now; its batch's key."""
    slot = slot_of(now, every)
    last = state.checkpoints.read(STREAM).checkpoint.newest
    if last is not None and last >= slot:
        return None
    missed = 0 if last is None else max(0, (slot - last) // every - 1)
    waiting = sum(1 for _ in state.batches.waiting(STREAM))

    ids = ids_of(STREAM, tenant_id, HEARTBEAT)

    def header_of(checkpoint: Checkpoint, items: Sequence[Item]) -> Header:
        return Header(
            stream=STREAM,
            envelope=Envelope(DATA_TYPE, DATA_SOURCE, tenant_id),
            sequence=checkpoint.sequence,
            cursor=None,
            next_cursor=None,
            has_more=False,
            fetched_at=now,
            as_of=now,
            day=max(checkpoint.day, day_of(now)),
            newest=newest_of(items),
            count=len(items),
            repeats=0,
            origin=HEARTBEAT,
        )

    event = event_of(slot, every, missed=missed, waiting=waiting)

    def known(checkpoint: Checkpoint) -> set[str]:
        # A position that was made again from a batch remembers no keys, but the newest time.
        is_made = checkpoint.newest is not None and checkpoint.newest >= slot
        return {item_of(event, ids, event_fields).key} if is_made else set()

    with suppress(ConflictError):
        return insert(state, STREAM, [event], ids=ids, header_of=header_of, known=known, event_fields=event_fields)
    return None


def last_beat(state: State, now: datetime) -> Beat | None:
    """The last heartbeat with a receipt, of two days; None where there is none."""
    with suppress(*UNREADABLE):
        for body in state.ledger.newest(STREAM, day_before(now), most=1):
            receipt = receipts.from_body(body)
            return Beat(receipt.fetched_at, receipt.acked_at)
    return None


def shown(state: State, every: timedelta, now: datetime) -> dict[str, Any]:
    """How the heartbeat stands, for people and machines.

    It is late once two slots have passed since the last acknowledged one was made, or since the first that waits was.
    """
    last = last_beat(state, now)
    waiting = [waiting.entry.updated for waiting in state.batches.waiting(STREAM)]
    since = last.sent_at if last else min(waiting, default=None)
    age = None if since is None else max(0.0, (now - since).total_seconds())
    return {
        "every": duration_text(every),
        "sent_at": text_or_none(last.sent_at if last else None),
        "acked_at": text_or_none(last.acked_at if last else None),
        "round_trip_seconds": None if last is None else round(last.round_trip, 3),
        "age_seconds": None if age is None else round(age, 3),
        "late": age is not None and age > 2 * every.total_seconds(),
        "waiting": len(waiting),
    }
