"""`python -m tests.bench.page`: what a look at the page costs with many streams: CPU, bytes, first byte."""

from __future__ import annotations

import json
import logging
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
import yaml

from emulator.web import status
from emulator.web.chart_days import CHART_DAY, Day, OpenDay
from emulator.web.charts import day_name
from emulator.web.connections import listening
from emulator.web.context import RecentLog
from emulator.web.server import Web
from lib.app import App
from lib.config import loading as configuration
from lib.model.checkpoint import Checkpoint, Counts, NewestEvent, Problem
from lib.model.lease import Lease
from lib.model.page import SophosTenant, Whoami
from lib.model.receipt import LastReceipt
from lib.model.stream import Stream
from lib.state.accounts import ACCOUNT, Account, account_key
from lib.state.checkpoints import checkpoint_key, to_body
from lib.state.leases import LEASE, lease_key
from lib.store.base import ABSENT
from lib.store.directory import DirectoryStore
from tests.site import platform_for

LOOKS = 10
REFUSAL = "Sophos refused to serve the events of this customer: 403"
REMEDY = "Give the credential the role Service Principal Read-Only for this customer."
NAMES = ("Alder Clinic", "Birch & Sons", "Cedar Logistics", "Elm Street School", "Fir Foods", "Hazel Hotels")
VIEWS = ("/", "/streams", "/streams?q=0004&sort=lag&page=2", "/live?view=/streams", "/status", "/metrics")


def fill(folder: Path, streams: int) -> Path:
    """A store of a partner with so many customers, some of them in trouble; its configuration's path."""
    path = folder / "connector.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "store": f"file:{folder}/store",
                "engine": f"unix:{folder}/engine.sock",
                "listen": "127.0.0.1:0",
                "integrations": [{"name": "partner", "client_id": "nobody", "client_secret": "nothing-that-counts"}],
            }
        )
    )
    store, now = DirectoryStore(folder / "store"), datetime.now(UTC)
    tenants = tuple(
        SophosTenant(
            _id_of(number), f"{NAMES[number % len(NAMES)]} {number:04d}", "https://api-us01.central.sophos.com"
        )
        for number in range(streams)
    )
    account = Account(who=Whoami("p-1", "partner", "https://api.central.sophos.com", None), tenants=tenants)
    store.write(account_key("partner"), ACCOUNT.encode(account), expected=ABSENT)
    for day in _days(now.timestamp(), tenants):
        store.write(f"charts/{day.day}.json", CHART_DAY.encode(day), expected=ABSENT)
    for number in range(streams):
        stream = Stream("partner", _id_of(number), "events")
        is_refused = number % 500 == 7
        late = timedelta(minutes=12) if is_refused else timedelta(seconds=number % 60)
        problem = Problem("permission_missing", REFUSAL, REMEDY, now - late, 9, now + timedelta(minutes=10))
        checkpoint = Checkpoint(
            sequence=2,
            as_of=now - late,
            newest=NewestEvent(now - late - timedelta(minutes=5)),
            counts=Counts(events=_events(number)),
            problem=problem if is_refused else None,
        )
        # Straight to disk: that each is durable does not matter here, and takes minutes.
        for key, body in (
            (checkpoint_key(stream), to_body(stream, checkpoint)),
            (lease_key(stream), LEASE.encode(Lease(tail=LastReceipt(1, total=_events(number))))),
        ):
            file = folder / "store" / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
    return path


def _events(number: int) -> int:
    return 400 + number % 97 * 31


def _id_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def _days(now: float, tenants: Sequence[SophosTenant]) -> Iterator[Day]:
    """A week, and ten minutes to come, in which events come by day more than by night."""
    days: dict[str, OpenDay] = {}
    for minute in range(int(now) // 60 - 7 * 1440, int(now) // 60 + 10) if tenants else ():
        at = minute * 60.0
        day = days.setdefault(day_name(at), OpenDay(day_name(at), until=now))
        count = round(len(tenants) * (0.6 + 0.4 * math.sin(at / 86_400 * 2 * math.pi)) + minute * 7919 % 11)
        stream = Stream("partner", tenants[minute % len(tenants)].id, "events")
        day.add(stream, at, fetched=count, acked=count)
        day.samples[minute] = {"partner": [40.0 + minute % 25, 2_000 * (minute // 9 % 5), 60 + minute // 4 % 30]}
    return (day.stored() for day in days.values())


@contextmanager
def served(config: Path, **more: Any) -> Iterator[str]:
    """The page of that configuration, where nothing is fetched. `more`: further fields of its status."""
    settings = configuration.load(str(config))
    platform = platform_for(settings, str(config))
    app = App(lambda: settings)
    streams = [each for each in app.state.checkpoints.streams() if int(each.tenant[-12:]) % 500 != 7]
    running = status.Running({stream: _up_to_date() for stream in streams}, ticked_at=_at())
    pages = Web(
        platform,
        lambda store, record: status.site_status(
            app, replace(running, ticked_at=_at()), store=store, record=record
        ).with_fields(**more),
        app,
        RecentLog(),
    )
    server = listening(pages.app, "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    pages.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        server.close()
        pages.stop()


def _at() -> datetime:
    return datetime.now(UTC)


def _up_to_date() -> dict[str, Any]:
    """fetch-page's last answer: nothing was new some seconds ago."""
    return {"outcome": "up_to_date", "has_more": False, "at": _at() - timedelta(minutes=2)}


def cpu() -> float:
    """CPU seconds of this process's other threads."""
    return time.process_time() - time.thread_time()


def look(url: str, path: str) -> dict[str, float]:
    """One view, as the median of several looks."""
    session = requests.Session()
    spent, first, size = [], [], 0
    for _ in range(LOOKS):
        time.sleep(0.05)
        before, began = cpu(), time.monotonic()
        with session.get(url + path, stream=True, timeout=60) as answer:
            next(answer.iter_content(1))
            first.append(time.monotonic() - began)
            size = 1 + sum(map(len, answer.iter_content(65_536)))
        spent.append(cpu() - before)
    return {
        "cpu_ms": round(1000 * statistics.median(spent), 1),
        "first_byte_ms": round(1000 * statistics.median(first), 1),
        "kilobytes": round(size / 1000, 1),
    }


def measure(streams: int) -> dict[str, dict[str, float]]:
    """Every view of a store with so many streams."""
    with tempfile.TemporaryDirectory(prefix="su-") as name, served(fill(Path(name), streams)) as url:
        began = cpu()
        requests.get(f"{url}/status", timeout=60)
        found = {"first look": {"cpu_ms": round(1000 * (cpu() - began), 1)}}
        return found | {path: look(url, path) for path in VIEWS}


def main(counts: list[int]) -> None:
    logging.disable(logging.WARNING)
    for count in counts:
        for path, figures in measure(count).items():
            print(f"{count:>6} streams  {path:<40} {json.dumps(figures)}")


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1, 1_000, 5_000])
