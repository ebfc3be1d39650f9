"""The use cases over a store, a Sophos and an engine whose calls are counted, in a process that kills itself at one.

Run as a program it lives a `Life` for each line of JSON that it reads, in a process of its own that begins with
everything imported, and prints how that one ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from lib.app import Credential, open_store
from lib.model.feed import Feed
from lib.model.log import Log
from lib.model.page import DevicePage, Page, Tenant, Whoami
from lib.model.rate_policy import PUBLISHED
from lib.pipeline.accounts import Accounts, Integration
from lib.pipeline.fetch_page import FetchPage
from lib.pipeline.forward_batch import ForwardBatch
from lib.pipeline.rate_limiter import RateLimiter
from lib.pipeline.reconcile import Reconcile
from lib.sophos.client import Central
from lib.sophos.pages import event_fields
from lib.state.schedules import Schedules
from lib.state.state import State
from lib.store.base import Entry, ObjectStore, Stored
from lib.utmstack.engine import Engine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Life:
    """Where a run lives, and where it dies."""

    store: str
    """A folder, or the URL of a bucket."""
    socket: str
    url: str
    ahead: float = 0.0
    """Seconds that its clock is ahead: a lease that somebody died with has ended."""
    dies_at: int = 0
    """The number of the call at which it is killed; 0: never."""
    after: bool = False
    """Killed right after the call, else right before."""
    kills: bool = True
    """By SIGKILL; else by an exception that nobody catches, after which no call is answered any more."""

    kinds: Sequence[str] = ("events",)
    calls_per_minute: int = PUBLISHED
    holder: str = "somebody"
    """Who it is to others."""

    def to_text(self) -> str:
        return json.dumps(asdict(self))


class Died(BaseException):
    """The run is over."""


class Fate:
    """Counts calls, and ends the process at one of them as nothing else can: by SIGKILL."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock = threading.Lock()
        self.calls: list[str] = []
        self._over = False

    def call(self, name: str, do: Callable[[], T]) -> T:
        with self._lock:
            if self._over:
                raise Died
            self.calls.append(name)
            doomed = len(self.calls) == self._life.dies_at
        if doomed and not self._life.after:
            self._die()
        result = do()
        if doomed:
            self._die()
        return result

    def _die(self) -> None:
        if self._life.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        self._over = True
        raise Died


class MortalStore:
    """A store whose calls are counted."""

    def __init__(self, store: ObjectStore, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    def read(self, key: str) -> Stored | None:
        return self._fate.call(f"read {key}", lambda: self._store.read(key))

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        return self._fate.call(f"write {key}", lambda: self._store.write(key, body, expected=expected))

    def delete(self, key: str, *, expected: int) -> None:
        self._fate.call(f"delete {key}", lambda: self._store.delete(key, expected=expected))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return iter(self._fate.call(f"list {prefix}", lambda: [*self._store.list(prefix, after=after)]))


class MortalSophos:
    """A Sophos whose calls are counted."""

    def __init__(self, central: Central, fate: Fate) -> None:
        self._central = central
        self._fate = fate

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        return self._fate.call("whoami", lambda: self._central.whoami(deadline=deadline))

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[Tenant]:
        return self._central.tenants(who, deadline=deadline)

    def devices(self, host: str, tenant: str, **request: Any) -> DevicePage:
        return self._fate.call("devices", lambda: self._central.devices(host, tenant, **request))

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._central.counts)

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        return self._central.clock(deadline=deadline)

    def page(self, host: str, tenant: str, kind: str, **request: Any) -> Page:
        return self._fate.call("page", lambda: self._central.page(host, tenant, kind, **request))


class MortalEngine:
    """An engine whose deliveries are counted: their beginning, some acknowledgements, their end."""

    def __init__(self, engine: Engine, fate: Fate) -> None:
        self._engine = engine
        self._fate = fate

    def deliver(self, logs: Iterator[Log], *, deadline: float | None = None) -> Iterator[int]:
        acks = self._fate.call("deliver", lambda: self._engine.deliver(logs, deadline=deadline))
        for acked in acks:
            if acked % 70 == 1:
                self._fate.call(f"ack {acked}", lambda: None)
            yield acked
        self._fate.call("delivered", lambda: None)


def live(life: Life) -> tuple[list[str], list[dict[str, Any]]]:
    """Fetch everything and forward everything; the calls that were made, and the answers."""
    fate = Fate(life)
    store = MortalStore(open_store(life.store), fate)
    state = State.of(store)

    def now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=life.ahead)

    rate_limiter = RateLimiter(
        lambda: store,
        lambda: "demo-client",
        life.calls_per_minute,
        now=now,
        monotonic=time.monotonic,
        sleep=time.sleep,
        jitter=lambda: 0.0,
    )
    central = Central(
        Credential(lambda: "demo-client", lambda: "demo-secret"),
        auth_url=life.url,
        api_url=life.url,
        now=now,
        monotonic=time.monotonic,
        sleep=time.sleep,
        random=lambda: 0.0,
        rate_limiter=rate_limiter,
    )
    feed = Feed(
        name="acme",
        region="auto",
        tenants=None,
        kinds=tuple(life.kinds),
        exclude_types=(),
        lookback=timedelta(hours=24),
        settle=timedelta(0),
        reconcile=timedelta(hours=6),
        utmstack_tenant_id="ce66672c-e36d-4761-a8c8-90058fee1a24",
        alerts_data_type="alerts",
        endpoints_data_type="devices",
        inventory=timedelta(hours=6),
        data_source=None,
        gap_data_type="gaps",
    )
    fetch = FetchPage(
        state=state,
        accounts=Accounts(store, now=now, jitter=lambda: 0.0),
        integrations={
            "acme": Integration(feed, MortalSophos(central, fate), lambda: "demo-client", life.url, rate_limiter)
        },
        event_fields=event_fields,
        reconcile=Reconcile(state, event_fields, now, time.monotonic),
        schedules=Schedules(store),
        every=lambda: 60.0,
        max_pending_bytes=1 << 30,
        now=now,
        monotonic=time.monotonic,
    )
    engine = Engine(f"unix:{life.socket}", jitter=lambda: 0.0)
    forward = ForwardBatch(
        state=state,
        engine=MortalEngine(engine, fate),
        event_fields=event_fields,
        holder=lambda: life.holder,
        now=now,
        monotonic=time.monotonic,
        gap_data_type="gaps",
        utmstack_tenant_id=feed.utmstack_tenant_id,
        archive=timedelta(days=7),
    )
    answers = fetch.run(deadline=time.monotonic() + 60).lines
    answers += forward.run(deadline=time.monotonic() + 60)
    engine.close()
    return fate.calls, answers


def main() -> None:
    for line in sys.stdin:
        # Nothing runs here that a fork could leave half-way: no thread, no channel.
        child = os.fork()
        if not child:
            live(Life(**json.loads(line)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
