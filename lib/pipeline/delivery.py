"""The environment of delivering a stream, and the result of one call for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.errors import ConnectorError
from lib.model.batch import Envelope
from lib.model.receipt import DELIVERED, OBSERVED
from lib.model.stream import Stream
from lib.pipeline.ports import Engine
from lib.state.advance import ReadFields
from lib.state.state import State

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
    observed: int = 0
    pending: int = 0
    """Batches that still wait; during delivery, of those known at its start."""
    set_aside: int = 0
    error: ConnectorError | None = None


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
