"""How a function's process starts: what it loads before the first call, and where it runs without a home folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from emulator.runtime.functions import TARGETS
from tests.site import ROOT, free_port, until

RARE = (
    "celpy",
    "cryptography",
    "google.api_core",
    "google.cloud.secretmanager",
    "google.cloud.storage",
    "google.protobuf",
    "grpc",
    "h2",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "re2",
    "requests",
    "rich",
    "sentry_sdk",
    "starlette",
    "urllib3",
)
"""Each costs a cold start more than what it is for; who needs one imports it there."""

APPLICATION = """
import sys
from functions_framework import create_app
create_app({target!r}, "functions/{target}/main.py")
"""


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after the code."""
    command = [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("target", TARGETS.values())
def test_a_function_loads_nothing_that_its_first_call_may_not_need(target: str) -> None:
    found = loaded(APPLICATION.format(target=target))
    assert "marshmallow" in found
    assert found & set(RARE) == set()


def test_the_emulator_starts_its_functions_before_it_loads_the_page() -> None:
    found = loaded("import emulator.__main__, emulator.runtime.run")
    assert "emulator.runtime.functions" in found
    assert found & {*RARE, "flask", "jinja2", "waitress", "emulator.web"} == set()


def hosted_folder(source: str) -> str:
    """The folder for gunicorn's files that Terraform, or the image, gives a function."""
    pattern = r'XDG_RUNTIME_DIR\s*=\s*"?([\w/]+)'
    found = re.search(pattern, (ROOT / source).read_text())
    assert found is not None, source
    return found[1]


@pytest.mark.parametrize("source", ["infra/functions.tf", "Dockerfile"])
def test_a_hosted_function_starts_without_an_error_where_no_home_can_be_written(source: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    env = {**os.environ, "HOME": "/proc/nowhere", "XDG_RUNTIME_DIR": hosted_folder(source), "PYTHONPATH": str(ROOT)}
    program = Path(sys.executable).with_name("functions-framework")
    arguments = ["--source", "functions/fetch_page/main.py", "--target", "fetch_page", "--port", str(port)]
    with log.open("wb") as out:
        command = [str(program), *arguments, "--host", "127.0.0.1"]
        hosted = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        until(lambda: answers(port), "an answer")
    finally:
        os.killpg(hosted.pid, signal.SIGTERM)
        hosted.wait(60)
    told = log.read_text()
    assert "nowhere" not in told
    assert "ERROR" not in told


def answers(port: int) -> bool:
    """Whether the function is there: it refuses a GET."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=10).status_code == 405
    except requests.ConnectionError:
        return False
