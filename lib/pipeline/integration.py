"""An integration at work: its settings, its way to Sophos, and the streams that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.errors import ConnectorError
from lib.model.checkpoint import oldest_request
from lib.model.integration import IntegrationSettings
from lib.model.page import Tenant
from lib.model.stream import Stream
from lib.pipeline.ports import CallLimiter, Source


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration's settings and its way to Sophos."""

    settings: IntegrationSettings
    source: Source
    client_id: Callable[[], str]
    api_url: str
    rate_limiter: CallLimiter

    @property
    def name(self) -> str:
        """The integration's name."""
        return self.settings.name

    def start(self, lookback: timedelta, now: Callable[[], datetime], *, deadline: float) -> datetime:
        """From when on Sophos is asked for what happened within `lookback`: by its own clock, where it names one."""
        return oldest_request(self.source.clock(deadline=deadline) or now(), lookback)


@dataclass(frozen=True, slots=True)
class Target:
    """A stream, and where it is read."""

    stream: Stream
    tenant: Tenant
    data_source: str
    refusal: ConnectorError | None = None
    """Why it cannot be read, where that is known without asking."""
    one_of_many: bool = False
    """Whether the credential reads other tenants too."""

    @property
    def host(self) -> str:
        """The URL of the tenant's own API host."""
        return str(self.tenant.api_host)

    def is_named(self, tenant: str | None) -> bool:
        """Whether that is its tenant's id or name; None names every one."""
        return tenant in (None, self.tenant.id, self.tenant.name)
