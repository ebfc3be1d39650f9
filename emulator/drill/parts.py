"""The parts of a drill as processes that can be killed and restarted: Sophos, the engine, the connector."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from emulator.central.feed import Record
from emulator.runtime import process
from lib.errors import RetryableError

STARTS_WITHIN_SECONDS = 300.0
POLL_SECONDS = 0.05
_EMULATOR = (sys.executable, "-m", "emulator")


class NotReadyError(RetryableError):
    """A part of the drill did not start in time."""

    code = "drill_not_ready"
    title = "A part of the drill does not start"
    remedy = "The machine may be too busy, or a program missing. Try again, and read the output of the part."


def until(condition: Callable[[], bool], name: str, seconds: float = STARTS_WITHIN_SECONDS) -> None:
    """Wait for the condition; NotReadyError with the name if it is not met in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NotReadyError(f"{name}: not ready within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


_PORTS = itertools.count(random.randrange(20_000, 30_000))  # noqa: S311 - no secret


def free_port() -> int:
    """A free port on loopback that nothing else takes while its listener is cut off.

    It is below the ports that Linux gives to outgoing connections, of which the connector makes many.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port := next(_PORTS)))
            return port


def kill_group(leader: int) -> None:
    """Send SIGKILL to a process group."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


class DrillProcess:
    """A process that can be killed and restarted."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, log: Path | None = None) -> None:
        """`command` begins with the program's path; its output is appended to the log."""
        self.command = list(command)
        self._env = env
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. The calling thread must outlive it."""
        self.process = process.launch(self.command, self._env, self._log)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.process is not None:
            kill_group(self.process.pid)
            self.process.wait()

    def end(self) -> int:
        """Terminate the process; return its exit status."""
        if self.process is None:
            return 0
        process.stop(self.process, 60)
        return self.process.returncode


class Simulator(DrillProcess):
    """A simulated Sophos Central with a journal. All records in the journal must arrive."""

    def __init__(
        self, folder: Path, *, backlog: int, per_minute: float, account: Path | None = None, log: Path | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._journal = folder / "journal.jsonl"
        self._read = 0
        self._backlog = backlog
        listen = ("--listen", f"127.0.0.1:{self.port}", "--journal", str(self._journal), "--backlog", str(backlog))
        described = () if account is None else ("--account", str(account))
        self._quiet = [*_EMULATOR, "central", *listen, *described]
        super().__init__([*self._quiet, "--rate", str(per_minute)], log=log)

    def start(self) -> None:
        """Start it, and wait until its backlog is complete."""
        super().start()
        # It listens before the backlog is complete. A request before that would miss records before its cursor.
        until(lambda: self._held() >= self._backlog, "the simulated Sophos Central")

    def fail(self, times: int, fault: str = "status") -> None:
        """Answer so many requests with an error, or close the connection (`close`)."""
        fields = {"fault": fault, "times": times}
        requests.post(f"{self.url}/_control/faults", json=fields, timeout=10).raise_for_status()

    def quiet(self) -> None:
        """Generate no more records."""
        self.kill()
        self.command = [*self._quiet, "--rate", "0"]
        self.start()

    def news(self) -> Iterator[tuple[str, str, Record]]:
        """Tenant, kind and record of all new records since the last call."""
        for line in _lines(self._journal, self._read):
            self._read += len(line)
            with suppress(ValueError, RecursionError, KeyError):
                kept = json.loads(line)
                raw = kept["raw"].encode("utf-8", "surrogateescape")
                yield kept["tenant"], kept["kind"], Record(kept["created"], kept["id"], kept["type"], raw)

    def _held(self) -> int:
        with suppress(requests.RequestException, ValueError):
            held = requests.get(f"{self.url}/_control/stats", timeout=30).json()["held"]
            return sum(int(counts.get("events", 0)) for counts in held.values())
        return -1


class DrillEngine(DrillProcess):
    """An engine that records the logs that it takes."""

    def __init__(
        self, socket_path: Path, record: Path, command: Sequence[str] | None = None, log: Path | None = None
    ) -> None:
        self._socket = socket_path
        self._record = record
        self._read = 0
        stand_in = [*_EMULATOR, "engine", "--socket", str(socket_path), "--record", str(record)]
        super().__init__(command or stand_in, log=log)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._socket.unlink(missing_ok=True)
        with self._record.open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            if file.read() not in (b"", b"\n"):
                file.write(b"\n")  # A kill left the last line unfinished. Its log was never acknowledged.
        super().start()
        until(self._socket.exists, "the engine")

    def news(self) -> Iterator[dict[str, Any]]:
        """All new logs since the last call."""
        for line in _lines(self._record, self._read):
            self._read += len(line)
            with suppress(ValueError, RecursionError):
                yield json.loads(line)


class Connector(DrillProcess):
    """`python -m emulator run`."""

    def __init__(self, config: Path, port: int, env: Mapping[str, str], log: Path | None = None) -> None:
        self._port = port
        super().__init__([*_EMULATOR, "run", "--config", str(config)], env, log)

    def start(self) -> None:
        """Start it, and wait until both functions accept calls."""
        super().start()
        until(lambda: {"fetch-page", "forward-batch"} <= self.pids().keys(), "the connector")

    def kill(self) -> None:
        """Send SIGKILL to it and to its functions."""
        functions = self.pids().values()
        super().kill()
        for pid in functions:
            kill_group(pid)

    def pids(self) -> dict[str, int]:
        """The process ids of the running functions."""
        with suppress(requests.RequestException, ValueError, KeyError):
            status = requests.get(f"http://127.0.0.1:{self._port}/status", timeout=10).json()
            return {function["name"]: function["pid"] for function in status["functions"] if function["pid"]}
        return {}


def arrived(record: Path) -> Counter[str]:
    """How often each native id has arrived. A line that a killed engine left unfinished does not count."""
    counts: Counter[str] = Counter()
    for line in _lines(record, 0):
        with suppress(ValueError, RecursionError, KeyError, TypeError):
            counts[json.loads(json.loads(line)["raw"])["id"]] += 1
    return counts


def _lines(file: Path, start: int) -> Iterator[bytes]:
    """The complete lines from an offset on."""
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(start)
        for line in opened:
            if line.endswith(b"\n"):
                yield line
