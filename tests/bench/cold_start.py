"""Cold start: from the start of a function's process to its first answer, and what of it is spent on imports."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import requests

from emulator.runtime import process
from emulator.runtime.functions import TARGETS
from lib.config.environment import CONFIG
from tests.site import free_port

ROUNDS = 5
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
BODIES = {"test-connection": {"integration": "bench"}}


def cold_start(config: Path) -> dict[str, float]:
    """Milliseconds until it is loaded (refuses a GET), until it has worked once, CPU's too; imports by package."""
    found: dict[str, float] = {}
    for name in TARGETS:
        loaded, answered, cpu = zip(*(once(name, config) for _ in range(ROUNDS)), strict=True)
        found[f"cold start of {name}, loaded, ms"] = statistics.median(loaded)
        found[f"cold start of {name}, first answer, ms"] = statistics.median(answered)
        found[f"cold start of {name}, first answer, CPU ms"] = statistics.median(cpu)
        spent = imports(name, config)
        found[f"cold start of {name}, imports, ms"] = sum(spent.values())
        found |= {f"  {name}: {package}, ms": millis for package, millis in spent.most_common(6)}
    return found


def once(name: str, config: Path, *, flags: tuple[str, ...] = (), log: Path | None = None) -> tuple[float, ...]:
    """One start: milliseconds until it is loaded, until it has worked once, and what that took of the CPU."""
    port, target = free_port(), TARGETS[name]
    url = f"http://127.0.0.1:{port}/"
    source = str(process.ROOT / "functions" / target / "main.py")
    arguments = ["-m", "functions_framework", "--source", source, "--target", target]
    stderr = subprocess.DEVNULL if log is None else log.open("wb")
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *flags, *arguments, "--host", "127.0.0.1", "--port", str(port)],
        cwd=process.ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(process.ROOT), CONFIG: str(config)},
        stderr=stderr,
    )
    try:
        while not answers(url):
            time.sleep(0.005)
        loaded = time.perf_counter() - began
        answer = requests.post(url, json=BODIES.get(name, {}), timeout=60)
        answered = time.perf_counter() - began
        used = psutil.Process(child.pid).cpu_times()
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
    finally:
        process.stop(child)
        if not isinstance(stderr, int):
            stderr.close()
    return loaded * 1000, answered * 1000, (used.user + used.system) * 1000


def imports(name: str, config: Path) -> Counter[str]:
    """Milliseconds that each package's own modules took to import, up to the first answer."""
    log = config.with_name(f"imports-{name}.log")
    once(name, config, flags=("-X", "importtime"), log=log)
    spent: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        match = LINE.match(line)
        if match:
            package = match[2].partition(".")[0]
            spent["Python's own" if package in sys.stdlib_module_names else package] += int(match[1])
    return Counter({package: micros / 1000 for package, micros in spent.items()})


def answers(url: str) -> bool:
    """Whether the function refuses a GET: it is there."""
    try:
        return requests.get(url, timeout=10).status_code == 405
    except requests.ConnectionError:
        return False
