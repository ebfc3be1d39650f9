"""Which adapter stands behind which protocol: the only place that knows.

What is warm is made at its first use and kept, as long as its own settings stay the same: the token and connections of
each integration, the channel to the engine. Adapters are imported where they are made, so that a function loads only
what it uses.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config import loading as configuration
from lib.config.reloading import ReloadingConfig
from lib.config.secrets import Reference
from lib.errors import ConfigError, ConnectorError, NotFoundError
from lib.http.access import Access, Rules
from lib.http.handler import Refused
from lib.model import rate_policy as quota
from lib.model.families import expanded
from lib.model.feed import Feed
from lib.model.host import proxy_fault
from lib.model.stream import ENDPOINTS, EVENTS
from lib.store.base import ObjectStore

if TYPE_CHECKING:
    from lib.config.loading import Config
    from lib.config.secrets import Reference
    from lib.pipeline.accounts import Accounts, Integration
    from lib.pipeline.expiry import Expiry
    from lib.pipeline.fan_out import FanOut
    from lib.pipeline.fetch_page import FetchPage, InFlight
    from lib.pipeline.forward_batch import ForwardBatch
    from lib.pipeline.rate_limiter import RateLimiter
    from lib.pipeline.reconcile import Reconcile
    from lib.pipeline.test_connection import TestConnection
    from lib.sophos.client import Central
    from lib.utmstack.channel import Credentials
    from lib.utmstack.engine import Engine

# ruff: noqa: PLC0415 - see above

log = logging.getLogger(__name__)

HAND_OVER_SECONDS = 15.0
"""What bringing a call to its end takes at most: acknowledgements, a receipt, the answer."""
COMMAND_SECONDS = 3600.0
"""How long an operator's command may read one stream."""


def now() -> datetime:
    """The time of day, UTC."""
    return datetime.now(UTC)


@cache
def _live() -> ReloadingConfig:
    return ReloadingConfig(configuration.located(), configuration.followed())


def config() -> Config:
    """The configuration as it is now."""
    return _live().current()


@cache
def _bucket(location: str) -> ObjectStore:
    from lib.store.gcs import GcsStore

    return GcsStore(location)  # which keeps connections and a token: the status page opens its store each time


def open_store(location: str) -> ObjectStore:
    """The store at `file:path` or `gs://bucket/prefix`."""
    if location.startswith("gs://"):
        return _bucket(location)
    from lib.store.directory import DirectoryStore

    return DirectoryStore(Path(location.removeprefix("file:")))


def store() -> ObjectStore:
    """The configured store."""
    return _opened(config().store)


@lru_cache(maxsize=1)
def _opened(location: str) -> ObjectStore:
    return open_store(location)


def engine() -> Engine:
    """The configured engine, behind its socket or relay."""
    settings = config()
    return _engine(settings.engine, settings.engine_access, settings.limits.ack_timeout)


@lru_cache(maxsize=1)
def _engine(location: str, shown: configuration.EngineAccess, ack_timeout: timedelta) -> Engine:
    from lib.utmstack.engine import Engine

    return Engine(location, credentials=lambda: _credentials(shown), ack_timeout=ack_timeout.total_seconds())


def _credentials(shown: configuration.EngineAccess) -> Credentials:
    from lib.utmstack.channel import Credentials

    def pem(reference: Reference | None) -> bytes | None:
        return None if reference is None else reference.resolve().encode()

    token = None if shown.token is None else shown.token.resolve()
    return Credentials(ca=pem(shown.ca), certificate=pem(shown.certificate), key=pem(shown.key), token=token)


@lru_cache(maxsize=1)
def _access(rules: configuration.AccessRules) -> Access:
    """Who may call from elsewhere, by those rules."""
    return Access(
        Rules(
            keys=lambda: [each.resolve() for each in rules.keys],
            audiences=rules.audiences,
            emails=rules.emails,
            # Elsewhere than on that platform nobody has checked anybody.
            checked_by_platform=rules.platform == configuration.CLOUD_RUN and configuration.on_cloud_run(),
            certs_url=rules.certs_url,
        )
    )


def access() -> Access:
    """Who may call this process from elsewhere."""
    return _access(config().access)


@dataclass(frozen=True, slots=True)
class Credential:
    """A client id and secret, resolved when a token is asked for: a rotated secret is read anew."""

    client_id: Callable[[], str]
    client_secret: Callable[[], str]


def rate_limiter(client_id: Callable[[], str], per_minute: int) -> RateLimiter:
    """The calls that a credential may make."""
    from lib.pipeline.rate_limiter import RateLimiter

    return RateLimiter(
        store,
        client_id,
        per_minute,
        now=now,
        monotonic=time.monotonic,
        sleep=time.sleep,
        jitter=random.SystemRandom().random,
    )


def central(credential: Credential, rate_limiter: RateLimiter, next_credential: Credential | None = None) -> Central:
    """A way to Sophos Central with that credential, or with the next one where it is refused."""
    from lib.sophos.client import Central

    hosts = config().sophos
    return Central(
        credential,
        auth_url=hosts.auth_url,
        api_url=hosts.api_url,
        allow_hosts=hosts.allow_hosts,
        now=now,
        monotonic=time.monotonic,
        sleep=time.sleep,
        random=random.SystemRandom().random,
        rate_limiter=rate_limiter,
        next_credential=next_credential,
        ca_bundle=hosts.ca_bundle,
        proxy=None if hosts.proxy is None else _proxy(hosts.proxy),
    )


def _central_of(integration: configuration.Integration, rate_limiter: RateLimiter) -> Central:
    """The integration's way to Sophos Central."""
    first = Credential(integration.client_id.resolve, integration.client_secret.resolve)
    client_id, client_secret = integration.next_client_id, integration.next_client_secret
    if client_id is None or client_secret is None:
        return central(first, rate_limiter)
    return central(first, rate_limiter, Credential(client_id.resolve, client_secret.resolve))


def _proxy(reference: Reference) -> Callable[[], str]:
    """The proxy's URL, resolved when it is first needed; ConfigError where it is none."""

    @cache
    def resolved() -> str:
        url = reference.resolve()
        fault = proxy_fault(url)
        if fault:
            raise ConfigError(f"{reference.where}: what it stands for {fault}", remedy="Correct it, and start again.")
        return url

    return resolved


def feed_of(integration: configuration.Integration, gap_data_type: str | None) -> Feed:
    """The integration's settings as the use cases know them."""
    return Feed(
        name=integration.name,
        region=integration.region,
        tenants=integration.tenants,
        kinds=integration.streams,
        exclude_types=expanded(integration.exclude_types),
        lookback=integration.lookback,
        settle=integration.settle,
        reconcile=integration.reconcile,
        utmstack_tenant_id=integration.utmstack_tenant_id,
        alerts_data_type=integration.alerts_data_type,
        endpoints_data_type=integration.endpoints_data_type,
        inventory=integration.inventory,
        data_source=integration.data_source,
        gap_data_type=gap_data_type,
    )


_kept: dict[Any, Integration] = {}
"""The integrations of the last call, by all that makes them what they are."""
_keeping = threading.Lock()


def integrations() -> Mapping[str, Integration]:
    """Every configured integration, by name, each with one pooled session; those that have not changed are kept."""
    settings = config()
    with _keeping:
        present = {(each, settings.sophos, settings.gap_data_type): each for each in settings.integrations}
        made = {key: _kept.get(key) or _integration(each) for key, each in present.items()}
        _kept.clear()
        _kept.update(made)
    return {each.feed.name: each for each in made.values()}


def _integration(each: configuration.Integration) -> Integration:
    from lib.pipeline.accounts import Integration

    # Whoever changed it may have set right what Sophos refused.
    _accounts().forget(each.name)
    calls = rate_limiter(each.client_id.resolve, each.calls_per_minute)
    source = _central_of(each, calls)
    return Integration(
        feed=feed_of(each, config().gap_data_type),
        source=source,
        client_id=each.client_id.resolve,
        api_url=config().sophos.api_url,
        rate_limiter=calls,
        in_use=lambda: source.in_use,
    )


def deadline() -> float:
    """When a call that begins now has to hand over, as a monotonic time: in good time before the platform ends it."""
    seconds = config().limits.deadline.total_seconds()
    platform = configuration.platform_timeout()
    if platform is not None:
        seconds = min(seconds, max(1.0, platform.total_seconds() - HAND_OVER_SECONDS))
    return time.monotonic() + seconds


def _accounts() -> Accounts:
    return _accounts_of(config().store)


@lru_cache(maxsize=1)
def _accounts_of(location: str) -> Accounts:
    from lib.pipeline.accounts import Accounts

    return Accounts(_opened(location), now=now, jitter=random.SystemRandom().random)


def _reconcile() -> Reconcile:
    from lib.pipeline.reconcile import Reconcile
    from lib.sophos.pages import event_fields
    from lib.state.state import State

    return Reconcile(state=State.of(store()), event_fields=event_fields, now=now, monotonic=time.monotonic)


@cache
def _in_flight() -> InFlight:
    from lib.pipeline.fetch_page import InFlight

    return InFlight()


def _fetch_page() -> FetchPage:
    from lib.pipeline.fetch_page import FetchPage
    from lib.sophos.pages import event_fields
    from lib.state.schedules import Schedules
    from lib.state.state import State

    return FetchPage(
        state=State.of(store()),
        accounts=_accounts(),
        integrations=integrations(),
        event_fields=event_fields,
        reconcile=_reconcile(),
        schedules=Schedules(store()),
        every=lambda: config().every.seconds_after(now()),
        max_pending_bytes=config().limits.max_pending_bytes,
        now=now,
        monotonic=time.monotonic,
        in_flight=_in_flight(),
    )


@cache
def _fan_out() -> FanOut | None:
    """None where one call does the work of a tick."""
    settings = config().tasks
    if settings is None:
        return None
    from lib.pipeline.fan_out import FanOut
    from lib.tasks import CloudTasks, Target

    timeout = configuration.platform_timeout() or config().limits.deadline + timedelta(seconds=HAND_OVER_SECONDS)
    queue = CloudTasks(
        settings.queue,
        Target(settings.url, settings.service_account, dispatch_deadline=timeout),
        api_url=settings.api_url,
        jitter=random.SystemRandom().random,
    )
    return FanOut(queue, interval=config().every.interval or timedelta(minutes=1), now=now)


def fetch_page(
    integration: str | None = None, tenant: str | None = None, stream: str | None = None, max_pages: int | None = None
) -> dict[str, Any]:
    """Fetch for every stream, or for those named; NotFoundError for an unknown integration.

    Where there is a task queue, a tick asks it for one call a stream instead, and such a call for the next one.
    """
    known(integration)
    if (integration, tenant, stream) == (None, None, None):
        return _beat() | _fetched(max_pages=max_pages)
    return _fetched(integration, tenant, stream, max_pages)


def _beat() -> dict[str, Any]:
    """A tick's heartbeat, where one is wanted and due: under `heartbeat` the name of its batch."""
    every = config().heartbeat
    if every is None:
        return {}
    from lib.pipeline import heartbeat
    from lib.sophos.pages import event_fields
    from lib.state.state import State

    try:
        tenant = configuration.UTMSTACK_TENANT
        key = heartbeat.beat(State.of(store()), every, now=now(), tenant_id=tenant, event_fields=event_fields)
    except ConnectorError as error:
        # What it is to tell of has happened; the streams go on as far as they can.
        log.warning("no heartbeat: %s", error)
        return {}
    return {} if key is None else {"heartbeat": key}


def _fetched(
    integration: str | None = None, tenant: str | None = None, stream: str | None = None, max_pages: int | None = None
) -> dict[str, Any]:
    fan_out = _fan_out()
    if fan_out is not None and (integration, tenant, stream, max_pages) == (None, None, None, None):
        plan = _fetch_page().plan(deadline=deadline())
        queued = fan_out.tick([target.stream for _, target in plan.jobs])
        return {"results": plan.lines, "deferred": plan.deferred, "budgets": _budgets(), "queued": queued}
    fetched = _fetch_page().run(
        integration=integration, tenant=tenant, kind=stream, max_pages=max_pages, deadline=deadline()
    )
    if fan_out is not None and tenant is not None:
        fan_out.follow(fetched.lines)
    return {"results": fetched.lines, "deferred": fetched.deferred, "budgets": _budgets()}


def _budgets() -> list[dict[str, Any]]:
    return [
        {"integration": name, **asdict(each.rate_limiter.used()), "outcomes": dict(each.source.counts)}
        for name, each in integrations().items()
    ]


def reconcile(
    integration: str | None = None,
    since: timedelta | None = None,
    tell: Callable[[str, int, datetime | None], None] = lambda _, __, ___: None,
) -> list[dict[str, Any]]:
    """Read what Sophos still serves, or a window of it, to its end, and store what the ledger does not hold.

    `tell` hears, after each page, of which stream how many events were read, and the newest one's time.
    """
    known(integration)
    reports = []
    for name, each in integrations().items():
        if integration in (None, name):
            each.rate_limiter.patience = COMMAND_SECONDS
            for target in _accounts().targets(each.feed, each.source, each.client_id(), each.api_url):
                if target.stream.kind == ENDPOINTS:
                    continue  # Each look reads the whole inventory.
                end = time.monotonic() + COMMAND_SECONDS
                heard = partial(tell, str(target.stream))
                reports.append(_reconcile().run(each, target, deadline=end, pages=None, since=since, tell=heard))
    return reports


def count_types(integration: str | None, window: timedelta) -> list[dict[str, Any]]:
    """Which types of events Sophos holds of a window, by family, and what leaving them out would save."""
    from lib.pipeline.count_types import CountTypes
    from lib.sophos.pages import event_fields

    known(integration)
    use_case = CountTypes(event_fields, now, time.monotonic)
    reports = []
    for name, each in integrations().items():
        if integration in (None, name):
            each.rate_limiter.patience = COMMAND_SECONDS
            targets = _accounts().targets(
                replace(each.feed, kinds=(EVENTS,)), each.source, each.client_id(), each.api_url
            )
            end = time.monotonic() + COMMAND_SECONDS
            reports.append(use_case.run(each, targets, window=window, deadline=end))
    return reports


def pause(integration: str, *, resume: bool = False) -> None:
    """Have nothing fetched for the integration until it is resumed; what is stored is still delivered."""
    known(integration)
    _accounts().pause(integration, resume=resume)


def lift(integration: str) -> None:
    """Hold the integration back no longer, unless Sophos asked for it: somebody may have mended what it was about."""
    from lib.state.state import State

    known(integration)
    _accounts().lift(integration)
    State.of(store()).checkpoints.lift(integration)


def _forward_batch() -> ForwardBatch:
    from lib.pipeline.forward_batch import ForwardBatch
    from lib.pipeline.observe import KEPT, NullEngine
    from lib.sophos.pages import event_fields
    from lib.state.state import State

    settings = config()
    return ForwardBatch(
        state=State.of(store()),
        engine=NullEngine() if settings.observe else engine(),
        observes=settings.observe,
        event_fields=event_fields,
        holder=lambda: str(uuid.uuid4()),
        now=now,
        monotonic=time.monotonic,
        gap_data_type=settings.gap_data_type,
        utmstack_tenant_id=configuration.UTMSTACK_TENANT,
        archive=max(settings.archive or KEPT, KEPT) if settings.observe else settings.archive,
        expiry=_expiry(settings.store),
    )


@lru_cache(maxsize=1)
def _expiry(_location: str) -> Expiry:
    from lib.pipeline.expiry import Expiry

    return Expiry()


def forward_batch(
    integration: str | None = None, tenant: str | None = None, stream: str | None = None
) -> dict[str, Any] | Refused:
    """Forward every stream's waiting batches, or those named; NotFoundError for an unknown integration."""
    known(integration)
    return _forwarded(integration=integration, tenant=tenant, kind=stream)


def replay(*, since: datetime | None = None, name: str | None = None) -> dict[str, Any]:
    """Send kept batches, or what was set aside under a name, to the engine again, under the same ids."""
    from lib.pipeline.replay import Replay
    from lib.sophos.pages import event_fields
    from lib.state.state import State

    use_case = Replay(State.of(store()), engine(), event_fields)
    return use_case.archived(since) if name is None else use_case.named(name)


def switch_over(after: str) -> dict[str, Any]:
    """Send what was observed behind the event with that native id; NotFoundError where it was not observed."""
    from lib.pipeline.replay import Replay
    from lib.sophos.pages import event_fields
    from lib.state.state import State

    return Replay(State.of(store()), engine(), event_fields).observed_after(after)


def forward_object(name: str) -> dict[str, Any] | Refused:
    """Forward what waits in the stream whose batch has just been stored; nothing for any other object."""
    from lib.state.batches import batch_of

    if config().store.startswith("gs://"):
        from lib.store.gcs import place_of

        name = name.removeprefix(place_of(config().store)[1])  # a bucket names its objects with the store's prefix
    batch = batch_of(name)
    if batch is None:
        return {"results": []}
    stream = batch[0]
    return _forwarded(integration=stream.integration, tenant=stream.tenant, kind=stream.kind)


def _forwarded(**stream: str | None) -> dict[str, Any] | Refused:
    results = _forward_batch().run(**stream, deadline=deadline())
    problem = next((line["problem"] for line in results if "problem" in line), None)
    return {"results": results} if problem is None else Refused(results, problem["code"], problem["detail"])


def test_connection(
    integration: str | None = None,
    *,
    client_id: str = "",
    client_secret: str = "",
    region: str = "auto",
    tenant: str | None = None,
    streams: Sequence[str] = ("events",),
) -> dict[str, Any]:
    """Test a configured integration, or credentials that are kept nowhere."""
    from lib.pipeline.test_connection import Subject

    known(integration)
    if integration is not None:
        return examine(integration, deadline=deadline())
    calls = rate_limiter(lambda: client_id, quota.PUBLISHED)
    source = central(Credential(lambda: client_id, lambda: client_secret), calls)
    subject = Subject(source, calls, region, (tenant,) if tenant else None, tuple(streams))
    return _test_connection().run(subject, deadline=deadline())


def examine(
    integration: str, *, deadline: float, tell: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Test a configured integration; `tell` hears of each check once it is made."""
    from lib.pipeline.test_connection import Subject

    chosen = next(each for each in config().integrations if each.name == integration)
    calls = rate_limiter(chosen.client_id.resolve, chosen.calls_per_minute)
    source = _central_of(chosen, calls)
    subject = Subject(source, calls, chosen.region, chosen.tenants, chosen.streams)
    return _test_connection().run(subject, deadline=deadline, tell=tell)


@cache
def _test_connection() -> TestConnection:
    from lib.pipeline.test_connection import Surroundings, TestConnection, check_store
    from lib.sophos.pages import event_fields

    def probe() -> str:
        engine().probe()
        return config().engine

    return TestConnection(
        Surroundings(
            store=lambda: check_store(store()),
            engine=probe,
            event_fields=event_fields,
            now=now,
            monotonic=time.monotonic,
        )
    )


def known(integration: str | None) -> None:
    """Raise NotFoundError for an integration that is not configured."""
    names = [each.name for each in config().integrations]
    if integration is not None and integration not in names:
        raise NotFoundError(
            f"no integration is named {integration!r}; configured are: {', '.join(map(repr, names)) or 'none'}"
        )
