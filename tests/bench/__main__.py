"""`python -m tests.bench`: what the product costs and how fast it is, beside two baselines in the same run.

Each round lets the plain poller, the bare gRPC loop and the product do the same work, one after the other, on the same
simulator and the same engine in Go; ratios are taken within a round, and medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from emulator.runtime import process
from emulator.runtime.functions import Function
from lib.config import loading as configuration
from lib.config.environment import CONFIG as ENVIRONMENT
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.bench import page
from tests.bench.cold_start import cold_start
from tests.fakes.authority import Authority
from tests.fakes.go_engine import go_engine
from tests.site import free_port

Figures = dict[str, float]
TOKEN = "a-token-of-the-measurement"
CONFIG = """
store: file:{folder}/store
engine: unix:{socket}
every: {every}
listen: 127.0.0.1:{port}
limits: {{max_pending_bytes: 8000000000, deadline: 600s}}
sophos: {{auth_url: "{url}", api_url: "{url}"}}
integrations:
  - {{name: bench, client_id: "{client_id}", client_secret: "{client_secret}", calls_per_minute: 1000000}}
"""


class Watch:
    """CPU seconds and the highest RSS of processes with their children."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._peak = dict.fromkeys(pids, 0)
        self._before = [self._cpu(pid) for pid in pids]
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @staticmethod
    def family(pid: int) -> list[psutil.Process]:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    def _cpu(self, pid: int) -> float:
        return float(sum(sum(each.cpu_times()[:2]) for each in self.family(pid)))

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for pid in self._pids:
                self._peak[pid] = max(self._peak[pid], sum(each.memory_info().rss for each in self.family(pid)))

    def end(self) -> tuple[list[float], list[float]]:
        """CPU seconds, and peak MiB, of each."""
        self._over.set()
        self._thread.join()
        used = [self._cpu(pid) - before for pid, before in zip(self._pids, self._before, strict=True)]
        return used, [self._peak[pid] / (1 << 20) for pid in self._pids]


@contextmanager
def simulator(folder: Path, events: int, script: str | None = None) -> Iterator[dict[str, str]]:
    """A simulated Sophos Central in a process of its own, with so many events and no new ones."""
    told = folder / "central.json"
    told.unlink(missing_ok=True)
    arguments = ["-m", "emulator", "central", "--listen", "127.0.0.1:0", "--rate", "0"]
    arguments += ["--backlog", str(events), "--announce", str(told)]
    if script is not None:
        arguments = ["-c", script, str(told)]
    with (folder / "central.log").open("ab") as log:
        child = subprocess.Popen([sys.executable, *arguments], cwd=process.ROOT, stdout=log, stderr=log)
    try:
        wait(told.exists, "the simulator")
        yield json.loads(told.read_text())
    finally:
        process.stop(child)


def wait(condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


@contextmanager
def functions(config: Path, *names: str) -> Iterator[list[Function]]:
    started = [Function(name, {ENVIRONMENT: str(config)}, timeout=900) for name in names]
    try:
        for each in started:
            each.start()
        for each in started:
            if not each.is_up(60):
                raise TimeoutError(each.name)
        yield started
    finally:
        for each in started:
            each.stop()


def write_config(folder: Path, socket: Path, central: dict[str, str], every: str = "60s") -> Path:
    file = folder / "connector.yaml"
    file.write_text(CONFIG.format(folder=folder, socket=socket, every=every, port=free_port(), **central))
    return file


def results(function: Function, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = function.call(json.dumps(body).encode())
    if answer.status != 200:
        raise RuntimeError(answer.body.decode())
    found: list[dict[str, Any]] = json.loads(answer.body)["results"]
    return found


def end_to_end(folder: Path, socket: Path, central: dict[str, str], events: int) -> Figures:
    """Everything from Sophos to the engine's acknowledgement, both functions at work at once."""
    with functions(write_config(folder, socket, central), "fetch-page", "forward-batch") as (fetch, forward):
        assert fetch.pid is not None
        assert forward.pid is not None
        watch = Watch(fetch.pid, forward.pid)
        began = time.perf_counter()
        announced = threading.Semaphore(0)
        fetched = threading.Event()

        def fetch_all() -> None:
            while results(fetch, {"max_pages": 5})[0]["has_more"]:
                announced.release()
            fetched.set()
            announced.release()

        thread = threading.Thread(target=fetch_all)
        thread.start()
        acked = 0
        while acked < events:
            announced.acquire()
            acked += sum(line["acked"] for line in results(forward, {}))
            if fetched.is_set():
                announced.release()
        seconds = time.perf_counter() - began
        thread.join()
        cpu, peak = watch.end()
    return {
        "end to end, events/s": events / seconds,
        "end to end, CPU µs an event": sum(cpu) / events * 1e6,
        "fetch-page, CPU µs an event": cpu[0] / events * 1e6,
        "forward-batch, CPU µs an event": cpu[1] / events * 1e6,
        "fetch-page, peak MiB": peak[0],
        "forward-batch, peak MiB": peak[1],
    }


def forward_alone(folder: Path, socket: Path, central: dict[str, str], events: int) -> Figures:
    """All pages first, then their delivery, which alone is timed; then the same logs by a bare loop."""
    with functions(write_config(folder, socket, central), "fetch-page", "forward-batch") as (fetch, forward):
        began = time.perf_counter()
        while results(fetch, {"max_pages": 100})[0]["has_more"]:
            continue
        fetching = time.perf_counter() - began
        logs = export(folder)
        results(forward, {"integration": "bench", "tenant": "none", "stream": "events"})  # opens what is kept open
        began = time.perf_counter()
        acked = sum(line["acked"] for line in results(forward, {}))
        seconds = time.perf_counter() - began
    assert acked == events
    raw = float(script(RAW_GRPC, str(logs), f"unix://{socket}"))
    return relayed(folder, socket, logs, events) | {
        "fetch-page alone, events/s": events / fetching,
        "forward-batch alone, events/s": events / seconds,
        "bare gRPC loop, events/s": events / raw,
        "forward-batch / bare gRPC loop": raw / seconds,
    }


def relayed(folder: Path, socket: Path, logs: Path, events: int) -> Figures:
    """The bare loop through the relay, beside the same on the socket: one stream, and four at once."""
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
            direct = float(script(RAW_GRPC, str(logs), f"unix://{socket}", str(streams)))
            before = sum(psutil.Process(child.pid).cpu_times()[:2])
            through = float(
                script(RAW_GRPC, str(logs), f"127.0.0.1:{port}", str(streams), str(folder / "ca.pem"), TOKEN)
            )
            used = sum(psutil.Process(child.pid).cpu_times()[:2]) - before
            found[f"relay, {streams} streams, events/s"] = events / through
            found[f"relay / socket, {streams} streams"] = direct / through
            found[f"relay, {streams} streams, CPU µs an event"] = used / events * 1e6
        found["relay, RSS MiB"] = psutil.Process(child.pid).memory_info().rss / (1 << 20)
    finally:
        process.stop(child)
    return found


def export(folder: Path) -> Path:
    """The waiting events as JSON lines, for the bare loop."""
    state = State.of(DirectoryStore(folder / "store"))
    file = folder / "raws.jsonl"
    with file.open("wb") as out:
        for waiting in state.batches.waiting():
            batch = state.batches.read(waiting.stream, waiting.sequence)
            assert batch is not None
            out.writelines(item + b"\n" for item in batch.items)
    return file


def script(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=process.ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


RAW_GRPC = """
import sys, time, grpc, hashlib, threading
from pathlib import Path
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc
raws = open(sys.argv[1], encoding="utf-8").read().split("\\n")[:-1]
common = {"dataType": "sophos-central", "dataSource": "bench", "timestamp": "2026-03-10T01:02:03.456000Z"}
common["tenantId"] = "ce66672c-e36d-4761-a8c8-90058fee1a24"
logs = [plugins_pb2.Log(id=hashlib.sha256(raw.encode()).hexdigest(), raw=raw, **common) for raw in raws]
target, streams, (ca, token) = sys.argv[2], int((sys.argv[3:] or ["1"])[0]), sys.argv[4:] or (None, None)
if ca is None:
    channel = grpc.insecure_channel(target, options=[("grpc.default_authority", "localhost")])
else:
    channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(ca).read_bytes()))
metadata = () if token is None else (("authorization", "Bearer " + token),)
counts = []
def send(part):
    counts.append(sum(1 for _ in plugins_pb2_grpc.EngineStub(channel).Input(iter(part), metadata=metadata)))
with channel:
    grpc.channel_ready_future(channel).result(10)
    threads = [threading.Thread(target=send, args=(logs[at::streams],)) for at in range(streams)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == len(logs)
    print(time.perf_counter() - began)
"""

POLLER = """
import json, sys, time, requests
url, client_id, secret, target = sys.argv[1:]
began = time.perf_counter()
session = requests.Session()
form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret, "scope": "token"}
token = session.post(url + "/api/v2/oauth2/token", data=form, timeout=30).json()["access_token"]
session.headers["Authorization"] = "Bearer " + token
who = session.get(url + "/whoami/v1", timeout=30).json()
session.headers["X-Tenant-ID"] = who["id"]
cursor, count = None, 0
with open(target, "w") as out:
    while True:
        params = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = session.get(url + "/siem/v1/events", params=params, timeout=30).json()
        for item in page["items"]:
            out.write(json.dumps(item) + "\\n")
        count += len(page["items"])
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
print(count, time.perf_counter() - began)
"""


def plain_poller(folder: Path, central: dict[str, str], events: int) -> Figures:
    """Downloads the same pages, parses them, writes JSON lines, and confirms nothing."""
    told = script(POLLER, central["url"], central["client_id"], central["client_secret"], str(folder / "poller.jsonl"))
    count, seconds = told.split()
    assert int(count) == events
    return {"plain poller, events/s": events / float(seconds)}


@contextmanager
def emulator(folder: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The emulator as a process, with its functions."""
    with (folder / "emulator.log").open("ab") as log:
        arguments = [sys.executable, "-m", "emulator", "run", "--config", str(config)]
        child = subprocess.Popen(arguments, cwd=process.ROOT, stdout=log, stderr=log)
    try:
        yield child
    finally:
        process.stop(child, 60)


def idle(folder: Path, socket: Path, seconds: float) -> Figures:
    """The emulator while nothing happens, at `every: 60s`."""
    with simulator(folder, 100) as central:
        config = write_config(folder, socket, central)
        with emulator(folder, config) as child:
            time.sleep(15)
            watch = Watch(child.pid)
            time.sleep(seconds)
            (cpu,), (peak,) = watch.end()
    return {
        "idle, % of a core": cpu / seconds * 100,
        "idle, CPU s an hour": cpu / seconds * 3600,
        "idle, RSS MiB": peak,
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


def one_round(events: int) -> Figures:
    found: Figures = {}
    with fresh() as (folder, socket), simulator(folder, events) as central:
        found |= plain_poller(folder, central, events)
        found |= end_to_end(folder, socket, central, events)
    with fresh() as (folder, socket), simulator(folder, events) as central:
        found |= forward_alone(folder, socket, central, events)
    found["end to end / plain poller"] = found["end to end, events/s"] / found["plain poller, events/s"]
    return found


@contextmanager
def fresh() -> Iterator[tuple[Path, Path]]:
    """A folder and an engine."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, go_engine(Path(name) / "engine.sock"):
        yield Path(name), Path(name) / "engine.sock"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rounds = []
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}: {args.events} events", flush=True)
        rounds.append(one_round(args.events))
    found = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]} if rounds else {}
    print("cold start", flush=True)
    with fresh() as (folder, socket), simulator(folder, 0) as central:
        found |= cold_start(write_config(folder, socket, central))
    for streams in args.streams:
        print(f"{streams} streams", flush=True)
        with fresh() as (folder, socket):
            found |= scale(folder, socket, streams)
    for streams in args.streams:
        print(f"the page with {streams} streams", flush=True)
        for view, figures in page.measure(streams).items():
            found |= {f"page, {streams} streams, {view}, {name}": value for name, value in figures.items()}
    if args.idle:
        print(f"idle for {args.idle:.0f} s", flush=True)
        with fresh() as (folder, socket):
            found |= idle(folder, socket, args.idle)
    print(f"\n{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, medians of {args.rounds} rounds")
    for name, value in found.items():
        print(f"{name:<42} {value:>12,.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
