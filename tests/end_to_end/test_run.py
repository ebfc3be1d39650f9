"""`python -m emulator run`: the whole way, with processes killed on it."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from emulator.central import CentralServer, Credential, Fault, Settings, Tenant
from lib.model.stream import Stream
from tests.site import ROOT, SECRET, Emulator, Site, site, until

EVENTS = 1060
"""More than the five pages that the emulator lets a call fetch."""


def filled() -> CentralServer:
    central = CentralServer(settings=Settings(page_cap=200))
    central.fill(EVENTS)
    return central


def ticks(found: Site) -> int:
    """How often Sophos was asked for a page."""
    return sum(1 for seen in list(found.central.requests) if seen.path == "/siem/v1/events")


def until_ticks(found: Site, more: int) -> None:
    goal = ticks(found) + more
    until(lambda: ticks(found) >= goal, f"{more} more ticks")


def settled(found: Site) -> set[str]:
    """The keys of every event with a receipt."""
    stream = Stream("acme", found.central.default_tenant, "events")
    return {key for _, receipt, _ in found.state.ledger.receipts(stream) for key in receipt.ids}


def test_every_event_arrives_once_unchanged_and_with_the_same_ids_on_a_repeated_run() -> None:
    with filled() as central:
        runs = []
        for _ in range(2):
            with Site(central, keep_central=True) as found:
                with Emulator(found) as emulator:
                    until(lambda: len(found.raws()) >= EVENTS, "all events")
                    until_ticks(found, 3)
                    status = emulator.status()
                    assert emulator.end() == 0
                assert found.raws() == central.raws(central.default_tenant)
                runs.append([log.id for log in found.engine.received])
                assert status is not None
                assert (status["ok"], status["events"], status["acked"]) == (True, EVENTS, EVENTS)
                assert (status["pending_batches"], status["gaps"]) == (0, 0)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == EVENTS


def kill(pid: int) -> None:
    """SIGKILL for the process and all that it has started."""
    victims = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=20)


def kill_function(emulator: Emulator, name: str) -> None:
    pids: list[int] = []

    def runs() -> bool:
        functions = (emulator.status() or {}).get("functions", [])
        # While it is started again there is none, which psutil would take for the test's own.
        pids[:] = [each["pid"] for each in functions if each["name"] == name and each["pid"] is not None]
        return bool(pids)

    until(runs, f"a process of {name}")
    kill(pids[0])


@pytest.mark.parametrize("name", ["fetch-page", "forward-batch"])
def test_a_killed_function_is_started_again_and_repeats_only_what_was_in_flight(name: str) -> None:
    with site(filled()) as found, Emulator(found) as emulator:
        for part in (100, 540):
            found.engine.faults["delay"] = "0.005"
            until(lambda: len(found.raws()) >= part, f"{part} events")  # noqa: B023
            found.engine.faults["delay"] = "0.05"  # It is still at work when the kill comes.
            kill_function(emulator, name)
            done, count = settled(found), len(found.engine.received)
            until(lambda: len(found.raws()) > count, "more events")  # noqa: B023
            assert not {log.id[:24] for log in found.engine.received[count:]} & done
        found.engine.faults.clear()
        until(lambda: len(set(found.raws())) == EVENTS, "all events")
        until(lambda: len(settled(found)) == EVENTS, "all receipts")
        assert emulator.end() == 0
        assert list(dict.fromkeys(found.raws())) == found.central.raws(found.central.default_tenant)
        most = max(Counter(found.raws()).values())
        assert most <= 4


def test_a_machine_that_dies_twice_repeats_only_what_was_in_flight() -> None:
    with site(filled()) as found:
        done: set[str] = set()
        count = 0
        for _ in range(2):
            found.engine.faults["delay"] = "0.005"
            with Emulator(found) as emulator:
                until(lambda: len(found.raws()) > count + 80, "more events")  # noqa: B023
                found.engine.faults["delay"] = "0.05"  # It is still at work when the kill comes.
                assert not {log.id[:24] for log in found.engine.received[count:]} & done
                kill(emulator.process.pid)
                emulator.process.wait()
            done, count = settled(found), len(found.engine.received)
        found.engine.faults.clear()
        with Emulator(found) as emulator:
            until(lambda: len(settled(found)) == EVENTS, "all receipts")
            assert emulator.end() == 0
        assert not {log.id[:24] for log in found.engine.received[count:]} & done
        assert list(dict.fromkeys(found.raws())) == found.central.raws(found.central.default_tenant)


ENDED_WHILE_IT_LOADS = """
import os, signal, sys

class Ends:
    def find_spec(self, name, *_):
        if name == "emulator.runtime.run":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Ends())
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_emulator_that_is_ended_while_it_loads_ends_well(tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(ENDED_WHILE_IT_LOADS.replace("{name}", name))
    done = subprocess.run(
        [sys.executable, "-m", "emulator", "run", "--config", str(tmp_path / "none.yaml")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_killed_emulator_leaves_no_process_behind() -> None:
    with site() as found, Emulator(found) as emulator:
        until(lambda: requests.get(emulator.url("/healthz"), timeout=10).ok if emulator.status() else False, "health")
        family = psutil.Process(emulator.process.pid).children(recursive=True)
        assert len(family) == 2, "test-connection is asleep"
        emulator.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive


def test_an_engine_that_comes_and_goes_loses_nothing() -> None:
    with site(filled()) as found:
        found.engine.stop()
        with Emulator(found) as emulator:
            until(lambda: bool((emulator.status() or {}).get("engine_problem")), "the problem is shown")
            status = emulator.status()
            assert status is not None
            assert status["ok"], "it may be back within two minutes"
            assert "missing" in status["engine_problem"]["detail"] or "refused" in status["engine_problem"]["detail"]
            for part in (140, 580):
                found.engine.start()
                until(lambda: len(found.raws()) >= part, f"{part} events")  # noqa: B023
                found.engine.stop()
            found.engine.start()
            until(lambda: len(settled(found)) == EVENTS, "all receipts")
            assert emulator.end() == 0
        assert list(dict.fromkeys(found.raws())) == found.central.raws(found.central.default_tenant)


def test_a_tenant_that_does_not_answer_delays_no_other() -> None:
    tenants = [Tenant(id="t-1"), Tenant(id="t-2")]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    central.faults.add(Fault("slow", seconds=45, tenant="t-2", times=None))
    # Sophos goes first, so that nobody waits for the tenant at the end.
    with Site(central, keep_central=True) as found, Emulator(found), central:
        for number in range(3):
            central.emit(tenant="t-1")
            until(lambda: found.raws() == central.raws("t-1"), f"event {number}", 25)


def test_two_emulators_on_one_store_neither_lose_nor_double() -> None:
    with site(filled()) as found, Emulator(found) as one, Emulator(found) as two:
        until(lambda: len(settled(found)) == EVENTS, "all receipts")
        until_ticks(found, 4)
        found.central.emit(50)
        until(lambda: len(settled(found)) == EVENTS + 50, "all new receipts")
        assert (one.end(), two.end()) == (0, 0)
        assert found.raws() == found.central.raws(found.central.default_tenant)


def test_an_edit_of_every_counts_at_once_and_one_of_the_store_is_told_to_need_a_restart() -> None:
    with site(every="1h") as found, Emulator(found) as emulator:
        until(lambda: bool((emulator.status() or {}).get("integrations")), "the first tick")

        def edit(**settings: object) -> None:
            read = yaml.safe_load(emulator.config.read_text())
            emulator.config.write_text(yaml.safe_dump(read | settings))

        found.central.emit(3)
        edit(every="1s")
        until(lambda: len(found.raws()) == 3, "the events of a second tick")
        edit(every="1s", store=f"file:{found.folder}/another")
        until(lambda: (emulator.status() or {})["reasons"] != [], "a reason")
        for name in ("fetch-page", "forward-batch"):
            kill_function(emulator, name)  # One that starts now has the store of the others.
        found.central.emit(3)
        until(lambda: (emulator.status() or {})["acked"] == 6, "the events of a later tick")
        status = emulator.status()
        assert status is not None
        assert status["store"] == found.settings["store"]
        (reason,) = status["reasons"]
        assert (status["health"], reason["code"]) == ("attention", "config_edit_broken")
        assert "the change of `store` needs a restart" in str(reason)
        edit(every="2s", store=found.settings["store"])
        until(lambda: (emulator.status() or {})["ok"], "the edit taken back")


def test_paths_of_the_configuration_are_relative_to_where_it_is_started() -> None:
    with site(store="file:kept/here") as found:
        found.central.fill(10)
        with Emulator(found, found.folder) as emulator:
            until(lambda: (emulator.status() or {}).get("acked") == 10, "all events")
            assert emulator.end() == 0
        assert list((found.folder / "kept/here/ledger").rglob("*.json"))


def test_what_the_emulator_shows() -> None:
    with site() as found:
        found.central.fill(40)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked") == 40, "all events")
            assert requests.get(emulator.url("/healthz"), timeout=10).status_code == 200
            metrics = requests.get(emulator.url("/metrics"), timeout=10).text
            assert 'sophos_utmstack_events_acked_total{integration="acme"' in metrics
            page = requests.get(emulator.url("/"), timeout=10)
            assert page.headers["Content-Type"].startswith("text/html")
            assert "acme" in page.text
            assert 'src="/static/page.js"' in page.text
            assert requests.get(emulator.url("/static/page.js"), timeout=10).status_code == 200
            found.central.emit(3)
            answer = requests.post(emulator.url("/fetch-page"), json={"integration": "acme"}, timeout=60)
            assert answer.status_code == 200
            assert requests.post(emulator.url("/fetch-page"), json={"nope": 1}, timeout=60).status_code == 400
            tested = requests.post(emulator.url("/test-connection"), json={"integration": "acme"}, timeout=60)
            assert tested.json()["ok"]
            assert requests.get(emulator.url("/nothing"), timeout=10).status_code == 404
            until(lambda: (emulator.status() or {}).get("acked") == 43, "the new events")
            assert emulator.end() == 0


def test_nothing_that_is_written_or_shown_holds_a_secret() -> None:
    faults = [
        Fault("status", status=500, times=4),
        Fault("status", status=401),
        Fault("status", status=429, retry_after=1),
        Fault("not_json", times=4),
        Fault("status", status=400, times=2),
        Fault("cut", times=4),
    ]
    with site() as found:
        found.central.fill(1500)
        with Emulator(found, ROOT) as emulator:
            body = {"client_id": "demo-client", "client_secret": "another-secret-value"}
            until(lambda: emulator.status() is not None, "the status")
            shown = [requests.post(emulator.url("/test-connection"), json=body, timeout=60).content]
            shown += [requests.post(emulator.url("/test-connection"), json={"integration": "acme"}, timeout=60).content]
            found.central.faults.add(*faults)
            until(lambda: not found.central.faults.waiting(), "every fault was met")
            until_ticks(found, 2)
            shown += [requests.get(emulator.url(path), timeout=10).content for path in ("/", "/status", "/metrics")]
            for pid in [
                emulator.process.pid,
                *(p.pid for p in psutil.Process(emulator.process.pid).children(recursive=True)),
            ]:
                shown.append(" ".join(psutil.Process(pid).cmdline()).encode())
            assert emulator.end() == 0
        tokens = found.central._account.tokens._issued
        assert tokens
        files = [path for path in found.folder.rglob("*") if path.is_file()]
        written = [path.read_bytes() for path in files]
        assert any(b"Sophos answered 429" in each for each in written)
        for secret in (SECRET, "another-secret-value", *tokens):
            for each in (*shown, *written):
                assert secret.encode() not in each


def test_logs_are_lines_of_json_where_nobody_watches() -> None:
    with site() as found:
        found.central.fill(5)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked") == 5, "all events")
            assert emulator.end() == 0
        lines = (found.folder / "emulator.log").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert entries
        assert all({"severity", "time", "message"} <= set(entry) for entry in entries)


@pytest.mark.parametrize(
    ("config", "words"),
    [("store: file:x\n", "integrations"), (None, "cannot be read")],
)
def test_a_configuration_that_cannot_be_used_ends_it_at_once(config: str | None, words: str) -> None:
    with site() as found:
        if config is None:
            found.config.unlink()
        else:
            found.config.write_text(config)
        done = subprocess.run(
            [sys.executable, "-m", "emulator", "run", "--config", str(found.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
