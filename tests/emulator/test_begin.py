"""How `run` begins: a passing outage is waited for, and what no waiting mends is refused in words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
import yaml

from tests.fakes.gcs import FakeGcs, answered
from tests.fakes.secret_manager import serving
from tests.site import ROOT, Site, free_port, site, until

SECRET = "projects/p/secrets/connector/versions/latest"
RUN = [sys.executable, "-m", "emulator", "run", "--config"]


@contextmanager
def running(found: Site, location: str) -> Iterator[subprocess.Popen[bytes]]:
    """`run` with the configuration at that place; its log is `run.log`."""
    with (found.folder / "run.log").open("wb") as log:
        process = subprocess.Popen([*RUN, location], cwd=ROOT, env={**os.environ, **found.env}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def ended(command: list[str], found: Site) -> subprocess.CompletedProcess[str]:
    """What a command of the site, which ends by itself, said."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **found.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(found: Site) -> str:
    return (found.folder / "run.log").read_text()


def is_up(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


def test_a_configuration_out_of_reach_is_waited_for() -> None:
    port, secrets = free_port(), free_port()
    with site(listen=f"127.0.0.1:{port}") as found:
        found.env["SECRET_MANAGER_EMULATOR_HOST"] = f"127.0.0.1:{secrets}"
        with running(found, f"secret:{SECRET}") as process:
            until(lambda: "cannot start yet" in said(found), "the reason why it waits")
            assert "Secret Manager cannot be reached" in said(found)
            assert "reaches secretmanager.googleapis.com" in said(found)
            with serving({SECRET: yaml.safe_dump(found.settings)}, secrets):
                until(lambda: is_up(port), "the start")
                assert process.poll() is None


def test_a_store_out_of_reach_is_waited_for(gcs: FakeGcs) -> None:
    port = free_port()
    with site(listen=f"127.0.0.1:{port}", store=f"{gcs.bucket()}/connector") as found:
        with gcs.failing("get", answered(403)), running(found, str(found.config)) as process:
            until(lambda: "cannot start yet" in said(found), "the reason why it waits")
            process.terminate()
            assert process.wait(60) == 0, "it can be ended while it waits"
        with running(found, str(found.config)):
            until(lambda: is_up(port), "the start")


def test_a_folder_that_cannot_be_used_just_now_does_not_end_it_for_good() -> None:
    with site() as found:
        (found.folder / "file").touch()
        found.write_config(store=f"file:{found.folder}/file/store")
        done = ended([*RUN, str(found.config)], found)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "→ Check free space and permissions of the store" in done.stderr


def test_an_address_that_is_not_there_yet_does_not_end_it_for_good() -> None:
    with site(listen="192.0.2.1:8080") as found:
        done = ended([*RUN, str(found.config)], found)
    assert (done.returncode, "Check that this machine has that address." in done.stderr) == (1, True)


@pytest.mark.parametrize("given", ["<(cat {})", "/dev/stdin < {}", "/proc/self/fd/0 < {}", "{}.fifo"])
def test_what_can_be_read_only_once_is_refused(given: str) -> None:
    with site() as found:
        os.mkfifo(f"{found.config}.fifo")
        command = f"{sys.executable} -m emulator run --config {given.format(found.config)}"
        done = ended(["bash", "-c", command], found)
    assert done.returncode == 2
    assert "can be read only once" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_reads_a_pipe() -> None:
    with site() as found:
        command = f"{sys.executable} -m emulator check --no-environment --config <(cat {found.config})"
        done = ended(["bash", "-c", command], found)
    assert (done.returncode, "can be used" in done.stdout) == (0, True)
