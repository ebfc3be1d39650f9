"""A full disk and a read-only one: the call fails, nothing half-written is ever read, and it goes on by itself."""

import json
import subprocess
import sys
from pathlib import Path

from emulator.central import CentralServer
from emulator.engine import StandInEngine

ROOT = Path(__file__).resolve().parents[2]


def test_the_disk_is_full(tmp_path: Path) -> None:
    with CentralServer() as central, StandInEngine(tmp_path / "s") as engine:
        central.fill(2500)
        (tmp_path / "d").mkdir()
        done = subprocess.run(
            [
                *("unshare", "--map-root-user", "--mount", sys.executable, "-m", "tests.fakes.small_disk"),
                *(str(tmp_path / "d"), str(tmp_path / "s"), central.url),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["full"] == [["store_unavailable"]] * 3
        assert told["leftovers"] == 0
        assert told["damaged"] == []
        assert told["large"] == [[], []]
        assert told["idle"] == []  # nothing new, nothing to be written
        assert told["read_only"] == ["store_unavailable"]
        assert told["again"] == []
        assert told["audit"]["ok"]
        assert [json.loads(log.raw)["id"] for log in engine.received] == central.ids(central.default_tenant)
