"""A batch on its way to the engine: the logs to send, and the items that are delivered or refused already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from lib.model.clock import to_text
from lib.model.ids import KEY_LENGTH
from lib.model.lease import PartOfBatch, ranges_of
from lib.model.log import MAX_LOG_BYTES, Log, to_fields, unacceptable
from lib.state.advance import ReadFields
from lib.state.batches import StoredBatch


@dataclass(slots=True)
class OutgoingBatch:
    """A batch, the logs to send, and the events that cannot be sent."""

    batch: StoredBatch
    first: int
    """The index of its first log among all logs of the round."""
    logs: list[Log] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
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
        return next(made for at, (_, made, _) in enumerate(logs_of(self.batch, event_fields)) if at == place)

    def done(self, acked: int) -> int:
        """How many of the batch's first items are done with, once so many logs of the delivery are acknowledged."""
        return [*self.places, len(self.batch.items)][max(0, min(acked, self.end) - self.first)]

    def part(self, acked: int, early: Collection[int]) -> PartOfBatch | None:
        """What of it is acknowledged, once those logs of the delivery are; None: nothing."""
        now = {place for number, place in enumerate(self.places, self.first + 1) if number <= acked or number in early}
        ranges = ranges_of(self.before | now)
        return PartOfBatch(self.batch.header.sequence, self.batch.header.digest, ranges) if ranges else None


def logs_of(batch: StoredBatch, event_fields: ReadFields) -> Iterator[tuple[bytes, Log, bool]]:
    """Each item of the batch, its log, and whether it is a JSON object."""
    envelope = batch.header.envelope
    log_id, timestamp = batch.header.id_scope.log_id, to_text(batch.header.fetched_at)
    data_type, data_source, tenant_id = envelope.data_type, envelope.data_source, envelope.tenant_id
    for raw in batch.items:
        read = event_fields(raw)
        yield raw, Log(log_id(read.id, raw), data_type, data_source, timestamp, tenant_id, raw), read.is_object


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
    outgoing = OutgoingBatch(batch, first)
    for place, (raw, made, is_object) in enumerate(logs_of(batch, event_fields)):
        outgoing.keys.append(made.id[:KEY_LENGTH])
        reason = (refusal(made.id) if refusal else None) or unacceptable(raw, is_object=is_object)
        if reason is None and len(raw) > MAX_LOG_BYTES // 2 and made.wire_size() > MAX_LOG_BYTES:
            reason = f"{made.wire_size()} bytes; the engine takes {MAX_LOG_BYTES}"
        if reason is not None:
            line = {"sequence": batch.header.sequence, "line": place + 1, "reason": reason}
            outgoing.refused.append(line | to_fields(made))
        elif place in before:
            outgoing.before.add(place)
        else:
            outgoing.logs.append(made)
            outgoing.places.append(place)
    return outgoing
