"""Delivers one stream: its waiting batches in order, each settled only after all its acknowledgements."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from lib.errors import (
    ConflictError,
    ConnectorError,
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
from lib.model.stream import ENDPOINTS, Stream
from lib.pipeline.estimates import not_delivered
from lib.pipeline.leftovers import take_up
from lib.pipeline.outgoing_batch import OutgoingBatch, outgoing_of
from lib.pipeline.ports import Engine
from lib.state.advance import ReadFields, adopt, announce
from lib.state.batches import StoredBatch
from lib.state.dead_letters import set_aside
from lib.state.gaps import BATCH_DAMAGED, BATCH_MISSING, Gap
from lib.state.leases import HeldLease
from lib.state.state import State

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds past the deadline for the acknowledgements of what was sent before it."""

REFUSALS = 20
"""After so many refused logs in a row, none acknowledged between, it is the engine that does not work."""

OVERTAKEN_CALLS = 5
"""In so many calls the engine acknowledges later logs and not this one, before it is set aside: four may be a restart,
a slow worker, or an answer that was lost on the way, and each is a minute's work at most."""

MOST_BATCHES = 32
"""So many batches may be in flight: a store of 150 ms a call settles them within the grace."""

IDLE = "idle"
BUSY = "busy"
FAILED = "failed"
ENGINE_UNAVAILABLE = "engine_unavailable"


@dataclass(slots=True)
class DeliveryResult:
    """What one call did with one stream."""

    stream: Stream
    outcome: str = IDLE
    batches: int = 0
    acked: int = 0
    """Events that the engine acknowledged."""
    observed: int = 0
    pending: int = 0
    """Batches that still wait; while it is delivered, of those that were known at its begin."""
    set_aside: int = 0
    error: ConnectorError | None = None


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What delivering any stream needs."""

    state: State
    engine: Engine
    event_fields: ReadFields
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    gap_data_type: str | None
    """Under which data type the engine is told of a gap; None: it is not told."""
    utmstack_tenant_id: str
    """Whose events about gaps are, where no batch tells."""
    archive: timedelta | None = None
    """How long delivered batches are kept; None: not at all."""
    observes: bool = False
    """Whether batches are only counted: `engine` hands them to nobody then."""

    @property
    def outcome(self) -> str:
        """What becomes of a batch that all is well with."""
        return OBSERVED if self.observes else DELIVERED

    def gap_envelope(self, integration: str, beside: Envelope | None) -> Envelope | None:
        """The envelope of an event about a gap, found while `beside` was delivered."""
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
        """`waiting`: numbers of batches that wait, in order; those between and behind are looked for.

        `result` is filled as delivery goes on, so that it holds what was done before a failure.
        """
        self._context = context
        self._state = context.state
        self._result = result
        self._stream = result.stream
        self._lease = lease
        self._first, self._known = waiting[0], waiting[-1]
        """The lowest and the highest number that are known to wait."""
        self._deadline = deadline
        self._tail = LastReceipt()
        self._not_acknowledged = NotAcknowledged()
        self._folded = 0
        """Up to which batch the inventory knows of."""
        self._moved_to = 0
        self._refused: dict[tuple[int, str], str] = {}
        """Why the engine has refused logs, by batch and id."""
        self._in_a_row = lease.state.refused_in_a_row or 0
        """Logs that the engine has refused since it acknowledged one, in this call and those before."""
        self._outgoing: deque[OutgoingBatch] = deque()
        self._early: set[int] = set()
        """Which logs of the round are acknowledged though one before them is not."""
        self._obstacle: int | None = None
        """A damaged batch that the round has come to."""
        self._has_more = False
        """Whether the round ended before the last waiting batch, with time left."""
        self._lists = False
        """Whether the next round lists what waits: the numbers have a hole, or one is behind the last receipt."""
        self._is_drained = False
        """Whether the round came to the end of what waits."""
        self._pace = 0.0
        """How many seconds it took to settle the last batch."""

    def drain(self) -> bool:
        """Send what waits, batch by batch, and settle each; what cannot be sent is set aside on the way.

        Whether that came to its end: False at the deadline, or where another call took the rest.
        """
        told = self._lease.state
        self._find_tail(is_last=told.tail_is_last is True)
        # The batch of a receipt that the lease did not tell of may still be there.
        self._lists = self._first <= self._tail.sequence or told.tail.sequence < self._tail.sequence
        while self._round():
            pass
        return self._is_drained

    def _find_tail(self, *, is_last: bool) -> None:
        known = self._lease.state.tail
        self._tail, _, self._not_acknowledged = self._state.ledger.last(self._stream, known, is_last=is_last)
        self._lease.found(self._tail)

    def _round(self) -> bool:
        """Send the next batches on one gRPC stream and settle them; whether there is more to do."""
        self._outgoing.clear()
        if self._lists:
            # Before a hole counts as one: a run that was overtaken may have written a receipt later than that.
            self._find_tail(is_last=False)
        self._obstacle, self._has_more, self._is_drained = None, False, False
        self._early = set()
        acked = 0
        try:
            for acked in self._context.engine.deliver(self._logs(), deadline=self._deadline + GRACE, early=self._early):
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
            # Nothing more goes to `dead/`; the next call tries again, and one acknowledgement ends it.
            raise EngineRefusedError(
                f"the engine has refused {self._in_a_row} events in a row, the last one with: {error}",
                remedy="Look in the engine's log. The events wait; send those that are in dead/ again with "
                "`replay --since 1d --dead-letters` once it works.",
            ) from None

    def _logs(self) -> Iterator[Log]:
        """The waiting batches' logs in order, read as the engine takes them."""
        place = 0
        expected = self._tail.sequence + 1
        lists, self._lists = self._lists, False
        for sequence in self._listed() if lists else count(expected):
            # What is read has to be settled in time too, or the engine would be blamed for a slow store.
            if self._context.monotonic() + self._pace * len(self._outgoing) >= self._deadline:
                return
            if sum(1 for each in self._outgoing if each.logs) >= MOST_BATCHES:
                self._has_more = True
                return
            try:
                outgoing = self._prepare(sequence, place, expected)
            except DamagedError as error:
                log.warning("%s: %s", self._stream, error)
                self._obstacle = sequence
                return
            if outgoing is None:
                if lists:
                    return
                # Nothing more waits, unless a higher number is known to wait: then there is a hole.
                self._lists = self._has_more = sequence <= self._known
                self._is_drained = not self._lists
                break
            self._outgoing.append(outgoing)
            if outgoing.end == 0:
                # All of it was acknowledged before, and its receipt could not be written. As long as that fails,
                # nothing more is sent: it would be sent again at each call.
                self._settle(0)
            yield from outgoing.logs
            place = outgoing.end
            expected = sequence + 1
        else:
            # All that was listed is under way, and what was stored since follows it.
            self._known, self._has_more = 0, True
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
        """A log that was acknowledged before, to be sent again behind nothing but logs that it has overtaken.

        On a quiet stream nothing else tells an engine that passes over one log from an engine that does nothing.
        """
        overtaken = self._lease.state.overtaken or {}
        sent = [each.id for outgoing in self._outgoing for each in outgoing.logs]
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
        """Why a log is not sent any more that the engine did not acknowledge, though it acknowledged later ones."""
        found = (self._lease.state.overtaken or {}).get(log_id)
        if found is None or found.calls < OVERTAKEN_CALLS:
            return None
        return (
            f"the engine did not acknowledge it in {found.calls} calls, but acknowledged later ones; "
            f"the last call ended with: {found.reason}"
        )

    def _note_overtaken(self, acked: int, error: EngineDownError) -> None:
        """Count the call for the first logs that were sent in vain, though the engine acknowledged later ones.

        An engine that acknowledges nothing proves nothing about a log.
        """
        early = self._early
        if not early:
            return
        sent = (pair for outgoing in self._outgoing for pair in enumerate(outgoing.logs, outgoing.first + 1))
        vain = [each.id for number, each in sent if acked < number < max(early) and number not in early]
        before = self._lease.state.overtaken or {}
        given_up = {log_id: found for log_id, found in before.items() if found.calls >= OVERTAKEN_CALLS}
        for log_id in vain[:REFUSALS]:
            calls = before[log_id].calls + 1 if log_id in before else 1
            given_up[log_id] = Overtaken(calls, str(error))
            log.warning(
                "%s: the engine did not acknowledge log %s in %d of %d calls, but acknowledged later ones",
                *(self._stream, log_id, calls, OVERTAKEN_CALLS),
            )
        self._lease.overtaken(given_up)

    def _settle(self, acked: int) -> None:
        while self._outgoing and self._outgoing[0].end <= acked:
            began = self._context.monotonic()
            self._note_progress(acked)
            # It stays in its place until all is done: a store that fails in between must not have the next batch's
            # progress noted in its stead, or this one would be sent again at each call.
            outgoing = self._outgoing[0]
            # The batch goes last: until then a crash anywhere here leaves what the next call settles anew.
            self._finish(outgoing.batch, outgoing.keys, outgoing.refused)
            self._state.batches.delete(outgoing.batch)
            self._outgoing.popleft()
            self._result.pending -= 1
            self._pace = self._context.monotonic() - began
            self._result.batches += 1
            if self._context.observes:
                self._result.observed += outgoing.acked
            else:
                self._result.acked += outgoing.acked
            self._result.outcome = self._context.outcome

    def _finish(self, batch: StoredBatch, keys: Sequence[str], refused: list[dict[str, Any]]) -> None:
        """Write what must be durable before a batch may go: cursor, dead letters, the kept batch, the receipt."""
        header = batch.header
        # The inventory and the cursor first: both are told by the batch, which nobody reads after its receipt.
        self._note_devices(batch)
        self._move_cursor(header.sequence)
        # The gap before the receipt that closes over it, or nobody would see the missing number again.
        self._note_missing(header)
        if refused:
            # First, so that a call that comes after a crash here does not send again what `dead/` holds.
            self._lease.write()
            lines = "".join(json.dumps(line) + "\n" for line in refused)
            set_aside(self._state.store, f"{self._stream.path}/{header.sequence:020d}.ndjson", lines.encode())
            self._result.set_aside += len(refused)
            log.warning("%s: %d events of batch %d were set aside", self._stream, len(refused), header.sequence)
        if self._context.archive is not None:
            # Before the receipt, behind which a batch that a crash has left is removed unread.
            try:
                self._state.batches.archive(batch)
            except StoreError as error:  # A full disk must not keep the batch from going, which makes room.
                log.warning("%s: batch %d is delivered and not kept: %s", self._stream, header.sequence, error)
        outcome = self._context.outcome
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
        self._lease.delivered(self._tail, {line["id"] for line in refused})

    def _windows(self, batch: StoredBatch) -> dict[str, int]:
        """What the old plugin would have seen of it; of our own events, nothing."""
        items = batch.items if batch.header.origin not in OWN else ()
        return windows_of(self._context.event_fields(raw).created_at for raw in items)

    def _note_devices(self, batch: StoredBatch) -> None:
        """See that the inventory knows the batch's records as sent: once the batch is gone, nobody could tell it."""
        if self._stream.kind == ENDPOINTS and batch.header.sequence > self._folded:
            self._folded = self._state.inventories.fold(batch)

    def _move_cursor(self, sequence: int) -> None:
        """See that the cursor has moved past the batch, so that its number is never given again."""
        while self._moved_to <= sequence:
            saved = self._state.checkpoints.read(self._stream)
            self._moved_to = saved.checkpoint.sequence
            if self._moved_to > sequence:
                return
            batch = self._state.batches.read(self._stream, self._moved_to)
            if batch is None:
                return
            try:
                adopt(self._state.checkpoints, saved, batch, self._context.event_fields)
            except ConflictError:
                continue  # fetch-page has just moved it: look again.

    def _note_missing(self, header: Header) -> None:
        """A number that has neither batch nor receipt was removed by hand; its events are named as a gap."""
        first = self._tail.sequence + 1
        if header.sequence > first:
            self._announce(first, BATCH_MISSING, header.as_of, header.envelope)

    def _move_to_dead_letters(self, sequence: int) -> None:
        """A damaged batch goes to `dead/`; the stream goes on with the next one."""
        if self._state.checkpoints.read(self._stream).checkpoint.sequence > sequence:
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
            if any(each.id == error.log_id for each in outgoing.logs):
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
