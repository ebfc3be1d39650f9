"""The hosted form as a whole: clock, task queue, functions, a bucket and its events, a relay over TLS, the socket."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any

from emulator.central import CentralServer
from emulator.runtime.functions import FunctionDownError
from emulator.runtime.platform import finalized
from emulator.runtime.work_queue import WorkQueue
from lib.parts import open_store
from lib.state.state import State
from tests.end_to_end.test_hybrid import relay, set_up
from tests.fakes.cloud_tasks import CloudTasks
from tests.fakes.gcs import FakeGcs
from tests.site import Site, site, until

EVENTS = 3000


class Platform:
    """What a cloud does: delivers tasks and storage events at least once, until they are answered with 200."""

    def __init__(self, found: Site, gcs: FakeGcs, queue: CloudTasks) -> None:
        self._found = found
        self._queue = queue
        self._batches: dict[str, str] = {}
        self._events: WorkQueue[str] = WorkQueue(self._forward, "events", workers=2)
        self._gcs = gcs
        self.when_stored: Callable[[], None] | None = None
        """What happens, once, when a batch has been stored, and nobody has been told yet."""
        for name in ("fetch-page", "forward-batch"):
            assert found.function(name).is_up(30)
        gcs.finalized = self._stored
        self._events.start()

    def close(self) -> None:
        self._gcs.finalized = None
        self._events.stop()

    def tick(self) -> None:
        """The scheduler's call, twice as it may be, and the tasks that come of it."""
        for _ in range(2):
            self._call("fetch-page", b"{}")
        self._queue.deliver(lambda body: self._call("fetch-page", body))

    def fetch(self, request: dict[str, Any]) -> None:
        self._call("fetch-page", json.dumps(request).encode())

    def sweep(self) -> None:
        self._call("forward-batch", b"{}")

    def kill(self, name: str) -> None:
        """SIGKILL; the platform starts another instance."""
        pid = self._found.function(name).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def _call(self, name: str, body: bytes, headers: dict[str, str] | None = None) -> int:
        try:
            return self._found.function(name).call(body, headers).status
        except FunctionDownError:
            return 0

    def _stored(self, resource: dict[str, Any]) -> None:
        name = resource["name"]
        if name.startswith("batches/"):
            then, self.when_stored = self.when_stored, None
            if then is not None:
                then()
            path = name.rpartition("/")[0]
            self._batches[path] = name
            self._events.ask(path)

    def _forward(self, path: str) -> float | None:
        body, headers = finalized(self._batches[path], "bucket")
        return None if self._call("forward-batch", body, headers) == 200 else 0.3


def test_every_event_arrives_once_and_none_is_lost_though_each_process_is_killed(gcs: FakeGcs, bucket: str) -> None:
    with CentralServer() as central, CloudTasks() as queue, site(central, store=bucket, tasks=queue.settings) as found:
        set_up(found)
        tenant, batches = central.default_tenant, State.of(open_store(bucket)).batches

        def done(count: int) -> bool:
            return len(set(found.raws())) == count and not list(batches.waiting())

        with closing(Platform(found, gcs, queue)) as platform:
            with relay(found) as first:
                central.fill(EVENTS)
                platform.fetch({"integration": "acme", "tenant": tenant, "stream": "events", "max_pages": 1})
                until(lambda: done(1000), "the first events")
                assert found.raws() == central.raws(tenant)[:1000]
                # A batch is stored, and whoever stored it never hears of it.
                platform.when_stored = lambda: platform.kill("fetch-page")
                found.engine.faults["delay"] = "0.002"
                platform.tick()
                assert platform.when_stored is None
                until(lambda: len(found.raws()) > 1050, "the next ones are on their way")
                platform.kill("forward-batch")
                first.kill()
            del found.engine.faults["delay"]
            with relay(found):
                found.engine.stop()
                platform.tick()
                found.engine.start()
                while not done(EVENTS):
                    platform.tick()
                    platform.sweep()
            assert [found.function(name).restarts for name in ("fetch-page", "forward-batch")] == [1, 1]
        assert list(dict.fromkeys(found.raws())) == central.raws(tenant)
