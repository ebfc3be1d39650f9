"""The three functions as platforms run them: functions-framework processes that are called over HTTP."""

import json
import subprocess
import sys
import time
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from emulator.central import CentralServer, Credential, Fault, Settings, Tenant
from emulator.runtime.platform import finalized
from infra.stage import stage
from lib.model.stream import Stream
from tests.site import SECRET, Site, free_port, site, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """A site for tests that leave its state alone."""
    with site() as found:
        yield found


@pytest.fixture
def own() -> Iterator[Site]:
    with site() as found:
        found.central.fill(1200)
        yield found


def events_of(found: Site) -> Stream:
    return Stream("acme", found.central.default_tenant, "events")


@pytest.mark.parametrize(
    ("name", "body", "pointers"),
    [
        ("fetch-page", b"{", [""]),
        ("fetch-page", b"[]", [""]),
        ("fetch-page", b'"x"', [""]),
        ("fetch-page", b"\xff", [""]),
        ("fetch-page", b'{"integration": 1, "max_pages": 0, "stream": "logs", "nope": 1}', None),
        ("forward-batch", b'{"max_pages": 1}', ["/max_pages"]),
        ("test-connection", b"{}", ["/integration"]),
        ("test-connection", b'{"client_id": "x"}', ["/integration"]),
        ("test-connection", b'{"integration": "acme", "client_id": "x", "client_secret": "y"}', ["/integration"]),
    ],
)
def test_a_bad_request_is_answered_with_every_fault(
    shared: Site, name: str, body: bytes, pointers: list[str] | None
) -> None:
    answer = shared.function(name).call(body)
    told = json.loads(answer.body)
    assert answer.status == told["status"] == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    expected = pointers or ["/integration", "/max_pages", "/stream", "/nope"]
    assert sorted(fault["pointer"] for fault in told["errors"]) == sorted(expected)
    assert all(fault["detail"] for fault in told["errors"])


@pytest.mark.parametrize("name", ["fetch-page", "forward-batch", "test-connection"])
def test_an_unknown_integration_is_not_found(shared: Site, name: str) -> None:
    answer = shared.post(name, {"integration": "nobody"})
    assert answer.status == 404
    assert "'acme'" in json.loads(answer.body)["detail"]


def test_a_tenant_or_kind_that_nobody_reads_is_not_found(own: Site) -> None:
    tenant = own.central.default_tenant
    assert own.post("forward-batch", {"integration": "acme", "tenant": "t-nobody"}).status == 200, "not known yet"
    own.results("fetch-page")
    named = {"integration": "acme", "tenant": "t-nobody"}
    for name, request, words in (
        ("fetch-page", named, f"'acme' reads no tenant 't-nobody'; it reads {tenant}"),
        ("fetch-page", {"tenant": "t-nobody"}, "'acme' reads no tenant 't-nobody'"),
        (
            "fetch-page",
            {"integration": "acme", "tenant": tenant, "stream": "alerts"},
            "reads no alerts; it reads events",
        ),
        ("forward-batch", named, "'acme' reads no tenant 't-nobody'"),
        ("forward-batch", named | {"stream": "events"}, "'acme' reads no tenant 't-nobody'"),
    ):
        answer = own.post(name, request)
        assert answer.status == 404, answer.body
        told = json.loads(answer.body)
        assert (told["code"], words in told["detail"]) == ("not_found", True), told
        assert told["remedy"]
    known = {"integration": "acme", "tenant": tenant, "stream": "events"}
    assert own.results("fetch-page", known)[0]["outcome"] == "up_to_date"
    assert own.results("forward-batch", known)[0]["outcome"] == "delivered"
    assert own.results("forward-batch", known)[0]["outcome"] == "idle"


def test_only_post_and_only_small_bodies(shared: Site) -> None:
    function = shared.function("fetch-page")
    assert function.call(b" " * (1 << 20) + b"{}").status == 413
    answer = requests.get(f"http://127.0.0.1:{function.port}/", timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_pages_become_batches_and_batches_reach_the_engine_once(own: Site) -> None:
    tenant = own.central.default_tenant
    (line,) = own.results("fetch-page", {"integration": "acme", "max_pages": 1})
    assert {
        key: line[key] for key in ("integration", "tenant", "stream", "outcome", "pages", "events", "has_more")
    } == {
        "integration": "acme",
        "tenant": tenant,
        "stream": "events",
        "outcome": "fetched",
        "pages": 1,
        "events": 1000,
        "has_more": True,
    }
    assert line["batches"] == [f"batches/acme/{tenant}/events/00000000000000000001.ndjson"]
    stored = (own.folder / "store" / line["batches"][0]).read_bytes().splitlines()
    assert json.loads(stored[0])["count"] == 1000
    assert stored[1:] == own.central.raws(tenant)[:1000]
    (line,) = own.results("fetch-page")
    assert (line["events"], line["has_more"], line["pages"]) == (200, False, 1)
    (line,) = own.results("forward-batch")
    assert (line["outcome"], line["batches"], line["acked"], line["pending"], line["set_aside"]) == (
        "delivered",
        2,
        1200,
        0,
        0,
    )
    assert own.raws() == own.central.raws(tenant)
    assert [line["outcome"] for line in own.results("fetch-page")] == ["up_to_date"]
    assert [line["outcome"] for line in own.results("forward-batch")] == ["idle"]
    assert len(own.raws()) == 1200
    receipts = [receipt for _, receipt, _ in own.state.ledger.receipts(events_of(own))]
    assert [(each.header.sequence, each.header.count, len(each.ids)) for each in receipts] == [
        (1, 1000, 1000),
        (2, 200, 200),
    ]
    assert receipts[1].header.cursors.read_with == receipts[0].header.cursors.next


def test_the_log_is_what_utmstack_expects(own: Site) -> None:
    own.results("fetch-page")
    own.results("forward-batch")
    log = own.engine.received[0]
    assert (log.dataType, log.dataSource) == ("sophos-central", "acme")
    assert log.tenantId == "ce66672c-e36d-4761-a8c8-90058fee1a24"
    assert len(log.id) == 64
    assert log.timestamp.endswith("Z")


FINALIZED = "google.cloud.storage.object.v1.finalized"
PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"


def pushed(name: str, kind: str = "OBJECT_FINALIZE") -> dict[str, object]:
    """What a Pub/Sub subscription posts for a bucket's notification."""
    attributes = {"bucketId": "b", "objectId": name, "eventType": kind, "payloadFormat": "JSON_API_V1"}
    return {"message": {"attributes": attributes, "data": "e30=", "messageId": "1"}, "subscription": "projects/p/x"}


@pytest.mark.parametrize(
    ("kind", "wrapped", "structured"),
    [
        (FINALIZED, False, None),
        (FINALIZED, False, "data"),
        (FINALIZED, False, "data_base64"),
        (PUBLISHED, True, None),
        (PUBLISHED, True, "data"),
        (PUBLISHED, True, "data_base64"),
        (None, True, None),
    ],
)
def test_a_storage_event_forwards_its_stream(
    own: Site, kind: str | None, *, wrapped: bool, structured: str | None
) -> None:
    (line,) = own.results("fetch-page")
    name = line["batches"][0]
    data = pushed(name) if wrapped else {"bucket": "b", "name": name}
    if structured:
        carried = b64encode(json.dumps(data).encode()).decode() if structured == "data_base64" else data
        event = {"specversion": "1.0", "id": "1", "type": kind, "source": "s", structured: carried}
        answer = own.post("forward-batch", event, {"Content-Type": "application/cloudevents+json"})
    else:
        headers = {"ce-type": kind, "ce-id": "1", "ce-source": "s", "ce-specversion": "1.0"} if kind else {}
        answer = own.post("forward-batch", data, headers)
    assert answer.status == 200
    assert [line["acked"] for line in json.loads(answer.body)["results"]] == [1200]


UNWRAPPED = {"x-goog-pubsub-message-id": "1", "x-goog-pubsub-subscription-name": "projects/p/subscriptions/s"}


@pytest.mark.parametrize("headers", [{}, {**UNWRAPPED, "eventType": "OBJECT_FINALIZE", "objectId": "x"}])
def test_a_push_without_its_envelope_forwards_its_stream(own: Site, headers: dict[str, str]) -> None:
    (line,) = own.results("fetch-page")
    resource = {"kind": "storage#object", "id": "b/x/1", "name": line["batches"][0], "bucket": "b", "size": "9"}
    answer = own.post("forward-batch", resource, headers)
    assert answer.status == 200
    assert [line["acked"] for line in json.loads(answer.body)["results"]] == [1200]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (
            {**UNWRAPPED, "eventType": "OBJECT_DELETE"},
            {"kind": "storage#object", "name": "batches/a/b/events/1.ndjson"},
            200,
        ),
        (UNWRAPPED, {"somebody": "else's"}, 200),
        (UNWRAPPED, {}, 200),
        ({}, {"kind": "storage#object"}, 400),
        ({"ce-type": "google.cloud.storage.object.v1.deleted"}, {"name": "batches/a/b/events/1.ndjson"}, 200),
        ({"ce-type": "google.cloud.storage.object.v1.finalized"}, {"name": "cursors/a/b/events.json"}, 200),
        ({"ce-type": "google.cloud.storage.object.v1.finalized"}, {"name": "batches/../../x.ndjson"}, 200),
        ({"ce-type": "google.cloud.storage.object.v1.finalized"}, {}, 400),
        ({"Content-Type": "application/cloudevents+json"}, {"data": {}}, 400),
        ({"Content-Type": "application/cloudevents+json"}, {"type": FINALIZED, "data_base64": "no"}, 400),
        ({"Content-Type": "application/cloudevents+json"}, {"type": FINALIZED, "data_base64": 7}, 400),
        ({"Content-Type": "application/cloudevents+json"}, {"type": FINALIZED, "data_base64": "e30="}, 400),
        ({}, pushed("batches/a/b/events/1.ndjson", "OBJECT_DELETE"), 200),
        ({}, {"message": {"data": "e30="}, "subscription": "s"}, 200),
        ({"ce-type": PUBLISHED}, {"message": 7}, 200),
        ({}, {"message": {"attributes": {"eventType": "OBJECT_FINALIZE"}}, "subscription": "s"}, 400),
        ({}, {"message": {}}, 400),
    ],
)
def test_other_events_are_let_pass_and_senseless_ones_refused(
    shared: Site, headers: dict[str, str], body: dict[str, object], status: int
) -> None:
    answer = shared.post("forward-batch", body, headers)
    assert answer.status == status
    assert status != 200 or json.loads(answer.body) == {"results": []}


def test_a_function_that_takes_no_events_says_so(shared: Site) -> None:
    headers = {"ce-type": "google.cloud.storage.object.v1.finalized"}
    assert shared.post("fetch-page", {"name": "x"}, headers).status == 400


def test_with_the_engine_down_batches_wait_and_the_platform_is_told_to_retry(own: Site) -> None:
    own.engine.stop()
    own.results("fetch-page")
    answer = own.post("forward-batch")
    told = json.loads(answer.body)
    assert (answer.status, told["code"]) == (503, "engine_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    (line,) = told["results"]
    assert (line["outcome"], line["pending"]) == ("engine_unavailable", 2)
    # Its sweep is told so; the event of each waiting batch is not repeated beside it.
    event, headers = finalized(next(own.state.batches.waiting()).entry.key, "file:store")
    answer = own.post("forward-batch", json.loads(event), headers)
    (line,) = json.loads(answer.body)["results"]
    assert (answer.status, line["outcome"], line["pending"]) == (200, "engine_unavailable", 2)
    own.engine.start()
    assert [line["acked"] for line in own.results("forward-batch")] == [1200]
    assert own.raws() == own.central.raws(own.central.default_tenant)


def test_a_batch_whose_cursor_did_not_move_is_adopted_without_asking_sophos_again(own: Site) -> None:
    own.results("fetch-page", {"max_pages": 1})
    cursor = own.folder / "store" / "cursors/acme" / own.central.default_tenant / "events.json"
    cursor.unlink()  # as if the process had died between the two writes
    before = len(own.central.requests)
    (line,) = own.results("fetch-page", {"max_pages": 1})
    assert (line["events"], line["has_more"]) == (200, False)
    asked = [seen.query for seen in list(own.central.requests)[before:] if "siem" in seen.path]
    assert [("cursor" in query, "from_date" in query) for query in asked] == [(True, False)]
    own.results("forward-batch")
    assert own.raws() == own.central.raws(own.central.default_tenant)


def test_fetching_pauses_when_too_much_waits_and_resumes_by_itself() -> None:
    with site(limits={"max_pending_bytes": 200_000}) as found:
        found.central.fill(3000)
        found.engine.stop()
        outcomes = [found.results("fetch-page")[0]["outcome"] for _ in range(3)]
        assert outcomes[-1] == "paused"
        found.engine.start()
        rounds = 0
        while len(found.raws()) < 3000:
            rounds += 1
            assert rounds < 20
            found.results("forward-batch")
            found.results("fetch-page")
        assert found.raws() == found.central.raws(found.central.default_tenant)


def test_all_streams_of_a_call_share_the_room_for_what_waits() -> None:
    names = ["t-1", "t-2", "t-3", "t-4"]
    central = CentralServer(
        settings=Settings(page_cap=100),
        tenants=[Tenant(id=name) for name in names],
        credentials=[Credential(id_type="partner", id="p-1")],
    )
    for name in names:
        central.fill(1000, tenant=name)
    with site(central, limits={"max_pending_bytes": 300_000}) as found:
        lines = found.results("fetch-page")
        assert {line["outcome"] for line in lines} <= {"fetched", "paused"}
        sizes = [waiting.entry.size for waiting in found.state.batches.waiting()]
        assert 300_000 <= sum(sizes) <= 300_000 + len(names) * max(sizes)


def test_a_call_hands_over_at_its_deadline_and_the_next_goes_on() -> None:
    with site(CentralServer(settings=Settings(page_cap=200)), limits={"deadline": "4s"}) as found:
        found.central.fill(4000)
        found.central.faults.add(Fault("slow", seconds=0.8, times=None))
        (line,) = found.results("fetch-page")
        assert line["has_more"]
        assert 1 <= line["pages"] < 7
        found.central.faults.clear()
        while found.results("fetch-page")[0]["has_more"]:
            continue
        found.engine.faults["delay"] = "0.002"
        (line,) = found.results("forward-batch")
        assert 0 < len(found.raws()) < 4000
        assert line["pending"] > 0
        del found.engine.faults["delay"]
        while found.results("forward-batch")[0]["pending"]:
            continue
        # On a busy machine the engine may be too slow for the grace, and what it leaves comes again.
        assert list(dict.fromkeys(found.raws())) == found.central.raws(found.central.default_tenant)


@pytest.mark.parametrize("path", ["/api/v2/oauth2/token", "/whoami"])
def test_while_sophos_does_not_say_whose_a_credential_is_the_others_are_read_within_the_calls_time(path: str) -> None:
    known = {"name": "known", "client_id": "demo-client", "client_secret": SECRET}
    with site(limits={"deadline": "4s"}, integrations=[known]) as found:
        found.results("fetch-page")
        found.write_config(integrations=[known | {"name": "new"}, known])
        found.central.faults.add(Fault("slow", path=path, seconds=60, times=None))
        found.central.emit(3)
        began = time.monotonic()
        new, old = found.results("fetch-page")
        assert time.monotonic() - began < 40
        assert (new["integration"], new["outcome"], new["problem"]["code"]) == ("new", "failed", "timed_out")
        assert (old["integration"], old["outcome"], old["events"]) == ("known", "fetched", 3)


def test_a_call_hands_over_before_the_platform_ends_it() -> None:
    with site() as found:
        found.env["CLOUD_RUN_TIMEOUT_SECONDS"] = "19"
        found.central.fill(8000)
        found.central.faults.add(Fault("slow", path="/siem", seconds=0.8, times=None))
        (line,) = found.results("fetch-page")
        assert line["has_more"]
        assert 1 <= line["pages"] < 7


def test_a_wrong_secret_fails_with_a_remedy_and_is_not_hammered() -> None:
    with site() as found:
        found.env["SITE_SECRET"] = "not-the-secret"
        lines = [found.results("fetch-page")[0] for _ in range(3)]
        tokens = [seen.path for seen in found.central.requests].count("/api/v2/oauth2/token")
    assert [line["outcome"] for line in lines] == ["failed"] * 3
    assert lines[0]["problem"]["code"] == "credentials_refused"
    assert "Sophos Central" in lines[0]["problem"]["remedy"]
    assert lines[2]["retry_at"]
    assert tokens == 1


@pytest.mark.parametrize("code", ["credentials_refused", "permission_missing"])
def test_a_corrected_secret_is_tried_at_once(code: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not-the-secret" if code == "credentials_refused" else SECRET)
    one = {"name": "acme", "client_id": "demo-client", "client_secret": f"${{file:{tmp_path}/secret}}"}
    with site(integrations=[one]) as found:
        if code == "permission_missing":
            found.central.faults.add(Fault("status", path="/whoami", status=403, times=None))
        refused = [found.results("fetch-page")[0] for _ in range(3)]
        assert [line["problem"]["code"] for line in refused] == [code] * 3
        assert refused[0]["retry_at"] == refused[2]["retry_at"], "the same secret waits"
        (tmp_path / "secret").write_text("another-wrong-one")
        (line,) = found.results("fetch-page")
        assert (line["problem"]["code"], line["retry_at"] != refused[0]["retry_at"]) == ("credentials_refused", True)
        found.central.faults.clear()
        (tmp_path / "secret").write_text(SECRET)
        assert found.results("fetch-page")[0]["outcome"] == "up_to_date"


def test_other_integrations_go_on_beside_a_broken_one() -> None:
    good = {"name": "good", "client_id": "demo-client", "client_secret": SECRET}
    with site(integrations=[{"name": "bad", "client_id": "nobody", "client_secret": "x"}, good]) as found:
        found.central.fill(10)
        outcomes = {line["integration"]: line["outcome"] for line in found.results("fetch-page")}
    assert outcomes == {"bad": "failed", "good": "fetched"}


def test_429_is_told_with_the_time_of_the_next_try(own: Site) -> None:
    own.central.faults.add(Fault("status", status=429, retry_after=600))
    (line,) = own.results("fetch-page")
    assert (line["outcome"], line["problem"]["code"]) == ("rate_limited", "rate_limited")
    before = len(own.central.requests)
    (line,) = own.results("fetch-page")
    assert (line["outcome"], len(own.central.requests)) == ("rate_limited", before)
    assert line["retry_at"]


def test_a_cursor_that_does_not_move_ends_the_call(own: Site) -> None:
    own.results("fetch-page", {"max_pages": 1})
    own.central.faults.add(Fault("same_cursor", times=None))
    (line,) = own.results("fetch-page")
    assert line["pages"] == 1
    assert line["problem"]["code"] == "protocol_error"
    own.central.faults.clear()
    own.results("fetch-page")
    own.results("forward-batch")
    assert sorted(own.raws()) == sorted(own.central.raws(own.central.default_tenant))


def test_a_stream_that_is_being_read_is_left_to_who_reads_it(own: Site) -> None:
    own.results("fetch-page", {"max_pages": 1})
    own.central.faults.add(Fault("slow", seconds=8))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(own.results, "fetch-page")
        until(lambda: not own.central.faults.waiting(), "the first call's request")
        (second,) = own.results("fetch-page")
        assert (second["outcome"], second["pages"], first.done()) == ("busy", 0, False)
        (line,) = first.result()
    assert (line["outcome"], line["events"]) == ("fetched", 200)
    assert [line["outcome"] for line in own.results("fetch-page")] == ["up_to_date"]


def test_events_of_megabytes_do_not_hold_up_their_stream(own: Site) -> None:
    large = [b'{"id": "large-%d", "text": "%s"}' % (number, b"x" * (4 << 20)) for number in range(17)]
    own.central.append(own.central.default_tenant, "events", large)
    lines = [line for _ in range(3) for line in own.results("fetch-page", {"max_pages": 1})]
    assert sum(line["events"] for line in lines) == len(own.central.raws(own.central.default_tenant))
    assert not any("problem" in line for line in lines)


def test_what_the_engine_cannot_take_is_set_aside_with_its_reason(own: Site) -> None:
    tenant = own.central.default_tenant
    odd = [
        b'{"type": "no id"}',
        b'"no object"',
        b"7",
        b'{"id": "big", "name": "%s"}' % (b"x" * (5 << 20)),
        b'{"id": "lone", "name": "\\ud800"}',
        b'{"id":\n"two lines"}',
    ]
    own.central.append(tenant, "events", odd)
    own.results("fetch-page")
    (line,) = own.results("forward-batch")
    assert (line["acked"], line["set_aside"], line["pending"]) == (1203, 3, 0)
    assert set(odd) - set(own.raws()) == {odd[1], odd[2], odd[3]}
    dead = [path.read_text().splitlines() for path in (own.folder / "store/dead").rglob("*.ndjson")]
    kept = {json.loads(each)["raw"].encode(): json.loads(each)["reason"] for lines in dead for each in lines}
    assert set(kept) == {odd[1], odd[2], odd[3]}
    assert "4194304" in kept[odd[3]]


def test_a_damaged_batch_is_set_aside_and_its_stream_goes_on(own: Site) -> None:
    (line,) = own.results("fetch-page")
    path = own.folder / "store" / line["batches"][0]
    path.write_bytes(path.read_bytes()[:-200])
    (line,) = own.results("forward-batch")
    assert line["pending"] == 0
    sent = [log.raw.encode() for log in own.engine.received if log.dataType == "sophos-central"]
    assert sent == own.central.raws(own.central.default_tenant)[1000:]
    assert [json.loads(log.raw)["reason"] for log in own.engine.received[200:]] == ["batch_damaged"]
    assert [gap.reason for gap in own.state.gaps.all()] == ["batch_damaged"]
    assert list((own.folder / "store/dead").rglob("*.ndjson"))


def test_an_alert_has_another_id_than_its_event() -> None:
    one = {"name": "acme", "client_id": "demo-client", "client_secret": SECRET, "streams": ["events", "alerts"]}
    with site(integrations=[one]) as found:
        found.central.fill(300)
        found.results("fetch-page")
        found.results("forward-batch")
        logs = list(found.engine.received)
        tenant = found.central.default_tenant
        assert len(logs) == len(found.central.raws(tenant)) + len(found.central.raws(tenant, "alerts"))
    assert {log.dataType for log in logs} == {"sophos-central", "sophos-central-alerts"}
    assert len({log.id for log in logs}) == len(logs)


def test_every_tenant_of_a_partner_is_a_stream_of_its_own() -> None:
    tenants = [Tenant(id=f"t-{number}") for number in range(3)] + [Tenant(id="t-forbidden", forbidden=True)]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    for number in range(3):
        central.fill(10 + number, tenant=f"t-{number}")
    with site(central) as found:
        lines = {line["tenant"]: line for line in found.results("fetch-page")}
        assert {tenant: line["events"] for tenant, line in lines.items()} == {
            "t-0": 10,
            "t-1": 11,
            "t-2": 12,
            "t-forbidden": 0,
        }
        assert lines["t-forbidden"]["problem"]["code"] == "permission_missing"
        found.results("forward-batch")
        assert len(found.raws()) == 33


def test_a_connection_that_works(shared: Site) -> None:
    shared.central.fill(5, hours=0.1)
    answer = json.loads(shared.post("test-connection", {"integration": "acme"}).body)
    assert answer["ok"], answer
    assert [check["name"] for check in answer["checks"]] == [
        "dns",
        "tcp",
        "tls",
        "sophos_reachable",
        "clock",
        "credentials",
        "whoami",
        "region",
        "tenants",
        "tenant_hosts",
        "siem_events",
        "page",
        "newest_event",
        "rate",
        "store",
        "engine",
    ]
    assert answer["tenant"]["id"] == shared.central.default_tenant
    assert answer["streams"]["events"]["readable"]


def failed(found: Site, body: dict[str, str]) -> dict[str, dict[str, str]]:
    answer = found.post("test-connection", body)
    assert answer.status == 200
    told = json.loads(answer.body)
    assert not told["ok"]
    assert SECRET.encode() not in answer.body
    return {check["name"]: check for check in told["checks"] if not check["ok"]}


def test_unsaved_credentials_are_tested_and_a_wrong_one_is_told(shared: Site) -> None:
    body = {"client_id": "demo-client", "client_secret": SECRET}
    assert json.loads(shared.post("test-connection", body).body)["ok"]
    checks = failed(shared, body | {"client_secret": "wrong"})
    assert "401" in checks["credentials"]["detail"]
    assert checks["credentials"]["remedy"]
    assert "remedy" not in checks["siem_events"]
    checks = failed(shared, body | {"tenant": "somebody-else"})
    assert "somebody-else" in checks["tenants"]["detail"]


def test_a_wrong_region_is_told_with_the_right_one() -> None:
    central = CentralServer(credentials=[Credential(data_region="https://api-eu01.central.sophos.com")])
    with site(central) as found:
        body = {"client_id": "demo-client", "client_secret": SECRET, "region": "us"}
        checks = failed(found, body)
    assert "eu01" in checks["region"]["detail"]


def test_a_missing_permission_and_a_wrong_clock_are_told() -> None:
    central = CentralServer(credentials=[Credential(permissions=frozenset({"alerts"}))])
    central.clock.advance(3600)
    with site(central) as found:
        checks = failed(found, {"integration": "acme"})
    assert "Service Principal" in checks["siem_events"]["remedy"]
    assert "behind" in checks["clock"]["detail"]


def test_an_engine_that_is_missing_or_refuses_is_told_apart(own: Site) -> None:
    own.engine.stop()
    (own.folder / "engine.sock").unlink(missing_ok=True)
    assert "missing" in failed(own, {"integration": "acme"})["engine"]["detail"]
    with own.engine:
        own.engine.faults["status"] = "UNIMPLEMENTED"
        assert "UNIMPLEMENTED" in failed(own, {"integration": "acme"})["engine"]["detail"]


def test_sophos_out_of_reach_is_told() -> None:
    with site() as found:
        nowhere = f"http://127.0.0.1:{free_port()}"
        found.write_config(sophos={"auth_url": nowhere, "api_url": nowhere})
        checks = failed(found, {"integration": "acme"})
    assert "refused" in checks["tcp"]["detail"]
    assert "tcp" in checks["credentials"]["detail"]
    assert set(checks) >= {"credentials", "whoami", "siem_events"}
    assert "engine" not in checks


def test_a_broken_configuration_is_told_by_every_call() -> None:
    with site() as found:
        found.config.write_text("store: s3://x\n")
        answer = found.post("fetch-page")
    told = json.loads(answer.body)
    assert (answer.status, told["code"]) == (500, "config_invalid")
    assert "line 1" in told["detail"]


@pytest.mark.parametrize("name", ["fetch_page", "forward_batch", "test_connection"])
def test_an_archive_of_the_function_alone_serves_it(name: str, tmp_path: Path) -> None:
    """What is deployed, unpacked, started by the bare command in that folder."""
    with zipfile.ZipFile(stage(tmp_path / "archives")[name]) as archive:
        archive.extractall(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"archives", "main.py", "lib", "requirements.txt"}
    with site() as found:
        port = free_port()
        command = [str(Path(sys.executable).with_name("functions-framework")), "--target", name, "--port", str(port)]
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **found.env}
        )
        try:
            url = f"http://127.0.0.1:{port}/"

            def answered() -> bool:
                try:
                    return requests.get(url, timeout=10).status_code == 405
                except requests.ConnectionError:
                    return False

            until(answered, f"{name} answers")
            body = {"integration": "acme"} if name == "test_connection" else {}
            answer = requests.post(url, json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            assert requests.get(f"{url}openapi.json", timeout=30).status_code == 200
        finally:
            process.terminate()
            process.wait()
