"""One functions-framework process a function, as a platform would run it: started, watched, started again."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import requests

from emulator.runtime import process
from lib.errors import RetryableError
from lib.model.backoff import full_jitter

log = logging.getLogger(__name__)

TARGETS = {"fetch-page": "fetch_page", "forward-batch": "forward_batch", "test-connection": "test_connection"}
STARTS_WITHIN_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A process that lived so long starts again at once."""


class FunctionDownError(RetryableError):
    """The function's process is not there just now."""

    code = "function_down"
    title = "A function does not answer"
    remedy = "It is started again by itself; the log says why it ended."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Function:
    """A function's process and the way to it."""

    def __init__(self, name: str, env: Mapping[str, str], timeout: float) -> None:
        """`timeout` in seconds, for a whole call."""
        self.name = name
        self.restarts = 0
        self._env = env
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._up = threading.Event()
        self._over = threading.Event()
        # The thread that starts the process has to live as long as that does: see child.py.
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def pid(self) -> int | None:
        """The process's id, while it runs."""
        return self._process.pid if self._process is not None and self._up.is_set() else None

    def start(self) -> None:
        """Begin to run it."""
        self._keeper.start()

    def is_up(self, seconds: float = 0.0) -> bool:
        """Whether it takes calls, now or within so many seconds."""
        return self._up.wait(seconds)

    def stop(self) -> None:
        """End the process, after the calls that it has begun."""
        self._over.set()
        # A connection that is kept open for the next call would be waited for.
        self._session.close()
        self._keeper.join()

    def call(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """POST to it; FunctionDownError where it does not answer."""
        if not self.is_up(STARTS_WITHIN_SECONDS if not self._over.is_set() else 0.0):
            raise FunctionDownError(f"{self.name} does not run")
        try:
            answer = self._session.post(
                f"http://127.0.0.1:{self._port}/",
                data=body,
                headers={"Content-Type": "application/json", **(headers or {})},
                timeout=(5, self._timeout),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise FunctionDownError(f"{self.name} did not answer: {type(error).__name__}") from None
        return Answer(answer.status_code, answer.headers, answer.content)

    def _keep(self) -> None:
        failures = 0
        while not self._over.is_set():
            started = time.monotonic()
            self._port = _free_port()
            self._process = process.start(self._arguments(), self._env)
            self._watch(self._process)
            self._up.clear()
            if self._over.is_set():
                return
            failures = 1 if time.monotonic() - started > STEADY_SECONDS else failures + 1
            self.restarts += 1
            pause = full_jitter(failures, 1.0, base=0.2, cap=30.0)
            log.warning("%s ended with %s; started again in %.1f s", self.name, self._process.returncode, pause)
            self._over.wait(pause)

    def _arguments(self) -> list[str]:
        target = TARGETS[self.name]
        return [
            *(
                "-m",
                "functions_framework",
                "--source",
                str(process.ROOT / "functions" / target / "main.py"),
                "--target",
                target,
            ),
            *("--host", "127.0.0.1", "--port", str(self._port)),
        ]

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Until the process has ended, or is to end."""
        waited = 0.0
        while child.poll() is None:
            if not self._up.is_set() and _listens(self._port):
                self._up.set()
            if not self._up.is_set() and waited > STARTS_WITHIN_SECONDS:
                log.error("%s does not listen after %.0f s", self.name, STARTS_WITHIN_SECONDS)
                process.stop(child)
                return
            pause = 0.5 if self._up.is_set() else 0.05
            waited += pause
            if self._over.wait(pause):
                process.stop(child)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
