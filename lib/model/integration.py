"""The settings of an integration: which streams are read from Sophos, and their names in UTMStack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from lib.model.batch import Envelope
from lib.model.families import expanded
from lib.model.ids import group_of
from lib.model.page import SophosTenant
from lib.model.rate_policy import PUBLISHED
from lib.model.region import AUTO
from lib.model.stream import ALERTS, ENDPOINTS, EVENTS

EVENTS_DATA_TYPE = "sophos-central"
"""The data type that UTMStack's filter and rules for Sophos Central select."""
UTMSTACK_TENANT = "ce66672c-e36d-4761-a8c8-90058fee1a24"
"""The only tenant of UTMStack v11."""
PLACEHOLDERS = ("{integration}", "{tenant}", "{tenant_id}")
"""The placeholders of `data_source`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationSettings:
    """One integration's settings, without its credentials."""

    name: str
    region: str = AUTO
    tenants: tuple[str, ...] | None = None
    """Ids of the tenants to read; None: all tenants that the credential can read."""
    streams: tuple[str, ...] = (EVENTS,)
    """The kinds of streams to read of each tenant."""
    exclude_types: tuple[str, ...] = ()
    """Excluded types and families of types, as configured."""
    lookback: timedelta = timedelta(hours=24)
    settle: timedelta = timedelta(0)
    reconcile: timedelta | None = timedelta(hours=6)
    """The interval at which the last 24 hours are read again; None: never."""
    utmstack_tenant_id: str = UTMSTACK_TENANT
    alerts_data_type: str = "sophos-central-alerts"
    data_source: str | None = None
    """The template of a tenant's data source, with {integration}, {tenant} and {tenant_id}.

    None: the integration's name; if the credential reads several tenants, followed by `/` and the tenant's name.
    """
    calls_per_minute: int = PUBLISHED
    """Calls that this connector may make with the credential. Set less if other programs use the credential."""
    endpoints_data_type: str = "sophos-central-endpoints"
    inventory: timedelta = timedelta(hours=6)
    """The interval at which the device inventory is read."""

    @property
    def excluded_types(self) -> tuple[str, ...]:
        """The excluded types, with each family replaced by its types."""
        return expanded(self.exclude_types)

    def source_of(self, tenant: SophosTenant, *, one_of_many: bool) -> str:
        """The data source of a tenant's logs in UTMStack."""
        template = self.data_source or ("{integration}/{tenant}" if one_of_many else "{integration}")
        group = group_of(self.name, self.utmstack_tenant_id)
        words = dict(zip(PLACEHOLDERS, (group, tenant.name or tenant.id, tenant.id), strict=True))
        return re.sub("|".join(map(re.escape, words)), lambda match: words[match[0]], template)

    def envelope(self, kind: str, data_source: str) -> Envelope:
        """The fields that this integration's logs of a kind share."""
        data_types = {
            EVENTS: EVENTS_DATA_TYPE,
            ALERTS: self.alerts_data_type,
            ENDPOINTS: self.endpoints_data_type,
        }
        return Envelope(data_type=data_types[kind], data_source=data_source, tenant_id=self.utmstack_tenant_id)

    def gap_envelope(self, data_source: str, gap_data_type: str | None) -> Envelope | None:
        """The fields that this integration's gap events share; None if gap events are turned off."""
        if gap_data_type is None:
            return None
        return Envelope(data_type=gap_data_type, data_source=data_source, tenant_id=self.utmstack_tenant_id)
