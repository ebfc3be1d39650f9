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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from lib import answers
from lib.app import App
from lib.config.loading import parse
from lib.model.credential import InUse
from lib.model.log import Log
from lib.model.page import DevicePage, Page, SophosTenant, Whoami
from lib.model.rate_policy import PUBLISHED
from lib.parts import Parts, connect_sophos, open_store
from lib.sophos.client import Central
from lib.state.state import State
from lib.store.base import Entry, ObjectStore, Stored
from lib.utmstack.engine import GrpcEngine

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
    steps: Sequence[str] = ("fetch", "forward")
    """What it does, in order: `fetch`, `forward`, `event` (each stream's newest batch is told of), `reconcile`."""
    dies_at_call: str = ""
    """Killed at the first call whose name begins so."""
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
            doomed = doomed or bool(self._life.dies_at_call and name.startswith(self._life.dies_at_call))
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

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        return iter(self._fate.call(f"folders {prefix}", lambda: [*self._store.folders(prefix, depth)]))


class MortalSophos:
    """A Sophos whose calls are counted."""

    def __init__(self, central: Central, fate: Fate) -> None:
        self._central = central
        self._fate = fate

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        return self._fate.call("whoami", lambda: self._central.whoami(deadline=deadline))

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[SophosTenant]:
        return self._central.tenants(who, deadline=deadline)

    def devices(self, host: str, tenant: str, **request: Any) -> DevicePage:
        return self._fate.call("devices", lambda: self._central.devices(host, tenant, **request))

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._central.counts)

    @property
    def in_use(self) -> InUse | None:
        return self._central.in_use

    def is_replaced(self) -> bool:
        return self._central.is_replaced()

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        return self._central.clock(deadline=deadline)

    def page(self, host: str, tenant: str, kind: str, **request: Any) -> Page:
        return self._fate.call("page", lambda: self._central.page(host, tenant, kind, **request))


class MortalEngine:
    """An engine whose deliveries are counted: their beginning, some acknowledgements, their end."""

    def __init__(self, engine: GrpcEngine, fate: Fate) -> None:
        self._engine = engine
        self._fate = fate

    def deliver(
        self, logs: Iterator[Log], *, deadline: float | None = None, early: set[int] | None = None
    ) -> Iterator[int]:
        acks = self._fate.call("deliver", lambda: self._engine.deliver(logs, deadline=deadline, early=early))
        for acked in acks:
            if acked % 70 == 1:
                self._fate.call(f"ack {acked}", lambda: None)
            yield acked
        self._fate.call("delivered", lambda: None)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._engine.counts

    def probe(self) -> None:
        self._engine.probe()


def live(life: Life) -> tuple[list[str], list[dict[str, Any]]]:
    """Do the life's steps; the calls that were made, and the answers of fetching and forwarding."""
    fate = Fate(life)
    config = parse(
        json.dumps(
            {
                "store": life.store if life.store.startswith("gs://") else f"file:{life.store}",
                "engine": f"unix:{life.socket}",
                "sophos": {"auth_url": life.url, "api_url": life.url},
                "archive": "2d",
                "gap_data_type": "gaps",
                "integrations": [
                    {
                        "name": "acme",
                        "client_id": "demo-client",
                        "client_secret": "demo-secret",
                        "streams": list(life.kinds),
                        "calls_per_minute": life.calls_per_minute,
                        "alerts_data_type": "alerts",
                        "endpoints_data_type": "devices",
                    }
                ],
            }
        )
    )
    engine = GrpcEngine(config.engine, jitter=lambda: 0.0)
    parts = Parts(
        now=lambda: datetime.now(UTC) + timedelta(seconds=life.ahead),
        random=lambda: 0.0,
        holder=lambda: life.holder,
        store=lambda location: MortalStore(open_store(location), fate),
        engine=lambda *_: MortalEngine(engine, fate),
        sophos=lambda *of: MortalSophos(connect_sophos(*of), fate),
    )
    app = App(lambda: config, parts)
    found: list[dict[str, Any]] = []
    for step in life.steps:
        if step == "fetch":
            found += answers.fetched(app.fetch_page.run(deadline=time.monotonic() + 60))["results"]
        elif step == "forward":
            found += answers.delivered(app.forward_batch.run(deadline=time.monotonic() + 60))
        elif step == "event":
            newest = {each.stream: each.entry.key for each in State.of(open_store(config.store)).batches.waiting()}
            for key in newest.values():
                found += answers.delivered(app.forward_object(key))
        else:
            app.reconcile_all()
    engine.close()
    return fate.calls, found


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
