"""What an integration asks of Sophos, and under which names its records reach UTMStack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from lib.model.batch import Envelope
from lib.model.families import expanded
from lib.model.ids import group_of
from lib.model.page import Tenant
from lib.model.rate_policy import PUBLISHED
from lib.model.region import AUTO
from lib.model.stream import ALERTS, ENDPOINTS, EVENTS

EVENTS_DATA_TYPE = "sophos-central"
"""What UTMStack's filter and rules for Sophos Central select on."""
UTMSTACK_TENANT = "ce66672c-e36d-4761-a8c8-90058fee1a24"
"""The only tenant that UTMStack v11 knows."""
PLACEHOLDERS = ("{integration}", "{tenant}", "{tenant_id}")
"""What a data source is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationSettings:
    """One integration's settings, without its credentials."""

    name: str
    region: str = AUTO
    tenants: tuple[str, ...] | None = None
    """Tenant ids to read; None: all that the credential can."""
    streams: tuple[str, ...] = (EVENTS,)
    """The kinds of streams that are read of each tenant."""
    exclude_types: tuple[str, ...] = ()
    """Types and families of types that are left out, as they are configured."""
    lookback: timedelta = timedelta(hours=24)
    settle: timedelta = timedelta(0)
    reconcile: timedelta | None = timedelta(hours=6)
    """How often the last 24 hours are read again; None: never."""
    utmstack_tenant_id: str = UTMSTACK_TENANT
    alerts_data_type: str = "sophos-central-alerts"
    data_source: str | None = None
    """How a tenant's data source is made of {integration}, {tenant} and {tenant_id}.

    None: the integration's name, and for one of many tenants the tenant's behind it.
    """
    calls_per_minute: int = PUBLISHED
    """What the credential may be used for here; less where others use it too."""
    endpoints_data_type: str = "sophos-central-endpoints"
    inventory: timedelta = timedelta(hours=6)
    """How often the device inventory is read."""

    @property
    def excluded_types(self) -> tuple[str, ...]:
        """The types that are left out, each family as its types."""
        return expanded(self.exclude_types)

    def source_of(self, tenant: Tenant, *, one_of_many: bool) -> str:
        """Under which data source a tenant's logs reach UTMStack."""
        template = self.data_source or ("{integration}/{tenant}" if one_of_many else "{integration}")
        group = group_of(self.name, self.utmstack_tenant_id)
        words = dict(zip(PLACEHOLDERS, (group, tenant.name or tenant.id, tenant.id), strict=True))
        return re.sub("|".join(map(re.escape, words)), lambda match: words[match[0]], template)

    def envelope(self, kind: str, data_source: str) -> Envelope:
        """What this integration's logs of a kind have in common."""
        data_types = {
            EVENTS: EVENTS_DATA_TYPE,
            ALERTS: self.alerts_data_type,
            ENDPOINTS: self.endpoints_data_type,
        }
        return Envelope(data_type=data_types[kind], data_source=data_source, tenant_id=self.utmstack_tenant_id)

    def gap_envelope(self, data_source: str, gap_data_type: str | None) -> Envelope | None:
        """What this integration's events about gaps have in common; None where there are to be none."""
        if gap_data_type is None:
            return None
        return Envelope(data_type=gap_data_type, data_source=data_source, tenant_id=self.utmstack_tenant_id)
