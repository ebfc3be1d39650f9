"""What is installed beside UTMStack: the service manager is told how things stand; the recipes keep their promises."""

import configparser
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from emulator.central import CentralServer
from emulator.runtime.notify import notify, watchdog_seconds
from lib.config import loading as configuration
from tests.site import ROOT, Emulator, free_port, site, until

UTMSTACK = ROOT / "infra/utmstack"
UNIT = UTMSTACK / "sophos-utmstack.service"


def test_the_plugin_in_the_old_ones_place_delivers_and_tells_the_service_manager_how_it_stands(tmp_path: Path) -> None:
    central = CentralServer()
    central.fill(30)
    with (
        central,
        site(central, listen=f"127.0.0.1:{free_port()}", keep_central=True) as found,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(found.folder / "notify"))
        manager.settimeout(60)
        env = {
            **os.environ,
            **found.env,
            "SOPHOS_UTMSTACK_HOME": str(ROOT),
            "NOTIFY_SOCKET": str(found.folder / "notify"),
            "WATCHDOG_USEC": "400000",
        }
        with (tmp_path / "log").open("wb") as log:
            plugin = UTMSTACK / "com.utmstack.sophos.plugin"
            process = subprocess.Popen([plugin], env=env, stdout=log, stderr=log, cwd=tmp_path)
        try:
            assert manager.recv(100) == b"READY=1"
            assert manager.recv(100) == b"WATCHDOG=1"
            while len(found.engine.received) < 30:
                assert manager.recv(100) == b"WATCHDOG=1"
            process.terminate()
            while (told := manager.recv(100)) == b"WATCHDOG=1":
                continue
            assert told == b"STOPPING=1"
        except BaseException:
            process.kill()
            raise
        # Asked twice, it would end at once.
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


def test_functions_start_without_an_error_where_no_home_can_be_written() -> None:
    with site() as found:
        folder = found.folder / "tmp"  # a short one: a socket's path has 107 bytes at most
        folder.mkdir()
        env = {**os.environ, **found.env, "HOME": "/proc/nowhere", "TMPDIR": str(folder)}
        env.pop("XDG_RUNTIME_DIR", None)
        with (found.folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "emulator", "run", "--config", str(found.config)]
            running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            found.central.emit(1)
            until(lambda: len(found.engine.received) == 1, "an event delivered by both functions")
        finally:
            running.terminate()
            assert running.wait(60) == 0
        told, left = (found.folder / "log").read_text(), list(folder.iterdir())
    assert "nowhere" not in told
    assert "ERROR" not in told
    assert left == [], "what was made for the functions is removed again"


def test_a_folder_named_like_one_of_ours_is_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("lib", "functions", "emulator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the present folder')\n")
    with site() as found, Emulator(found, tmp_path) as running:
        found.central.emit(1)
        until(lambda: len(found.engine.received) == 1, "an event delivered by both functions")
        assert running.end() == 0


def test_an_abstract_address_is_told_too_and_nobody_at_all_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"sophos-utmstack-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", "", 30.0),
        ("60000000", "ours", 30.0),
        ("60000000", "1", None),
        ("", "", None),
        ("x", "", None),
    ],
)
def test_the_watchdog_hears_of_us_at_half_its_limit_where_it_asks_for_us(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert watchdog_seconds() == seconds


def test_the_unit_is_hardened_waits_for_readiness_and_lets_work_come_to_its_end(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # keys as they are written
    unit.read(UNIT)
    service = unit["Service"]
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert service[key] == "yes", key
    assert (service["Type"], service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("notify", "strict", "")
    assert int(service["TimeoutStopSec"]) > 60
    assert service["RestartPreventExitStatus"] == "2"
    if shutil.which("systemd-analyze"):
        python = shutil.which("true") or "/bin/true"
        text = UNIT.read_text().replace("/opt/sophos-utmstack/venv/bin/sophos-utmstack", python)
        assert python in text
        (tmp_path / UNIT.name).write_text(text)
        drop_in = tmp_path / f"{UNIT.name}.d"
        drop_in.mkdir()
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, UNIT.name in done.stderr) == (0, False), done.stderr


def test_the_compose_file_shares_the_sockets_folder_and_not_the_socket() -> None:
    services = yaml.safe_load((UTMSTACK / "compose.override.yaml").read_text())["services"]
    share = "/utmstack/events-engine-workdir/sockets:/workdir/sockets"
    assert share in services["event-processor-manager"]["volumes"]
    connector = services["sophos-connector"]
    assert share in connector["volumes"]
    assert "/utmstack/events-engine-workdir/pipeline:/workdir/pipeline:ro" in connector["volumes"]
    assert (connector["read_only"], connector["cap_drop"], connector["deploy"]["replicas"]) == (True, ["ALL"], 1)
    assert connector["deploy"]["update_config"]["order"] == "stop-first"


def test_beside_utmstack_one_port_is_used_everywhere_and_it_is_none_of_utmstacks() -> None:
    host, port = configuration.load(str(UTMSTACK / "connector.yaml")).listen
    assert (host, port in (8080, 9002, 9003, 50051)) == ("127.0.0.1", False)
    services = yaml.safe_load((UTMSTACK / "compose.override.yaml").read_text())["services"]
    connector = services["sophos-connector"]
    assert f"http://127.0.0.1:{port}/healthz" in connector["healthcheck"]["test"][-1]
    assert not {"ports", "security_opt"} & connector.keys(), "published, or ignored by a stack"
    guide = (ROOT / "docs/utmstack.md").read_text()
    for said in (
        "`listen: 127.0.0.1:{}`. Then deploy",
        "listen: 0.0.0.0:{}`",
        "SOPHOS sophos-connector:{};",
        "http://127.0.0.1:{}/api/v1/",
    ):
        assert said.format(port) in guide, said
    assert not re.findall(r":\d*8080\b", guide)


def test_the_guide_reads_the_tag_that_runs_before_the_stack_is_deployed(tmp_path: Path) -> None:
    guide = (ROOT / "docs/utmstack.md").read_text()
    (reading,) = re.findall(r"^export UTMSTACK_TAG=.*\\\n.*$", guide, re.MULTILINE)
    assert guide.index(reading) < guide.index("docker stack deploy")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho ghcr.example:5000/utmstack/eventprocessor:v11.2.1@sha256:0123abcd\n")
    docker.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"{reading}\necho $UTMSTACK_TAG"], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "v11.2.1\n"


def test_the_image_runs_as_a_user_of_its_own_and_holds_what_it_copies() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    assert [line[1] for line in words if line[0] == "USER"] == ["10001:10001"]
    assert sum(line[0] == "FROM" for line in words) > 1
    assert any(line.startswith("ENV TMPDIR=/dev/shm") for line in lines), "nothing else can be written when read-only"
    assert not any("latest" in line for line in lines)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in words:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            for source in line[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source
    assert words[-1] == ["CMD", '["run"]']


def test_the_image_can_be_read_by_its_user_whatever_umask_the_checkout_was_made_under(tmp_path: Path) -> None:
    (mode,) = re.findall(r"^RUN (chmod -R \S+) /app", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    app = tmp_path / "app"
    made = (
        f"umask 077 && mkdir -p {app}/lib && echo > {app}/lib/a.py && echo > {app}/lib/run && chmod u+x {app}/lib/run"
    )
    subprocess.run(["bash", "-c", f"{made} && {mode} {app}"], check=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (app, *app.rglob("*"))}
    assert modes == {"app": 0o755, "lib": 0o755, "a.py": 0o644, "run": 0o755}
