"""Child processes. They never outlive the emulator, and the terminal's Ctrl-C does not reach them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
_CHILD = Path(__file__).with_name("child.py")


class RunningProcess(Protocol):
    """A process that was started, such as a `subprocess.Popen`."""

    pid: int
    returncode: int | None
    """The exit status, once it has been waited for."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; subprocess.TimeoutExpired where it does not come in time, in seconds."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


def start(
    arguments: Sequence[str], env: Mapping[str, str] | None = None, *, inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Run Python with the arguments in the current folder. The calling thread must outlive the process.

    The process gets the `inherited` file descriptors under the same numbers.
    """
    return launch([sys.executable, "-P", *arguments], env, inherited=inherited)


def launch(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    *,
    inherited: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Run any program, named by its path, as `start` does. With `log`, its output is appended to that file."""
    with contextlib.ExitStack() as stack:
        out = None if log is None else stack.enter_context(log.open("ab"))
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), *command],
            # The current folder stays, because paths may be relative to it. -P keeps its `lib` from hiding ours.
            env={**_environment(), "PYTHONPATH": _search_path(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends its children in order.
        )


def stop(process: RunningProcess, seconds: float = 10.0) -> None:
    """Terminate the process; kill it if it does not end in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """The environment without the service manager's variables, which concern only this process."""
    return {
        key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET" and not key.startswith("WATCHDOG_")
    }


def _search_path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
