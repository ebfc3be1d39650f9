"""The settings as values: one dataclass for each section of the file. Its defaults are the defaults of the keys.

A new key needs a field here, a field in `lib/config/schema.py`, a line in `connector.example.yaml` and a row in the
table of the documentation. A test compares the four.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cronsim import CronSim

from lib.config.secrets import Reference
from lib.http.access import GOOGLE_CERTS
from lib.model.integration import IntegrationSettings

CLOUD_RUN = "cloud-run"
DEFAULT_STORE = "file:var/store"
TASKS_URL = "https://cloudtasks.googleapis.com"


@dataclass(frozen=True, slots=True)
class Every:
    """When fetch-page is called: at an interval, or by a cron expression in UTC. One of the two is set."""

    interval: timedelta | None = None
    cron: str | None = None

    def seconds_after(self, started: datetime) -> float:
        """Seconds from the start of one tick to the start of the next."""
        if self.interval is not None:
            return self.interval.total_seconds()
        return (next(CronSim(str(self.cron), started)) - started).total_seconds()

    def seconds_around(self, now: datetime) -> float:
        """Seconds between the last tick before `now` and the first one after."""
        if self.interval is not None:
            return self.interval.total_seconds()
        before, after = CronSim(str(self.cron), now, reverse=True), CronSim(str(self.cron), now)
        return (next(after) - next(before)).total_seconds()

    def is_ever_over(self, longest: timedelta) -> bool:
        """Whether two ticks of a year are more than `longest` and a minute apart."""
        if self.interval is not None:
            return self.interval > longest
        tick = first = next(CronSim(str(self.cron), datetime(2026, 1, 1)))  # noqa: DTZ001 - UTC, as all of them
        while tick - first < timedelta(days=366):
            last = next(CronSim(str(self.cron), tick + longest + timedelta(minutes=1), reverse=True))
            if last <= tick:
                return True
            tick = last
        return False


@dataclass(frozen=True, slots=True)
class SophosHosts:
    """Addresses of Sophos Central, and how to connect to them."""

    auth_url: str = "https://id.sophos.com"
    api_url: str = "https://api.central.sophos.com"
    allow_hosts: tuple[str, ...] = ()
    """Further hosts to which credentials may be sent, beside *.sophos.com and loopback."""
    ca_bundle: str | None = None
    """A file of certificates (PEM) to trust instead of the built-in ones."""
    proxy: Reference | None = field(default=None, repr=False)
    """The URL of the proxy, which may hold a password. Connections to loopback do not use it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a site may want to change."""

    max_pending_bytes: int = 2 << 30
    """Bytes of waiting batches in the whole store at which fetching pauses."""
    ack_timeout: timedelta = timedelta(seconds=30)
    """The age of the oldest unacknowledged log at which the engine counts as dead."""
    deadline: timedelta = timedelta(seconds=50)
    """The time after which one call of a function stops and leaves the rest to the next call."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Settings of the log."""

    level: str = "info"
    """debug, info, warning or error; entries of a lower level are not logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationConfig(IntegrationSettings):
    """An integration's settings with its credentials, as references that are not resolved yet."""

    client_id: Reference = field(repr=False)
    client_secret: Reference = field(repr=False)
    next_client_id: Reference | None = field(default=None, repr=False)
    next_client_secret: Reference | None = field(default=None, repr=False)
    """The second credential is used if Sophos refuses the first one. So a credential can be replaced without a gap."""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The callers that may call the functions from other machines; by default none."""

    keys: tuple[Reference, ...] = field(default=(), repr=False)
    audiences: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    platform: str | None = None
    """`cloud-run`: the platform's IAM has checked every caller."""
    certs_url: str = GOOGLE_CERTS
    local: str = "open"
    """`key`: callers on this machine must show a key too. A proxy on this machine may make every caller local."""


@dataclass(frozen=True, slots=True)
class TaskQueueSettings:
    """A Cloud Tasks queue. With it, a tick makes one call for each stream."""

    queue: str
    """`projects/P/locations/L/queues/Q`."""
    url: str
    """The URL of fetch-page."""
    service_account: str
    """The service account that calls it."""
    api_url: str = TASKS_URL


@dataclass(frozen=True, slots=True)
class UTMStackSettings:
    """The location of UTMStack's own configuration."""

    workdir: str
    """The work folder of its event processor, which holds `pipeline/`."""


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """Credentials for the relay, as references to PEM or text. An engine's socket needs none."""

    ca: Reference | None = None
    """The CA of the relay's certificate; None: the public CAs."""
    certificate: Reference | None = None
    key: Reference | None = field(default=None, repr=False)
    token: Reference | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The relay in front of the engine's socket. Files are paths: the relay reads them again after a change."""

    certificate: str
    key: str
    client_ca: str | None = None
    """The CA of the callers' certificates; None: callers need no certificate."""
    tokens: str | None = None
    """A file with one accepted token a line; None: callers need no token."""
    listen: tuple[str, int] = ("0.0.0.0", 7443)  # noqa: S104 - other machines must reach the relay
    metrics: tuple[str, int] | None = ("127.0.0.1", 7444)
    streams: int = 64
    bytes_in_flight: int = 128 << 20
    """The bound for all streams together. Each stream has an equal share, and always room for one message."""
    rate: int | None = 5000
    """Messages a second for all streams together; None: as fast as the engine takes them."""
    idle: timedelta = timedelta(minutes=5)
    """How long a stream may be idle."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    integrations: tuple[IntegrationConfig, ...]
    store: str = DEFAULT_STORE
    engine: str = "unix:/workdir/sockets/engine_server.sock"
    every: Every = Every(timedelta(seconds=60))
    listen: tuple[str, int] = ("127.0.0.1", 8080)
    sophos: SophosHosts = SophosHosts()
    limits: Limits = Limits()
    log: LogSettings = LogSettings()
    access: AccessRules = AccessRules()
    tasks: TaskQueueSettings | None = None
    """None: one call does the work of a tick."""
    observe: bool = False
    """Whether events are fetched and counted but not forwarded, for a trial beside UTMStack's own plugin."""
    archive: timedelta | None = None
    """How long delivered batches are kept for `replay`; None: they are not kept."""
    heartbeat: timedelta | None = None
    """The interval of heartbeat events; None: no heartbeats."""
    gap_data_type: str | None = "sophos-central-gaps"
    """The data type of gap events; None: no gap events."""
    utmstack: UTMStackSettings | None = None
    """A further source of integrations; None: only those of the file."""
    engine_access: EngineAccess = EngineAccess()
    relay: RelaySettings | None = None
