"""The demo's story: page, `/status` and `audit` tell what happens in it."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.site import ROOT, free_port, until

MINUTE = "4"
"""Seconds of the story's minute."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of its page, and what it prints."""
    port, told = free_port(), tmp_path_factory.mktemp("demo") / "told"
    with told.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "emulator", "demo", "--listen", f"127.0.0.1:{port}", "--minute", MINUTE],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield f"http://127.0.0.1:{port}", told
        finally:
            process.terminate()
            process.wait(100)


def status(url: str) -> dict[str, Any]:
    try:
        return dict(requests.get(f"{url}/status", timeout=30).json())
    except requests.RequestException:
        return {"integrations": [], "streams": [], "set_aside": 0}


def late(url: str) -> int:
    return sum((line.get("reconciled") or {}).get("missing", 0) for line in status(url)["streams"])


def test_page_status_and_audit_tell_the_story(demo: tuple[str, Path]) -> None:
    url, _ = demo
    until(lambda: status(url)["set_aside"] == 1, "the dead letter", seconds=120)
    until(lambda: late(url) >= 3, "the late events, which come last", seconds=240)
    until(lambda: status(url)["gaps"] == 1, "the gap", seconds=120)
    until(lambda: "engine_problem" not in status(url), "the end of the outage", seconds=120)
    found = status(url)
    credentials = {line["name"]: (line["credential"], line["state"]) for line in found["integrations"]}
    assert credentials["acme"][0] == "tenant"
    assert credentials["northwind msp"][0] == "partner"
    assert credentials["old branch"][1] == "failed"
    assert len({line["tenant"] for line in found["streams"] if line["integration"] == "northwind msp"}) == 40
    assert {"credentials_refused", "dead_letters", "gap"} <= {each["code"] for each in found["reasons"]}
    marks = requests.get(f"{url}/chart.json", timeout=60).json()["marks"]
    assert {"outage", "gap", "late"} <= {each["kind"] for each in marks}
    overview = requests.get(url, timeout=60).text
    for text in ("Sophos refuses the credential", "Gap: Alder Clinic North · events"):
        assert text in overview
    assert re.search(r"\d+ late events? found: acme · events", overview)


def test_the_commands_that_it_prints_work(demo: tuple[str, Path]) -> None:
    url, told = demo
    until(lambda: status(url).get("gaps") == 1, "the gap", seconds=240)
    printed = told.read_text()
    (config,) = re.findall(r"^configuration: (.*)$", printed, re.MULTILINE)
    commands = re.findall(
        rf"^ *\S*(?:python -m emulator|sophos-utmstack) (.* --config {config})$", printed, re.MULTILINE
    )
    assert [command.split()[0] for command in commands] == ["status", "audit", "test-connection"]
    answers = [
        subprocess.run(
            [sys.executable, "-m", "emulator", *shlex.split(command), "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        for command in commands
    ]
    assert [answer.returncode for answer in answers] == [1, 0, 1]
    told_status, told_audit, told_test = (json.loads(answer.stdout) for answer in answers)
    assert told_status["health"] == "failing"
    assert "batch_missing" in json.dumps(told_audit)
    assert [check["name"] for check in told_test["old branch"]["checks"] if check["outcome"] == "failed"] == [
        "credentials"
    ]
