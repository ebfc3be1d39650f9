"""`demo`: a simulated Sophos Central, the product, and a stand-in engine, in a folder that goes away again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emulator.runtime import process
from emulator.runtime.run import run

CONFIG = """\
store: file:{folder}/store
engine: unix:{folder}/engine.sock
every: 5s
listen: {listen}
sophos:
  auth_url: {central}
  api_url: {central}
integrations:
  - name: demo
    client_id: ${{file:{folder}/client_id}}
    client_secret: ${{file:{folder}/client_secret}}
    streams: [events, alerts]
"""
STARTS_WITHIN_SECONDS = 20.0


def demo(listen: str) -> int:
    """Run until SIGTERM or SIGINT, then 0; 2 where a part of it does not start."""
    with tempfile.TemporaryDirectory(prefix="sophos-utmstack-") as name:
        folder = Path(name)
        companions = [
            process.start(
                ["-m", "emulator", "engine", "--socket", f"{folder}/engine.sock", "--record", f"{folder}/engine.jsonl"]
            ),
            process.start(
                ["-m", "emulator", "central", "--listen", "127.0.0.1:0", "--announce", f"{folder}/central.json"]
            ),
        ]
        try:
            central = _announced(folder, companions)
            if central is None:
                print("demo: the simulator or the engine did not start", file=sys.stderr)
                return 2
            config = folder / "connector.yaml"
            config.write_text(CONFIG.format(folder=folder, listen=listen, central=central["url"]))
            for key in ("client_id", "client_secret"):
                (folder / key).write_text(central[key])
            print(f"events arrive at the engine as JSON lines in {folder}/engine.jsonl", flush=True)
            return run(str(config))
        finally:
            for companion in companions:
                process.stop(companion)


def _announced(folder: Path, companions: list[subprocess.Popen[bytes]]) -> dict[str, str] | None:
    """What the simulator says of itself, once the engine listens too."""
    end = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < end and all(each.poll() is None for each in companions):
        if (folder / "central.json").exists() and (folder / "engine.sock").exists():
            found: dict[str, str] = json.loads((folder / "central.json").read_text())
            return found
        time.sleep(0.05)
    return None
