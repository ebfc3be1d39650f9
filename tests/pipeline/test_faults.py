"""Each fault of the table in docs/operations.md: what the operator sees, and what the program does."""

import ast
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Credential, Fault, Tenant
from emulator.central.clock import Clock
from emulator.engine import StandInEngine
from emulator.web.status import collect
from lib import answers
from lib.app import App
from lib.config import loading as configuration
from lib.errors import EngineDownError
from lib.model.checkpoint import SLOWEST
from lib.utmstack.engine import GrpcEngine
from tests.fakes.dying import Died, Life, live
from tests.fakes.simulated_time import moment, parts_on, seconds
from tests.site import ROOT, free_port

SECRET = "demo-secret"
MINUTE = 60.0
DAY = 86_400.0
ONE = {"name": "acme", "client_id": "demo-client", "client_secret": SECRET}
T1, T2, T3 = (Tenant(id=f"t-{number}", name=f"Tenant {number}") for number in range(1, 4))
PARTNER = [Credential(id_type="partner", id="p-1")]

Line = dict[str, Any]


class Connector:
    """The connector in this process, over real sockets; its time is the simulator's, and waiting moves it on."""

    def __init__(self, folder: Path, central: CentralServer, *integrations: dict[str, Any], **sophos: Any) -> None:
        self.central, self.clock, self.folder = central, central.clock, folder
        settings = {
            "store": f"file:{folder}/store",
            "engine": f"unix:{folder}/e",
            "sophos": {"auth_url": central.url, "api_url": central.url, **sophos},
            "integrations": list(integrations) or [ONE],
        }
        self.config = configuration.parse(json.dumps(settings))
        self.engine = StandInEngine(folder / "e")
        self.ack_timeout = 0.3
        self.app = App(lambda: self.config, parts_on(central.clock, now=self.now, monotonic=self.monotonic))
        self.state, self.accounts = self.app.state, self.app.accounts

    def now(self) -> datetime:
        return moment(self.clock)

    def monotonic(self) -> float:
        return seconds(self.clock)

    def tick(self, *, minutes: float = 1, seconds: float = 50.0) -> dict[str, Line]:
        """What fetch-page says, some minutes later, of each integration, or of each tenant of the only one."""
        self.clock.advance(minutes * MINUTE)
        fetched = self.app.fetch_page.run(deadline=self.monotonic() + seconds)
        lines = answers.fetched(fetched)["results"]
        key = "integration" if len(self.config.integrations) > 1 else "tenant"
        return {line["stream"] if line["stream"] == "alerts" else str(line[key]): line for line in lines}

    def problem(self, **options: float) -> Line:
        """The problem of the only line, which is in the status as well."""
        (line,) = self.tick(**options).values()
        found: Line = line["problem"]
        assert found["remedy"]
        assert found["title"]
        told = self.status()
        assert found["code"] in {
            each.get("problem", {}).get("code") for each in (*told["integrations"], *told["streams"])
        }
        return found

    def forward(self, **named: Any) -> list[Line]:
        """What forward-batch says of all streams, or of what is named; the engine answers in real time."""
        use_case = self.app.forward_batch
        engine = GrpcEngine(f"unix:{self.folder}/e", ack_timeout=self.ack_timeout)
        context = replace(use_case.context, engine=engine, monotonic=time.monotonic)
        try:
            return answers.delivered(replace(use_case, context=context).run(**named, deadline=time.monotonic() + 20))
        finally:
            engine.close()

    def status(self) -> Line:
        """What the operator sees, who never sees a secret."""
        found = collect(self.app)
        assert SECRET not in json.dumps(found)
        assert "demo-client" not in json.dumps(found)
        return found

    def warnings(self) -> dict[str, Line]:
        """The warnings of the only integration, by code."""
        return {each["code"]: each for each in self.status()["integrations"][0]["warnings"]}

    def asked(self, path: str) -> int:
        """How many requests there were for it."""
        return sum(seen.path == path for seen in self.central.requests)


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer(clock=Clock()) as server:
        yield server


@pytest.fixture
def works(tmp_path: Path, central: CentralServer) -> Connector:
    central.fill(20)
    return Connector(tmp_path, central)


Many = Callable[..., Connector]


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Many]:
    """A partner of three tenants, each with events."""
    servers = []

    def made(*tenants: Tenant, **integration: Any) -> Connector:
        server = CentralServer(tenants=tenants, credentials=PARTNER, clock=Clock())
        servers.append(server)
        for tenant in tenants:
            server.emit(3, tenant=tenant.id)
        return Connector(tmp_path, server, ONE | integration)

    yield made
    for server in servers:
        server.close()


def events(works: Connector) -> int:
    return sum(line["events"] for line in works.status()["streams"])


# The way to Sophos


def test_sophos_is_down(works: Connector) -> None:
    works.central.faults.add(Fault("status", status=503, times=None))
    assert works.problem()["code"] == "sophos_unavailable"
    works.central.faults.clear()
    assert works.tick()
    assert events(works) == 20


def test_sophos_sends_no_json(works: Connector) -> None:
    works.central.faults.add(Fault("status", status=200, body="html", times=None))
    assert works.problem()["code"] == "protocol_error"
    works.central.faults.clear()
    works.tick()
    assert events(works) == 20


def test_an_answer_is_cut_off(works: Connector) -> None:
    works.central.faults.add(Fault("cut", times=None))
    assert "cut off" in works.problem()["detail"]
    works.central.faults.clear()
    works.tick()
    assert events(works) == 20


def test_sophos_does_not_answer_in_time(works: Connector) -> None:
    works.tick()
    works.central.faults.add(Fault("slow", seconds=3, times=None))
    assert works.problem(seconds=1)["code"] == "timed_out"


def test_the_name_of_sophos_cannot_be_resolved(tmp_path: Path, central: CentralServer) -> None:
    nowhere = "https://id.nowhere.invalid"
    works = Connector(tmp_path, central, auth_url=nowhere, allow_hosts=["id.nowhere.invalid"])
    assert works.problem()["code"] == "dns_failed"


def test_the_connection_to_sophos_is_refused(tmp_path: Path, central: CentralServer) -> None:
    works = Connector(tmp_path, central, auth_url=f"http://127.0.0.1:{free_port()}")
    assert works.problem()["code"] == "connection_refused"


def test_the_proxy_refuses_the_connection(
    tmp_path: Path, central: CentralServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_PROXY", f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    works = Connector(tmp_path, central, auth_url="https://id.sophos.com", proxy="${env:SITE_PROXY}")
    found = works.problem()
    assert (found["code"], SECRET in str(found)) == ("proxy_failed", False)
    assert "sophos.proxy" in found["remedy"]


def test_a_proxy_inspects_tls(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    with CentralServer(clock=Clock(), tls_ca=ca) as central:
        central.emit(3)
        works = Connector(tmp_path, central)
        found = works.problem()
        assert (found["code"], "issued by" in found["detail"]) == ("tls_broken", True)
        assert "sophos.ca_bundle" in found["remedy"]
        trusting = Connector(tmp_path, central, ca_bundle=str(ca))
        trusting.tick()
        assert events(trusting) == 3


# How much may be asked


def test_sophos_asks_to_slow_down(works: Connector) -> None:
    works.central.faults.add(Fault("status", status=429, retry_after=90, times=1))
    (line,) = works.tick().values()
    assert (line["outcome"], line["problem"]["code"]) == ("rate_limited", "rate_limited")
    assert "retry_at" in line
    before = works.asked("/siem/v1/events")
    works.tick(minutes=0.5)
    assert works.asked("/siem/v1/events") == before
    works.tick(minutes=2)
    assert events(works) == 20


def test_the_calls_are_used_up(many: Many) -> None:
    works = many(T1, T2, T3, calls_per_minute=2)
    late: list[Line] = []
    for _ in range(20):
        late = [line for line in works.tick(minutes=0.01, seconds=0.5).values() if line["outcome"] == "rate_limited"]
        if late:
            break
    assert {line["problem"]["code"] for line in late} == {"over_budget"}
    assert all("retry_at" in line for line in late)
    assert works.status()["ok"]
    works.tick(minutes=5)
    works.tick(minutes=5)
    assert events(works) == 9


# The credential


def test_the_secret_is_wrong(tmp_path: Path) -> None:
    keys = [Credential(), Credential("other-client", "other", id=Tenant().id)]
    with CentralServer(credentials=keys, clock=Clock()) as central:
        central.emit(3)
        bad = ONE | {"client_secret": "wrong"}
        works = Connector(
            tmp_path, central, bad, ONE | {"name": "o", "client_id": "other-client", "client_secret": "other"}
        )
        lines = works.tick()
        assert (lines["acme"]["problem"]["code"], lines["o"]["events"]) == ("credentials_refused", 3)
        for _ in range(60):
            works.tick()
        refused = sum(seen.status == 401 for seen in central.requests)
        assert 5 <= refused <= 12
        held = works.accounts.read("acme").problem
        assert held is not None
        assert held.retry_at is not None
        assert held.retry_at - works.now() <= SLOWEST


def test_the_credential_ends_after_months(works: Connector) -> None:
    works.tick()
    began = works.now()
    works.clock.advance(60 * DAY)
    works.tick()
    works.central.disable("demo-client")
    assert works.problem()["code"] == "credentials_refused"
    told = works.warnings()["credential_ended"]
    assert f"{began:%Y-%m-%d}" in told["text"]
    assert told["date"][:10] == f"{works.now():%Y-%m-%d}"
    assert "API Credentials Management" in told["remedy"]


def test_the_end_of_the_credential_is_announced(works: Connector, caplog: pytest.LogCaptureFixture) -> None:
    works.central.announce_renewal()
    (line,) = works.tick().values()
    assert "problem" not in line
    told = works.warnings()["credential_ending"]
    assert told["date"][:10] == f"{works.now():%Y-%m-%d}"
    assert "next_client_id" in told["remedy"]
    assert "integration acme: Sophos announced" in caplog.text
    assert works.central.default_tenant in told["text"]
    assert works.status()["health"] == "attention"


def test_the_credential_grows_old(works: Connector) -> None:
    works.tick()
    due = works.now() + timedelta(days=90)
    works.clock.advance(75 * DAY)
    assert not works.warnings()
    works.clock.advance(2 * DAY)
    assert works.warnings()["credential_old"]["date"][:10] == f"{due:%Y-%m-%d}"


def test_the_first_of_two_credentials_is_refused(tmp_path: Path) -> None:
    keys = [Credential(), Credential("second-client", "second", id=Tenant().id)]
    with CentralServer(credentials=keys, clock=Clock()) as central:
        works = Connector(tmp_path, central, ONE | {"next_client_id": "second-client", "next_client_secret": "second"})
        central.emit(2)
        works.tick()
        assert (works.status()["integrations"][0]["credential_pair"], works.warnings()) == ("first", {})
        central.disable("demo-client")
        central.emit(2)
        (line,) = works.tick().values()
        assert (line["events"], "problem" in line) == (2, False)
        one = works.status()["integrations"][0]
        assert (one["credential_pair"], one["state"]) == ("next", "collecting")
        assert "next_client_id" in works.warnings()["next_credential_used"]["remedy"]
        assert "second-client" not in json.dumps(works.status())
        central.disable("second-client")
        assert works.problem()["code"] == "credentials_refused"


# What it may read


def test_a_permission_is_missing(tmp_path: Path) -> None:
    keys = [Credential(permissions=frozenset({"events"}))]
    with CentralServer(credentials=keys, clock=Clock()) as central:
        central.emit(3)
        works = Connector(tmp_path, central, ONE | {"streams": ["events", "alerts"]})
        lines = works.tick()
        assert lines["alerts"]["problem"]["code"] == "permission_missing"
        assert "may not read alerts" in lines["alerts"]["problem"]["detail"]
        assert lines[central.default_tenant]["events"] == 3
        for _ in range(40):
            works.tick()
        assert works.asked("/siem/v1/alerts") <= 10
        assert works.asked("/siem/v1/events") >= 41


@pytest.mark.parametrize(
    ("status_", "code"), [(401, "wrong_tenant"), (403, "permission_missing"), (404, "wrong_tenant")]
)
def test_one_tenant_of_many_is_refused(many: Many, status_: int, code: str) -> None:
    works = many(T1, T2, T3)
    works.central.faults.add(Fault("status", status=status_, tenant="t-2", times=None))
    lines = works.tick()
    assert lines["t-2"]["problem"]["code"] == code
    assert (lines["t-1"]["events"], lines["t-3"]["events"]) == (3, 3)
    for _ in range(40):
        works.tick()
    counts = {tenant: sum(seen.tenant == tenant for seen in works.central.requests) for tenant in ("t-1", "t-2", "t-3")}
    assert counts["t-2"] <= 20  # two each time for a 401, eight to ten times
    assert min(counts["t-1"], counts["t-3"]) >= 41
    assert works.status()["integrations"][0]["state"] == "collecting"
    assert (works.asked("/whoami/v1") > 1) == (code == "wrong_tenant")  # where it is read may have changed
    works.central.faults.clear()
    assert works.tick(minutes=16)["t-2"]["events"] == 3


def test_the_credential_does_not_read_the_tenant(tmp_path: Path, central: CentralServer) -> None:
    works = Connector(tmp_path, central, ONE | {"tenants": ["t-nobody"]})
    (line,) = works.tick().values()
    assert line["problem"]["code"] == "wrong_tenant"
    assert central.default_tenant in line["problem"]["detail"]


def test_the_region_is_another_one(tmp_path: Path) -> None:
    keys = [Credential(data_region="https://api-us03.central.sophos.com")]
    with CentralServer(credentials=keys, clock=Clock()) as central:
        works = Connector(tmp_path, central, ONE | {"region": "eu02"})
        found = works.problem()
        assert (found["code"], "region: us03" in found["remedy"]) == ("wrong_region", True)
        assert not works.asked("/siem/v1/events")


# What Sophos holds


def test_sophos_forgot_the_cursor(works: Connector) -> None:
    works.tick()
    stopped = works.now()
    works.clock.advance(3 * DAY)
    new = works.central.emit(5)
    works.tick()
    (gap,) = works.state.gaps.all()
    assert gap.start
    assert abs(gap.start - stopped) < timedelta(minutes=2)
    with works.engine:
        works.forward()
    sent = [json.loads(log.raw) for log in works.engine.received if log.dataType == "sophos-central"]
    assert [each["id"] for each in sent][-5:] == new
    assert any(log.dataType == "sophos-central-gaps" for log in works.engine.received)


def test_events_are_stored_behind_the_cursor(works: Connector) -> None:
    works.tick()
    works.tick()
    works.central.insert_late(works.central.default_tenant, "events", 4, seconds=10 * MINUTE)
    (line,) = works.tick(minutes=6 * 60 + 1).values()
    assert line["reconciled"]["missing"] == 4
    assert events(works) == 24


@pytest.mark.parametrize(("fault", "pages"), [("same_cursor", 1), ("two_cursors", 3)])
def test_sophos_returns_the_cursor_that_it_was_sent(works: Connector, fault: str, pages: int) -> None:
    works.app.fetch_page.run(max_pages=1, deadline=works.monotonic() + 50)
    works.central.faults.add(Fault(fault, times=None))
    for failures in (1, 2):
        (line,) = works.tick().values()
        assert (line["pages"], line["problem"]["code"]) == (pages, "protocol_error")
        (seen,) = works.status()["streams"]
        assert (seen["state"], seen["problem"]) == ("failed", line["problem"])
        (stream,) = works.state.checkpoints.streams()
        kept = works.state.checkpoints.read(stream).checkpoint.problem
        assert kept is not None
        assert kept.failures == failures
        pages = min(pages, 2)
    works.central.faults.clear()
    works.tick()
    (seen,) = works.status()["streams"]
    assert (seen["state"], seen["events"]) == ("idle", 20)


# Where it goes


def test_the_engine_is_down(works: Connector) -> None:
    works.tick()
    (line,) = works.forward()
    assert (line["outcome"], line["problem"]["code"]) == ("engine_unavailable", EngineDownError.code)
    assert works.status()["pending_batches"] == 1
    with works.engine:
        works.forward()
    assert [json.loads(log.raw)["id"] for log in works.engine.received] == works.central.ids(
        works.central.default_tenant
    )


def test_the_engine_ends_its_stream_early(works: Connector) -> None:
    works.tick()
    works.engine.faults["hang_up_after"] = "7"
    with works.engine:
        works.forward()
        works.engine.faults.clear()
        works.forward()
    sent = [json.loads(log.raw)["id"] for log in works.engine.received]
    assert list(dict.fromkeys(sent)) == works.central.ids(works.central.default_tenant)


def test_an_event_is_no_object(works: Connector) -> None:
    works.central.append(works.central.default_tenant, "events", [b"7", b'"text"'])
    works.tick()
    with works.engine:
        (line,) = works.forward()
    assert line["set_aside"] == 2
    assert len(works.engine.received) == 20


def test_a_stored_batch_is_damaged(works: Connector) -> None:
    works.tick()
    works.central.emit(5)
    works.tick()
    first = min((works.folder / "store" / "batches").rglob("*.ndjson"))
    first.write_bytes(first.read_bytes()[:200])
    with works.engine:
        works.forward()
        works.forward()
    assert len(works.engine.received) >= 5
    assert list(works.state.store.list("dead/"))
    assert list(works.state.gaps.all())


def test_a_process_is_killed(works: Connector) -> None:
    place = str(works.folder / "s")
    with works.engine:
        for at in (8, 12):
            with pytest.raises(Died):
                live(Life(place, f"{works.folder}/e", works.central.url, dies_at=at, kills=False))
        live(Life(place, f"{works.folder}/e", works.central.url, ahead=MINUTE))
    sent = [json.loads(log.raw)["id"] for log in works.engine.received]
    assert list(dict.fromkeys(sent)) == works.central.ids(works.central.default_tenant)


# The table


def rows() -> list[str]:
    """The first cells of the table in docs/operations.md."""
    text = (ROOT / "docs/operations.md").read_text().partition("## How it fails")[2].partition("\n## ")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]


def test_every_fault_of_the_readme_has_a_test_of_its_name() -> None:
    names = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    wanted = {row: "test_" + "_".join(re.findall(r"[a-z0-9]+", row.lower())) for row in rows()}
    assert len(wanted) > 25
    assert {row for row, name in wanted.items() if name not in names} == set()


def test_every_fault_that_is_tested_here_is_in_the_readme() -> None:
    told = {"_".join(re.findall(r"[a-z0-9]+", row.lower())) for row in rows()}
    here = {
        node.name.removeprefix("test_")
        for node in ast.parse(Path(__file__).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert {name for name in here if name not in told and not name.startswith("every_fault")} == set()
