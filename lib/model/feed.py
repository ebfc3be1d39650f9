"""What an integration asks of Sophos, and under which names its records reach UTMStack."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from lib.model.batch import Envelope
from lib.model.ids import EVENTS

EVENTS_DATA_TYPE = "sophos-central"
"""What UTMStack's filter and rules for Sophos Central select on."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One integration's settings, without its credentials."""

    name: str
    region: str
    tenants: tuple[str, ...] | None
    """Tenant ids to read; None: all that the credential can."""
    kinds: tuple[str, ...]
    exclude_types: tuple[str, ...]
    lookback: timedelta
    settle: timedelta
    reconcile: timedelta | None
    """How often the last 24 hours are read again; None: never."""
    utmstack_tenant_id: str
    alerts_data_type: str
    gap_data_type: str | None
    """Under which data type the engine is told of a gap; None: it is not told."""

    def envelope(self, kind: str) -> Envelope:
        """What this feed's logs of a kind have in common."""
        data_type = EVENTS_DATA_TYPE if kind == EVENTS else self.alerts_data_type
        return Envelope(data_type=data_type, data_source=self.name, tenant_id=self.utmstack_tenant_id)

    def gap_envelope(self) -> Envelope | None:
        """What this feed's events about gaps have in common; None where there are to be none."""
        if self.gap_data_type is None:
            return None
        return Envelope(data_type=self.gap_data_type, data_source=self.name, tenant_id=self.utmstack_tenant_id)
