"""The relay beside the socket: the same bare loop through both."""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle
from pathlib import Path

import psutil

from emulator.runtime import process
from tests.bench.flow import RAW_GRPC
from tests.bench.setting import Figures, script
from tests.fakes.authority import Authority
from tests.site import free_port

TOKEN = "a-token-of-the-measurement"


def measure(folder: Path, socket: Path, events: int) -> Figures:
    """The bare loop through the relay, beside the same on the socket: one stream, and four at once."""
    logs = folder / "raws.jsonl"
    samples = cycle((process.ROOT / "tests/data/sample-events.jsonl").read_text().splitlines())
    lines = (next(samples).replace('"id":"', f'"id":"{number}-', 1) for number in range(events))
    logs.write_text("".join(line + "\n" for line in lines))
    certificate, key = Authority(folder).issue("relay")
    tokens, port = folder / "tokens", free_port()
    tokens.write_text(TOKEN)
    config = folder / "relay.yaml"
    settings = f"listen: '127.0.0.1:{port}', metrics: off, rate: off"
    files = f"certificate: {certificate}, key: {key}, tokens: {tokens}"
    config.write_text(f"engine: unix:{socket}\nrelay: {{{settings}, {files}}}\n")
    found: Figures = {}
    child = subprocess.Popen([sys.executable, "-m", "emulator", "relay", "--config", str(config)], cwd=process.ROOT)
    try:
        for streams in (1, 4):
            direct = float(script(RAW_GRPC, str(logs), f"unix://{socket}", str(streams)).split()[0])
            before = sum(psutil.Process(child.pid).cpu_times()[:2])
            told = script(RAW_GRPC, str(logs), f"127.0.0.1:{port}", str(streams), str(folder / "ca.pem"), TOKEN)
            through = float(told.split()[0])
            used = sum(psutil.Process(child.pid).cpu_times()[:2]) - before
            found[f"relay, {streams} streams, events/s"] = events / through
            found[f"relay / socket, {streams} streams"] = direct / through
            found[f"relay, {streams} streams, CPU µs an event"] = used / events * 1e6
        found["relay, RSS MiB"] = psutil.Process(child.pid).memory_info().rss / (1 << 20)
    finally:
        process.stop(child)
    return found
