"""One process a function, as a platform would run it: started, watched, started again, at rest while nobody calls."""

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
from lib.config.environment import BEHIND_EMULATOR, CONFIG, FOLLOWED
from lib.config.settings import Config
from lib.errors import RetryableError
from lib.model.backoff import full_jitter

log = logging.getLogger(__name__)

TARGETS = {"fetch-page": "fetch_page", "forward-batch": "forward_batch", "test-connection": "test_connection"}
IDLE_SECONDS = {"test-connection": 60.0}
"""After so long without a call a function's process ends; the others are called each minute."""
MARGIN_SECONDS = 40.0
"""What a call may take beyond its own deadline: a page that was begun, acknowledgements that were waited for."""
STARTS_WITHIN_SECONDS = 30.0
CONNECTS_WITHIN_SECONDS = 5.0
STEADY_SECONDS = 60.0
"""A process that lived so long starts again at once."""

FunctionState = Literal["up", "asleep", "down"]
"""Asleep: without a process, and started by the next call."""


class FunctionDownError(RetryableError):
    """The function's process is not there just now."""

    code = "function_down"
    title = "A function does not answer"
    remedy = "It is started again by itself; the log says why it ended."


@dataclass(frozen=True)
class Answer:
    """What a function answered."""

    status: int
    headers: Message
    body: bytes

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The JSON object that the body holds; empty where it holds none. It is read once, whoever asks."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Function:
    """A function's process and the way to it.

    The emulator listens on the function's socket all the time, and each process inherits it: nobody else can take the
    port between two processes.
    """

    def __init__(
        self,
        name: str,
        env: Mapping[str, str],
        timeout: float,
        *,
        idle: float | None = None,
        start: Callable[..., process.Running] = process.start,
    ) -> None:
        """`timeout` in seconds, for a whole call; after `idle` seconds without a call the process ends, None: never.

        `start` runs Python as `process.start` does.
        """
        self.name = name
        self.restarts = 0
        """How often the process ended by itself."""
        self.state: FunctionState = "down" if idle is None else "asleep"
        self._env = env
        self._timeout = timeout
        self._idle = idle
        self.port = 0
        """On loopback, once it is up."""
        self._start_process = start
        self._process: process.Running | None = None
        self._change = threading.Condition()
        """Guards what follows, the state, and the process."""
        self._over = False
        self._calls = 0
        self._called_at = 0.0
        # The thread that starts the process has to live as long as that does: see child.py.
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)

    @property
    def pid(self) -> int | None:
        """The process's id, while it takes calls."""
        return self._process.pid if self._process is not None and self.state == "up" else None

    def start(self) -> None:
        """Begin to run it, when it is called where it may be asleep."""
        self._keeper.start()

    def is_up(self, seconds: float = 0.0) -> bool:
        """Whether it takes calls, now or within so many seconds; asleep it does."""
        with self._change:
            return self._change.wait_for(lambda: self.state != "down", seconds)

    def stop(self) -> None:
        """End the process, after the calls that it has begun."""
        with self._change:
            self._over = True
            self._change.notify_all()
            running = self._process
        if running is not None:
            process.stop(running)
        self._keeper.join()

    def call(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """POST to it; FunctionDownError where it does not answer."""
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
                raise FunctionDownError(f"{self.name} does not run")

    def _post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=CONNECTS_WITHIN_SECONDS)) as connection:
            connection.connect()
            connection.sock.settimeout(self._timeout)
            connection.request("POST", "/", body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def _keep(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self.port = int(listener.getsockname()[1])
            self._keep_running(listener)

    def _keep_running(self, listener: socket.socket) -> None:
        failures = 0
        while self._is_wanted():
            started = time.monotonic()
            try:
                ended: object = self._run(listener)
            except OSError as error:
                self._become("down")
                ended = error
            if self._over or self.state == "asleep":
                continue
            failures = 1 if time.monotonic() - started > STEADY_SECONDS else failures + 1
            self.restarts += 1
            pause = full_jitter(failures, 1.0, base=0.2, cap=30.0)
            log.warning("%s ended with %s; started again in %.1f s", self.name, ended, pause)
            with self._change:
                self._change.wait_for(lambda: self._over, pause)

    def _is_wanted(self) -> bool:
        """Wait while it is asleep and nobody calls; False once it is to end."""
        with self._change:
            self._change.wait_for(lambda: self._over or self._calls or self.state != "asleep")
            return not self._over

    def _run(self, listener: socket.socket) -> int | None:
        """Start a process and stay until it has ended, or is to rest; its exit status."""
        ready, told = os.pipe()
        try:
            with self._change:
                if self._over:
                    return None
                descriptors = (listener.fileno(), told)
                child = self._start_process(self._arguments(*descriptors), self._env, inherited=descriptors)
                self._process = child
        finally:
            os.close(told)  # the pipe ends with the process, which has the other copy
        with open(ready, "rb", buffering=0) as pipe:  # noqa: PTH123 - a file descriptor
            self._watch(child, pipe.fileno())
        return child.returncode

    def _arguments(self, *descriptors: int) -> list[str]:
        target = TARGETS[self.name]
        source = process.ROOT / "functions" / target / "main.py"
        return ["-m", "emulator.runtime.function_server", str(source), target, *map(str, descriptors)]

    def _watch(self, child: process.Running, pipe: int) -> None:
        """Until the process has ended, by itself or because it is to rest."""
        if not _is_readable(pipe, STARTS_WITHIN_SECONDS):
            log.error("%s does not answer after %.0f s", self.name, STARTS_WITHIN_SECONDS)
            self._become("down")
            process.stop(child)
        elif os.read(pipe, 1):
            self._become("up")
            while (rest := self._seconds_to_rest()) is None or rest > 0:
                if _is_readable(pipe, rest):
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
        """How long it has to be without a call until it rests; 0 where it is asleep from now on; None: never."""
        if self._idle is None:
            return None
        with self._change:
            rest = self._idle if self._calls else self._called_at + self._idle - time.monotonic()
            if rest > 0:
                return rest
            # Under the lock that calls are counted under: whoever comes now waits for the next process.
            self.state = "asleep"
            return 0.0


def config_env(location: str, followed: str | None = None) -> dict[str, str]:
    """Where another process finds the configuration, and the integrations that are `followed` beside it."""
    return {CONFIG: location} | ({FOLLOWED: followed} if followed else {})


def functions_of(config: Config, env: Mapping[str, str], only: str | None = None) -> dict[str, Function]:
    """The functions by their names, or the `only` one, ready to be started; `env` is `config_env`'s."""
    timeout = config.limits.deadline.total_seconds() + MARGIN_SECONDS
    env = {**env, BEHIND_EMULATOR: "1", "PYTHONUNBUFFERED": "1", "CLOUD_RUN_TIMEOUT_SECONDS": str(int(timeout))}
    names = [name for name in TARGETS if only in (None, name)]
    return {name: Function(name, env, timeout, idle=IDLE_SECONDS.get(name)) for name in names}


def _is_readable(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
