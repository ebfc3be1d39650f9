"""The simulator as an object with methods to fill it, to add faults and to read its state."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

from emulator.central.accounts import Credential, IssuedTokens, RequestWindows, Tenant
from emulator.central.api import GLOBAL, Api, RefusedError, Settings, SimulatedAccount
from emulator.central.clock import DAY_MS, Clock
from emulator.central.control import PREFIX, Control
from emulator.central.faults import PAGE_FAULTS, Fault, FaultQueue
from emulator.central.feed import Record, record_of
from emulator.central.generator import Happening
from emulator.central.journal import Journal
from emulator.central.listener import Listener, Request, SimulatedAnswer
from emulator.central.samples import newest, shifted
from emulator.central.stories import Fields

if TYPE_CHECKING:
    import ssl

    from emulator.central.recording import Recording

_HTML = b"<html><head><title>Error</title></head><body><h1>The gateway could not answer</h1></body></html>"
_GATEWAY = b'{"fault": {"faultstring": "A scripted fault", "detail": {"errorcode": "messaging.adaptors.http.Fault"}}}'
_REQUESTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """An answered request."""

    method: str
    path: str
    query: dict[str, str]
    tenant: str | None
    status: int
    """0 if the connection was closed without an answer."""


class CentralServer:
    """A simulated Sophos Central. It listens from its creation until `close`, or in a `with`.

    The first tenant is the default one. A standing clock (`Clock(start=…)`) moves by a millisecond if a record is added
    after an answered query, so that the next query finds the record.
    """

    def __init__(
        self,
        *,
        address: tuple[str, int] = ("127.0.0.1", 0),
        tenants: Iterable[Tenant] = (Tenant(),),
        credentials: Iterable[Credential] = (Credential(),),
        clock: Clock | None = None,
        faults: Iterable[Fault] = (),
        settings: Settings = Settings(),  # noqa: B008 - it cannot change
        rate_limits: Iterable[Sequence[float]] = (),
        retry_after: bool = False,
        control: bool = True,
        journal: Path | None = None,
        regions: Sequence[str] = (),
        tls_ca: Path | None = None,
    ) -> None:
        """With a `journal`, the records of an earlier server are loaded; OSError if it cannot be used.

        With `regions`, each region has its own host at the following ports (any free ones for port 0). With `tls_ca`,
        every host serves HTTPS, and the CA certificate is written to that file.
        """
        self.clock = clock or Clock()
        self.faults = FaultQueue(faults)
        self.limiter = RequestWindows(self.clock, rate_limits, retry_after=retry_after)
        self.requests: deque[AnsweredRequest] = deque(maxlen=_REQUESTS_KEPT)
        """The newest answered requests, oldest first."""
        self._account = SimulatedAccount(
            clock=self.clock,
            tenants={},
            credentials={},
            regions=frozenset(regions),
            tokens=IssuedTokens(self.clock, settings.token_seconds),
            limiter=self.limiter,
            settings=settings,
            journal=Journal(journal) if journal else None,
        )
        self._account.put_tenants(tenants)
        self._account.put_credentials(credentials)
        if self._account.journal is not None:
            for tenant, kind, record in self._account.journal.records():
                if tenant in self.tenants:
                    self._account.feed(tenant, kind).restore(record)
        self.default_tenant = next(iter(self._account.tenants))
        self._counts: Counter[tuple[str, int]] = Counter()
        self._control = Control(self) if control else None
        self._counting = threading.Lock()
        self._making = threading.Lock()
        self._quiet = threading.Event()
        self._emitter: threading.Thread | None = None
        host, port = address
        tls = _tls(host, tls_ca)
        self._listeners: list[Listener] = []
        try:
            for number, region in enumerate([GLOBAL if regions else "", *regions]):
                own = host, port + number if port else 0
                self._listeners.append(Listener(own, self._answer, self.clock.now, region=region, tls=tls))
        except OSError:
            for listener in self._listeners:
                listener.server_close()
            raise
        self.url = self._listeners[0].url
        """The URL of the global host and of the token host, without a slash at the end."""
        self.regions = {listener.region: listener.url for listener in self._listeners[1:]}
        """The URLs of the regions; empty if `url` serves everything."""
        self._api = Api(self._account, self.url, self.regions)
        for listener in self._listeners:
            listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop emitting and listening, and close every connection."""
        for listener in self._listeners:
            listener.closing.set()
        self.stop_emitting()
        for listener in self._listeners:
            listener.close()
        if self._account.journal is not None:
            self._account.journal.close()

    # Reading its state

    def ids(self, tenant: str, kind: str = "events") -> list[str]:
        """The native ids of a stream's records that have one, in order."""
        return [record.id for record in self._account.feed(tenant, kind).records() if record.id is not None]

    def raws(self, tenant: str, kind: str = "events") -> list[bytes]:
        """The exact bytes of each record of a stream, in order."""
        return [record.raw for record in self._account.feed(tenant, kind).records()]

    @property
    def stats(self) -> dict[str, Any]:
        """Requests by path and status, and how many records each stream holds."""
        with self._counting:
            counts = self._counts.copy()
        requests: dict[str, dict[str, int]] = {}
        for (path, status), count in sorted(counts.items()):
            requests.setdefault(path, {})[str(status)] = count
        held: dict[str, dict[str, int]] = {}
        for (tenant, kind), feed in self._account.feeds().items():
            held.setdefault(tenant, {})[kind] = len(feed)
        return {"requests": requests, "held": held, "faults_waiting": len(self.faults.waiting())}

    # Adding records

    def append(self, tenant: str, kind: str, raws: Iterable[bytes]) -> list[str]:
        """Store JSON values with their exact bytes, each at its `created_at`, or now if it has none; return their ids.

        KeyError if there is no such stream, ValueError if a value is not JSON.
        """
        feed = self._account.feed(tenant, kind)
        return [record.id for record in map(feed.add_raw, raws) if record.id is not None]

    def insert_late(self, tenant: str, kind: str, raws: Iterable[bytes] | int, *, seconds: float = 60) -> list[str]:
        """Store JSON values, or so many generated events, so many seconds before the newest answered query.

        Values keep their bytes, whatever `created_at` they hold.
        """
        feed = self._account.feed(tenant, kind)
        created = feed.behind(seconds)
        if isinstance(raws, int):
            with self._making:
                records = [self._account.generator(tenant).event(created).record for _ in range(raws)]
        else:
            records = [record_of(raw, lambda: created)._replace(created=created) for raw in raws]
        feed.add(records)
        return [record.id for record in records if record.id is not None]

    def emit(self, count: int = 1, *, tenant: str | None = None) -> list[str]:
        """Generate events at the present time, with their alerts; return the events' ids."""
        return [self._happen(tenant or self.default_tenant) for _ in range(count)]

    def fill(self, count: int, *, hours: float = 20, tenant: str | None = None) -> None:
        """Generate so many events, with their alerts, over the past hours, some of them in bursts."""
        tenant = tenant or self.default_tenant
        now, span = self.clock.now(), int(hours * 3_600_000)
        random = Random(f"{self._account.settings.seed}/{tenant}/{count}")
        bursts = [random.random() for _ in range(24)]
        places = (
            random.random() if random.random() < 0.7 else min(random.choice(bursts) + random.random() / 200, 1.0)
            for _ in range(count)
        )
        with self._making:
            generator = self._account.generator(tenant)
            happenings = [generator.event(now - int(place * span)) for place in sorted(places, reverse=True)]
            alerts = [
                generator.alert(happening, happening.record.created + 1 + index % 40)
                for index, happening in enumerate(happenings)
            ]
        self._account.feed(tenant, "events").add(happening.record for happening in happenings)
        self._account.feed(tenant, "alerts").add(alert for alert in alerts if alert is not None)

    def load_samples(self, events: Path, alerts: Path | None = None, *, tenant: str | None = None) -> None:
        """Store the records of JSON-lines files. All times move equally, so that the newest record is a second old."""
        kinds = {"events": events} | ({} if alerts is None else {"alerts": alerts})
        lines = {kind: path.read_bytes().splitlines() for kind, path in kinds.items()}
        by = self.clock.now() - 1000 - max(map(newest, lines.values()))
        for kind, held in lines.items():
            self.append(tenant or self.default_tenant, kind, shifted(held, by))

    def replay(self, recording: Recording, speed: float = 1.0) -> None:
        """Serve a recording's streams from now on, at `speed` times the recorded speed; 0: everything at once."""
        self._account.put_feeds(recording.feeds(self.clock, speed))

    def start_emitting(self, per_minute: float, *, tenant: str | None = None) -> None:
        """Generate events of one or all tenants in the background until `close`, some in bursts.

        Records over two days old are removed.
        """
        if per_minute <= 0 or self._emitter is not None:
            raise ValueError("the rate must be above 0, and emitting can start only once")
        self._emitter = threading.Thread(target=self._emit, args=(per_minute, tenant), name="emitter", daemon=True)
        self._emitter.start()

    def stop_emitting(self) -> None:
        """Stop generating events."""
        self._quiet.set()
        if self._emitter is not None:
            self._emitter.join()

    def announce_renewal(self, *, tenant: str | None = None) -> str:
        """Create the event that announces the end of the API credential; return its id."""
        tenant, made = tenant or self.default_tenant, list[Record]()
        with self._making:
            generator = self._account.generator(tenant)

            def renewal(created: int) -> Record:
                made.append(generator.renewal(created))
                return made[0]

            self._account.feed(tenant, "events").add_now(renewal)
        return str(made[0].id)

    # Tenants, credentials, devices

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """The tenants by id."""
        return self._account.tenants

    @property
    def credentials(self) -> Mapping[str, Credential]:
        """The credentials by client id."""
        return self._account.credentials

    def put_tenant(self, tenant: Tenant) -> None:
        """Add a tenant, or replace the one with this id; ValueError if its region has no host."""
        self._account.put_tenants([tenant])

    def remove_tenant(self, tenant: str) -> None:
        """Remove a tenant. Its records return if it is added again."""
        self._account.remove_tenant(tenant)

    def put_credential(self, credential: Credential) -> None:
        """Add a credential, or replace the one with this client id. Issued tokens stay valid."""
        self._account.put_credentials([credential])

    def remove_credential(self, client_id: str) -> None:
        """Delete a credential. Its tokens become invalid."""
        self._account.remove_credential(client_id)

    def set_token_seconds(self, seconds: int) -> None:
        """Set the lifetime of tokens that are issued from now on."""
        self._account.tokens.lifetime_seconds = seconds

    def devices(self, tenant: str | None = None) -> list[Fields]:
        """A tenant's current devices in the endpoint API's form, ordered by id."""
        return self._account.devices(tenant or self.default_tenant)

    def put_device(self, fields: Fields, *, tenant: str | None = None) -> str:
        """Add a device, or change the named fields of the one with this `id`; return its id."""
        return self._account.put_device(tenant or self.default_tenant, fields)

    def remove_device(self, id_: str, *, tenant: str | None = None) -> None:
        """Remove a device; KeyError if there is none with this id."""
        self._account.remove_device(tenant or self.default_tenant, id_)

    # Faults

    def revoke_tokens(self, client_id: str | None = None) -> None:
        """Make all issued tokens invalid, or those of one credential."""
        self._account.tokens.revoke(client_id)

    def disable(self, client_id: str) -> None:
        """Let a credential expire: its secret and tokens are refused from now on."""
        self.put_credential(replace(self.credentials[client_id], expired=True))

    def expire_cursors(self) -> None:
        """Treat all issued cursors as older than 24 hours: they are ignored without an error."""
        for feed in self._account.feeds().values():
            feed.expire_cursors()

    # Internals

    def _happen(self, tenant: str) -> str:
        made: list[Happening] = []
        with self._making:
            generator = self._account.generator(tenant)

            def event(created: int) -> Record:
                made.append(generator.event(created))
                return made[0].record

            self._account.feed(tenant, "events").add_now(event)
            record = made[0].record
            alerts = self._account.feed(tenant, "alerts")
            alerts.add_now(lambda created: generator.alert(made[0], created), earliest=record.created + 3)
        return made[0].fields["id"]  # type: ignore[no-any-return]

    def _emit(self, per_minute: float, tenant: str | None) -> None:
        random = Random(self._account.settings.seed)
        # The thread wakes at most ten times a second. One wake in 40 emits a burst; longer pauses compensate for it.
        batch = max(1, round(per_minute / 600))
        pause = 60 / per_minute * batch * 1.35
        while not self._quiet.wait(random.expovariate(1 / pause)):
            burst = random.randrange(40) == 0
            with suppress(KeyError):  # The tenant may have just been removed.
                self.emit(batch * (15 if burst else 1), tenant=tenant or random.choice(list(self.tenants)))
            if burst:
                for feed in self._account.feeds().values():
                    feed.drop_before(self.clock.now() - 2 * DAY_MS)

    def _answer(self, request: Request) -> SimulatedAnswer:
        if request.path.startswith(PREFIX) and self._control is not None:
            return self._control.answer(request)
        fault = self.faults.take(request)
        answer = self._api.answer(request) if fault is None else self._faulty(request, fault)
        status = 0 if answer.dropped else answer.status
        query = {name: values[0] for name, values in request.query.items()}
        with self._counting:
            self._counts[request.path, status] += 1
            self.requests.append(
                AnsweredRequest(request.method, request.path, query, request.headers.get("X-Tenant-ID"), status)
            )
        return answer

    def _faulty(self, request: Request, fault: Fault) -> SimulatedAnswer:
        match fault.fault:
            case "status":
                return self._error(request, fault)
            case "not_json":
                return SimulatedAnswer(200, _HTML, "text/html")
            case "redirect":
                return SimulatedAnswer(fault.status, headers={"Location": fault.location})
            case "close":
                return SimulatedAnswer(dropped=True)
            case "revoke_tokens":
                self.revoke_tokens()
            case "expire_cursors":
                self.expire_cursors()
        answer = self._api.answer(request, fault.fault if fault.fault in PAGE_FAULTS else None)
        return replace(
            answer,
            headers=answer.headers | ({"Date": fault.date} if fault.fault == "date" else {}),
            cut=fault.fault == "cut",
            delay_seconds=fault.seconds if fault.fault == "slow" else 0,
            filler=fault.size if fault.fault == "huge" else 0,
        )

    def _error(self, request: Request, fault: Fault) -> SimulatedAnswer:
        refusal = RefusedError(fault.status, "A scripted fault", retry_after=fault.retry_after)
        match fault.body:
            case "gateway":
                return SimulatedAnswer(fault.status, _GATEWAY, headers=refusal.headers)
            case "html":
                return SimulatedAnswer(fault.status, _HTML, "text/html", refusal.headers)
            case "empty":
                return SimulatedAnswer(fault.status, headers=refusal.headers)
        return self._api.refuse(request.path, refusal, bare=fault.body == "bare")


def _tls(host: str, ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    from emulator.central.certificates import tls_context  # noqa: PLC0415 - a slow import that only TLS needs

    return tls_context(host, ca_file)
