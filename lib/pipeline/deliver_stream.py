"""Deliver one stream: send its waiting batches in order, and settle each after all its acknowledgements.

Settling a batch takes these writes, in this order:

1. Devices only: the inventory. Forward-batch is the last that reads the batch.
2. The checkpoint, if it has not passed the batch: its number must not be used again.
3. The gap, if batches before it are missing. After the receipt, the missing numbers would no longer be noticed.
4. The lease with the refused logs, then the dead letters.
5. The archived batch, if batches are kept.
6. The receipt.
7. Removal of the batch.

A crash before 6 leaves the batch without a receipt. The next call sends the logs again whose acknowledgements the
lease had not recorded, and repeats the writes. Each write is safe to repeat. A crash after 6 leaves a batch with a
receipt. The next call finds all its events delivered, sends nothing, and removes it (leftovers.py).
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from lib.errors import (
    ConflictError,
    DamagedError,
    EngineDownError,
    EngineRefusedError,
    LogRefusedError,
    StoreError,
)
from lib.model.batch import OWN, Envelope, Header
from lib.model.lease import Overtaken
from lib.model.log import Log
from lib.model.missed import windows_of
from lib.model.receipt import DELIVERED, OBSERVED, LastReceipt, NotAcknowledged
from lib.model.stream import ENDPOINTS
from lib.pipeline.delivery_result import DeliveryResult
from lib.pipeline.estimates import not_delivered
from lib.pipeline.leftovers import take_up
from lib.pipeline.outgoing_batch import OutgoingBatch, outgoing_of
from lib.pipeline.ports import Engine
from lib.state.advance import ReadFields, adopt, adopt_past_hole, announce
from lib.state.batches import StoredBatch
from lib.state.dead_letters import copy_to_dead
from lib.state.gaps import BATCH_DAMAGED, BATCH_MISSING, Gap
from lib.state.leases import HeldLease
from lib.state.state import State

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds after the deadline to wait for acknowledgements of logs sent before it."""

REFUSALS = 20
"""Refused logs in a row, without an acknowledgement, after which the engine itself is considered faulty."""

OVERTAKEN_CALLS = 5
"""Calls in which the engine acknowledges later logs but not this one, before it becomes a dead letter. Four such calls
may be a restart, a slow worker, or a lost answer; each takes a minute at most."""

MOST_BATCHES = 32
"""The most batches in flight. A store with 150 ms a call settles them within GRACE."""


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """The environment for delivering any stream."""

    state: State
    engine: Engine
    event_fields: ReadFields
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    gap_data_type: str | None
    """The data type of an event about a gap; None: no such event is sent."""
    utmstack_tenant_id: str
    """The UTMStack tenant of an event about a gap, if no batch names one."""
    archive: timedelta | None = None
    """The retention of delivered batches; None: they are not kept."""
    observes: bool = False
    """Whether batches are only counted (observe mode): `engine` is a NullEngine then."""

    @property
    def outcome(self) -> str:
        """The outcome of a batch without errors."""
        return OBSERVED if self.observes else DELIVERED

    def gap_envelope(self, integration: str, beside: Envelope | None) -> Envelope | None:
        """The envelope of an event about a gap. `beside`: the envelope of the batch that was being delivered."""
        if self.gap_data_type is None:
            return None
        tenant = beside.tenant_id if beside else self.utmstack_tenant_id
        return Envelope(self.gap_data_type, beside.data_source if beside else integration, tenant)


class StreamDelivery:
    """One stream's batches under one lease."""

    def __init__(
        self,
        context: DeliveryContext,
        result: DeliveryResult,
        lease: HeldLease,
        waiting: Sequence[int],
        deadline: float,
    ) -> None:
        """`waiting`: the numbers of waiting batches, in order. Batches between them and after them are looked for.

        `result` is filled during delivery, so that after an error it contains what was done before.
        """
        self._context = context
        self._state = context.state
        self._result = result
        self._stream = result.stream
        self._lease = lease
        self._first, self._highest = waiting[0], waiting[-1]
        """The lowest and the highest known number of a waiting batch."""
        self._deadline = deadline
        self._tail = LastReceipt()
        self._not_acknowledged = NotAcknowledged()
        self._folded = 0
        """The last batch whose records are in the inventory."""
        self._moved_to = 0
        self._refused: dict[tuple[int, str], str] = {}
        """The engine's reasons for refusing logs, by batch number and log id."""
        self._in_a_row = lease.state.refused_in_a_row or 0
        """Logs refused since the last acknowledgement, in this call and earlier ones."""
        self._outgoing: deque[OutgoingBatch] = deque()
        self._early: set[int] = set()
        """The numbers of the round's logs that are acknowledged before an earlier log is."""
        self._obstacle: int | None = None
        """The number of a damaged batch that ended the round."""
        self._has_more = False
        """Whether the round ended before the last waiting batch, with time left."""
        self._lists = False
        """Whether the next round lists the batches: a number is missing, or one has a receipt already."""
        self._is_drained = False
        """Whether the round reached the last waiting batch."""
        self._pace = 0.0
        """The seconds that settling the last batch took."""

    def drain(self) -> bool:
        """Send the waiting batches in order and settle each. Events that cannot be sent become dead letters.

        Returns whether nothing waits any more. False at the deadline, or if another call took the rest.
        """
        lease = self._lease.state
        self._find_tail(is_last=lease.tail_is_last is True)
        # The batch of a receipt that the lease does not know may still exist.
        self._lists = self._first <= self._tail.sequence or lease.tail.sequence < self._tail.sequence
        while self._round():
            pass
        return self._is_drained

    def _find_tail(self, *, is_last: bool) -> None:
        receipt = self._lease.state.tail
        self._tail, _, self._not_acknowledged = self._state.ledger.last(self._stream, receipt, is_last=is_last)
        self._lease.set_tail(self._tail)

    def _round(self) -> bool:
        """Send the next batches on one gRPC stream and settle them; whether there is more to do."""
        self._outgoing.clear()
        if self._lists:
            # Before a number counts as missing: a slower run may have written its receipt meanwhile.
            self._find_tail(is_last=False)
        self._obstacle, self._has_more, self._is_drained = None, False, False
        self._early = set()
        acked = 0
        try:
            for acked in self._context.engine.deliver(self._logs(), deadline=self._deadline + GRACE, early=self._early):
                if self._outgoing and acked >= self._outgoing[0].end:  # Nearly all counts complete no batch.
                    self._settle(acked)
                self._lease.check()
            self._settle(acked)
        except LogRefusedError as error:
            self._count_refusal(error, acked)
            self._set_refused(error)
            return True
        except EngineDownError as error:
            self._note_overtaken(acked, error)
            raise
        else:
            self._in_a_row = 0 if acked else self._in_a_row
        finally:
            self._note_progress(acked)
        if self._obstacle is not None:
            self._move_to_dead_letters(self._obstacle)
            return True
        if not self._has_more:
            self._lease.overtaken({})
        return self._has_more

    def _count_refusal(self, error: LogRefusedError, acked: int) -> None:
        self._in_a_row = 1 if acked else self._in_a_row + 1
        if self._in_a_row > REFUSALS:
            # No more logs go to `dead/`. The next call tries again; one acknowledgement resets the count.
            raise EngineRefusedError(
                f"the engine has refused {self._in_a_row} events in a row, the last one with: {error}",
                remedy="See the engine's log. The events wait. When the engine works again, send the events in dead/ "
                "with `replay --since 1d --dead-letters`.",
            ) from None

    def _logs(self) -> Iterator[Log]:
        """The waiting batches' logs in order, read as the engine takes them."""
        place = 0
        expected = self._tail.sequence + 1
        lists, self._lists = self._lists, False
        for sequence in self._listed() if lists else count(expected):
            # Leave time to settle the batches that were read. Otherwise a slow store would look like a slow engine.
            if self._context.monotonic() + self._pace * len(self._outgoing) >= self._deadline:
                return
            if sum(1 for outgoing in self._outgoing if outgoing.logs) >= MOST_BATCHES:
                self._has_more = True
                return
            try:
                outgoing = self._prepare(sequence, place, expected)
            except DamagedError as error:
                log.warning("%s: %s", self._stream, error)
                # The gap's event, and whatever else waits, follows the hole that this batch leaves.
                self._obstacle, self._highest = sequence, max(self._highest, sequence)
                return
            if outgoing is None:
                if lists:
                    return
                # The end, unless a higher number is known to wait: then a number is missing.
                self._lists = self._has_more = sequence <= self._highest
                self._is_drained = not self._lists
                break
            self._outgoing.append(outgoing)
            if outgoing.end == 0:
                # All its logs were acknowledged before, but its receipt could not be written. Settle it before
                # anything else is sent: as long as the store fails, each call would send the same logs again.
                self._settle(0)
            yield from outgoing.logs
            place = outgoing.end
            expected = sequence + 1
        else:
            # All listed batches are in flight. Batches stored since the listing follow the last one. If the engine
            # refuses a log, the next round sends the listed ones again, and they may follow a hole.
            self._highest, self._has_more = expected - 1, True
        witness = self._witness()
        if witness is not None:
            yield witness

    def _listed(self) -> Iterator[int]:
        """The numbers of the waiting batches, in order, from a listing."""
        expected = self._tail.sequence + 1
        for waiting in self._state.batches.waiting(self._stream):
            if waiting.sequence >= expected:
                yield waiting.sequence
            else:
                take_up(self._state, waiting, expected, self._context.now(), self._context.event_fields)
                self._result.pending -= 1

    def _witness(self) -> Log | None:
        """A log that was acknowledged before, to be sent again if all other logs of the round are overtaken ones.

        On a quiet stream, only its acknowledgement shows whether the engine skips one log or does nothing at all.
        """
        overtaken = self._lease.state.overtaken or {}
        sent = [log.id for outgoing in self._outgoing for log in outgoing.logs]
        if sent and all(log_id in overtaken for log_id in sent):
            for outgoing in reversed(self._outgoing):
                if outgoing.before:
                    return outgoing.log_at(max(outgoing.before), self._context.event_fields)
        return None

    def _prepare(self, sequence: int, first: int, expected: int) -> OutgoingBatch | None:
        batch = self._state.batches.read(self._stream, sequence)
        if batch is None:
            return None
        if sequence > expected and self._state.batches.read(self._stream, expected) is None:
            log.error("%s: batches %d to %d are missing", self._stream, expected, sequence - 1)
        lease, digest = self._lease.state, batch.header.digest
        for log_id, reason in lease.refusals(sequence, digest).items():
            self._refused.setdefault((sequence, log_id), reason)
        refusal = lambda log_id: self._refused.get((sequence, log_id)) or self._given_up(log_id)  # noqa: E731
        return outgoing_of(
            batch,
            first,
            before=lease.done(sequence, digest, len(batch.items)),
            refusal=refusal if self._refused or lease.overtaken else None,
            event_fields=self._context.event_fields,
        )

    def _given_up(self, log_id: str) -> str | None:
        """The reason for a dead letter, if the engine has acknowledged later logs in OVERTAKEN_CALLS calls."""
        overtaken = (self._lease.state.overtaken or {}).get(log_id)
        if overtaken is None or overtaken.calls < OVERTAKEN_CALLS:
            return None
        return (
            f"the engine did not acknowledge it in {overtaken.calls} calls, but acknowledged later ones; "
            f"the last call ended with: {overtaken.reason}"
        )

    def _note_overtaken(self, acked: int, error: EngineDownError) -> None:
        """Count this call for the first logs that were not acknowledged although later ones were.

        If the engine acknowledged nothing, no log is counted: the fault may be the engine's.
        """
        early = self._early
        if not early:
            return
        sent = (pair for outgoing in self._outgoing for pair in enumerate(outgoing.logs, outgoing.first + 1))
        missed = [log.id for number, log in sent if acked < number < max(early) and number not in early]
        before = self._lease.state.overtaken or {}
        overtaken = {log_id: counted for log_id, counted in before.items() if counted.calls >= OVERTAKEN_CALLS}
        for log_id in missed[:REFUSALS]:
            calls = before[log_id].calls + 1 if log_id in before else 1
            overtaken[log_id] = Overtaken(calls, str(error))
            log.warning(
                "%s: the engine did not acknowledge log %s in %d of %d calls, but acknowledged later ones",
                *(self._stream, log_id, calls, OVERTAKEN_CALLS),
            )
        self._lease.overtaken(overtaken)

    def _settle(self, acked: int) -> None:
        while self._outgoing and self._outgoing[0].end <= acked:
            began = self._context.monotonic()
            self._note_progress(acked)
            # The batch stays first in the queue until it is settled. If the store fails before that, the progress of
            # this batch is recorded, not the next one's; otherwise each call would send this batch again.
            outgoing = self._outgoing[0]
            # Remove the batch last. After a crash before that, the next call settles it again.
            self._finish(outgoing.batch, outgoing.keys, outgoing.refused)
            self._state.batches.delete(outgoing.batch)
            self._outgoing.popleft()
            self._result.pending -= 1
            self._pace = self._context.monotonic() - began
            self._result.count_batch(outgoing.acked, is_observed=self._context.observes)
            self._result.outcome = self._context.outcome

    def _finish(self, batch: StoredBatch, keys: Sequence[str], refused: list[dict[str, Any]]) -> None:
        """Write all that must be durable before a batch is removed. The module's docstring explains the order."""
        header = batch.header
        # Both are computed from the batch, and only before its receipt: after it, the next call just removes the batch.
        self._note_devices(batch)
        self._move_cursor(header.sequence)
        # Before the receipt: with it the chain continues, and the missing numbers are not noticed again.
        self._note_missing(header)
        if refused:
            # Record the refusals in the lease first. After a crash, the next call then does not send these logs again,
            # which the engine might accept this time although they are in `dead/`.
            self._lease.write()
            lines = "".join(json.dumps(line) + "\n" for line in refused)
            copy_to_dead(self._state.store, f"{self._stream.path}/{header.sequence:020d}.ndjson", lines.encode())
            self._result.set_aside += len(refused)
            log.warning("%s: new dead letters of batch %d: %d", self._stream, header.sequence, len(refused))
        if self._context.archive is not None:
            # Before the receipt: after it, a batch that a crash has left is removed without being archived.
            try:
                self._state.batches.archive(batch)
            except StoreError as error:  # On a full disk the batch is still removed, which frees space.
                log.warning("%s: batch %d is delivered, but not archived: %s", self._stream, header.sequence, error)
        outcome = self._context.outcome
        # From here to `delivered`, no renewal may claim that `tail` is the last receipt: the next one may be written.
        self._lease.in_doubt()
        not_acknowledged = self._not_acknowledged.after(header.events, len(refused), outcome)
        self._tail = self._state.ledger.write(
            header,
            keys,
            self._tail,
            acked_at=self._context.now(),
            set_aside=len(refused),
            not_acknowledged=not_acknowledged,
            outcome=outcome,
            windows=self._windows(batch) if self._context.observes else None,
        )
        self._not_acknowledged = not_acknowledged
        self._result.acked_total = self._tail.total - not_acknowledged.set_aside - not_acknowledged.observed
        self._lease.delivered(self._tail, {line["id"] for line in refused})

    def _windows(self, batch: StoredBatch) -> dict[str, int]:
        """The batch's events by hour, as UTMStack's plugin would see them; none for the connector's own events."""
        items = batch.items if batch.header.origin not in OWN else ()
        return windows_of(self._context.event_fields(raw).created_at for raw in items)

    def _note_devices(self, batch: StoredBatch) -> None:
        """Add the batch's records to the inventory, unless they are in it, before the batch is removed."""
        if self._stream.kind == ENDPOINTS and batch.header.sequence > self._folded:
            self._folded = self._state.inventories.fold(batch)

    def _move_cursor(self, sequence: int) -> None:
        """Move the checkpoint past the batch if a crashed run has not, so that its number is never used again."""
        while self._moved_to <= sequence:
            saved = self._state.checkpoints.read(self._stream)
            self._moved_to = saved.checkpoint.sequence
            if self._moved_to > sequence:
                return
            with suppress(ConflictError):  # fetch-page has just moved it: read it again.
                batch = self._state.batches.read(self._stream, self._moved_to)
                if batch is not None:
                    adopt(self._state.checkpoints, saved, batch, self._context.event_fields)
                elif self._moved_to <= self._tail.sequence:
                    return  # An older copy of the cursor was restored: it reads again what was delivered.
                elif not adopt_past_hole(self._state, self._stream, self._context.event_fields):
                    return

    def _note_missing(self, header: Header) -> None:
        """Announce a gap for numbers with neither batch nor receipt: these batches were removed by hand."""
        first = self._tail.sequence + 1
        if header.sequence > first:
            self._announce(first, BATCH_MISSING, header.as_of, header.envelope)

    def _move_to_dead_letters(self, sequence: int) -> None:
        """Move a damaged batch to `dead/`. The stream continues with the next batch."""
        if not self._state.batches.is_damaged(self._stream, sequence):
            return  # fetch-page has moved it, and may have stored the page again under the number.
        is_passed = self._state.checkpoints.read(self._stream).checkpoint.sequence > sequence
        if is_passed or adopt_past_hole(self._state, self._stream, self._context.event_fields):
            self._announce(sequence, BATCH_DAMAGED, None, None)
        # Otherwise nothing is lost: the cursor has not moved, and fetch-page asks for the same page again.
        # Then another batch gets its number: how far delivery came into this one tells nothing of that one.
        self._lease.replaced(sequence)
        self._state.batches.move_to_dead_letters(self._stream, sequence)
        self._result.pending -= 1

    def _announce(self, sequence: int, reason: str, end: datetime | None, beside: Envelope | None) -> None:
        lost = not_delivered(self._state, self._stream, self._tail)
        gap = Gap(self._stream, sequence, reason, None, end, self._context.now(), lost)
        envelope = self._context.gap_envelope(self._stream.integration, beside)
        announce(self._state, gap, envelope, self._context.event_fields)
        if self._stream.kind != ENDPOINTS:
            # Sophos may still have what is lost here.
            self._state.reconciliations.hasten(self._stream)

    def _set_refused(self, error: LogRefusedError) -> None:
        for outgoing in self._outgoing:
            if any(log.id == error.log_id for log in outgoing.logs):
                self._refused[outgoing.batch.header.sequence, error.log_id] = str(error)
                return
        raise error

    def _note_progress(self, acked: int) -> None:
        """Remember what the engine has acknowledged of batches that are not settled, so that it is not sent again."""
        if self._outgoing:
            header = self._outgoing[0].batch.header
            refused = {log_id: why for (number, log_id), why in self._refused.items() if number == header.sequence}
            parts = [part for outgoing in self._outgoing if (part := outgoing.part(acked, self._early))]
            last = self._outgoing[-1].batch.header.sequence
            self._lease.delivered_in_part(header, self._outgoing[0].done(acked), refused, parts, last)
        self._lease.refused_in_a_row(self._in_a_row)
