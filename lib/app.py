"""The object graph: every use case, built from settings, clock, store, engine and Sophos.

Only this file and `lib/parts.py` connect adapters with protocols. Adapters are imported where they are built, so that a
function loads only what it uses. Deployed functions use the `App` of `lib/current.py`; a command or a test builds one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING

from lib.config.secrets import credential
from lib.config.settings import CLOUD_RUN, AccessRules, Config, EngineAccess, IntegrationConfig, SophosHosts
from lib.errors import ConnectorError, NotFoundError
from lib.http.access import Access, Rules
from lib.model.integration import UTMSTACK_TENANT
from lib.model.rate_policy import PUBLISHED
from lib.parts import ClientCredential, Kept, Parts, connect_sophos, credentials_of, made_expiry
from lib.pipeline.in_flight import InFlight
from lib.pipeline.pending import PendingBytes
from lib.store.base import ObjectStore

if TYPE_CHECKING:
    from lib.pipeline.accounts import Accounts
    from lib.pipeline.checks import CheckContext, CheckSubject
    from lib.pipeline.count_types import TypesReport
    from lib.pipeline.delivery_result import DeliveryResult
    from lib.pipeline.fan_out import FanOut
    from lib.pipeline.fetch_page import Fetched, FetchPage
    from lib.pipeline.forward_batch import ForwardBatch
    from lib.pipeline.integration import Integration
    from lib.pipeline.ports import ProbedEngine
    from lib.pipeline.rate_limiter import RateLimiter
    from lib.pipeline.reconcile import OnStreamProgress, Reconcile, ReconcileReport
    from lib.pipeline.replay import Replay
    from lib.pipeline.test_connection import Check, ConnectionReport, TestConnection
    from lib.state.state import State

# ruff: noqa: PLC0415 - adapters are imported where they are built

log = logging.getLogger(__name__)

HAND_OVER_SECONDS = 15.0
"""The longest time that finishing a call takes after its deadline: acknowledgements, a receipt, the answer."""
COMMAND_SECONDS = 3600.0
"""How long an operator's command may read one stream, and how long it may wait for a call within the rate limit."""


class App:
    """The use cases over one configuration; safe between threads.

    An integration's tokens and connections, and the channel to the engine, are created at their first use. They are
    kept as long as their own settings stay equal.
    """

    def __init__(self, config: Callable[[], Config], parts: Parts | None = None) -> None:
        """`config` returns the current configuration."""
        self.config = config
        self.parts = parts or Parts()
        self._store = Kept(self.parts.store)
        self._engine = Kept[tuple[str, EngineAccess, timedelta], "ProbedEngine"](lambda of: self.parts.engine(*of))
        self._access = Kept(self._made_access)
        self._accounts = Kept(self._made_accounts)
        self._expiry = Kept(made_expiry)
        self._integrations: dict[tuple[IntegrationConfig, SophosHosts], Integration] = {}
        """The integrations of the last call, by everything that they are built from."""
        self._in_flight = InFlight()
        self._pending = Kept[str, PendingBytes](lambda _: PendingBytes(self.parts.monotonic))
        self._lock = threading.Lock()

    # The parts that use cases share

    @property
    def store(self) -> ObjectStore:
        """The configured store."""
        return self._store.of(self.config().store)

    @property
    def state(self) -> State:
        """The objects of the configured store, one repository for each kind."""
        from lib.state.state import State

        return State.of(self.store)

    @property
    def engine(self) -> ProbedEngine:
        """The configured engine."""
        settings = self.config()
        return self._engine.of((settings.engine, settings.engine_access, settings.limits.ack_timeout))

    @property
    def access(self) -> Access:
        """The check of callers from other machines."""
        return self._access.of(self.config().access)

    def _made_access(self, rules: AccessRules) -> Access:
        return Access(
            Rules(
                keys=lambda: [key.resolve() for key in rules.keys],
                audiences=rules.audiences,
                emails=rules.emails,
                # The setting counts on Cloud Run only: elsewhere no platform has checked the callers.
                checked_by_platform=rules.platform == CLOUD_RUN and self.parts.platform.is_cloud_run,
                certs_url=rules.certs_url,
                local_shows_key=rules.local == "key" and not self.parts.platform.is_behind_emulator,
            )
        )

    @property
    def accounts(self) -> Accounts:
        """The stored facts of the integrations' credentials."""
        return self._accounts.of(self.config().store)

    def _made_accounts(self, location: str) -> Accounts:
        from lib.pipeline.accounts import Accounts

        return Accounts(self._store.of(location), now=self.parts.now, jitter=self.parts.random)

    @property
    def integrations(self) -> Mapping[str, Integration]:
        """All configured integrations by name, each with one pooled session. Unchanged integrations are kept."""
        settings = self.config()
        with self._lock:
            before = self._integrations
            self._integrations = {
                (integration, settings.sophos): before.get((integration, settings.sophos)) or self._changed(integration)
                for integration in settings.integrations
            }
            return {integration.name: integration for integration in self._integrations.values()}

    def _changed(self, config: IntegrationConfig) -> Integration:
        # The change may correct a refused credential. So the stored refusal no longer holds it back.
        self.accounts.forget(config.name)
        return self._integration(config)

    def _integration(self, config: IntegrationConfig, patience: float | None = None) -> Integration:
        from lib.pipeline.integration import Integration

        hosts = self.config().sophos
        calls = self._rate_limiter(partial(credential, config.client_id), config.calls_per_minute, patience)
        source = self.parts.sophos(self.parts, hosts, credentials_of(config), calls)
        return Integration(config, source, partial(credential, config.client_id), hosts.api_url, calls)

    def _patient(self, name: str | None) -> Iterable[Integration]:
        """The integrations for a command. It waits for the rate limit; a tick leaves the rest to the next tick."""
        return [
            self._integration(integration, COMMAND_SECONDS)
            for integration in self.config().integrations
            if name in (None, integration.name)
        ]

    def _rate_limiter(
        self, client_id: Callable[[], str], per_minute: int, patience: float | None = None
    ) -> RateLimiter:
        from lib.pipeline.rate_limiter import PATIENCE_SECONDS, RateLimiter

        return RateLimiter(
            lambda: self.store,
            client_id,
            per_minute,
            now=self.parts.now,
            monotonic=self.parts.monotonic,
            sleep=self.parts.sleep,
            jitter=self.parts.random,
            patience=PATIENCE_SECONDS if patience is None else patience,
        )

    # The use cases

    @property
    def fetch_page(self) -> FetchPage:
        """Reads streams from Sophos and stores their pages as batches."""
        from lib.pipeline.fetch_page import FetchPage
        from lib.pipeline.read_stream import ReadContext
        from lib.sophos.pages import event_fields
        from lib.state.schedules import Schedules

        settings = self.config()
        return FetchPage(
            context=ReadContext(
                state=self.state,
                accounts=self.accounts,
                reconcile=self.reconcile,
                event_fields=event_fields,
                gap_data_type=settings.gap_data_type,
                now=self.parts.now,
                monotonic=self.parts.monotonic,
            ),
            integrations=self.integrations,
            schedules=Schedules(self.store),
            pending=self._pending.of(settings.store),
            max_pending_bytes=settings.limits.max_pending_bytes,
            every=lambda: settings.every.seconds_after(self.parts.now()),
            in_flight=self._in_flight,
        )

    @property
    def reconcile(self) -> Reconcile:
        """Reads streams again and stores events that the ledger does not hold."""
        from lib.pipeline.reconcile import Reconcile
        from lib.sophos.pages import event_fields

        return Reconcile(self.state, event_fields, self.parts.now, self.parts.monotonic, self.parts.sleep)

    @property
    def forward_batch(self) -> ForwardBatch:
        """Delivers waiting batches to the engine."""
        from lib.pipeline.deliver_stream import DeliveryContext
        from lib.pipeline.forward_batch import ForwardBatch
        from lib.pipeline.observe import KEPT, NullEngine
        from lib.sophos.pages import event_fields

        settings = self.config()
        context = DeliveryContext(
            state=self.state,
            engine=NullEngine() if settings.observe else self.engine,
            event_fields=event_fields,
            now=self.parts.now,
            monotonic=self.parts.monotonic,
            gap_data_type=settings.gap_data_type,
            utmstack_tenant_id=UTMSTACK_TENANT,
            archive=max(settings.archive or KEPT, KEPT) if settings.observe else settings.archive,
            observes=settings.observe,
        )
        return ForwardBatch(context, self.parts.holder, self._expiry.of(settings.store))

    @property
    def replay(self) -> Replay:
        """Sends archived batches and dead letters again."""
        from lib.pipeline.replay import Replay
        from lib.sophos.pages import event_fields

        return Replay(self.state, self.engine, event_fields)

    @property
    def test_connection(self) -> TestConnection:
        """Tests a credential, the store and the engine."""
        from lib.pipeline.test_connection import TestConnection

        return TestConnection(self._check_context())

    def _check_context(self) -> CheckContext:
        from lib.pipeline.checks import CheckContext
        from lib.pipeline.test_connection import check_store
        from lib.sophos.pages import event_fields

        def probe() -> str:
            self.engine.probe()
            return self.config().engine

        return CheckContext(
            store=lambda: check_store(self.store),
            engine=probe,
            event_fields=event_fields,
            now=self.parts.now,
            monotonic=self.parts.monotonic,
        )

    @cached_property
    def _fan_out(self) -> FanOut | None:
        """The fan-out over the task queue; None if one call does the work of a tick."""
        settings = self.config()
        if settings.tasks is None:
            return None
        from lib.pipeline.fan_out import FanOut
        from lib.tasks import CloudTasks, TaskTarget

        timeout = self.parts.platform.timeout or settings.limits.deadline + timedelta(seconds=HAND_OVER_SECONDS)
        queue = CloudTasks(
            settings.tasks.queue,
            TaskTarget(settings.tasks.url, settings.tasks.service_account, dispatch_deadline=timeout),
            api_url=settings.tasks.api_url,
            jitter=self.parts.random,
        )
        return FanOut(queue, interval=settings.every.interval or timedelta(minutes=1), now=self.parts.now)

    # Calls of the use cases, for functions, commands and the page

    def deadline(self) -> float:
        """The monotonic time at which a call that begins now must stop, well before the platform ends it."""
        seconds, timeout = self.config().limits.deadline.total_seconds(), self.parts.platform.timeout
        if timeout is not None:
            seconds = min(seconds, max(1.0, timeout.total_seconds() - HAND_OVER_SECONDS))
        return self.parts.monotonic() + seconds

    def fetch(
        self,
        integration: str | None = None,
        tenant: str | None = None,
        stream: str | None = None,
        max_pages: int | None = None,
    ) -> Fetched:
        """Fetch all streams, or those named; NotFoundError for an unknown integration, tenant or kind.

        With a task queue, a tick only adds a task for each stream. A task's call adds the next one for further pages.
        """
        from lib.pipeline.fetch_page import Fetched

        self.require(integration)
        heartbeat = self._beat() if (integration, tenant, stream) == (None, None, None) else None
        use_case, fan_out = self.fetch_page, self._fan_out
        if fan_out is not None and (integration, tenant, stream, max_pages) == (None, None, None, None):
            plan = use_case.plan(deadline=self.deadline())
            queued = fan_out.tick([target.stream for _, target in plan.jobs])
            return Fetched(plan.results, plan.deferred, use_case.calls_used(), queued, heartbeat)
        by = self.deadline()
        fetched = use_case.run(integration=integration, tenant=tenant, kind=stream, max_pages=max_pages, deadline=by)
        if not fetched.results:
            self._require_stream(integration, tenant, stream)
        if fan_out is not None and tenant is not None:
            fan_out.follow(fetched.results)
        return replace(fetched, budgets=use_case.calls_used(), heartbeat=heartbeat)

    def _beat(self) -> str | None:
        """Store a heartbeat if one is due; the key of its batch, or None."""
        every = self.config().heartbeat
        if every is None:
            return None
        from lib.pipeline import heartbeat
        from lib.sophos.pages import event_fields

        now = self.parts.now()
        try:
            return heartbeat.beat(self.state, every, now=now, tenant_id=UTMSTACK_TENANT, event_fields=event_fields)
        except ConnectorError as error:
            # A missing heartbeat is itself the signal. The streams continue as far as they can.
            log.warning("the heartbeat could not be stored: %s", error)
            return None

    def forward(
        self, integration: str | None = None, tenant: str | None = None, stream: str | None = None
    ) -> list[DeliveryResult]:
        """Forward the waiting batches of all streams, or of those named; NotFoundError as in `fetch`."""
        self.require(integration)
        results = self.forward_batch.run(integration=integration, tenant=tenant, kind=stream, deadline=self.deadline())
        if tenant is None and stream is None:
            return results
        if not any(result.pending or self.state.checkpoints.is_there(result.stream) for result in results):
            self._require_stream(integration, tenant, stream)
        return results

    def forward_object(self, name: str) -> list[DeliveryResult]:
        """Forward the waiting batches of the stream to which the stored batch belongs; do nothing for other objects."""
        from lib.state.batches import batch_of

        location = self.config().store
        if location.startswith("gs://"):
            from lib.store.gcs import place_of

            name = name.removeprefix(place_of(location)[1])  # The bucket's event names the object with the prefix.
        if (batch := batch_of(name)) is None:
            return []
        stream, number = batch
        named = {"integration": stream.integration, "tenant": stream.tenant, "kind": stream.kind}
        return self.forward_batch.run(**named, batch=number, deadline=self.deadline())

    def reconcile_all(
        self,
        integration: str | None = None,
        since: timedelta | None = None,
        on_progress: OnStreamProgress = lambda _, __, ___: None,
        *,
        tenant: str | None = None,
    ) -> list[ReconcileReport]:
        """Read everything that Sophos still serves, or a window of it, and store the events that the ledger lacks.

        After each page, `on_progress` gets the stream, the number of events read, and the time of the newest one.
        Raises NotFoundError for an unknown integration, and if no integration reads the tenant (an id or a name).
        """
        self.require(integration)
        return self.reconcile.all(
            self._patient(integration), self.accounts, tenant, since, seconds=COMMAND_SECONDS, on_progress=on_progress
        )

    def count_types(
        self, integration: str | None, window: timedelta, on_progress: OnStreamProgress = lambda _, __, ___: None
    ) -> list[TypesReport]:
        """The types of events of a window, by family, and what excluding them would save."""
        from lib.pipeline.count_types import CountTypes
        from lib.sophos.pages import event_fields

        self.require(integration)
        counted, limit = self._patient(integration), COMMAND_SECONDS
        use_case = CountTypes(event_fields, self.parts.now, self.parts.monotonic)
        return use_case.all(counted, self.accounts, window=window, seconds=limit, on_progress=on_progress)

    def pause(self, integration: str, *, resume: bool = False) -> None:
        """Stop fetching for the integration until it is resumed. Stored batches are still delivered."""
        self.require(integration)
        self.accounts.pause(integration, resume=resume)

    def retry_now(self, integration: str) -> None:
        """Let the next tick try the integration again, without waiting. A wait that Sophos asked for (429) stays."""
        self.require(integration)
        self.accounts.retry_now(integration)
        self.state.checkpoints.retry_now(integration)

    def examine(
        self, integration: str, *, deadline: float, on_progress: Callable[[Check], None] = lambda _: None
    ) -> ConnectionReport:
        """Test a configured integration; `on_progress` gets each finished check."""
        self.require(integration)
        chosen = next(config for config in self.config().integrations if config.name == integration)
        calls = self._rate_limiter(partial(credential, chosen.client_id), chosen.calls_per_minute)
        subject = self._subject(credentials_of(chosen), calls, chosen.region, chosen.tenants, chosen.streams)
        return self.test_connection.run(subject, deadline=deadline, on_progress=on_progress)

    def examine_credential(
        self, client_id: str, client_secret: str, *, region: str, tenant: str | None, streams: Sequence[str]
    ) -> ConnectionReport:
        """Test a credential, which is not saved."""
        calls = self._rate_limiter(lambda: client_id, PUBLISHED)
        credential = ClientCredential(lambda: client_id, lambda: client_secret)
        subject = self._subject([credential], calls, region, (tenant,) if tenant else None, streams)
        return self.test_connection.run(subject, deadline=self.deadline())

    def _subject(
        self,
        credentials: Sequence[ClientCredential],
        calls: RateLimiter,
        region: str,
        tenants: tuple[str, ...] | None,
        streams: Sequence[str],
    ) -> CheckSubject:
        from lib.pipeline.checks import CheckSubject

        sophos = connect_sophos(self.parts, self.config().sophos, credentials, calls)
        return CheckSubject(sophos, calls, region, tenants, streams)

    def _require_stream(self, integration: str | None, tenant: str | None, kind: str | None) -> None:
        """Raise NotFoundError if no configured integration reads the tenant, or that kind of stream."""
        from lib.pipeline.accounts import require_stream

        names = [config for config in self.config().integrations if integration in (None, config.name)]
        if (tenant, kind) != (None, None):
            require_stream(names, self.accounts, tenant, kind)

    def require(self, integration: str | None) -> None:
        """Raise NotFoundError for an integration that is not configured."""
        names = [config.name for config in self.config().integrations]
        if integration not in (None, *names):
            listed = ", ".join(map(repr, names)) or "none"
            raise NotFoundError(f"no integration is named {integration!r}; the configured ones are: {listed}")
