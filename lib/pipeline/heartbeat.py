"""The heartbeat: at an interval the connector sends an event of its own to UTMStack. A missing heartbeat is an alarm.

A tick of fetch-page stores it as a batch of its own stream. Its id depends only on the interval it belongs to (the
slot), so two ticks or two instances store one heartbeat for a slot.
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
from lib.state.advance import Item, ReadFields, insert, item_of, newest_of
from lib.state.codec import UNREADABLE
from lib.state.state import State

STREAM = Stream("connector", "connector", "heartbeat")
"""The connector's own stream. No stream of Sophos's has this kind."""
TYPE = "Connector::Heartbeat"
DATA_TYPE = "sophos-central-heartbeat"
DATA_SOURCE = "sophos-central-connector"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Beat:
    """The last heartbeat that the engine acknowledged."""

    sent_at: datetime
    acked_at: datetime

    @property
    def round_trip(self) -> float:
        """Seconds from storing it to its acknowledgement."""
        return max(0.0, (self.acked_at - self.sent_at).total_seconds())


def slot_of(now: datetime, every: timedelta) -> datetime:
    """The beginning of the slot that contains the time."""
    # Slots count from a fixed time, so that all instances have the same ones without a stored state.
    return now - (now - _EPOCH) % every


def event_of(slot: datetime, every: timedelta, *, missed: int, waiting: int) -> bytes:
    """The slot's event, one JSON object, with the slot's id."""
    is_ok = not missed and not waiting
    fields = {
        "id": sha256(f"{TYPE}|{to_text(slot)}".encode()).hexdigest(),
        "type": TYPE,
        "severity": "low" if is_ok else "high",
        "name": "The connector is alive" if is_ok else "The connector is alive again after an interruption",
        "created_at": to_text(slot),
        "every": duration_text(every),
        "missed": missed,
        "waiting": waiting,
    }
    return json.dumps(fields).encode()


def beat(state: State, every: timedelta, *, now: datetime, tenant_id: str, event_fields: ReadFields) -> str | None:
    """Store the slot's heartbeat, and return its batch's key; None if this or another run has stored it already."""
    slot = slot_of(now, every)
    last = state.checkpoints.read(STREAM).checkpoint.newest.at
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
            fetched_at=now,
            as_of=now,
            day=max(checkpoint.day, day_of(now)),
            newest=newest_of(items),
            count=len(items),
            repeats=0,
            origin=HEARTBEAT,
        )

    event = event_of(slot, every, missed=missed, waiting=waiting)

    def stored_keys(checkpoint: Checkpoint) -> set[str]:
        # By the newest time, not by the recent keys: a checkpoint that was rebuilt from a batch has no keys.
        is_stored = checkpoint.newest.at is not None and checkpoint.newest.at >= slot
        return {item_of(event, ids, event_fields).key} if is_stored else set()

    with suppress(ConflictError):
        return insert(
            state, STREAM, [event], ids=ids, header_of=header_of, stored_keys=stored_keys, event_fields=event_fields
        )
    return None


def last_beat(state: State, now: datetime) -> Beat | None:
    """The last heartbeat with a receipt of today or yesterday; None if there is none."""
    with suppress(*UNREADABLE):
        for place, body in state.ledger.newest(STREAM, day_before(now), most=1):
            receipt = state.ledger.receipt(STREAM, place, body)
            return Beat(receipt.header.fetched_at, receipt.acked_at) if receipt else None
    return None


def shown(state: State, every: timedelta, now: datetime) -> dict[str, Any]:
    """The heartbeat's state, as `status` and `/health` show it.

    It is late when more than two intervals have passed since the last acknowledged heartbeat was stored. Before the
    first acknowledgement, the first waiting heartbeat counts.
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
