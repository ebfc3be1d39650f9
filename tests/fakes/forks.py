"""Python processes that begin with everything loaded: each is the fork of one that does nothing else.

A process of its own costs a third of a second of computing before it does anything, and the tests start a thousand.
What is tested is the same: the module as a program, with its arguments, environment and files. How a process really
starts is tested by those who start it themselves.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 1 << 20
PR_SET_PDEATHSIG = 1
LOADED = (
    *("emulator.cli.arguments", "emulator.runtime.wsgi", "functions_framework", "requests", "rich.table"),
    *(f"functions.{name}.main" for name in ("fetch_page", "forward_batch", "test_connection")),
    *("emulator.cli.standing", "emulator.cli.steering", "emulator.cli.ledger", "lib.app", "lib.utmstack.engine"),
)


class Forked:
    """A process, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, told: int) -> None:
        """`told` is the pipe that its exit status comes by."""
        self.pid = pid
        self.returncode: int | None = None
        self._told = told
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; subprocess.TimeoutExpired where it does not come in time."""
        poll = select.poll()
        poll.register(self._told)
        with self._lock:
            if self.returncode is None:
                if not poll.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
                self.returncode = int(os.read(self._told, 100))
                os.close(self._told)
        return self.returncode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.returncode is None:
                os.kill(self.pid, number)


class _Parent:
    """The process that forks, and the way to it; it ends with this one, and its children with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._way, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.forks", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

        atexit.register(self.close)

    def close(self) -> None:
        self._way.close()
        self._process.wait()

    def fork(self, request: Mapping[str, object], out: int, err: int, inherited: Sequence[int]) -> Forked:
        told, tells = os.pipe()
        with self._lock:
            socket.send_fds(self._way, [json.dumps(request).encode()], [tells, out, err, *inherited])
            pid = int(self._way.recv(100))
        os.close(tells)
        return Forked(pid, told)


@cache
def _parent() -> _Parent:
    return _Parent()


_ONE_PARENT = threading.Lock()


def start(
    arguments: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    inherited: Sequence[int] = (),
    cwd: Path | None = None,
    out: int = 1,
    err: int = 2,
) -> Forked:
    """Run `-m MODULE ARGUMENT…`; `env` is added to the environment, `inherited` keep their numbers."""
    with _ONE_PARENT:
        parent = _parent()
    _, module, *rest = arguments
    request = {
        "module": module,
        "arguments": rest,
        "env": {**os.environ, **(env or {})},
        "cwd": str(cwd or Path.cwd()),
        "inherited": list(inherited),
    }
    return parent.fork(request, out, err, inherited)


def run(
    arguments: Sequence[str], env: Mapping[str, str] | None = None, *, timeout: float = 180.0
) -> subprocess.CompletedProcess[str]:
    """The same as `subprocess.run` with captured text, in the repository's folder."""
    with TemporaryFile() as out, TemporaryFile() as err:
        child = start(arguments, env, cwd=ROOT, out=out.fileno(), err=err.fileno())
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        told = [os.pread(each.fileno(), LARGEST << 6, 0).decode() for each in (out, err)]
    return subprocess.CompletedProcess(arguments, status, *told)


def main() -> None:
    """Fork for each request until whoever asks has ended; tell of the end of every child."""
    for module in LOADED:
        __import__(module)
    gc.freeze()
    way = socket.socket(fileno=int(sys.argv[1]))
    children: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(way, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == way.fileno():
                message, given, _, _ = socket.recv_fds(way, LARGEST, 20)
                if not message:
                    return
                tells, *inherited = given
                pid = os.fork()
                if not pid:
                    _become(json.loads(message), inherited)
                for each in inherited:
                    os.close(each)
                child = os.pidfd_open(pid)
                children[child] = (pid, tells)
                poll.register(child, select.POLLIN)
                way.send(b"%d" % pid)
            else:
                pid, tells = children.pop(ready)
                os.write(tells, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                poll.unregister(ready)
                for each in (ready, tells):
                    os.close(each)


def _become(request: Mapping[str, Any], given: Sequence[int]) -> NoReturn:
    """Be the program in this process, which has no other file than those that are given."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    numbers = [1, 2, *request["inherited"]]
    above = max(numbers) + 1
    held = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in given]
    os.closerange(3, above)
    for each, number in zip(held, numbers, strict=True):
        os.dup2(each, number)
        os.close(each)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    raise SystemExit


if __name__ == "__main__":
    main()
