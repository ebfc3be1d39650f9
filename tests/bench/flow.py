"""Events from Sophos to the engine's acknowledgement, beside a plain poller and a bare gRPC loop."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulator.runtime.functions import Function
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.bench.setting import Figures, Watch, functions, pid_of, results, script, write_config

PAGES_A_CALL = 5
"""How many pages a call of fetch-page reads while forward-batch delivers those before."""


def measure(folder: Path, socket: Path, central: dict[str, str], events: int) -> Figures:
    """The poller, both functions at once, and each apart: one after the other over the same events."""
    found = plain_poller(folder, central, events)
    config = write_config(folder, socket, central)
    with functions(config, "fetch-page", "forward-batch") as (fetch, forward):
        found |= end_to_end(fetch, forward, events)
    found["end to end / plain poller"] = found["end to end, events/s"] / found["plain poller, events/s"]
    shutil.rmtree(folder / "store")
    with functions(config, "fetch-page", "forward-batch") as (fetch, forward):
        found |= fetch_alone(fetch, events)
        logs = export(folder)
        found |= forward_alone(forward, events)
    seconds, cpu = (float(each) for each in script(RAW_GRPC, str(logs), f"unix://{socket}").split())
    found["bare gRPC loop, events/s"] = events / seconds
    found["bare gRPC loop, CPU µs an event"] = cpu / events * 1e6
    found["forward-batch / bare gRPC loop"] = found["forward-batch alone, events/s"] / (events / seconds)
    return found


def end_to_end(fetch: Function, forward: Function, events: int) -> Figures:
    """Everything from Sophos to the engine's acknowledgement, both functions at work at once."""
    watch, everything = Watch(pid_of(fetch), pid_of(forward)), Watch(os.getpid())
    began = time.perf_counter()
    announced = threading.Semaphore(0)

    def fetch_all() -> None:
        try:
            while results(fetch, {"max_pages": PAGES_A_CALL})[0]["has_more"]:
                announced.release()
        finally:
            announced.release(events)  # No more is announced: what waits is asked for until it is delivered, or fails.

    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(fetch_all)
        acked = 0
        while acked < events:
            announced.acquire()
            done = sum(line["acked"] for line in results(forward, {}))
            acked += done
            if not done and fetched.done():
                fetched.result()
                raise RuntimeError(f"{acked} of {events} events were acknowledged, and no more come")
    seconds = time.perf_counter() - began
    cpu, peak = watch.end()
    (whole,), _ = everything.end()
    return {
        "end to end, events/s": events / seconds,
        "end to end, cores at work": whole / seconds,
        "end to end, CPU µs an event": sum(cpu) / events * 1e6,
        "end to end with simulator and engine, CPU µs an event": whole / events * 1e6,
        "fetch-page, CPU µs an event": cpu[0] / events * 1e6,
        "forward-batch, CPU µs an event": cpu[1] / events * 1e6,
        "fetch-page, peak RSS MiB": peak[0],
        "forward-batch, peak RSS MiB": peak[1],
    }


def fetch_alone(fetch: Function, events: int) -> Figures:
    """Every page, while nothing is forwarded."""
    watch, began = Watch(pid_of(fetch)), time.perf_counter()
    while results(fetch, {"max_pages": 100})[0]["has_more"]:
        continue
    seconds = time.perf_counter() - began
    (cpu,), _ = watch.end()
    return {"fetch-page alone, events/s": events / seconds, "fetch-page alone, CPU µs an event": cpu / events * 1e6}


def forward_alone(forward: Function, events: int) -> Figures:
    """The delivery of what waits, by a function that is warm."""
    forward.call(b'{"integration": "bench", "tenant": "none"}')  # It is refused, by a function that is loaded then.
    watch, began = Watch(pid_of(forward)), time.perf_counter()
    acked = sum(line["acked"] for line in results(forward, {}))
    seconds = time.perf_counter() - began
    (cpu,), _ = watch.end()
    assert acked == events
    return {
        "forward-batch alone, events/s": events / seconds,
        "forward-batch alone, CPU µs an event": cpu / events * 1e6,
    }


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
    began, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == len(logs)
    print(time.perf_counter() - began, time.process_time() - used)
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
print(count, time.perf_counter() - began, time.process_time())
"""


def plain_poller(folder: Path, central: dict[str, str], events: int) -> Figures:
    """Downloads the same pages, parses them, writes JSON lines, and confirms nothing."""
    everything = Watch(os.getpid())
    told = script(POLLER, central["url"], central["client_id"], central["client_secret"], str(folder / "poller.jsonl"))
    (simulated,), _ = everything.end()
    count, seconds, cpu = map(float, told.split())
    assert count == events
    return {
        "plain poller, events/s": events / seconds,
        "plain poller, CPU µs an event": cpu / events * 1e6,
        "plain poller with simulator, CPU µs an event": (simulated + cpu) / events * 1e6,
    }
