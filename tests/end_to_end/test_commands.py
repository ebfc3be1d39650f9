"""The commands as a person types them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from emulator.central import CentralServer, Credential, Tenant
from tests.fakes import forks
from tests.site import Emulator, Site, free_port, site, until

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = forks.run(["-m", "emulator", *arguments], env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def told(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--no-environment", "--config", "connector.example.yaml"),
        ("status", "--config", "none"),
        ("nonsense",),
    ],
)
def test_a_command_as_a_process_of_its_own_says_the_same_as_the_forks_of_the_tests(arguments: tuple[str, ...]) -> None:
    program = ["-m", "emulator", *arguments]
    own = subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    fork = forks.run(program)
    assert (fork.returncode, fork.stdout, fork.stderr) == (own.returncode, own.stdout, own.stderr)


def test_check_says_that_the_example_can_be_used() -> None:
    done = command("check", "--no-environment", "--config", "connector.example.yaml")
    assert (done.returncode, "'acme'" in done.stdout) == (0, True)


def test_check_names_every_fault_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("stor: x\nintegrations:\n  - name: a\n    client_id: x\n")
    done = command("check", "--config", str(file))
    assert done.returncode == 1
    assert "line 1: stor: unknown key; did you mean 'store'?" in done.stdout
    assert "line 3: integrations[0].client_secret: is missing" in done.stdout
    faults = told(command("check", "--config", str(file), "--json"))["faults"]
    assert [(fault["line"], fault["key"]) for fault in faults] == [(1, "stor"), (3, "integrations[0].client_secret")]


def test_check_points_at_the_place_and_tells_warnings_apart(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    lines = [
        "integrations:",
        "  - name: acme",
        "    client_id: ${env:NOT_SET}",
        "    client_secret: hunter2",
        "    lookback: 48h",
    ]
    file.write_text("\n".join([*lines, f"engine: unix:{tmp_path}/x.sock"]))
    done = command("check", "--config", str(file))
    assert done.returncode == 1
    assert "      " + lines[2] + "\n      " + " " * 15 + "^\n" in done.stdout
    assert "warning: line 5: integrations[0].lookback: Sophos serves events for 24h only" in done.stdout
    assert "hunter2" not in done.stdout
    found = told(command("check", "--config", str(file), "--json"))
    assert [(each["line"], each["key"], each["text"]) for each in found["faults"]] == [
        (3, "integrations[0].client_id", lines[2])
    ]
    assert {each["line"] for each in found["warnings"]} == {1, 4, 5}
    alone = command("check", "--no-environment", "--config", str(file), "--json")
    assert (alone.returncode, told(alone)["ok"], told(alone)["faults"]) == (0, True, [])
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    "look", [["status"], ["audit"], ["gaps"], ["dead-letters"], ["types"], ["missed"], ["gaps", "--acknowledge", "all"]]
)
def test_looking_makes_nothing(look: list[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    integration = {"name": "acme", "client_id": "x", "client_secret": "y"}
    file.write_text(json.dumps({"integrations": [integration], "listen": f"127.0.0.1:{free_port()}"}))
    done = command(*look, "--config", str(file), "--json")
    assert done.returncode == 2, done.stdout
    assert f"there is no store at {tmp_path}/var/store" in told(done)["problem"]["detail"]
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_missing_configuration_is_told_with_what_to_do() -> None:
    done = command("status", "--config", "/nowhere/c.yaml")
    assert done.returncode == 2
    assert "/nowhere/c.yaml cannot be read" in done.stderr
    env = {"SOPHOS_UTMSTACK_CONFIG": ""}
    assert "connector.example.yaml" in command("check", env=env).stderr


def test_status_reads_the_store_when_no_emulator_runs() -> None:
    with site() as found:
        found.central.fill(30)
        found.write_config(listen=f"127.0.0.1:{free_port()}")
        found.results("fetch-page")
        status = told(command("status", "--config", str(found.config), "--json"))
        (stream,) = status["streams"]
        assert (stream["events"], stream["acked"], stream["pending_batches"]) == (30, 0, 1)
        found.results("forward-batch")
        done = command("status", "--config", str(found.config))
    assert done.returncode == 0
    assert f"acme/{found.central.default_tenant}/events" in done.stdout


def test_status_shows_a_problem_and_its_remedy() -> None:
    with site() as found:
        found.write_config(listen=f"127.0.0.1:{free_port()}")
        found.env["SITE_SECRET"] = "wrong"
        found.results("fetch-page")
        done = command("status", "--config", str(found.config))
    assert done.returncode == 1
    assert "Sophos refused the client secret" in done.stdout
    assert "→ Check the client id and secret" in done.stdout


def test_what_a_tenant_is_called_is_shown_with_its_id_and_commands_no_terminal() -> None:
    evil = "Evil\x1b[31m\x9b2J\u202e\nacme"
    tenants = [Tenant(id="t-1"), Tenant(id="t-2", name=evil, forbidden=True)]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    with site(central) as found:
        found.write_config(listen=f"127.0.0.1:{free_port()}")
        found.results("fetch-page")
        stood = command("status", "--config", str(found.config))
        as_json = told(command("status", "--config", str(found.config), "--json"))
        tested = command("test-connection", "--config", str(found.config), env=found.env)
        counted = command("types", "--config", str(found.config), env=found.env)
    name = r"Evil\u001b[31m\u009b2J\u202e\u000aacme"
    assert f"\n  acme/{name}/events (t-2): Sophos answered 403" in stood.stdout
    assert f"not {name} (t-2): Sophos answered 403" in tested.stdout
    assert f"NOT READ  {name} (t-2): Sophos answered 403" in counted.stdout
    for each in (stood, tested, counted):
        assert not {"\x1b", "\x9b", "\u202e"} & set(each.stdout + each.stderr)
    assert evil in {line["tenant_name"] for line in as_json["streams"]}


def test_status_asks_a_running_emulator_first() -> None:
    with site() as found, Emulator(found) as emulator:
        until(lambda: bool((emulator.status() or {}).get("streams")), "a stream")
        status = told(command("status", "--config", str(emulator.config), "--json"))
        assert {each["name"] for each in status["functions"]} == {"fetch-page", "forward-batch", "test-connection"}


@pytest.mark.parametrize("secret", ["demo-secret", "wrong"])
def test_test_connection_from_the_shell(secret: str) -> None:
    with site() as found:
        done = command("test-connection", "--config", str(found.config), env={"SITE_SECRET": secret})
        as_json = told(command("test-connection", "--config", str(found.config), "--json", env={"SITE_SECRET": secret}))
    works = secret == "demo-secret"
    assert (done.returncode == 0, as_json["acme"]["ok"]) == (works, works)
    assert ("FAIL credentials" in done.stdout) != works
    assert secret not in done.stdout or works


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_shows_events_that_arrive_and_ends_whole(number: int) -> None:
    port = free_port()
    demo = subprocess.Popen(
        [sys.executable, "-m", "emulator", "demo", "--listen", f"127.0.0.1:{port}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def acked() -> int:
        try:
            return int(requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["acked"])
        except requests.RequestException:
            return 0

    until(lambda: acked() >= 1000, "the first thousand events")
    family = psutil.Process(demo.pid).children(recursive=True)
    assert len(family) >= 4
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert f"http://127.0.0.1:{port}/" in output


def test_an_address_that_is_taken_is_told() -> None:
    with site() as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "the status")
        done = command("run", "--config", str(emulator.config), env=found.env)
    assert done.returncode == 2
    assert "cannot listen on" in done.stderr


def test_companions_refuse_options_that_make_no_sense(tmp_path: Path) -> None:
    assert command("engine", "--socket", str(tmp_path / "e"), "--fault", "nonsense=1").returncode == 2
    assert command("central", "--listen", "127.0.0.1:nonsense").returncode == 2
    faults = tmp_path / "faults.yaml"
    faults.write_text("- {fault: nonsense}")
    assert command("central", "--listen", "127.0.0.1:0", "--faults", str(faults)).returncode == 2


def test_an_idle_emulator_asks_sophos_once_a_tick_and_writes_nothing() -> None:
    with Site() as found:
        found.central.fill(20)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked") == 20, "all events")
            asked = len(found.central.requests)
            until(lambda: len(found.central.requests) >= asked + 2, "the end of what the events set off")
            until((found.folder / "store/charts/health.json").exists, "the health, written once after the start")
            asked = len(found.central.requests)
            before = {path: path.stat().st_mtime_ns for path in (found.folder / "store").rglob("*.json")}
            until(lambda: len(found.central.requests) >= asked + 4, "four idle ticks")
            after = {path: path.stat().st_mtime_ns for path in (found.folder / "store").rglob("*.json")}
            assert {seen.path for seen in list(found.central.requests)[asked:]} == {"/siem/v1/events"}
            assert emulator.end() == 0
    assert before == after


def test_tail_tells_a_refusal_from_nobody_who_answers() -> None:
    with site() as found, Emulator(found) as emulator, contextlib.ExitStack() as tails:
        until(lambda: emulator.status() is not None, "the emulator")
        for _ in range(3):
            answer = tails.enter_context(requests.get(emulator.url("/tail"), stream=True, timeout=30))
            assert next(answer.iter_content(1))
        refused = command("tail", "--config", str(emulator.config), env=found.env)
        assert refused.returncode == 1
        assert refused.stderr == "3 tails are being read already\n→ End one of them.\n"
        found.write_config(listen=f"127.0.0.1:{free_port()}")
        nobody = command("tail", "--config", str(found.config), env=found.env)
        assert (nobody.returncode, "no connector answers" in nobody.stderr) == (1, True)
        found.write_config(listen=found.central.url.removeprefix("http://"))
        other = command("tail", "--config", str(found.config), env=found.env)
        assert (other.returncode, "answers 404" in other.stderr) == (1, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.1"])  # noqa: S104 - nothing listens there
def test_a_command_reaches_an_emulator_on_this_machine_whatever_it_listens_on(host: str) -> None:
    with site() as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "the emulator")
        found.write_config(listen=f"{host}:{emulator.port}")
        assert "functions" in told(command("status", "--json", "--config", str(found.config), env=found.env))


def test_tail_prints_events_as_they_pass() -> None:
    with site() as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "the emulator")
        found.central.start_emitting(600)
        arguments = [sys.executable, "-m", "emulator", "tail", "--json", "--config", str(emulator.config)]
        env = {**os.environ, **found.env}
        with subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            heard = [json.loads(tail.stdout.readline())["id"] for _ in range(3)]
            evil = '{"id": "evil",\t"type": "x", "name": "\x9b2J\u202e"}'
            found.central.append(found.central.default_tenant, "events", [evil.encode()])
            line = next((line for line in islice(tail.stdout, 200) if b'"evil"' in line), b"")
            spread = '{"id": "spread",\r\n  "type": "x",\n  "text": "a\\nb"\n}'
            found.central.append(found.central.default_tenant, "events", [spread.encode()])
            whole = next((line for line in islice(tail.stdout, 400) if b'"spread"' in line), b"")
            tail.send_signal(signal.SIGINT)
            assert tail.wait(20) == 0
        assert line.isascii()
        assert json.loads(line) == json.loads(evil)
        assert json.loads(whole) == json.loads(spread)
        assert set(heard) <= set(found.central.ids(found.central.default_tenant))


def test_what_there_is_nothing_of_is_told_with_the_reason() -> None:
    with site() as found:
        found.write_config(listen=f"127.0.0.1:{free_port()}")
        found.central.fill(20)
        found.results("fetch-page")
        found.results("forward-batch")
        env = {**found.env}
        config = ["--config", str(found.config)]
        again = command("replay", "--since", "1d", *config, env=env)
        assert again.returncode == 0
        assert again.stdout.startswith("There was no event to send.\n`archive` is off")
        assert "`archive` is off" in told(command("replay", "--since", "1d", "--json", *config, env=env))["hint"]
        none = command("missed", *config, env=env)
        assert (none.returncode, "`observe` is off" in none.stdout, "0 of 0" in none.stdout) == (0, True, False)
        answer = told(command("missed", "--json", *config, env=env))
        assert (answer["ok"], answer["missed"], "`observe` is off" in answer["hint"]) == (True, 0, True)
        over = command("switch-over", "--after", "xyz", *config, env=env)
        assert (over.returncode, "no events were observed" in over.stderr, "`observe: on`" in over.stderr) == (
            2,
            True,
            True,
        )
        found.write_config(archive="7d")
        kept = command("replay", "--since", "1m", *config, env=env)
        assert "The archive holds no batch that was fetched since 1m. `archive` keeps batches for 7d." in kept.stdout


def test_every_answer_for_machines_tells_whether_it_is_well() -> None:
    with site() as found:
        found.results("fetch-page")
        for name, is_paused in (("pause", True), ("resume", False)):
            answer = told(command(name, "acme", "--json", "--config", str(found.config), env=found.env))
            assert answer == {"ok": True, "integration": "acme", "paused": is_paused}


@pytest.mark.parametrize("command", ["status", "audit", "types"])
def test_a_command_whose_reader_has_seen_enough_ends_without_a_word(command: str) -> None:
    with site() as found:
        found.central.fill(30)
        found.results("fetch-page")
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer) as nobody:
            done = subprocess.run(
                [sys.executable, "-m", "emulator", command, "--config", str(found.config)],
                cwd=ROOT,
                env={**os.environ, **found.env},
                stdout=nobody,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
    assert (done.returncode, done.stderr) == (1, "")
