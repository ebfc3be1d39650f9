"""Every surface says the same: each cause is provoked, then page, /status, command, metrics and alerts are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from emulator.central import CentralServer, Credential, Fault, Tenant
from emulator.runtime.functions import FunctionDownError
from emulator.runtime.platform import FAILURES, Platform
from emulator.web import server as web
from emulator.web.connections import listening
from emulator.web.context import RecentLog
from emulator.web.status import Running, status
from lib.config.reloading import ReloadingConfig
from lib.model.checkpoint import problem_after
from lib.model.health import KINDS
from tests.contract.test_alert_rules import BY_REASON, OF_OWN, promtool_firing
from tests.site import ROOT, Site, free_port, until

Line = dict[str, Any]
ONE = {"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}


class Surfaces:
    """A site whose page, status and metrics are served for real, at a time of the test's choosing."""

    def __init__(self, found: Site) -> None:
        self.site = found
        self.live = ReloadingConfig(str(found.config))
        self.config = self.live.current()
        self.app = found.app
        self.platform = Platform(self.config, str(found.config))
        self.later = timedelta(0)
        self.ticked_at: datetime | None = None
        self.web = web.Web(self.platform, lambda _, __: self.status(), self.app, RecentLog())
        self.server = listening(self.web.app, *self.config.listen)
        threading.Thread(target=self.server.run, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.effective_port}"

    def status(self) -> Line:
        now, edit = datetime.now(UTC) + self.later, self.live.problem
        running = Running(
            latest=dict(self.platform.latest),
            budgets=self.platform.budgets,
            engine=self.platform.engine_problem,
            functions=self.platform.failing_functions,
            config_edit=None if edit is None else problem_after(None, edit, now, None),
            ticked_at=self.ticked_at,
        )
        told = status(self.config, self.app.state, self.app.accounts, now=now, running=running)
        if self.platform.engine_problem is not None:
            told["engine_problem"] = self.platform.engine_problem.as_problem()
        return told

    def post(self, name: str) -> None:
        """As the emulator calls it; the function's process is the site's."""
        self.platform.functions[name] = self.site.function(name)
        self.platform.call(name, b"{}")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "emulator", *arguments, "--config", str(self.site.config)],
            cwd=ROOT,
            env={**os.environ, **self.site.env},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def reasons(self) -> dict[str, str]:
        """Codes and healths, the same on every surface."""
        self.web.snapshot.expire()  # What was provoked just now is meant.
        told = requests.get(f"{self.url}/status", timeout=30).json()
        page = requests.get(f"{self.url}/", timeout=30).text
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

    def alerts(self, folder: Path) -> set[str]:
        """The alerts that fire where the metrics stay as they are for two hours."""
        return promtool_firing(folder, requests.get(f"{self.url}/metrics", timeout=30).text)


@contextmanager
def surfaces(central: CentralServer | None = None, **settings: Any) -> Iterator[Surfaces]:
    with Site(central, listen=f"127.0.0.1:{free_port()}", every="60s", **settings) as found:
        one = Surfaces(found)
        try:
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


def sophos_unavailable(well: Surfaces) -> None:
    well.site.central.faults.add(Fault("status", status=503, times=99))
    well.post("fetch-page")
    well.later = timedelta(minutes=6)


def function_failing(well: Surfaces) -> None:
    well.site.write_config(integrations=[])  # a function that is started anew cannot read it
    well.site.config.write_text("integrations: [")
    well.site.end("fetch-page")
    for _ in range(FAILURES):
        try:
            well.post("fetch-page")
        except FunctionDownError:
            continue


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


CAUSES = {
    gap: ({"gap": "attention"}, {"SophosGap"}),
    dead_letters: ({"dead_letters": "attention"}, {"SophosDeadLetters"}),
    paused: ({"paused": "attention"}, {"SophosPaused"}),
    credentials_refused: ({"credentials_refused": "failing"}, {"SophosCredentialsRefused"}),
    permission_missing: ({"permission_missing": "failing"}, {"SophosAccessWrong"}),
    engine_down: ({"engine_down": "failing"}, {"UTMStackEngineDown"}),
    undelivered: ({"undelivered": "failing"}, {"SophosEventsUndelivered"}),
    store_full: ({"store_full": "failing"}, {"SophosStoreFull"}),
    late: ({"late": "attention"}, {"SophosEventsLate"}),
    stale: ({"stale": "attention"}, {"SophosFiguresStale"}),
    sophos_unavailable: ({"sophos_unavailable": "attention"}, {"SophosProblemLasts"}),
    function_failing: ({"function_failing": "failing"}, {"SophosFunctionFailing"}),
    config_edit_broken: ({"config_edit_broken": "attention"}, {"SophosConfigurationBroken"}),
    object_damaged: ({"object_damaged": "attention"}, {"SophosObjectDamaged"}),
    credential_old: ({"credential_old": "attention", "late": "attention"}, {"SophosCredentialWarning"}),
}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_each_cause_is_told_alike_by_page_status_command_metrics_and_alerts(cause: Any, tmp_path: Path) -> None:
    expected, alerts = CAUSES[cause]
    with surfaces(limits={"max_pending_bytes": 20_000}) as well:
        well.site.central.fill(60)
        well.post("fetch-page")
        well.post("forward-batch")
        cause(well)
        if cause is function_failing:
            told = requests.get(f"{well.url}/status", timeout=30).json()
            assert {each["code"]: each["health"] for each in told["reasons"]} == expected
        else:
            assert well.reasons() == expected
        assert alerts <= well.alerts(tmp_path)


def test_every_kind_of_reason_has_its_cause_here_or_is_one_of_a_few_that_need_more() -> None:
    provoked = {code for expected, _ in CAUSES.values() for code in expected}
    needs_more = {
        # The other errors of access go the way of permission_missing; the other warnings that of credential_old.
        *("wrong_tenant", "wrong_region", "host_refused", "config_invalid"),
        *("credential_ending", "credential_ended", "next_credential_used"),
        # test_observe, test_follow, test_disk and test_store provoke these.
        *("observing", "followed_config", "store_unavailable", "layout_newer"),
        # Speech and silence take hours: below. Another customer's event: test_odd_answers.
        *("silent", "wrong_customer", "heartbeat_late"),
    }
    assert provoked | needs_more >= KINDS.keys()
    assert {*OF_OWN, *(code for _, codes in BY_REASON.values() for code in codes)} == KINDS.keys()


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


def test_a_stream_that_usually_speaks_and_does_not_is_told(well: Surfaces, tmp_path: Path) -> None:
    for _ in range(2):
        well.site.central.emit(1)
        well.post("fetch-page")
    well.site.central.clock.advance(20 * 3600)
    well.post("fetch-page")
    well.post("forward-batch")
    well.later = timedelta(hours=20)
    assert "silent" in well.reasons()
    assert "SophosStreamSilent" in well.alerts(tmp_path)


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
