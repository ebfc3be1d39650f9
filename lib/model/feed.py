"""What an integration asks of Sophos, and under which names its records reach UTMStack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from lib.model.batch import Envelope
from lib.model.ids import group_of
from lib.model.page import Tenant
from lib.model.stream import ALERTS, ENDPOINTS, EVENTS

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
    data_source: str | None
    """How a tenant's data source is made of {integration}, {tenant} and {tenant_id}; None: as is usual."""
    endpoints_data_type: str
    inventory: timedelta
    """How often the device inventory is read."""
    gap_data_type: str | None
    """Under which data type the engine is told of a gap; None: it is not told."""

    def source_of(self, tenant: Tenant, *, one_of_many: bool) -> str:
        """Under which data source a tenant's logs reach UTMStack."""
        template = self.data_source or ("{integration}/{tenant}" if one_of_many else "{integration}")
        group = group_of(self.name, self.utmstack_tenant_id)
        words = {"{integration}": group, "{tenant}": tenant.name or tenant.id, "{tenant_id}": tenant.id}
        return re.sub("|".join(map(re.escape, words)), lambda match: words[match[0]], template)

    def envelope(self, kind: str, data_source: str) -> Envelope:
        """What this feed's logs of a kind have in common."""
        data_types = {
            EVENTS: EVENTS_DATA_TYPE,
            ALERTS: self.alerts_data_type,
            ENDPOINTS: self.endpoints_data_type,
        }
        return Envelope(data_type=data_types[kind], data_source=data_source, tenant_id=self.utmstack_tenant_id)

    def gap_envelope(self, data_source: str) -> Envelope | None:
        """What this feed's events about gaps have in common; None where there are to be none."""
        if self.gap_data_type is None:
            return None
        return Envelope(data_type=self.gap_data_type, data_source=data_source, tenant_id=self.utmstack_tenant_id)
