"""A whole site for tests: a simulated Sophos Central, an engine on a socket, a store, a configuration, functions."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import requests
import yaml

from emulator.central import CentralServer
from emulator.engine import StandInEngine
from emulator.runtime.functions import Function, FunctionAnswer, config_env, functions_of
from emulator.runtime.platform import Platform
from lib.app import App
from lib.config import loading as configuration
from lib.config.environment import CONFIG
from lib.config.settings import Config
from lib.state.state import State
from tests.fakes import forks

ROOT = Path(__file__).resolve().parents[1]
SECRET = "demo-secret"
WAIT_SECONDS = 180.0
"""For what must happen: nobody waits so long but where it does not, or on a machine that is busy with other things."""


def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for the condition; it fails loudly when that never comes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.02)


class Site:
    """Everything in one short folder, since paths of sockets end at 107 bytes."""

    def __init__(self, central: CentralServer | None = None, *, keep_central: bool = False, **settings: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="su-"))
        self.central = central or CentralServer()
        self._owns_central = not keep_central
        self.engine = StandInEngine(self.folder / "engine.sock")
        self.config = self.folder / "connector.yaml"
        self.settings: dict[str, Any] = {
            "store": f"file:{self.folder}/store",
            "engine": f"unix:{self.folder}/engine.sock",
            "every": "1s",
            "listen": "127.0.0.1:0",
            "sophos": {"auth_url": self.central.url, "api_url": self.central.url},
            "integrations": [{"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}],
            **settings,
        }
        self.env = {"SITE_SECRET": SECRET, CONFIG: str(self.config)}
        self.write_config()
        self._stack = contextlib.ExitStack()
        self._functions: dict[str, Function] = {}

    def write_config(self, **settings: Any) -> None:
        """Write the configuration, with these settings changed."""
        self.settings |= settings
        self.config.write_text(yaml.safe_dump(self.settings))

    def __enter__(self) -> Self:
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda function: function.stop(), self._functions.values()))
        self._stack.close()
        self.engine.close()
        if self._owns_central:
            self.central.close()
        shutil.rmtree(self.folder)

    @property
    def state(self) -> State:
        """What the store holds."""
        return self.app.state

    @property
    def app(self) -> App:
        """The use cases over the configuration as it is now, in this process."""
        config = configuration.load(str(self.config))
        return App(lambda: config)

    def function(self, name: str) -> Function:
        """The function's process, started at its first use."""
        if name not in self._functions:
            self._functions[name] = Function(name, self.env, timeout=100, start=forks.start)
            self._functions[name].start()
        return self._functions[name]

    @property
    def started(self) -> frozenset[str]:
        """The functions whose process was started."""
        return frozenset(self._functions)

    def end(self, name: str) -> None:
        """End the function's process: the next call starts one that reads the configuration anew."""
        self._functions.pop(name).stop()

    def post(self, name: str, body: object = None, headers: Mapping[str, str] | None = None) -> FunctionAnswer:
        """Call a function."""
        return self.function(name).call(json.dumps({} if body is None else body).encode(), headers)

    def results(self, name: str, body: object = None) -> list[dict[str, Any]]:
        """The results of a call that was answered with 200."""
        answer = self.post(name, body)
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = json.loads(answer.body)["results"]
        return found

    def command(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """What an operator's command answers to a machine, with that exit status."""
        done = forks.run(["-m", "emulator", *arguments, "--config", str(self.config), "--json"], self.env)
        assert done.returncode == status, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def raws(self) -> list[bytes]:
        """What the engine has taken, in order."""
        return [log.raw.encode() for log in list(self.engine.received)]


def _first_port() -> int:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return 12_000 + 500 * (worker % 16) + random.randrange(250)  # Another run of the tests may go on at the same time.


_PORTS = itertools.count(_first_port())


def free_port() -> int:
    """A port that nobody listens on, and that nobody takes before it is used or while its listener starts again.

    It lies below those that the system gives to outgoing connections; none is chosen twice, nor by two of pytest's
    workers.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := next(_PORTS)))
            return port


class Emulator:
    """`python -m emulator run` as a process."""

    def __init__(self, site: Site, folder: Path | None = None, *, only: str | None = None) -> None:
        """`only` is the one function that it runs; with `folder` it starts there, as Python of its own and no fork."""
        self.port = free_port()
        # One of its own, so that two emulators differ in their address only.
        self.config = site.folder / f"connector-{self.port}.yaml"
        self.config.write_text(yaml.safe_dump(site.settings | {"listen": f"127.0.0.1:{self.port}"}))
        self.log = (site.folder / "emulator.log").open("ab")
        command = ["-m", "emulator", "run", "--config", str(self.config), *(["--only", only] if only else [])]
        self.process: subprocess.Popen[bytes] | forks.Forked
        if folder is None:
            self.process = forks.start(command, site.env, cwd=ROOT, out=self.log.fileno(), err=self.log.fileno())
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **site.env},
                stdout=self.log,
                stderr=self.log,
            )

    def url(self, path: str) -> str:
        """Where it shows the path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def status(self) -> dict[str, Any] | None:
        """`/status`, or None while it does not answer."""
        try:
            answer = requests.get(self.url("/status"), timeout=10)
        except requests.RequestException:
            return None
        found: dict[str, Any] = answer.json()
        return found

    def end(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL, whatever it was doing."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()
        self.log.close()


@contextlib.contextmanager
def site(central: CentralServer | None = None, **settings: Any) -> Iterator[Site]:
    """A site for the time of the block."""
    with Site(central, **settings) as found:
        yield found


def platform_for(config: Config, location: str) -> Platform:
    """The emulator's platform over a configuration, with functions that nobody has started."""
    env = config_env(location, config.store)
    return Platform(config, functions_of(config, env), env)
