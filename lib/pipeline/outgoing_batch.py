"""A batch on its way to the engine: the logs to send, and the items that are delivered or refused already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.model.clock import to_text
from lib.model.event_fields import EventFields
from lib.model.ids import KEY_LENGTH
from lib.model.lease import PartOfBatch, ranges_of
from lib.model.log import MAX_LOG_BYTES, Log, to_fields, unacceptable
from lib.state.advance import ReadFields
from lib.state.batches import StoredBatch

SURE_BYTES = MAX_LOG_BYTES // 2
"""The log of an item of up to this length is short enough, whatever its other fields hold."""


@dataclass(slots=True)
class OutgoingBatch:
    """A batch, the logs to send, and the events that cannot be sent."""

    batch: StoredBatch
    first: int
    """The index of its first log among all logs of the round."""
    logs: list[Log] = field(default_factory=list)
    places: Sequence[int] = ()
    """The index of each log's item in the batch."""
    before: set[int] = field(default_factory=set)
    """The indexes of items that earlier calls delivered."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The number of acknowledged logs of the round when this batch is acknowledged completely."""
        return self.first + len(self.logs)

    @property
    def acked(self) -> int:
        """The number of its items that the engine has acknowledged when it is settled."""
        return len(self.logs) + len(self.before)

    def log_at(self, place: int, event_fields: ReadFields) -> Log:
        """The log of the item with the index `place`, also if it is not sent."""
        return logs_of(self.batch, event_fields)[place]

    def done(self, acked: int) -> int:
        """How many of the batch's first items are done with, once so many logs of the delivery are acknowledged."""
        return [*self.places, len(self.batch.items)][max(0, min(acked, self.end) - self.first)]

    def part(self, acked: int, early: Collection[int]) -> PartOfBatch | None:
        """What of it is acknowledged, once those logs of the delivery are; None: nothing."""
        now = {place for number, place in enumerate(self.places, self.first + 1) if number <= acked or number in early}
        ranges = ranges_of(self.before | now)
        return PartOfBatch(self.batch.header.sequence, self.batch.header.digest, ranges) if ranges else None


def logs_of(batch: StoredBatch, event_fields: ReadFields) -> list[Log]:
    """The log of each item of the batch."""
    return _logs(batch, map(event_fields, batch.items))


def _logs(batch: StoredBatch, fields: Iterable[EventFields]) -> list[Log]:
    envelope = batch.header.envelope
    log_id, timestamp = batch.header.id_scope.log_id, to_text(batch.header.fetched_at)
    data_type, data_source, tenant_id = envelope.data_type, envelope.data_source, envelope.tenant_id
    return [
        Log(log_id(read.id, raw), data_type, data_source, timestamp, tenant_id, raw)
        for raw, read in zip(batch.items, fields, strict=True)
    ]


def outgoing_of(
    batch: StoredBatch,
    first: int,
    *,
    before: Collection[int],
    refusal: Callable[[str], str | None] | None,
    event_fields: ReadFields,
) -> OutgoingBatch:
    """The batch, to be sent but for what is done `before`.

    `refusal` tells why the engine refuses a log of that id; None: it refuses none.
    """
    fields = [*map(event_fields, batch.items)]
    logs = _logs(batch, fields)
    outgoing = OutgoingBatch(batch, first, keys=[log.id[:KEY_LENGTH] for log in logs])
    if refusal is None and not before and _are_acceptable(batch.items, fields):
        outgoing.logs, outgoing.places = logs, range(len(logs))
        return outgoing
    places = []
    for place, (log, read) in enumerate(zip(logs, fields, strict=True)):
        reason = (refusal(log.id) if refusal else None) or unacceptable(log.raw, is_object=read.is_object)
        if reason is None and len(log.raw) > SURE_BYTES and log.wire_size() > MAX_LOG_BYTES:
            reason = f"{log.wire_size()} bytes; the engine takes {MAX_LOG_BYTES}"
        if reason is not None:
            line = {"sequence": batch.header.sequence, "line": place + 1, "reason": reason}
            outgoing.refused.append(line | to_fields(log))
        elif place in before:
            outgoing.before.add(place)
        else:
            outgoing.logs.append(log)
            places.append(place)
    outgoing.places = places
    return outgoing


def _are_acceptable(items: Sequence[bytes], fields: Sequence[EventFields]) -> bool:
    """Whether all items can be sent, as nearly always."""
    try:
        longest = max(map(len, map(bytes.decode, items)), default=0)  # In characters, of which each has up to 4 bytes.
    except UnicodeDecodeError:
        return False
    return longest <= SURE_BYTES // 4 and all(read.is_object for read in fields)
