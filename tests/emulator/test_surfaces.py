"""Every surface says the same: each cause is provoked, then page, /status, command, metrics and alerts are asked."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from emulator.central import CentralServer, Credential, Fault, Tenant
from emulator.runtime.functions import FunctionDownError
from emulator.runtime.platform import FAILURES
from emulator.utmstack.watcher import SettingsWatcher
from emulator.web import server as web
from emulator.web.connections import listening
from emulator.web.context import RecentLog
from emulator.web.status import Running, SiteStatus, status
from lib.app import App
from lib.config.reloading import ReloadingConfig
from lib.errors import ConnectorError, catalogue
from lib.model.checkpoint import problem_after
from lib.model.health import KINDS
from lib.state.accounts import StoredAccounts
from tests.contract.test_alert_rules import BY_REASON, OF_OWN, promtool_firing
from tests.emulator.test_follow import Workdir
from tests.fakes import forks
from tests.fakes.picky import PickyEngine
from tests.fakes.sophos import PAGE_PATH, Say, Sophos
from tests.site import ROOT, SECRET, Site, free_port, platform_for, until

Line = dict[str, Any]
Provoke = Callable[["Surfaces"], None]
ONE = {"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}


class Surfaces:
    """A site whose page, status and metrics are served for real, at a time of the test's choosing."""

    def __init__(self, found: Site) -> None:
        self.site = found
        self.stack = ExitStack()
        """What a cause brings, for the time of the test."""
        self.live = ReloadingConfig(str(found.config))
        self.config = self.live.current()
        self.app = App(lambda: self.config)
        self.followed: Sequence[ConnectorError] = ()
        self.platform = platform_for(self.config, str(found.config))
        self.later = timedelta(0)
        self.ticked_at: datetime | None = None
        self.web = web.Web(self.platform, lambda _, __: self.site_status(), self.app, RecentLog())
        self.server = listening(self.web.app, *self.config.listen)
        threading.Thread(target=self.server.run, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.effective_port}"

    def status(self) -> Line:
        return self.site_status().fields

    def site_status(self) -> SiteStatus:
        now, edit = datetime.now(UTC) + self.later, self.live.problem
        running = Running(
            latest=dict(self.platform.latest),
            budgets=self.platform.budgets,
            engine=self.platform.engine_problem,
            functions=self.platform.failing_functions,
            config_edit=None if edit is None else problem_after(None, edit, now, None),
            ticked_at=self.ticked_at,
        )
        followed = [problem_after(None, each, now, None) for each in self.followed]
        return status(self.config, self.app.state, self.app.accounts, now=now, running=running, followed=followed)

    def post(self, name: str) -> None:
        """As the emulator calls it; the function's process is the site's."""
        self.call(name)

    def call(self, name: str, **request: str) -> None:
        """The same, for the integration or the stream that is named."""
        self.platform.functions[name] = self.site.function(name)
        self.platform.call(name, json.dumps(request).encode())

    def configure(self, **settings: Any) -> None:
        """Change the configuration; the functions' next calls are new processes."""
        self.site.write_config(**settings)
        self.config = self.live.current()
        for name in self.platform.functions:
            if name in self.site.started:
                self.site.end(name)

    def metrics(self) -> str:
        return requests.get(f"{self.url}/metrics", timeout=30).text

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return forks.run(["-m", "emulator", *arguments, "--config", str(self.site.config)], self.site.env)

    def reasons(self) -> dict[str, str]:
        """Codes and healths, the same on every surface."""
        self.web.snapshot.expire()  # What was provoked just now is meant.
        told = requests.get(f"{self.url}/status", timeout=30).json()
        page = html.unescape(requests.get(f"{self.url}/", timeout=30).text)
        scraped = requests.get(f"{self.url}/metrics", timeout=30).text
        done = self.command("status", "--json")
        assert done.returncode == (0 if told["health"] == "ok" else 1), done.stderr
        said = json.loads(done.stdout)
        assert [each["code"] for each in said["reasons"]] == [each["code"] for each in told["reasons"]]
        assert told["ok"] == (told["health"] == "ok")
        values = {
            (sample.name, sample.labels.get("code")): sample.value
            for family in text_string_to_metric_families(scraped)
            for sample in family.samples
            if sample.name in ("sophos_utmstack_health", "sophos_utmstack_reasons")
        }
        assert values["sophos_utmstack_health", None] == {"ok": 0, "attention": 1, "failing": 2}[told["health"]]
        found = {each["code"]: each["health"] for each in told["reasons"]}
        for each in told["reasons"]:
            assert each["title"] in page, f"the page does not say {each['title']!r}"
            assert each["remedy"], each
            assert values["sophos_utmstack_reasons", each["code"]] == each["count"]
        assert {code for name, code in values if name.endswith("reasons") and values[name, code]} == set(found)
        return found

    def alerts(self, folder: Path, minutes: int = 120) -> set[str]:
        """The alerts that fire where the metrics stay as they are for so long."""
        return promtool_firing(folder, self.metrics(), minutes)


@contextmanager
def surfaces(central: CentralServer | None = None, **settings: Any) -> Iterator[Surfaces]:
    with Site(central, listen=f"127.0.0.1:{free_port()}", every="60s", **settings) as found:
        one = Surfaces(found)
        try:
            with one.stack:
                yield one
        finally:
            one.server.close()


@pytest.fixture
def well() -> Iterator[Surfaces]:
    with surfaces(limits={"max_pending_bytes": 20_000}) as found:
        found.site.central.fill(60)
        found.post("fetch-page")
        found.post("forward-batch")
        yield found


def test_where_nothing_is_wrong_every_surface_says_so(well: Surfaces, tmp_path: Path) -> None:
    assert well.reasons() == {}
    assert well.alerts(tmp_path) == set()


def gap(well: Surfaces) -> None:
    well.site.central.clock.advance(30 * 3600)
    well.site.central.emit(1)
    well.post("fetch-page")
    well.post("forward-batch")


def dead_letters(well: Surfaces) -> None:
    well.site.central.append(well.site.central.default_tenant, "events", [b'"not an object"', b'"nor this"'])
    well.post("fetch-page")
    well.post("forward-batch")


def paused(well: Surfaces) -> None:
    well.command("pause", "acme")


def credentials_refused(well: Surfaces) -> None:
    well.site.central.revoke_tokens()
    well.site.central.disable("demo-client")
    well.post("fetch-page")


def permission_missing(well: Surfaces) -> None:
    well.site.central.faults.add(Fault("status", status=403, times=9, path="/siem/v1/events"))
    well.post("fetch-page")


def engine_down(well: Surfaces) -> None:
    well.site.engine.stop()
    well.site.central.emit(3)
    well.post("fetch-page")
    well.post("forward-batch")
    well.later = timedelta(minutes=3)


def undelivered(well: Surfaces) -> None:
    well.site.central.emit(3)
    well.post("fetch-page")
    well.later = timedelta(minutes=11)


def store_full(well: Surfaces) -> None:
    well.site.central.emit(60)
    well.post("fetch-page")


def late(well: Surfaces) -> None:
    well.later = timedelta(minutes=16)


def stale(well: Surfaces) -> None:
    well.ticked_at = datetime.now(UTC) - timedelta(minutes=5)


def function_failing(well: Surfaces) -> None:
    well.site.function("fetch-page").stop()
    for _ in range(FAILURES):
        with pytest.raises(FunctionDownError):
            well.post("fetch-page")


def config_edit_met_by_a_new_process(well: Surfaces) -> None:
    well.site.config.write_text(well.site.config.read_text() + "\nintegrations: [")
    well.live.current()
    well.site.end("fetch-page")
    for _ in range(FAILURES):
        well.post("fetch-page")


def newer_layout_met_by_new_processes(well: Surfaces) -> None:
    """As after a downgrade of the functions: each call is answered, and none does anything."""
    (well.site.folder / "store/.layout").write_text('{"layout": 99}')
    for name in ("fetch-page", "forward-batch"):
        well.site.end(name)
        for _ in range(FAILURES):
            well.post(name)


def config_edit_broken(well: Surfaces) -> None:
    text = well.site.config.read_text()
    well.site.config.write_text(text + "\nnonsense: [\n")
    well.live.current()
    well.site.config.write_text(text)  # the command reads it too


def object_damaged(well: Surfaces) -> None:
    (well.site.folder / "store/gaps").mkdir(exist_ok=True)
    (well.site.folder / "store/gaps/x.json").write_bytes(b"[]")


def credential_old(well: Surfaces) -> None:
    well.later = timedelta(days=80)


def lasts(well: Surfaces) -> None:
    """What mostly passes by itself, and has not for six minutes."""
    well.post("fetch-page")
    well.later = timedelta(minutes=6)


def fails(fault: str, **fields: Any) -> Provoke:
    def provoke(well: Surfaces) -> None:
        well.site.central.faults.add(Fault(fault, **{"times": 99} | fields))
        lasts(well)

    return provoke


def asks_elsewhere(**sophos: Any) -> Provoke:
    """Sophos is looked for where the configuration says, by a process that holds no token."""

    def provoke(well: Surfaces) -> None:
        well.configure(sophos=well.site.settings["sophos"] | sophos)
        lasts(well)

    return provoke


def proxy_down(well: Surfaces) -> None:
    well.site.env["SITE_PROXY"] = f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    asks_elsewhere(auth_url="https://id.sophos.com", proxy="${env:SITE_PROXY}")(well)


def tls_inspected(well: Surfaces) -> None:
    with CentralServer(tls_ca=well.site.folder / "ca.pem") as inspected:
        asks_elsewhere(auth_url=inspected.url)(well)


def integration(**settings: Any) -> Provoke:
    def provoke(well: Surfaces) -> None:
        well.configure(integrations=[ONE | settings])
        well.post("fetch-page")

    return provoke


def calls_used_up(well: Surfaces) -> None:
    well.configure(integrations=[ONE | {"calls_per_minute": 1}])

    def waits() -> bool:
        well.post("fetch-page")
        return bool(well.status()["waiting"])

    until(waits, "the calls are used up")


def credential_ended(well: Surfaces) -> None:
    stored = StoredAccounts(well.app.store)
    account, generation = stored.read("acme")
    assert account.life.since is not None
    since = account.life.since - timedelta(days=60)
    stored.write("acme", replace(account, life=replace(account.life, since=since)), generation)
    credentials_refused(well)


def credential_ending(well: Surfaces) -> None:
    well.site.central.announce_renewal()
    well.post("fetch-page")
    well.post("forward-batch")


def next_credential_used(well: Surfaces) -> None:
    well.configure(integrations=[ONE | {"next_client_id": "second-client", "next_client_secret": "second"}])
    well.site.central.disable("demo-client")
    well.post("fetch-page")


def one_of_many_refused(well: Surfaces) -> None:
    well.site.central.faults.add(Fault("status", status=404, tenant="t-1", times=99))
    well.post("fetch-page")


def stored_behind_the_cursor(well: Surfaces) -> None:
    well.site.central.insert_late(well.site.central.default_tenant, "events", 4, seconds=600)
    well.command("reconcile")
    well.post("forward-batch")
    assert well.status()["acked"] == 64


def append(*raws: bytes) -> Provoke:
    def provoke(well: Surfaces) -> None:
        for raw in raws:
            well.site.central.append(well.site.central.default_tenant, "events", [raw])
            well.post("fetch-page")
        well.post("forward-batch")

    return provoke


def stream_ends_early(well: Surfaces) -> None:
    well.site.engine.faults["hang_up_after"] = "3"
    well.site.central.emit(7)
    well.post("fetch-page")
    well.post("forward-batch")
    well.post("forward-batch")


def batch_damaged(well: Surfaces) -> None:
    well.site.central.emit(1)
    well.post("fetch-page")
    batch = min((well.site.folder / "store/batches").rglob("*.ndjson"))
    batch.write_bytes(batch.read_bytes()[:100])
    for _ in range(2):
        well.post("forward-batch")
    well.site.central.emit(1)
    well.post("fetch-page")
    well.post("forward-batch")


def process_killed(well: Surfaces) -> None:
    function = well.site.function("fetch-page")
    assert function.pid is not None
    os.kill(function.pid, signal.SIGKILL)
    until(lambda: function.restarts > 0 and function.is_up(), "it is started again")
    well.post("fetch-page")


def store_unavailable(well: Surfaces) -> None:
    folder = next(each for each in (well.site.folder / "store/batches").rglob("*") if each.name == "events")
    shutil.rmtree(folder)
    folder.write_bytes(b"where a folder has to be")
    well.site.central.emit(1)
    well.post("fetch-page")


def layout_newer(well: Surfaces) -> None:
    (cursor,) = (well.site.folder / "store/cursors").rglob("*.json")
    cursor.write_text(json.dumps(json.loads(cursor.read_text()) | {"layout": 99}))


def object_unreadable(well: Surfaces) -> None:
    (cursor,) = (well.site.folder / "store/cursors").rglob("*.json")
    cursor.unlink()
    cursor.symlink_to("/proc/self/mem")  # Reading it fails with EIO, for root too.
    well.post("fetch-page")


def observing(well: Surfaces) -> None:
    well.configure(observe=True)


def followed_config(well: Surfaces) -> None:
    workdir = Workdir(well.site.folder)
    workdir.put("plugins: [")
    watcher = SettingsWatcher(str(well.site.folder))
    watcher.look()
    well.followed = watcher.problems
    watcher.close()
    well.site.write_config(utmstack={"workdir": str(well.site.folder)})
    well.live = ReloadingConfig(str(well.site.config))  # This key counts from the next start.
    well.config = well.live.current()


def silent(well: Surfaces) -> None:
    for _ in range(2):
        well.site.central.emit(1)
        well.post("fetch-page")
    well.site.central.clock.advance(20 * 3600)
    well.post("fetch-page")
    well.post("forward-batch")
    well.later = timedelta(hours=20)


def heartbeat_late(well: Surfaces) -> None:
    well.configure(heartbeat="1m")
    well.post("fetch-page")
    well.later = timedelta(minutes=5)


def answers_too_late(well: Surfaces) -> None:
    well.site.central.faults.add(Fault("slow", seconds=600, times=None, path="/siem/v1/events"))
    well.configure(limits={"deadline": "3s"})

    def timed_out() -> bool:
        well.post("fetch-page")
        (line,) = well.status()["streams"]
        return bool(line.get("problem", {}).get("code") == "timed_out")

    until(timed_out, "a call that had begun a page ends at its deadline")
    well.later = timedelta(minutes=6)


def never_acknowledged(well: Surfaces) -> None:
    """One event of 30, by an engine that acknowledges those behind it."""
    well.site.engine.close()
    well.site.engine = engine = PickyEngine(well.site.folder / "engine.sock")
    engine.start()
    engine.silent = {well.site.central.emit(30)[5]}
    well.configure(limits={"ack_timeout": "2s"})

    def is_set_aside() -> bool:
        well.site.central.emit(1)  # What comes anew shows that the engine works.
        well.post("fetch-page")
        well.post("forward-batch")
        return bool(well.status()["set_aside"] == 1)

    until(is_set_aside, "it is set aside")
    well.post("forward-batch")


def answered(says: Callable[[Sophos], dict[str, Say]]) -> Provoke:
    """Sophos is another one from now on, which answers as the real one has not been seen to."""

    def provoke(well: Surfaces) -> None:
        sophos = well.stack.enter_context(Sophos())
        hosts = {"global": sophos.url, "dataRegion": sophos.url}
        who = {"id": well.site.central.default_tenant, "idType": "tenant", "apiHosts": hosts}
        sophos.says |= {"/whoami/v1": lambda *_: (200, who)} | says(sophos)
        asks_elsewhere(auth_url=sophos.url, api_url=sophos.url)(well)

    return provoke


def pages_without_end(_: Sophos) -> dict[str, Say]:
    asked = iter(range(1, 1000))
    return {PAGE_PATH: lambda *_: (200, {"has_more": True, "next_cursor": f"c{next(asked)}", "items": []})}


def cursor_too_long(_: Sophos) -> dict[str, Say]:
    return {PAGE_PATH: lambda *_: (200, {"has_more": False, "next_cursor": "x" * 5000, "items": []})}


def odd_tenants(sophos: Sophos) -> dict[str, Say]:
    who = {"id": "p", "idType": "partner", "apiHosts": {"global": sophos.url}}
    tenants = [{"id": "odd-host", "apiHost": 5}, {"id": "t-1", "name": "Mine", "apiHost": sophos.url}, {"id": None}]
    return {
        "/whoami/v1": lambda *_: (200, who),
        "/partner/v1/tenants": lambda *_: (200, {"items": tenants, "pages": {"total": 1}}),
    }


OTHER = json.dumps({"id": "x-1", "customer_id": "somebody else", "name": "first"}).encode()
CHANGED = json.dumps({"id": "x-2", "name": "first"}).encode()
DEEP = b'{"id": "x-3", "a": ' + b"[" * 600 + b"]" * 600 + b"}"
LASTS = ("SophosProblemLasts",)


@dataclass(frozen=True, slots=True)
class Cause:
    """What is provoked, and what every surface says of it."""

    provoke: Provoke
    reasons: dict[str, str] = field(default_factory=dict)
    alerts: tuple[str, ...] = ()
    row: str = ""
    """Of the table of failures in docs/operations.md."""
    central: Callable[[], CentralServer] = CentralServer
    minutes: int = 120
    """After which the alerts are looked at."""
    once: bool = False
    """Whether only `/status` is asked, since no other process can see it."""


def two_credentials() -> CentralServer:
    return CentralServer(credentials=[Credential(), Credential("second-client", "second")])


def of_region(url: str) -> Callable[[], CentralServer]:
    return lambda: CentralServer(credentials=[Credential(data_region=url)])


CAUSES = [
    Cause(fails("status", status=503), {"sophos_unavailable": "attention"}, LASTS, "Sophos is down"),
    Cause(fails("status", status=200, body="html"), {"protocol_error": "attention"}, LASTS, "Sophos sends no JSON"),
    Cause(fails("cut"), {"sophos_unavailable": "attention"}, LASTS, "an answer is cut off"),
    Cause(answers_too_late, {"timed_out": "attention"}, LASTS, "Sophos does not answer in time"),
    Cause(
        asks_elsewhere(auth_url="https://id.nowhere.invalid", allow_hosts=["id.nowhere.invalid"]),
        {"dns_failed": "attention"},
        LASTS,
        "the name of Sophos cannot be resolved",
    ),
    Cause(
        asks_elsewhere(auth_url=f"http://127.0.0.1:{free_port()}"),
        {"connection_refused": "attention"},
        LASTS,
        "the connection to Sophos is refused",
    ),
    Cause(proxy_down, {"proxy_failed": "attention"}, LASTS, "the proxy refuses the connection"),
    Cause(tls_inspected, {"tls_broken": "attention"}, LASTS, "a proxy inspects TLS"),
    Cause(
        fails("status", status=429, retry_after=90), {"rate_limited": "attention"}, LASTS, "Sophos asks to slow down"
    ),
    Cause(calls_used_up, row="the calls are used up"),
    Cause(
        credentials_refused,
        {"credentials_refused": "failing"},
        ("SophosCredentialsRefused",),
        "the secret is wrong",
    ),
    Cause(
        credential_ended,
        {"credentials_refused": "failing", "credential_ended": "attention"},
        ("SophosCredentialsRefused", "SophosCredentialWarning"),
        "the credential ends after months",
    ),
    Cause(
        credential_ending,
        {"credential_ending": "attention"},
        ("SophosCredentialWarning",),
        "the end of the credential is announced",
    ),
    Cause(
        credential_old,
        {"credential_old": "attention", "late": "attention"},
        ("SophosCredentialWarning",),
        "the credential grows old",
    ),
    Cause(
        next_credential_used,
        {"next_credential_used": "attention"},
        ("SophosCredentialWarning",),
        "the first of two credentials is refused",
        two_credentials,
    ),
    Cause(permission_missing, {"permission_missing": "failing"}, ("SophosAccessWrong",), "a permission is missing"),
    Cause(
        one_of_many_refused,
        {"wrong_tenant": "failing"},
        ("SophosAccessWrong",),
        "one tenant of many is refused",
        lambda: partner(2),
    ),
    Cause(
        integration(tenants=["t-nobody"]),
        {"wrong_tenant": "failing"},
        ("SophosAccessWrong",),
        "the credential does not read the tenant",
    ),
    Cause(
        integration(region="eu02"),
        {"wrong_region": "failing"},
        ("SophosAccessWrong",),
        "the region is another one",
        of_region("https://api-us03.central.sophos.com"),
    ),
    Cause(
        integration(), {"host_refused": "failing"}, ("SophosAccessWrong",), "", of_region("https://evil.example.com")
    ),
    Cause(integration(client_secret="${env:NOT_SET_HERE}"), {"config_invalid": "failing"}, ("SophosAccessWrong",)),
    Cause(gap, {"gap": "attention"}, ("SophosGap",), "Sophos forgot the cursor"),
    Cause(stored_behind_the_cursor, row="events are stored behind the cursor"),
    Cause(fails("same_cursor"), {"protocol_error": "attention"}, LASTS, "Sophos returns the cursor that it was sent"),
    Cause(answered(pages_without_end), {"protocol_error": "attention"}, LASTS, "pages without end tell nothing new"),
    Cause(answered(cursor_too_long), {"protocol_error": "attention"}, LASTS, "a cursor cannot be sent back"),
    Cause(
        answered(odd_tenants),
        {"tenant_left_out": "attention"},
        ("SophosTenantLeftOut",),
        "one record in the list of tenants is odd",
    ),
    Cause(
        fails("status", status=403, body="html"),
        {"protocol_error": "attention"},
        LASTS,
        "a gateway answers in place of Sophos",
    ),
    Cause(append(OTHER), {"wrong_customer": "attention"}, ("SophosWrongCustomer",), "events name another customer"),
    Cause(append(CHANGED, CHANGED.replace(b"first", b"next")), row="an event comes again with another text"),
    Cause(append(DEEP), {"dead_letters": "attention"}, ("SophosDeadLetters",), "an event is nested too deep"),
    Cause(engine_down, {"engine_down": "failing"}, ("UTMStackEngineDown",), "the engine is down"),
    Cause(
        never_acknowledged,
        {"dead_letters": "attention"},
        ("SophosDeadLetters",),
        "the engine never acknowledges one event, or fails at it",
    ),
    Cause(stream_ends_early, row="the engine ends its stream early"),
    Cause(dead_letters, {"dead_letters": "attention"}, ("SophosDeadLetters",), "an event is no object"),
    Cause(
        batch_damaged,
        {"gap": "attention"},
        ("SophosGap",),
        "a stored batch is damaged",
    ),
    Cause(
        object_damaged,
        {"object_damaged": "attention"},
        ("SophosObjectDamaged",),
        "any other stored object is damaged",
    ),
    Cause(process_killed, row="a process is killed"),
    Cause(store_unavailable, {"store_unavailable": "failing"}, ("SophosStoreFailing",), "the disk is full"),
    Cause(paused, {"paused": "attention"}, ("SophosPaused",)),
    Cause(undelivered, {"undelivered": "failing"}, ("SophosEventsUndelivered",)),
    Cause(store_full, {"store_full": "failing"}, ("SophosStoreFull",)),
    Cause(late, {"late": "attention"}, ("SophosEventsLate",)),
    Cause(stale, {"stale": "attention"}, ("SophosFiguresStale",)),
    Cause(function_failing, {"function_failing": "failing"}, ("SophosFunctionFailing",), once=True),
    Cause(config_edit_met_by_a_new_process, {"config_invalid": "failing"}, ("SophosAccessWrong",), once=True),
    Cause(newer_layout_met_by_new_processes, {"layout_newer": "failing"}, ("SophosStoreFailing",), once=True),
    Cause(config_edit_broken, {"config_edit_broken": "attention"}, ("SophosConfigurationBroken",)),
    Cause(
        object_unreadable,
        {"object_unreadable": "failing"},
        ("SophosStoreFailing",),
        "a file of the store cannot be read",
    ),
    Cause(layout_newer, {"layout_newer": "failing"}, ("SophosStoreFailing",)),
    Cause(observing, {"observing": "attention"}, ("SophosObserving",), minutes=1500),
    Cause(followed_config, {"followed_config": "attention"}, ("SophosConfigurationBroken",)),
    Cause(silent, {"silent": "attention"}, ("SophosStreamSilent",)),
    Cause(heartbeat_late, {"heartbeat_late": "attention"}, ("SophosHeartbeatLate",)),
]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.row or next(iter(cause.reasons)))
def test_each_cause_is_told_alike_by_page_status_command_metrics_and_alerts(cause: Cause, tmp_path: Path) -> None:
    with surfaces(cause.central(), limits={"max_pending_bytes": 20_000}) as well:
        well.site.central.fill(60)
        well.post("fetch-page")
        well.post("forward-batch")
        cause.provoke(well)
        if cause.once:
            told = requests.get(f"{well.url}/status", timeout=30).json()
            assert {each["code"]: each["health"] for each in told["reasons"]} == cause.reasons
            assert all(each["remedy"] and each["detail"] for each in told["reasons"])
        else:
            assert well.reasons() == cause.reasons
        assert {*cause.alerts} <= well.alerts(tmp_path, cause.minutes)
        if not cause.reasons:
            assert well.alerts(tmp_path) == set()


def test_every_reason_and_every_row_of_the_table_has_its_cause_here() -> None:
    assert {code for cause in CAUSES for code in cause.reasons} >= KINDS.keys()
    assert {*OF_OWN, *(code for _, codes in BY_REASON.values() for code in codes)} == KINDS.keys()
    table = (ROOT / "docs/operations.md").read_text().partition("## How it fails")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
    assert sorted(filter(None, (cause.row for cause in CAUSES))) == sorted(rows)


TO_CALLERS = frozenset({"error", "no_store", "not_found"})
"""Codes that only the answer to a caller, or a command, has."""
WITHIN_A_CALL = frozenset({"conflict", "cursor_refused", "engine_slow", "log_refused"})
"""Codes whose end is another one: a busy stream, a gap, a next call, a dead letter."""


def test_every_code_of_an_error_is_explained_and_shown() -> None:
    """A new code has a row in the table of failures, or is a kind of reason, which has its cause above."""
    # Those of other modules are answers to callers, or depend on what is imported.
    codes = {code for code, kind in catalogue().items() if kind.__module__ == "lib.errors"}
    shown = codes - TO_CALLERS - WITHIN_A_CALL
    table = (ROOT / "docs/operations.md").read_text().partition("## How it fails")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", table))
    assert shown - told - KINDS.keys() == {"unexpected"}, "that one has a file of tests: pipeline/test_unexpected.py"
    assert {code for code in told & shown if code not in KINDS} <= {
        *(code for cause in CAUSES for code in cause.reasons),
        *("over_budget", "engine_unavailable", "engine_refused", "network_down"),  # told as waiting, and with others
    }
    assert not (TO_CALLERS | WITHIN_A_CALL) & KINDS.keys()


def test_what_is_acknowledged_stays_listed_and_is_no_reason_any_more(well: Surfaces) -> None:
    gap(well)
    dead_letters(well)
    assert set(well.reasons()) == {"gap", "dead_letters"}
    for command in ("gaps", "dead-letters"):
        done = well.command(command, "--json")
        (line,) = json.loads(done.stdout)
        assert (done.returncode, line["acknowledged"]) == (1, None)
        assert well.command(command, "--acknowledge", "0000000000").returncode == 2
        assert well.command(command, "--acknowledge", line["id"]).returncode == 0
        (again,) = json.loads(well.command(command, "--json").stdout)
        assert again["acknowledged"]["by"]
    assert well.reasons() == {}
    (stream,) = requests.get(f"{well.url}/status", timeout=30).json()["streams"]
    assert (len(stream["gaps"]), stream["set_aside"]) == (1, 2)


def test_the_remedy_of_an_object_that_was_made_again_ends_its_reason(well: Surfaces) -> None:
    (well.site.folder / "store/integrations/acme.json").write_bytes(b"{}")
    well.post("fetch-page")
    (reason,) = well.status()["reasons"]
    assert (reason["code"], "dead/integrations/acme.json is a copy" in reason["detail"]) == ("object_damaged", True)
    assert "`dead-letters --acknowledge ID`" in reason["remedy"]
    (line,) = json.loads(well.command("dead-letters", "--json").stdout)
    assert well.command("dead-letters", "--acknowledge", line["id"]).returncode == 0
    assert well.reasons() == {}


def test_a_damaged_batch_is_one_problem_and_one_acknowledgement(well: Surfaces, tmp_path: Path) -> None:
    batch_damaged(well)
    (reason,) = well.status()["reasons"]
    assert (reason["code"], reason["count"]) == ("gap", 1)
    assert "recovers events of the last 24 hours" in reason["remedy"]
    assert {"SophosDeadLetters", "SophosObjectDamaged"}.isdisjoint(well.alerts(tmp_path))
    (letter,) = json.loads(well.command("dead-letters", "--json").stdout)
    assert letter["key"].startswith("dead/batches/")
    assert well.command("gaps", "--acknowledge", "all").returncode == 0
    assert well.reasons() == {}
    (letter,) = json.loads(well.command("dead-letters", "--json").stdout)
    assert letter["acknowledged"]["by"]


@pytest.mark.parametrize("kind", ["gaps", "ledger"])
def test_a_damaged_object_can_be_acknowledged_on_the_page(well: Surfaces, kind: str) -> None:
    store = well.site.folder / "store"
    if kind == "gaps":
        object_damaged(well)
        key = "gaps/x.json"
    else:
        well.site.central.emit(1)
        well.post("fetch-page")
        well.post("forward-batch")
        first = min((store / "ledger").rglob("*.json"))
        first.write_bytes(first.read_bytes()[:50])
        assert well.status()["reasons"] == [], "nobody has read it"
        well.command("reconcile")
        key = str(first.relative_to(store))
    assert well.reasons() == {"object_damaged": "attention"}
    (reason,) = well.status()["reasons"]
    assert reason["detail"].startswith(key)
    assert "dead-letters --acknowledge" in reason["remedy"]
    page = html.unescape(requests.get(f"{well.url}/", timeout=30).text)
    assert f'value="{key}"' in page
    well.web.snapshot.expire()
    done = well.command("dead-letters", "--acknowledge", key)
    assert done.returncode == 0, done.stderr
    assert well.reasons() == {}


def test_a_warning_about_a_credential_can_be_acknowledged(well: Surfaces) -> None:
    well.site.central.announce_renewal()
    well.post("fetch-page")
    well.post("forward-batch")
    assert well.reasons() == {"credential_ending": "attention"}
    (line,) = json.loads(well.command("warnings", "--json").stdout)
    assert (line["integration"], line["code"], line["acknowledged"]) == ("acme", "credential_ending", None)
    assert well.command("warnings", "--acknowledge", line["id"]).returncode == 0
    assert well.reasons() == {}
    (line,) = json.loads(well.command("warnings", "--json").stdout)
    assert line["acknowledged"]["by"]


def test_a_function_that_answers_again_is_no_reason(well: Surfaces) -> None:
    config = well.site.config.read_text()
    well.site.config.write_text("integrations: [")
    well.site.end("fetch-page")
    for _ in range(FAILURES):
        well.post("fetch-page")
    assert well.platform.failing_functions
    well.site.config.write_text(config)

    def works() -> bool:
        well.post("fetch-page")
        return not well.platform.failing_functions

    until(works, "it works again")


def partner(tenants: int) -> CentralServer:
    held = [Tenant(id=f"t-{number}") for number in range(tenants)]
    return CentralServer(tenants=held, credentials=[Credential(id_type="partner", id="p-1")])


def test_late_is_what_missed_its_turn_three_times() -> None:
    with surfaces(partner(100), integrations=[ONE | {"calls_per_minute": 16}]) as found:
        found.site.results("fetch-page", {"integration": "acme", "tenant": "t-0"})
        # The credential's calls ask the hundred tenants in 7 minutes.
        for minutes, expected in ((20, False), (30, True)):
            found.later = timedelta(minutes=minutes)
            assert ("late" in {each["code"] for each in found.status()["reasons"]}) == expected


def test_a_stream_that_met_a_429_waits_for_its_turn_once_the_credential_works_again() -> None:
    """Nobody has asked for it since: it is no trouble, and no time that has passed is its next try."""
    with surfaces(partner(2)) as found:
        central = found.site.central
        central.emit(1, tenant="t-1")
        found.post("fetch-page")
        central.faults.add(Fault("status", status=429, tenant="t-0", retry_after=1))
        found.post("fetch-page")

        def works() -> bool:
            found.call("fetch-page", integration="acme", tenant="t-1")
            return bool(found.status()["integrations"][0]["state"] != "throttled")

        until(works, "the credential works again")
        found.post("forward-batch")
        for found.later in (timedelta(0), timedelta(minutes=12)):
            told = found.status()
            line = next(each for each in told["streams"] if each["tenant"] == "t-0")
            assert (line["state"], line["problem"]["code"], line["health"]) == ("waiting", "over_budget", "ok")
            assert "retry_at" not in line
            assert told["waiting"] == 1
            assert told["reasons"] == []


def test_a_next_try_that_has_passed_is_not_shown(well: Surfaces) -> None:
    credentials_refused(well)
    shown = well.status()
    assert (shown["integrations"][0]["retry_at"], shown["streams"][0]["retry_at"]) > ("", "")
    well.later = timedelta(minutes=20)
    passed = well.status()
    assert passed["integrations"][0]["retry_at"] is None
    assert "retry_at" not in passed["streams"][0]
    assert "Next try" not in requests.get(f"{well.url}/", timeout=30).text


def test_the_interval_that_is_shown_is_the_one_that_was_measured(well: Surfaces) -> None:
    begun = time.monotonic()
    well.post("fetch-page")
    well.site.central.faults.add(Fault("status", status=503, times=99, path="/siem/v1/events"))
    first = time.monotonic()
    well.post("fetch-page")  # which is no look
    well.site.central.faults.clear()
    again = time.monotonic()
    well.post("fetch-page")
    ended = time.monotonic()
    (line,) = well.status()["streams"]
    assert line["interval_seconds"] == 60.0
    # From the answer of the look before to that of this one.
    assert again - first <= line["measured_interval_seconds"] + 0.1 <= ended - begun + 0.2
    well.later = timedelta(minutes=12)
    (line,) = well.status()["streams"]
    assert line["measured_interval_seconds"] >= 720
    well.web.snapshot.expire()
    assert 'sophos_utmstack_measured_interval_seconds{integration="acme"' in well.metrics()
    page = requests.get(f"{well.url}/stream?integration=acme&tenant={line['tenant']}&stream=events", timeout=30).text
    assert "measured: " in page
    done = well.command("status", "--json")
    assert done.returncode in {0, 1}
