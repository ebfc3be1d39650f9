"""forward-batch: send each stream's waiting batches in order. A batch is removed after all its acknowledgements."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from lib.errors import ConflictError, ConnectorError, EngineDownError, EngineRefusedError, EngineSlowError
from lib.model.clock import day_of, from_text, number_of
from lib.model.stream import Stream
from lib.pipeline.deliver_stream import DeliveryContext, StreamDelivery
from lib.pipeline.delivery_result import BUSY, ENGINE_UNAVAILABLE, FAILED, DeliveryResult
from lib.pipeline.expiry import Expiry
from lib.pipeline.observe import KEPT as OBSERVED_KEPT
from lib.pipeline.unexpected import unexpected
from lib.state.leases import HeldLease, held
from lib.state.ledger import KEPT, LOOKED_OVER, place_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The use case; safe to call from several threads and processes at once."""

    context: DeliveryContext
    holder: Callable[[], str]
    """Returns a new name for each holder of a lease."""
    expiry: Expiry = field(default_factory=Expiry)
    """Removes old batches and receipts after a call for all streams. Its state is kept for the process's lifetime."""
    workers: int = 4

    def run(
        self,
        *,
        integration: str | None = None,
        tenant: str | None = None,
        kind: str | None = None,
        batch: int | None = None,
        deadline: float,
    ) -> list[DeliveryResult]:
        """Forward the waiting batches of every stream, or of the named ones; one result for each stream.

        `batch` is the number of a batch that was just stored in the named stream. It saves a listing. If that batch is
        gone, nothing is done. `deadline` is a monotonic time: no batch is begun after it.
        """
        state = self.context.state
        only = Stream(integration, tenant, kind) if integration and tenant and kind else None
        if only is not None and batch is not None:
            waiting = {only: [batch]} if state.batches.is_there(only, batch) else {}
        else:
            waiting = state.batches.numbers(only)
        streams = [
            stream
            for stream in sorted({*state.checkpoints.streams(), *waiting} if only is None else {only})
            if integration in (None, stream.integration)
            and tenant in (None, stream.tenant)
            and kind in (None, stream.kind)
        ]
        deliver = lambda stream: self._stream(stream, waiting.get(stream, []), deadline, is_listed=batch is None)  # noqa: E731
        with ThreadPoolExecutor(self.workers) as pool:
            results = list(pool.map(deliver, streams))
        if (integration, tenant, kind) == (None, None, None):
            self._expire(streams, deadline)
        return results

    def _expire(self, streams: Sequence[Stream], deadline: float) -> None:
        context = self.context
        try:
            self.expiry.run(
                context.state,
                streams,
                archive=context.archive or OBSERVED_KEPT,
                holder=self.holder,
                now=context.now,
                goes_on=lambda: context.monotonic() < deadline,
            )
        except Exception as error:  # noqa: BLE001 - logged with its trace; what was delivered stands
            unexpected("expiry", error)

    def _stream(self, stream: Stream, waiting: Sequence[int], deadline: float, *, is_listed: bool) -> DeliveryResult:
        """Deliver the stream's waiting batches. `is_listed`: `waiting` names all of them, not just one."""
        result = DeliveryResult(stream, pending=len(waiting))
        if not waiting:
            return result
        is_drained = False
        try:
            is_drained = self._deliver(result, waiting, deadline)
        except ConflictError:
            result.outcome = BUSY
        except EngineSlowError as error:
            log.debug("%s: %s; the next call sends the rest", stream, error)
        except (EngineDownError, EngineRefusedError) as error:
            log.debug("%s: %s", stream, error)
            result.outcome, result.error = ENGINE_UNAVAILABLE, error
        except ConnectorError as error:
            log.debug("%s: %s", stream, error)
            result.outcome, result.error = FAILED, error
        except Exception as error:  # noqa: BLE001 - logged with its trace; the other streams' lines stand
            result.outcome, result.error = FAILED, unexpected(stream, error)
        if is_drained:
            result.pending = 0
        elif result.pending <= 0 or not is_listed:
            result.pending = self._pending(stream, len(waiting))
        return result

    def _deliver(self, result: DeliveryResult, waiting: Sequence[int], deadline: float) -> bool:
        """Deliver the waiting batches; returns whether none is left."""
        context, stream = self.context, result.stream
        with held(context.state.store, stream, self.holder(), context.now) as lease:
            if lease is None:
                result.outcome = BUSY
                return False
            is_drained = StreamDelivery(context, result, lease, waiting, deadline).drain()
            self._tidy(stream, lease, deadline)
            return is_drained

    def _tidy(self, stream: Stream, lease: HeldLease, deadline: float) -> None:
        """Once a day: pack the receipts of past days, and remove old ones."""
        tail = place_of(lease.state.tail.key)
        if tail is None or tail.day == lease.state.tidied:
            return
        goes_on = lambda: self.context.monotonic() < deadline  # noqa: E731
        # The earlier of both clocks: receipts are filed by Sophos's clock, and this machine's may be far ahead.
        oldest = day_of(min(self.context.now(), from_text(f"{tail.day}T00:00Z") + timedelta(days=1)) - KEPT)
        ledger = self.context.state.ledger
        if ledger.tidy(stream, closed=tail.day, oldest=oldest, goes_on=goes_on):
            ledger.look_over(stream, number_of(tail.day), LOOKED_OVER.days, goes_on)
            lease.tidied(tail.day)

    def _pending(self, stream: Stream, waiting: int) -> int:
        """The number of batches that still wait; `waiting` if the listing fails unexpectedly."""
        try:
            return sum(1 for _ in self.context.state.batches.waiting(stream))
        except ConnectorError:
            raise
        except Exception as error:  # noqa: BLE001 - logged with its trace; the other streams' lines stand
            unexpected(stream, error)
            return waiting
