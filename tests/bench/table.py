"""The figures beside their goals and beside those of the last run, which are kept as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emulator.runtime.process import ROOT

KEPT = ROOT / "build" / "bench"
LATEST = KEPT / "latest.json"
"""The newest figure of each name, whatever parts the last run had."""
AT_LEAST: Mapping[str, float] = {"end to end / plain poller": 1.0, "forward-batch / bare gRPC loop": 4.0}
AT_MOST: Mapping[str, float] = {
    "end to end, CPU µs an event": 45,
    "fetch-page, CPU µs an event": 12,
    "relay, 1 streams, CPU µs an event": 25,
    "relay, 4 streams, CPU µs an event": 25,
    "relay, forward-batch's client, 1 streams, CPU µs an event": 25,
    "relay, forward-batch's client, 4 streams, CPU µs an event": 25,
    "idle, all processes, PSS MiB": 180,
    "idle, all processes, % of a core": 0.5,
    "tick over 1000 streams, s": 1.5,
    "page, 1000 streams, /, cpu_ms": 30,
    "page, 1000 streams, /streams, cpu_ms": 30,
    "page, 1000 streams, /status, cpu_ms": 30,
}


def lines(found: Mapping[str, float], before: Mapping[str, float]) -> Iterator[str]:
    """The table: figure, goal, whether it is met, and how far the figure moved since the last run."""
    yield f"{'':<58} {'figure':>12}  {'goal':<16} {'last':>12} {'change':>8}"
    for name, value in found.items():
        last = before.get(name)
        told = "" if last is None else f"{last:>12,.2f} {_change(value, last):>8}"
        yield f"{name:<58} {value:>12,.2f}  {_goal(name, value):<16} {told}".rstrip()


def _goal(name: str, value: float) -> str:
    if name in AT_LEAST:
        return f"≥ {AT_LEAST[name]:g} {'met' if value >= AT_LEAST[name] else 'MISSED'}"
    if name in AT_MOST:
        return f"≤ {AT_MOST[name]:g} {'met' if value <= AT_MOST[name] else 'MISSED'}"
    return ""


def _change(value: float, last: float) -> str:
    return f"{(value / last - 1) * 100:+.0f} %" if last else ""


def last_figures() -> dict[str, float]:
    """The newest figure of each name; none before the first run."""
    if not LATEST.exists():
        return {}
    found: dict[str, float] = json.loads(LATEST.read_text())
    return found


def keep(found: Mapping[str, float], settings: Mapping[str, Any]) -> Path:
    """Write this run's figures to a file of their own, and make them the last ones."""
    KEPT.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": sys.version.split()[0]}
    told = {"at": now.isoformat(timespec="seconds"), "commit": commit.stdout.strip(), **machine, **settings}
    file = KEPT / f"{now:%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps(told | {"figures": dict(found)}, indent=1, ensure_ascii=False) + "\n")
    LATEST.write_text(json.dumps(last_figures() | dict(found), indent=1, ensure_ascii=False) + "\n")
    return file
