"""One process for each function, as on a platform: started, watched, restarted, and stopped while no call comes."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from typing import Any, Literal

from emulator.runtime import process
from lib.config.environment import BEHIND_EMULATOR, CONFIG, FOLLOWED, STORE
from lib.config.settings import Config
from lib.errors import RetryableError
from lib.model.backoff import full_jitter

log = logging.getLogger(__name__)

TARGETS = {"fetch-page": "fetch_page", "forward-batch": "forward_batch", "test-connection": "test_connection"}
IDLE_SECONDS = {"test-connection": 60.0}
"""The time without a call after which a function's process ends. The others stay for the next tick or sweep."""
MARGIN_SECONDS = 40.0
"""The time that a call may take after its own deadline: for a page under way, and for acknowledgements."""
STARTS_WITHIN_SECONDS = 30.0
CONNECTS_WITHIN_SECONDS = 5.0
STEADY_SECONDS = 60.0
"""A process that ran this long is restarted without the longer pauses of repeated failures."""

FunctionState = Literal["up", "asleep", "down"]
"""`asleep`: the function has no process; the next call starts one."""


class FunctionDownError(RetryableError):
    """The function's process does not run or does not answer."""

    code = "function_down"
    title = "A function does not answer"
    remedy = "Nothing to do: it restarts by itself. If it lasts, find in the log why it ended."


@dataclass(frozen=True)
class FunctionAnswer:
    """A function's HTTP answer."""

    status: int
    headers: Message
    body: bytes

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The body's JSON object; empty if the body holds none. It is parsed only once."""
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return fields if isinstance(fields, dict) else {}


class Function:
    """A function's process, and calls to it.

    The emulator keeps the listening socket open, and each process inherits it. So no other program can take the port
    between two processes.
    """

    def __init__(
        self,
        name: str,
        env: Mapping[str, str],
        timeout: float,
        *,
        idle: float | None = None,
        start: Callable[..., process.RunningProcess] = process.start,
    ) -> None:
        """`timeout` is for a whole call. After `idle` without a call the process ends; None: never. Both in seconds.

        `start` runs Python as `process.start` does.
        """
        self.name = name
        self.restarts = 0
        """How often the process ended unexpectedly."""
        self.state: FunctionState = "down" if idle is None else "asleep"
        self._env = env
        self._timeout = timeout
        self._idle = idle
        self.port = 0
        """The port on loopback; 0 before the start."""
        self._start_process = start
        self._process: process.RunningProcess | None = None
        self._change = threading.Condition()
        """Guards the state, the process and the fields below."""
        self._over = False
        self._calls = 0
        self._called_at = 0.0
        # The thread that starts the process must live as long as the process: see child.py.
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)

    @property
    def pid(self) -> int | None:
        """The process's id while the state is `up`; otherwise None."""
        return self._process.pid if self._process is not None and self.state == "up" else None

    def start(self) -> None:
        """Start the process. A function that may be asleep starts its process at the first call."""
        self._keeper.start()

    def is_up(self, seconds: float = 0.0) -> bool:
        """Whether it accepts calls, now or within so many seconds. An `asleep` function accepts calls."""
        with self._change:
            return self._change.wait_for(lambda: self.state != "down", seconds)

    def stop(self) -> None:
        """Stop the process after the calls under way."""
        with self._change:
            self._over = True
            self._change.notify_all()
            running = self._process
        if running is not None:
            process.stop(running)
        self._keeper.join()

    def call(self, body: bytes, headers: Mapping[str, str] | None = None) -> FunctionAnswer:
        """POST to the function; FunctionDownError if it does not answer."""
        with self._counted():
            self._wait_until_up()
            try:
                return self._post(body, {"Content-Type": "application/json", "Connection": "close", **(headers or {})})
            except (OSError, HTTPException) as error:
                raise FunctionDownError(f"{self.name} did not answer: {type(error).__name__}") from None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._change:
            self._calls += 1
            self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                self._calls -= 1
                self._called_at = time.monotonic()

    def _wait_until_up(self) -> None:
        with self._change:
            self._change.wait_for(lambda: self._over or self.state == "up", STARTS_WITHIN_SECONDS)
            if self.state != "up":
                raise FunctionDownError(f"{self.name} is not running")

    def _post(self, body: bytes, headers: Mapping[str, str]) -> FunctionAnswer:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=CONNECTS_WITHIN_SECONDS)) as connection:
            # Two timeouts: on loopback a connection takes no time, but an answer may take as long as a whole call.
            connection.connect()
            connection.sock.settimeout(self._timeout)
            connection.request("POST", "/", body, headers)
            answer = connection.getresponse()
            return FunctionAnswer(answer.status, answer.headers, answer.read())

    def _keep(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self.port = int(listener.getsockname()[1])
            self._keep_running(listener)

    def _keep_running(self, listener: socket.socket) -> None:
        failures = 0
        while self._is_wanted():
            started = time.monotonic()
            try:
                cause: object = self._run(listener)
            except OSError as error:
                self._become("down")
                cause = error
            if self._over or self.state == "asleep":
                continue
            # A process that ends again and again gets longer pauses, so that it does not fill the log and the CPU.
            failures = 1 if time.monotonic() - started > STEADY_SECONDS else failures + 1
            self.restarts += 1
            pause = full_jitter(failures, 1.0, base=0.2, cap=30.0)
            log.warning("%s ended with %s; restart in %.1f s", self.name, cause, pause)
            with self._change:
                self._change.wait_for(lambda: self._over, pause)

    def _is_wanted(self) -> bool:
        """Wait while the function is asleep and no call comes; return False when it must end."""
        with self._change:
            self._change.wait_for(lambda: self._over or self._calls or self.state != "asleep")
            return not self._over

    def _run(self, listener: socket.socket) -> int | None:
        """Start a process and wait for its end; return its exit status, or None if nothing was started."""
        ready, ready_child = os.pipe()
        try:
            with self._change:
                if self._over:
                    return None
                descriptors = (listener.fileno(), ready_child)
                child = self._start_process(self._arguments(*descriptors), self._env, inherited=descriptors)
                self._process = child
        finally:
            os.close(ready_child)  # Only the process has a copy now, so the pipe closes when the process ends.
        with open(ready, "rb", buffering=0) as pipe:  # noqa: PTH123 - a file descriptor
            self._watch(child, pipe.fileno())
        return child.returncode

    def _arguments(self, *descriptors: int) -> list[str]:
        target = TARGETS[self.name]
        source = process.ROOT / "functions" / target / "main.py"
        return ["-m", "emulator.runtime.function_server", str(source), target, *map(str, descriptors)]

    def _watch(self, child: process.RunningProcess, pipe: int) -> None:
        """Wait until the process has ended. Stop it if it does not get ready in time, or is idle too long."""
        if not _is_readable(pipe, STARTS_WITHIN_SECONDS):
            log.error("%s is not ready after %.0f s; it is stopped and restarted", self.name, STARTS_WITHIN_SECONDS)
            self._become("down")
            process.stop(child)
        elif os.read(pipe, 1):
            self._become("up")
            while (seconds := self._seconds_to_rest()) is None or seconds > 0:
                if _is_readable(pipe, seconds):
                    self._become("down")
                    break
            else:
                process.stop(child)
        else:
            self._become("down")
        child.wait()

    def _become(self, state: FunctionState) -> None:
        with self._change:
            self.state = state
            self._called_at = time.monotonic()
            self._change.notify_all()

    def _seconds_to_rest(self) -> float | None:
        """Seconds until the process is stopped for lack of calls; None: never. At 0 the state becomes `asleep`."""
        if self._idle is None:
            return None
        with self._change:
            seconds = self._idle if self._calls else self._called_at + self._idle - time.monotonic()
            if seconds > 0:
                return seconds
            # Calls are counted under the same lock. So a call that comes now waits for the next process.
            self.state = "asleep"
            return 0.0


def config_env(location: str, store: str, followed: str | None = None) -> dict[str, str]:
    """The environment variables with the locations of the configuration, the store and the followed integrations."""
    return {CONFIG: location, STORE: store} | ({FOLLOWED: followed} if followed else {})


def functions_of(config: Config, env: Mapping[str, str], only: str | None = None) -> dict[str, Function]:
    """The functions by name (or the `only` one), not started yet; `env` comes from `config_env`."""
    timeout = config.limits.deadline.total_seconds() + MARGIN_SECONDS
    env = {**env, BEHIND_EMULATOR: "1", "PYTHONUNBUFFERED": "1", "CLOUD_RUN_TIMEOUT_SECONDS": str(int(timeout))}
    names = [name for name in TARGETS if only in (None, name)]
    return {name: Function(name, env, timeout, idle=IDLE_SECONDS.get(name)) for name in names}


def _is_readable(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
