"""A tick becomes one task a stream: doubles fold, what has more is asked again, and nothing depends on the queue."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Credential, Fault, Tenant
from lib.model.clock import from_text
from lib.model.stream import Stream
from lib.pipeline.fan_out import WORKERS, FanOut
from lib.tasks import CloudTasks as Queue
from lib.tasks import TaskTarget
from tests.fakes.cloud_tasks import QUEUE, CloudTasks
from tests.site import SECRET, Site, site

TENANTS = [f"t-{number}" for number in range(4)]


@pytest.fixture
def queue() -> Iterator[CloudTasks]:
    with CloudTasks() as found:
        yield found


@pytest.fixture
def hosted(queue: CloudTasks) -> Iterator[Site]:
    """A partner's tenants, a tick each day (so that a test is within one), a queue."""
    central = CentralServer(
        tenants=[Tenant(id=each) for each in TENANTS], credentials=[Credential(id_type="partner", id="p-1")]
    )
    for number, each in enumerate(TENANTS):
        central.fill(10 + number, tenant=each)
    with site(central, every="24h", tasks=queue.settings) as found:
        yield found


def calls(found: Site) -> Any:
    return lambda body: found.function("fetch-page").call(body).status


def asked_for_pages(found: Site) -> int:
    return sum("siem" in seen.path for seen in found.central.requests)


def test_a_tick_asks_for_one_call_a_stream_and_doubles_of_it_fold(hosted: Site, queue: CloudTasks) -> None:
    with ThreadPoolExecutor(2) as pool:  # the scheduler delivers at least once, and at the same time too
        answers = list(pool.map(lambda _: json.loads(hosted.post("fetch-page").body), range(2)))
    assert sum(each["queued"] for each in answers) == 4
    assert [each["results"] for each in answers] == [[], []]
    assert sorted(each["tenant"] for each in queue.requests()) == TENANTS
    assert len(queue.refused) == 4
    assert asked_for_pages(hosted) == 0
    assert queue.deliver(calls(hosted)) == [200] * 4
    assert (queue.tasks, asked_for_pages(hosted)) == ([], 4)
    hosted.results("forward-batch")
    assert sorted(hosted.raws()) == sorted(raw for each in TENANTS for raw in hosted.central.raws(each))


def test_tasks_that_are_delivered_twice_at_once_store_each_event_once(hosted: Site, queue: CloudTasks) -> None:
    hosted.post("fetch-page")
    assert queue.deliver(calls(hosted), times=2) == [200] * 8
    hosted.results("forward-batch")
    assert sorted(hosted.raws()) == sorted(raw for each in TENANTS for raw in hosted.central.raws(each))


def test_a_stream_that_has_more_asks_for_its_next_call_once(queue: CloudTasks) -> None:
    with site(every="24h", tasks=queue.settings) as found:
        found.central.fill(3000)
        one = {"integration": "acme", "tenant": found.central.default_tenant, "stream": "events"}
        found.results("fetch-page", {**one, "max_pages": 1})
        assert queue.requests() == [one]
        assert queue.deliver(calls(found)) == [200]
        assert queue.tasks == []
        found.results("forward-batch")
        assert found.raws() == found.central.raws(found.central.default_tenant)


def test_a_stream_that_has_to_wait_asks_for_a_call_when_its_wait_is_over(queue: CloudTasks) -> None:
    with site(every="24h", tasks=queue.settings) as found:
        found.central.fill(10)
        found.central.faults.add(Fault("status", status=429, retry_after=600))
        found.post("fetch-page")
        for _ in range(2):
            queue.deliver(calls(found), times=2)
        (task,) = queue.tasks
    wait = from_text(task["scheduleTime"]) - datetime.now(UTC)
    assert timedelta(seconds=500) < wait <= timedelta(seconds=600)


def test_a_changed_secret_ends_the_waits_of_all_streams(queue: CloudTasks, tmp_path: Path) -> None:
    """Each stream's call is one of its own, and the first one that uses the secret may be anybody's."""
    central = CentralServer(
        tenants=[Tenant(id=each) for each in TENANTS], credentials=[Credential(id_type="partner", id="p-1")]
    )
    (tmp_path / "secret").write_text(SECRET)
    one = {"name": "acme", "client_id": "demo-client", "client_secret": f"${{file:{tmp_path}/secret}}"}
    with site(central, every="24h", tasks=queue.settings, integrations=[one]) as found:
        central.faults.add(Fault("status", status=403, times=None, path="/siem"))
        named = [{"integration": "acme", "tenant": each, "stream": "events"} for each in TENANTS]
        for request in named * 2:
            (line,) = found.results("fetch-page", request)
            assert line["problem"]["code"] == "permission_missing"
        central.faults.clear()
        (line,) = found.results("fetch-page", named[0])
        assert line["problem"]["code"] == "permission_missing", "the same secret waits"
        central.put_credential(Credential(secret="another", id_type="partner", id="p-1"))
        (tmp_path / "secret").write_text("another")
        outcomes = [found.results("fetch-page", request)[0]["outcome"] for request in named]
        assert outcomes == ["up_to_date"] * len(TENANTS)


def test_a_queue_that_fails_in_passing_is_asked_again_and_one_that_is_down_is_told(
    hosted: Site, queue: CloudTasks
) -> None:
    queue.statuses.extend([503] * 100)
    answer = hosted.post("fetch-page")
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "queue_unavailable")
    assert answer.headers["Retry-After"]
    queue.statuses.clear()
    queue.statuses.extend([500, 429])
    assert json.loads(hosted.post("fetch-page").body)["queued"] == 4


def test_a_queue_that_refuses_is_told_with_what_to_do(hosted: Site, queue: CloudTasks) -> None:
    queue.statuses.extend([403] * 4)
    answer = hosted.post("fetch-page")
    told = json.loads(answer.body)
    assert (answer.status, told["code"]) == (500, "config_invalid")
    assert "roles/cloudtasks.enqueuer" in told["remedy"]


def test_a_call_of_one_stream_does_not_fail_over_a_queue_that_is_down(queue: CloudTasks) -> None:
    with site(every="24h", tasks=queue.settings) as found:
        found.central.fill(2000)
        queue.statuses.extend([503] * 100)
        one = {"integration": "acme", "tenant": found.central.default_tenant, "stream": "events", "max_pages": 1}
        (line,) = found.results("fetch-page", one)
    assert (line["outcome"], line["has_more"]) == ("fetched", True)


class Together:
    """A queue that takes tasks as many at once as it should be given."""

    def __init__(self) -> None:
        self._all = threading.Barrier(WORKERS, timeout=60)

    def add(self, *_: object) -> bool:
        self._all.wait()
        return True


def test_tasks_are_added_many_at_once_over_connections_that_stay_open(queue: CloudTasks) -> None:
    streams = [Stream("acme", f"t-{number}", "events") for number in range(5 * WORKERS)]
    assert FanOut(Together(), timedelta(minutes=1), lambda: datetime.now(UTC)).tick(streams) == len(streams)
    target = TaskTarget(queue.settings["url"], queue.settings["service_account"], timedelta(seconds=60))
    tasks = Queue(QUEUE, target, api_url=queue.url, jitter=lambda: 0.0)
    assert FanOut(tasks, timedelta(minutes=1), lambda: datetime.now(UTC)).tick(streams) == len(streams)
    assert queue.connections <= WORKERS


class Names:
    """A queue that tells the names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, name: str, *_: object) -> bool:
        self.names.append(name)
        return True


@pytest.mark.parametrize(
    ("first", "second", "same"), [(-1.0, 0.5, True), (0.0, 29.0, True), (0.0, 60.0, False), (0.4, 59.8, False)]
)
def test_ticks_of_one_minute_have_one_name_and_those_of_two_have_two(
    first: float, second: float, *, same: bool
) -> None:
    minute = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
    queue, times = Names(), iter([minute + timedelta(seconds=first), minute + timedelta(seconds=second)])
    fan_out = FanOut(queue, timedelta(minutes=1), lambda: next(times))
    for _ in range(2):
        fan_out.tick([Stream("acme", "t", "events")])
    assert (len(set(queue.names)) == 1) is same
