"""The drill cuts everything off and counts; what it counts is what happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.__main__ import main
from emulator.drill import site
from emulator.drill.drill import CUTS, Cut, Drill, EventCounts, Result
from emulator.drill.parts import free_port
from emulator.drill.report import page
from lib.config.loading import parse
from tests.site import ROOT, until

CONFIG = """\
store: file:{folder}/store
every: 5m
observe: on
integrations:
  - {{name: "acme & <co>", client_id: "${{env:NONE}}", client_secret: "${{env:NONE}}", streams: [events, alerts],
     exclude_types: ["family:system"], alerts_data_type: own-alerts}}
  - {{name: msp, client_id: "${{env:NONE}}", client_secret: "${{env:NONE}}", data_source: "{{tenant_id}}",
     tenants: [894af375-a52f-4d5a-a92d-9d9c279b1489, 0b5a1f0e-51e5-4f0c-9d5c-1f2f3a4b5c6d]}}
"""
EVENTS = 300


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "connector.yaml"
    file.write_text(CONFIG.format(folder=tmp_path))
    return file


def drill(config: Path, *arguments: str, status: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "emulator", "drill", "--config", str(config), "--json", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_nothing_is_lost_and_the_site_is_not_touched(config: Path) -> None:
    report = config.with_name("report.html")
    told = drill(config, "--minutes", "0.4", "--seed", "7", "--report", str(report), status=0)
    assert (told["ok"], told["lost"], told["altered"], told["audit"]) == (True, 0, 0, True)
    assert told["events"] == told["arrived"] > 1000
    assert told["acked"] >= told["events"]
    assert told["cuts"]
    assert {cut["what"] for cut in told["cuts"]} <= {*CUTS}
    assert told["healed_seconds"] == max(cut["healed_seconds"] for cut in told["cuts"])
    assert (told["integrations"], told["streams"], told["seed"]) == (["acme & <co>", "msp"], 4, 7)
    text = report.read_text()
    assert "passed" in text
    assert "acme &amp; &lt;co&gt;" in text
    assert not re.search(r"https?://|<script|<link|src=", text)
    assert not config.with_name("store").exists()


def test_what_cannot_be_drilled_is_refused(config: Path) -> None:
    for arguments in (
        ("--config", str(config.with_name("none"))),
        ("--report", str(config / "x.html")),
        ("--report", str(config.parent)),
    ):
        assert drill(config, *arguments, status=2)["ok"] is False


@pytest.mark.parametrize(
    "arguments",
    [("--minutes", text) for text in ("0", "-1", "nan", "inf", "1e9")] + [("--pages", text) for text in ("0", "-1")],
)
def test_a_length_that_is_none_is_refused(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("drill",) * (arguments[0] == "--minutes") + ("record --out x",):
        with pytest.raises(SystemExit, match="2"):
            main([*command.split(), *arguments])
        assert f"{arguments[1]!r} is not a number of" in capsys.readouterr().err


def test_an_interrupt_while_a_part_is_cut_off_ends_the_outages_and_counts_the_events(config: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    env = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, "-m", "emulator", "drill", "--config", str(config), "--minutes", "9", "--report"]
    progress = folder / "progress"
    with progress.open("wb") as output:
        begun = subprocess.Popen(
            [*command, str(folder / "report.html")], cwd=ROOT, env=env, stdout=output, stderr=output
        )
        try:
            until(lambda: b"is cut off" in progress.read_bytes(), "an outage", 300)
            begun.send_signal(signal.SIGTERM)
            assert begun.wait(300) == 0, progress.read_text()
        finally:
            begun.kill()
    assert "lost: 0" in progress.read_text()
    assert "The drill passed." in progress.read_text()
    assert {file.name for file in folder.iterdir()} == {"progress", "report.html"}
    shutil.rmtree(folder)


@pytest.fixture
def tried(config: Path) -> Iterator[Drill]:
    """A drill whose parts run, with less to read; in a folder with a short path, for the socket's sake."""
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    integrations = site.copied(parse(config.read_text()))
    yield Drill(integrations, folder, minutes=0, seed=1, on_progress=lambda _: None, backlog=EVENTS)
    shutil.rmtree(folder)


def test_what_the_engine_never_got_is_lost_and_what_it_got_twice_or_changed_is_told(tried: Drill) -> None:
    record = tried._folder / "engine.jsonl"
    whole = tried.run()
    assert whole.ok
    lines = record.read_text().splitlines()
    changed = json.loads(lines[2])
    changed["raw"] = changed["raw"].replace("2026", "2025", 1)
    record.write_text("".join(line + "\n" for line in [*lines[1:2], lines[1], json.dumps(changed), *lines[3:]]))
    tried._engine._read = 0
    tried._arrived.clear()
    tried._count()
    result = tried.result
    counts = result.counts
    assert (counts.lost, counts.doubled, counts.altered, result.ok) == (1, 1, 1, False)
    assert counts.arrived == counts.events - 1


def test_a_drills_ports_are_none_that_linux_gives_to_others_while_they_are_cut_off() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_type_that_is_left_out_is_not_expected(config: Path) -> None:
    acme, msp = site.copied(parse(config.read_text()))
    assert acme.excluded
    assert not acme.wants("events", next(iter(acme.excluded)))
    assert acme.wants("alerts", next(iter(acme.excluded)))
    assert not msp.wants("alerts", "Event::Other")
    assert (len(acme.tenants), len(msp.tenants)) == (1, 2)


def test_a_result_is_well_only_where_everything_is() -> None:
    def result(**changes: Any) -> Result:
        ends = {name: changes.pop(name, well) for name, well in (("audit", True), ("exit_status", 0))}
        counts = EventCounts(**({"events": 5, "arrived": 5, "acked": 5} | changes))
        found = Result(1, 1.0, ["acme"], 1, counts=counts, **ends)
        found.cuts = [Cut("engine", "2026-03-10T00:00:00.000000Z", 1.0, 2.0, 3.0)]
        return found

    assert result().ok
    assert result(doubled=3).ok
    for wrong in ({"lost": 1}, {"altered": 1}, {"audit": False}, {"exit_status": 1}, {"acked": 4}, {"events": 0}):
        assert not result(**wrong).ok
        assert "FAILED" in page(result(**wrong))
    idle = result()
    idle.cuts = []
    assert not idle.ok, "without an outage nothing is proved"
    unhealed = result()
    unhealed.cuts[0].healed_seconds = None
    assert not unhealed.ok
    assert "passed" in page(result())
