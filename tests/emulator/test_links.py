"""Alerts without their event, and events without their alert, are found; the others are not."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from emulator.web import status
from emulator.web.connections import listening
from emulator.web.context import RecentLog
from emulator.web.links import GRACE, Links
from emulator.web.server import Web
from lib.app import App
from lib.config.loading import load
from lib.model.stream import Stream
from lib.store.base import ObjectStore
from tests.bench.page import fill
from tests.site import ROOT, SECRET, Site, free_port, platform_for, site

INTEGRATION = {"name": "acme", "client_id": "demo-client", "client_secret": SECRET, "streams": ["events", "alerts"]}
LEFT_OUT = "Event::Endpoint::UpdateSuccess"


class Watched:
    """A site whose batches are looked at as they pass, with a clock of its own."""

    def __init__(self, found: Site) -> None:
        self.found = found
        self.now = datetime(2026, 3, 10, tzinfo=UTC)
        self.links = Links(lambda: load(str(found.config)), lambda: found.state, lambda: self.now)

    def put(self, kind: str, id_: str, **fields: str) -> None:
        event = {"id": id_, "type": "Event::Other", "severity": "high", **fields}
        self.found.central.append(self.found.central.default_tenant, kind, [json.dumps(event).encode()])

    def pass_(self) -> None:
        """Fetch, look, and deliver."""
        for line in self.found.results("fetch-page"):
            for name in line["batches"]:
                self.links.passes(name)
        self.found.results("forward-batch")

    def alone(self) -> dict[str, list[str]]:
        lines = self.links.shown()
        assert len(lines) <= 1
        return {name: each["ids"] for line in lines for name, each in line.items() if isinstance(each, dict)}


def watched(found: Site) -> Watched:
    return Watched(found)


def test_one_whose_other_never_comes_is_told_after_a_while_and_only_that() -> None:
    with site(integrations=[INTEGRATION | {"exclude_types": [LEFT_OUT]}], every="1h") as found:
        seen = watched(found)
        for id_ in ("both-1", "event-only"):
            seen.put("events", id_)
        seen.put("events", "low", severity="low")
        for id_ in ("both-1", "alert-only"):
            seen.put("alerts", id_)
        seen.put("alerts", "left-out", type=LEFT_OUT)
        seen.put("alerts", "comes-later")
        seen.pass_()
        assert seen.alone() == {}
        seen.now += GRACE - timedelta(seconds=1)
        seen.put("events", "comes-later")
        seen.pass_()
        assert seen.alone() == {}
        seen.now += timedelta(seconds=2)
        wanted = {"alerts_without_event": ["alert-only"], "events_without_alert": ["event-only"]}
        assert seen.alone() == wanted
        seen.now += 10 * GRACE
        assert seen.alone() == wanted
        seen.put("alerts", "event-only")
        seen.put("events", "alert-only")
        seen.pass_()
        assert seen.alone() == {}, "they came after all"


def test_an_event_that_is_no_longer_remembered_is_found_by_its_receipt() -> None:
    with site(integrations=[INTEGRATION], every="1h") as found:
        seen = watched(found)
        seen.put("events", "old")
        seen.pass_()
        found.central.emit(1100)  # more than a position remembers
        seen.put("alerts", "old")
        found.results("fetch-page", {"integration": "acme", "stream": "events"})
        found.results("forward-batch")
        seen.now = datetime.now(UTC)
        for line in found.results("fetch-page", {"integration": "acme", "stream": "alerts"}):
            for name in line["batches"]:
                seen.links.passes(name)
        seen.now += GRACE + timedelta(seconds=1)
        assert "old" not in seen.alone().get("alerts_without_event", [])


@pytest.mark.parametrize("streams", [["events"], ["alerts"]])
def test_where_only_one_of_them_is_read_nothing_is_told(streams: list[str]) -> None:
    with site(integrations=[INTEGRATION | {"streams": streams}], every="1h") as found:
        seen = watched(found)
        seen.put(streams[0], "one")
        seen.pass_()
        seen.now += 2 * GRACE
        told: dict[str, Any] = seen.alone()
        assert told == {}


TENANT = "00000000-0000-4000-8000-000000000001"
ALONE = {
    "integration": "partner",
    "tenant": TENANT,
    "alerts_without_event": {"count": 2, "ids": ["alert-1", "alert-2"]},
    "events_without_alert": {"count": 1, "ids": ["event-1"]},
}


def test_page_and_tail_tell_of_those_that_are_alone(tmp_path: Path) -> None:
    path, port = fill(tmp_path, 2), free_port()
    path.write_text(path.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    settings = load(str(path))
    app = App(lambda: settings)

    def read(store: ObjectStore, record: Callable[[Stream], status.StreamRecord]) -> status.SiteStatus:
        return status.site_status(app, store=store, record=record).with_fields(links=[ALONE])

    pages = Web(platform_for(settings, str(path)), read, app, RecentLog())
    server = listening(pages.app, "127.0.0.1", port)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        stream = f"/stream?integration=partner&tenant={TENANT}&stream=events"
        for view in ("/", stream):
            shown = requests.get(f"http://127.0.0.1:{port}{view}", timeout=30).text
            assert "2 alerts whose event never came" in shown
            assert "1 event of high severity without an alert" in shown
            assert "<code>alert-2</code>" in shown
        command = [sys.executable, "-m", "emulator", "tail", "--config", str(path)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tail:
            assert tail.stderr is not None
            assert [tail.stderr.readline().strip() for _ in range(3)] == [
                f"partner/{TENANT}: an alert whose event never came: alert-1",
                f"partner/{TENANT}: an alert whose event never came: alert-2",
                f"partner/{TENANT}: an event of high severity without an alert: event-1",
            ]
            tail.terminate()
            assert tail.communicate(timeout=30) == ("", "")
    finally:
        server.close()
