"""What a measurement stands on: processes, their CPU and memory, a simulated Sophos Central, an engine in Go."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from emulator.runtime import process
from emulator.runtime.functions import Function
from lib.config.environment import CONFIG as ENVIRONMENT
from tests.fakes.go_engine import go_engine
from tests.site import free_port

Figures = dict[str, float]
CONFIG = """
store: file:{folder}/store
engine: unix:{socket}
every: {every}
listen: 127.0.0.1:{port}
limits: {{max_pending_bytes: 8000000000, deadline: 600s}}
sophos: {{auth_url: "{url}", api_url: "{url}"}}
integrations:
  - {{name: bench, client_id: "{client_id}", client_secret: "{client_secret}", calls_per_minute: 100000}}
"""


class Watch:
    """CPU seconds and the highest RSS of processes with their children.

    The kernel keeps the highest RSS of each process. To look for it meanwhile would cost CPU of what is measured.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        for each in (each for pid in pids for each in self.family(pid)):
            Path(f"/proc/{each.pid}/clear_refs").write_text("5")  # The highest RSS counts from now on.
        self._before = [self._cpu(pid) for pid in pids]

    @staticmethod
    def family(pid: int) -> list[psutil.Process]:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    def _cpu(self, pid: int) -> float:
        return float(sum(sum(each.cpu_times()[:2]) for each in self.family(pid)))

    def end(self) -> tuple[list[float], list[float]]:
        """CPU seconds, and peak MiB, of each."""
        used = [self._cpu(pid) - before for pid, before in zip(self._pids, self._before, strict=True)]
        return used, [sum(_peak_kib(each.pid) for each in self.family(pid)) / 1024 for pid in self._pids]


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


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


def pid_of(function: Function) -> int:
    assert function.pid is not None
    return function.pid


def results(function: Function, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = function.call(json.dumps(body).encode())
    if answer.status != 200:
        raise RuntimeError(answer.body.decode())
    found: list[dict[str, Any]] = json.loads(answer.body)["results"]
    return found


def script(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=process.ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


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


@contextmanager
def fresh() -> Iterator[tuple[Path, Path]]:
    """A folder and an engine."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, go_engine(Path(name) / "engine.sock"):
        yield Path(name), Path(name) / "engine.sock"
