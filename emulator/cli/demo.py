"""`demo`: a simulated Sophos Central, the connector, and a stand-in engine, in a temporary folder.

A script of incidents runs by itself. Within six minutes the page shows a dead letter, an outage, a gap and late
events.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from emulator.runtime import process
from emulator.runtime.run import run
from lib.version import COMMAND

TENANT = "894af375-a52f-4d5a-a92d-9d9c279b1489"
CUSTOMERS = (
    "Alder Clinic",
    "Birch & Sons",
    "Cedar Logistics",
    "Dogwood Media",
    "Elm Street School",
    "Fir Foods",
    "Gorse Energy",
    "Hazel Hotels",
)
BRANCHES = ("North", "South", "East", "West", "Harbour")
CONFIG = """\
store: file:{folder}/store
engine: unix:{folder}/engine.sock
every: 5s
listen: {listen}
archive: 1d
sophos:
  auth_url: {central}
  api_url: {central}
integrations:
  - name: acme
    client_id: ${{file:{folder}/client_id}}
    client_secret: ${{file:{folder}/client_secret}}
    streams: [events, alerts]
    exclude_types: ["Event::Task::RenewApiToken"]
  - name: northwind msp
    client_id: demo-partner
    client_secret: demo-partner-secret
    exclude_types: ["Event::Task::RenewApiToken"]
  - name: old branch
    client_id: demo-client
    client_secret: a-secret-that-was-replaced
"""
PARTNER_SECRET = "demo-partner-secret"  # noqa: S105 - the public secret of a simulated account
STARTS_WITHIN_SECONDS = 20.0
COMMANDS = ("status", "audit", "test-connection --integration 'old branch'")


def demo(listen: str, minute: float = 60.0) -> int:
    """Run until SIGTERM or SIGINT, then 0; 2 if a part does not start. `minute`: seconds of a minute of the script."""
    with tempfile.TemporaryDirectory(prefix="sophos-utmstack-") as name:
        folder = Path(name)
        (folder / "account.json").write_text(json.dumps(_account()))
        engine = _engine(folder)
        central = process.start(
            [
                *("-m", "emulator", "central", "--listen", "127.0.0.1:0", "--rate", "240"),
                *("--announce", f"{folder}/central.json", "--account", f"{folder}/account.json"),
            ]
        )
        try:
            simulator = _announced(folder, [engine, central])
            if simulator is None:
                print("demo: the simulator or the engine did not start", file=sys.stderr)
                return 2
            config = folder / "connector.yaml"
            config.write_text(CONFIG.format(folder=folder, listen=listen, central=simulator["url"]))
            for key in ("client_id", "client_secret"):
                (folder / key).write_text(simulator[key])
            _greet(folder, config, listen)
            with Story(folder, config, simulator["url"], engine, minute):
                return run(str(config))
        finally:
            for companion in (engine, central):
                process.stop(companion)


def _greet(folder: Path, config: Path, listen: str) -> None:
    print(f"page: http://{listen}/", f"configuration: {config}", sep="\n")
    print(f"events arrive at the engine as JSON lines in {folder}/engine.jsonl", "try, in another terminal:", sep="\n")
    for command in COMMANDS:
        print(f"  {COMMAND} {command} --config {config}", flush=True)


class Story:
    """The script of incidents. It runs in a thread from `__enter__` to `__exit__`."""

    def __init__(
        self, folder: Path, config: Path, central: str, engine: subprocess.Popen[bytes], minute: float
    ) -> None:
        self._folder = folder
        self._config = config
        self._central = central
        self._engine = engine
        self._second: subprocess.Popen[bytes] | None = None
        self._minute = minute
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, name="story", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _play(self) -> None:
        began = time.monotonic()
        scenes: tuple[tuple[float, str, Callable[[], None]], ...] = (
            (1.0, "Sophos serves an invalid event: it becomes a dead letter", self._serve_no_event),
            (
                2.0,
                "the engine stops: events wait in the store, and after two minutes that is failing",
                self._stop_engine,
            ),
            (3.0, "a waiting batch is deleted: once the engine is back, that is a gap", self._delete_batch),
            (4.5, "the engine is back: waiting events are delivered in order", self._start_engine),
            (5.0, "Sophos receives three events late: `reconcile` finds them", self._find_late_events),
        )
        for minutes, text, happen in scenes:
            if self._over.wait(max(0.0, began + minutes * self._minute - time.monotonic())):
                break
            print(f"demo, minute {minutes:g}: {text}", flush=True)
            with suppress(OSError, subprocess.SubprocessError):  # A failed incident does not end the demo.
                happen()
        # This thread stops the engine that it started.
        self._over.wait()
        if self._second is not None:
            process.stop(self._second)

    def _serve_no_event(self) -> None:
        self._ask("append", {"tenant": TENANT, "raws": ['"not an object"']})

    def _stop_engine(self) -> None:
        process.stop(self._engine)
        self._ask("append", {"tenant": _customers()[0]["id"], "count": 5})

    def _delete_batch(self) -> None:
        """Delete a batch of the partner's first customer, as somebody might who needs room on the disk."""
        batches = self._folder / "store/batches"
        while not self._over.wait(0.2):
            waiting = sorted(batches.glob(f"*/{_customers()[0]['id']}/events/*.ndjson"))
            if waiting:
                waiting[0].unlink()
                return

    def _start_engine(self) -> None:
        self._second = _engine(self._folder)

    def _find_late_events(self) -> None:
        self._ask("late", {"tenant": TENANT, "count": 3, "seconds": 120})
        command = [
            sys.executable,
            "-m",
            "emulator",
            "reconcile",
            "--config",
            str(self._config),
            "--integration",
            "acme",
        ]
        subprocess.run(command, cwd=process.ROOT, stdout=subprocess.DEVNULL, check=False, timeout=120)

    def _ask(self, action: str, fields: dict[str, Any]) -> None:
        import requests  # noqa: PLC0415 - a slow import; `--help` does not need it

        requests.post(f"{self._central}/_control/{action}", json=fields, timeout=10)


def _customers() -> list[dict[str, Any]]:
    names = [f"{name} {branch}" for name in CUSTOMERS for branch in BRANCHES]
    return [
        {"id": f"5a9e1f00-0000-4000-8000-{number:012d}", "name": name, "devices": 8}
        for number, name in enumerate(names)
    ]


def _account() -> dict[str, Any]:
    customers = _customers()
    return {
        "tenants": [{"id": TENANT, "name": "Acme Manufacturing"}, *customers],
        "credentials": [
            {"client_id": "demo-client", "secret": "demo-secret", "id_type": "tenant", "id": TENANT},
            {
                "client_id": "demo-partner",
                "secret": PARTNER_SECRET,
                "id_type": "partner",
                "id": "5a9e1f00-0000-4000-9000-000000000000",
                "tenants": [customer["id"] for customer in customers],
            },
        ],
    }


def _engine(folder: Path) -> subprocess.Popen[bytes]:
    return process.start(
        ["-m", "emulator", "engine", "--socket", f"{folder}/engine.sock", "--record", f"{folder}/engine.jsonl"]
    )


def _announced(folder: Path, companions: list[subprocess.Popen[bytes]]) -> dict[str, str] | None:
    """The simulator's URL and credential, once the engine listens too; None if one of them does not start."""
    end = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < end and all(companion.poll() is None for companion in companions):
        if (folder / "central.json").exists() and (folder / "engine.sock").exists():
            announced: dict[str, str] = json.loads((folder / "central.json").read_text())
            return announced
        time.sleep(0.05)
    return None
