"""`python -m tests.soak`: everything runs, and something is killed every few seconds; then everything is counted.

Killed by SIGKILL, at random: each function's process, the whole emulator, the engine (in Go, recording what it takes),
and the simulator, which keeps a journal: what that holds is what has to arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import requests

from emulator.central import DEFAULT_TENANT_ID
from lib.model.stream import Stream
from tests.audited import audit
from tests.fakes.go_engine import build_go_engine
from tests.site import SECRET, Emulator, Site, free_port, until

# A tick a second, and many processes that each count anew: this is not about the rate budget.
INTEGRATIONS = [{"name": "acme", "client_id": "demo-client", "client_secret": SECRET, "calls_per_minute": 100_000}]


class Central:
    """The simulator as a process, started again by whoever killed it."""

    default_tenant = DEFAULT_TENANT_ID

    def __init__(self, folder: Path, *, events: int, per_minute: float) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._journal = folder / "journal.jsonl"
        self._rate = per_minute
        self.start(events)

    def start(self, events: int = 0) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "emulator", "central", "--listen", f"127.0.0.1:{self.port}"),
                *("--backlog", str(events), "--rate", str(self._rate), "--journal", str(self._journal)),
            ],
            stdout=subprocess.DEVNULL,
        )
        # It listens before it has made its backlog: whoever asks before gets less, and rightly never asks again.
        until(lambda: self._held() >= events, "the simulator", 300)

    def _held(self) -> int:
        stats = self._answers("stats")
        return -1 if stats is None else int(stats["held"].get(DEFAULT_TENANT_ID, {}).get("events", 0))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def fall_silent(self, times: int) -> None:
        fault = {"fault": "close", "times": times}
        requests.post(f"{self.url}/_control/faults", json=fault, timeout=10).raise_for_status()

    def quiet(self) -> None:
        """No more events."""
        self.kill()
        self._rate = 0
        self.start()

    def ids(self) -> list[str]:
        return [str(each) for each in self._answers("ids") or []]

    def close(self) -> None:
        self.kill()

    def _answers(self, what: str) -> Any:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/_control/{what}", timeout=30).json()


class Engine:
    """The engine in Go, started again by whoever killed it."""

    def __init__(self, socket: Path, record: Path) -> None:
        self._command = [str(build_go_engine()), "-socket", str(socket), "-record", str(record)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def kill(pid: int) -> None:
    """SIGKILL for a process and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for victim in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)


def arrived(record: Path) -> Counter[str]:
    """How often each native id has arrived; a line that a killed engine left unfinished does not count."""
    found: Counter[str] = Counter()
    for line in record.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            found[json.loads(json.loads(line)["raw"])["id"]] += 1
    return found


class Soak:
    """One run."""

    def __init__(self, site: Site, central: Central, seed: int) -> None:
        self.site = site
        self.central = central
        self.record = site.folder / "engine.jsonl"
        self.engine = Engine(site.folder / "engine.sock", self.record)
        self.emulator = Emulator(site)
        self.deeds: Counter[str] = Counter()
        self._random = random.Random(seed)

    def disturb(self) -> None:
        """Kill something."""
        deed = self._random.choices(["function", "emulator", "engine", "central", "silence"], weights=[5, 2, 3, 2, 1])[
            0
        ]
        self.deeds[deed] += 1
        if deed == "function":
            status = self.emulator.status()
            pids = [each["pid"] for each in status["functions"] if each["pid"]] if status else []
            if pids:
                kill(self._random.choice(pids))
        elif deed == "emulator":
            kill(self.emulator.process.pid)
            self.emulator.process.wait()
            self.emulator.log.close()
            self.emulator = Emulator(self.site)
        elif deed == "engine":
            self.engine.kill()
            time.sleep(self._random.random() * 2)
            self.engine.start()
        elif deed == "central":
            self.central.kill()
            time.sleep(self._random.random() * 2)
            self.central.start()
        else:
            self.central.fall_silent(self._random.randrange(1, 6))

    def settled(self) -> int:
        """How many events have receipts."""
        (line,) = audit(self.site.state)["streams"] or [{"events": 0}]
        return int(line["events"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--events", type=int, default=60_000, help="at the start; more are made all the time")
    parser.add_argument("--per-minute", type=float, default=6000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    central = Central(folder, events=args.events, per_minute=args.per_minute)
    site = Site(sophos={"auth_url": central.url, "api_url": central.url}, integrations=INTEGRATIONS)
    soak = Soak(site, central, args.seed)
    rng = random.Random(args.seed)
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(1, 12))
        soak.disturb()
    # No more events, no more deeds: now everything has to arrive.
    central.quiet()
    ids = central.ids()
    limit = time.monotonic() + 300
    while soak.settled() < len(ids) and time.monotonic() < limit:
        time.sleep(1)
    status = soak.emulator.end()
    soak.engine.kill()
    found, told = arrived(soak.record), audit(site.state)
    lost = [each for each in ids if each not in found]
    repeats = sum(found.values()) - len(found)
    stream = Stream("acme", central.default_tenant, "events")
    receipts = sum(1 for _ in site.state.ledger.receipts(stream))
    print(f"{dict(soak.deeds)}; {len(ids)} events, {receipts} receipts")
    print(f"lost: {len(lost)}; repeats: {repeats} ({repeats / len(ids):.2%}); audit holds: {told['ok']}; exit {status}")
    central.close()
    site.central.close()
    shutil.rmtree(site.folder)
    shutil.rmtree(folder)
    return 1 if lost or not told["ok"] or status else 0


if __name__ == "__main__":
    sys.exit(main())
