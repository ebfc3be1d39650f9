"""`python -m tests.soak`: everything runs, and something is killed every few seconds; then everything is counted.

Killed by SIGKILL, at random: each function's process, the whole emulator, the engine (in Go, recording what it takes),
and the simulator, which keeps a journal: what that holds is what has to arrive.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from emulator.central import DEFAULT_TENANT_ID
from emulator.drill.parts import DrillEngine, Simulator, arrived, kill_group
from lib.model.stream import Stream
from tests.audited import audit
from tests.fakes.go_engine import build_go_engine
from tests.site import SECRET, Emulator, Site

# A tick a second, and many processes that each count anew: this is not about the rate budget.
INTEGRATIONS = [{"name": "acme", "client_id": "demo-client", "client_secret": SECRET, "calls_per_minute": 100_000}]


class Soak:
    """One run."""

    def __init__(self, site: Site, central: Simulator, seed: int) -> None:
        self.site = site
        self.central = central
        self.record = site.folder / "engine.jsonl"
        socket = site.folder / "engine.sock"
        command = [str(build_go_engine()), "-socket", str(socket), "-record", str(self.record)]
        self.engine = DrillEngine(socket, self.record, command, site.folder / "engine.log")
        self.engine.start()
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
            if pids := self._pids():
                kill_group(self._random.choice(pids))
        elif deed == "emulator":
            pids = self._pids()
            self.emulator.kill()
            for pid in pids:
                kill_group(pid)
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
            self.central.fail(self._random.randrange(1, 6), "close")

    def _pids(self) -> list[int]:
        """The functions' processes, each of which leads a group."""
        status = self.emulator.status()
        return [each["pid"] for each in status["functions"] if each["pid"]] if status else []

    def settled(self) -> int:
        """How many events have receipts."""
        (line,) = audit(self.site.state)["streams"] or [{"events": 0}]
        return int(line["events"])


def healths(emulator: Emulator) -> list[str]:
    """The health of the whole, and the reasons for it."""
    status = emulator.status()
    return [status["health"], *(each["code"] for each in status["reasons"])] if status else ["no answer"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--events", type=int, default=60_000, help="at the start; more are made all the time")
    parser.add_argument("--per-minute", type=float, default=6000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    central = Simulator(folder, backlog=args.events, per_minute=args.per_minute, log=folder / "log")
    central.start()
    site = Site(sophos={"auth_url": central.url, "api_url": central.url}, integrations=INTEGRATIONS)
    soak = Soak(site, central, args.seed)
    rng = random.Random(args.seed)
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(1, 12))
        soak.disturb()
    # No more events, no more deeds: now everything has to arrive.
    central.quiet()
    ids = [record.id or "" for _, kind, record in central.news() if kind == "events"]
    limit = time.monotonic() + 300
    while soak.settled() < len(ids) and time.monotonic() < limit:
        time.sleep(1)
    while (health := healths(soak.emulator)) != ["ok"] and time.monotonic() < limit:
        time.sleep(1)
    status = soak.emulator.end()
    soak.engine.kill()
    found = arrived(soak.record)
    days = {
        receipt.header.day
        for stream in site.state.ledger.streams()
        for _, receipt, _ in site.state.ledger.receipts(stream)
    }
    broken = [day for day in ["", *sorted(days), "2199-01-01"] if not audit(site.state, day)["ok"]]
    lost = [each for each in ids if each not in found]
    repeats = sum(found.values()) - len(found)
    stream = Stream("acme", DEFAULT_TENANT_ID, "events")
    receipts = sum(1 for _ in site.state.ledger.receipts(stream))
    print(f"{dict(soak.deeds)}; {len(ids)} events, {receipts} receipts")
    print(
        f"lost: {len(lost)}; repeats: {repeats} ({repeats / len(ids):.2%}); exit {status}; health: {', '.join(health)}"
    )
    print(f"audit holds as a whole, from each of {len(days)} days and from a later one on: {not broken}", *broken)
    if status or health != ["ok"]:
        print((site.folder / "emulator.log").read_text()[-4000:])
    central.kill()
    site.central.close()
    shutil.rmtree(site.folder)
    shutil.rmtree(folder)
    return 1 if lost or broken or status or health != ["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
