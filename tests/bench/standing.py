"""What stands: the cost of doing nothing, and of a quiet tick over many streams."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import requests

from lib.config import loading as configuration
from tests.bench.setting import Figures, Watch, emulator, simulator, wait, write_config


def idle(folder: Path, socket: Path, seconds: float) -> Figures:
    """The emulator while nothing happens, at `every: 60s`."""
    with simulator(folder, 100) as central:
        config = write_config(folder, socket, central)
        with emulator(folder, config) as child:
            time.sleep(15)  # The start and the first tick are over: what is measured is rest.
            watch = Watch(child.pid)
            time.sleep(seconds)
            pss = sum(each.memory_full_info().pss for each in watch.family(child.pid)) / (1 << 20)
            (cpu,), (peak,) = watch.end()
    return {
        "idle, all processes, % of a core": cpu / seconds * 100,
        "idle, all processes, PSS MiB": pss,
        "idle, all processes, peak RSS MiB": peak,
    }


TENANTS = """
import json, sys, threading, signal
from pathlib import Path
from emulator.central import CentralServer, Credential, Tenant
count = {count}
tenants = [Tenant(id=f"t-{{number:04d}}") for number in range(count)]
with CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")]) as central:
    for tenant in tenants:
        central.emit(1, tenant=tenant.id)
    told = {{"url": central.url, "client_id": "demo-client", "client_secret": "demo-secret"}}
    half = Path(sys.argv[1] + ".half")
    half.write_text(json.dumps(told))
    half.rename(sys.argv[1])
    threading.Event().wait()
"""


def scale(folder: Path, socket: Path, streams: int) -> Figures:
    """One quiet tick over so many tenants of one partner, and the memory of all processes together."""
    with simulator(folder, 0, TENANTS.format(count=streams)) as central:
        config = write_config(folder, socket, central, every="1d")
        with emulator(folder, config) as child:
            url = "http://{}:{}".format(*configuration.load(str(config)).listen)
            watch = Watch(child.pid)
            wait(lambda: status(url).get("acked") == streams, "the first tick", 900)
            times, calls = [], []
            for _ in range(3):
                before = asked(central["url"])
                began = time.perf_counter()
                lines = requests.post(f"{url}/fetch-page", json={}, timeout=900).json()["results"]
                times.append(time.perf_counter() - began)
                calls.append(asked(central["url"]) - before)
                assert [line["outcome"] for line in lines] == ["up_to_date"] * streams
            _, (peak,) = watch.end()
    return {
        f"tick over {streams} streams, s": statistics.median(times),
        f"calls to Sophos a tick, {streams} streams": statistics.median(calls),
        f"all processes, {streams} streams, peak RSS MiB": peak,
    }


def status(url: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = requests.get(f"{url}/status", timeout=60).json()
    except requests.RequestException:
        return {}
    return found


def asked(url: str) -> int:
    stats = requests.get(f"{url}/_control/stats", timeout=30).json()
    return sum(sum(by.values()) for path, by in stats["requests"].items() if not path.startswith("/_control"))
