"""What can be set, as values: one dataclass a section of the file, whose defaults are those of the keys.

A new key is a field here, a field of `lib/config/schema.py`, a line of `connector.example.yaml`, and a row of the
documents' table; a test compares the four.
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
    """When fetch-page is triggered: each so often, or by a cron line in UTC."""

    interval: timedelta | None = None
    cron: str | None = None

    def seconds_after(self, started: datetime) -> float:
        """Seconds from the start of one tick to that of the next."""
        if self.interval is not None:
            return self.interval.total_seconds()
        return (next(CronSim(str(self.cron), started)) - started).total_seconds()

    def seconds_around(self, now: datetime) -> float:
        """Seconds between the tick before and the one after."""
        if self.interval is not None:
            return self.interval.total_seconds()
        before, after = CronSim(str(self.cron), now, reverse=True), CronSim(str(self.cron), now)
        return (next(after) - next(before)).total_seconds()

    def is_ever_over(self, longest: timedelta) -> bool:
        """Whether two ticks of some year are that far apart, and a minute."""
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
    """Where Sophos Central is."""

    auth_url: str = "https://id.sophos.com"
    api_url: str = "https://api.central.sophos.com"
    allow_hosts: tuple[str, ...] = ()
    """Hosts beside *.sophos.com and loopback that credentials may be sent to."""
    ca_bundle: str | None = None
    """A file of certificates (PEM) to trust, in place of those that are built in."""
    proxy: Reference | None = field(default=None, repr=False)
    """The URL of the way out, which may hold a password; loopback is always reached without it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a site may want to change."""

    max_pending_bytes: int = 2 << 30
    """Waiting batches of the whole store, before fetching pauses."""
    ack_timeout: timedelta = timedelta(seconds=30)
    """How old the oldest unacknowledged log may grow before the engine counts as dead."""
    deadline: timedelta = timedelta(seconds=50)
    """How long one call of a function may take before it hands over to the next."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the log tells."""

    level: str = "info"
    """debug, info, warning or error: nothing less severe is logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationConfig(IntegrationSettings):
    """An integration's settings, with its credentials, which are references as yet."""

    client_id: Reference = field(repr=False)
    client_secret: Reference = field(repr=False)
    next_client_id: Reference | None = field(default=None, repr=False)
    next_client_secret: Reference | None = field(default=None, repr=False)
    """Used where the first is refused: so that it can be replaced without a gap."""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may call the functions from elsewhere than loopback; by default nobody."""

    keys: tuple[Reference, ...] = field(default=(), repr=False)
    audiences: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    platform: str | None = None
    """`cloud-run`: its IAM has checked every caller."""
    certs_url: str = GOOGLE_CERTS
    local: str = "open"
    """`key`: who calls from this machine shows a key too, since a proxy on it may make everybody local."""


@dataclass(frozen=True, slots=True)
class TaskQueueSettings:
    """A Cloud Tasks queue, through which a tick becomes one call a stream."""

    queue: str
    """`projects/P/locations/L/queues/Q`."""
    url: str
    """Where fetch-page is called."""
    service_account: str
    """As whom."""
    api_url: str = TASKS_URL


@dataclass(frozen=True, slots=True)
class UTMStackSettings:
    """Where UTMStack's own configuration is."""

    workdir: str
    """The work folder of its event processor, which holds `pipeline/`."""


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """What a relay asks of who calls it, each as PEM or text behind a reference; with a socket, nothing."""

    ca: Reference | None = None
    """Whom to trust for the relay's certificate; None: the authorities that everybody trusts."""
    certificate: Reference | None = None
    key: Reference | None = field(default=None, repr=False)
    token: Reference | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The relay in front of the engine's socket: files are paths, since it reads them anew when they change."""

    certificate: str
    key: str
    client_ca: str | None = None
    """Whose certificates callers have to show; None: they need none."""
    tokens: str | None = None
    """A file with one accepted token a line; None: callers need none."""
    listen: tuple[str, int] = ("0.0.0.0", 7443)  # noqa: S104 - being reached from elsewhere is what it is for
    metrics: tuple[str, int] | None = ("127.0.0.1", 7444)
    streams: int = 64
    bytes_in_flight: int = 128 << 20
    """Of all streams together; each has an equal share, and always room for one message."""
    rate: int | None = 5000
    """Messages a second, of all streams together; None: as fast as the engine takes them."""
    idle: timedelta = timedelta(minutes=5)
    """How long a stream may stand still."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

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
    """Whether everything is fetched and counted, and nothing forwarded: beside UTMStack's own plugin."""
    archive: timedelta | None = None
    """How long delivered batches are kept for `replay`; None: not at all."""
    heartbeat: timedelta | None = None
    """How often an event of ours goes the way of all events; None: never."""
    gap_data_type: str | None = "sophos-central-gaps"
    """Under which data type the engine is told of a gap; None: it is not told."""
    utmstack: UTMStackSettings | None = None
    """Where integrations are read from beside those of the file; None: nowhere."""
    engine_access: EngineAccess = EngineAccess()
    relay: RelaySettings | None = None
