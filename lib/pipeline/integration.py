"""An integration at run time: its settings, its Sophos client, and the streams it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.errors import ConnectorError
from lib.model.checkpoint import Problem, oldest_request
from lib.model.integration import IntegrationSettings
from lib.model.page import SophosTenant
from lib.model.stream import Stream
from lib.pipeline.ports import CallLimiter, Source


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration's settings and its Sophos client."""

    settings: IntegrationSettings
    source: Source
    client_id: Callable[[], str]
    api_url: str
    rate_limiter: CallLimiter

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self.settings.name

    def start(self, lookback: timedelta, now: Callable[[], datetime], *, deadline: float) -> datetime:
        """The earliest time to request for `lookback`, by Sophos's clock if its answers name a time."""
        return oldest_request(self.source.clock(deadline=deadline) or now(), lookback)


@dataclass(frozen=True, slots=True)
class Target:
    """A stream, and the tenant to read it from."""

    stream: Stream
    tenant: SophosTenant
    data_source: str
    refusal: ConnectorError | None = None
    """The reason it cannot be read, if that is certain without a request."""
    one_of_many: bool = False
    """Whether the credential also reads other tenants."""
    is_changed: bool = False
    """Whether this process has not tried the credential yet. A refusal stored before does not hold the stream back."""
    replaced_at: datetime | None = None
    """The time at which a process first used a changed credential."""

    def outdates(self, problem: Problem) -> bool:
        """Whether the credential may have changed since the problem was met."""
        tried_at, replaced_at = problem.tried_at, self.replaced_at
        return self.is_changed or (replaced_at is not None and tried_at is not None and tried_at < replaced_at)

    @property
    def host(self) -> str:
        """The URL of the tenant's own API host."""
        return str(self.tenant.api_host)

    def is_named(self, tenant: str | None) -> bool:
        """Whether `tenant` is its tenant's id or name; None matches every tenant."""
        return tenant in (None, self.tenant.id, self.tenant.name)
