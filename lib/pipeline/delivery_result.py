"""The result of one forward-batch call for one stream."""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import ConnectorError
from lib.model.stream import Stream

IDLE = "idle"
BUSY = "busy"
FAILED = "failed"
ENGINE_UNAVAILABLE = "engine_unavailable"


@dataclass(slots=True)
class DeliveryResult:
    """The result of one call for one stream."""

    stream: Stream
    outcome: str = IDLE
    batches: int = 0
    acked: int = 0
    """Events that the engine acknowledged."""
    acked_total: int | None = None
    """All events of the stream that the engine acknowledged so far; None: this call settled no batch."""
    observed: int = 0
    pending: int = 0
    """Batches that still wait. During delivery: of those that were known at its beginning."""
    set_aside: int = 0
    error: ConnectorError | None = None

    def count_batch(self, events: int, *, is_observed: bool) -> None:
        """Count a settled batch."""
        self.batches += 1
        if is_observed:
            self.observed += events
        else:
            self.acked += events
