"""The relay: the bare loop through it and at the socket, and forward-batch's own client through it."""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle
from pathlib import Path

import psutil

from emulator.runtime import process
from tests.bench.flow import RAW_GRPC
from tests.bench.setting import Figures, script, wait
from tests.fakes.authority import Authority
from tests.site import free_port

TOKEN = "a-token-of-the-measurement"
OWN_CLIENT = """
import sys, threading, time
from hashlib import sha256
from pathlib import Path
from lib.model.log import Log
from lib.utmstack.channel import Credentials
from lib.utmstack.engine import GrpcEngine
raws = Path(sys.argv[1]).read_bytes().split(b"\\n")[:-1]
common = ("sophos-central", "bench", "2026-03-10T01:02:03.456000Z", "ce66672c-e36d-4761-a8c8-90058fee1a24")
logs = [Log(sha256(raw).hexdigest(), *common, raw) for raw in raws]
shown = Credentials(ca=Path(sys.argv[4]).read_bytes(), token=sys.argv[5])
engine, streams, counts = GrpcEngine("grpcs://" + sys.argv[2], credentials=lambda: shown), int(sys.argv[3]), []
def send(part):
    counts.append(list(engine.deliver(iter(part)))[-1])
threads = [threading.Thread(target=send, args=(logs[at::streams],)) for at in range(streams)]
began = time.perf_counter()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sum(counts) == len(logs)
print(time.perf_counter() - began)
"""
CLIENTS = {"relay": RAW_GRPC, "relay, forward-batch's client": OWN_CLIENT}


def measure(folder: Path, socket: Path, events: int) -> Figures:
    """The bare loop at the socket, and both clients through the relay: one stream, and four at once."""
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
    relay = psutil.Process(child.pid)
    try:
        wait(lambda: bool(relay.net_connections()), "the relay")
        for streams in (1, 4):
            direct = float(script(RAW_GRPC, str(logs), f"unix://{socket}", str(streams)).split()[0])
            found[f"socket, {streams} streams, events/s"] = events / direct
            for name, code in CLIENTS.items():
                before = sum(relay.cpu_times()[:2])
                told = script(code, str(logs), f"127.0.0.1:{port}", str(streams), str(folder / "ca.pem"), TOKEN)
                through = float(told.split()[0])
                used = sum(relay.cpu_times()[:2]) - before
                found[f"{name}, {streams} streams, events/s"] = events / through
                found[f"{name}, {streams} streams, CPU µs an event"] = used / events * 1e6
            found[f"relay / socket, {streams} streams"] = found[f"relay, {streams} streams, events/s"] * direct / events
        found["relay, RSS MiB"] = relay.memory_info().rss / (1 << 20)
    finally:
        process.stop(child)
    return found
