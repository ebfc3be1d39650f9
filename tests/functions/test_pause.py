"""An integration that an operator pauses."""

import json
import os
import subprocess
import sys

from emulator.status import collect
from lib import config as configuration
from tests.site import ROOT, Site, site


def pause(found: Site, command: str, name: str = "acme") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emulator", command, name, "--json", "--config", str(found.config)],
        cwd=ROOT,
        env={**os.environ, **found.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_paused_integration_fetches_nothing_delivers_what_it_has_and_goes_on_where_it_was() -> None:
    with site() as found:
        found.central.fill(30)
        found.results("fetch-page")
        done = pause(found, "pause")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"integration": "acme", "paused": True})
        found.central.emit(5)
        (line,) = found.results("fetch-page")
        assert (line["outcome"], line["pages"]) == ("paused", 0)
        found.results("forward-batch")
        assert len(found.raws()) == 30
        told = collect(configuration.load(str(found.config)))
        assert (told["integrations"][0]["state"], told["ok"]) == ("paused", True)
        assert told["integrations"][0]["since"] is not None
        unknown = pause(found, "pause", "nobody")
        assert unknown.returncode == 2
        assert "acme" in unknown.stdout + unknown.stderr
        assert pause(found, "resume").returncode == 0
        (line,) = found.results("fetch-page")
        assert line["events"] == 5
        assert collect(configuration.load(str(found.config)))["integrations"][0]["state"] == "collecting"
