"""The switch-over from UTMStack's own plugin: what it missed is counted exactly; no hole and no double in between."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from uuid import uuid4

import grpc
import requests

from emulator.central import CentralServer
from emulator.central.clock import Clock
from lib.model.missed import hours_of, windows_of
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc
from tests.site import SECRET, Site

WINDOW = 300
START = time.time() // 3600 * 3600 - 3 * 3600
EVENTS = (40, 455, 0, 200, 203, 10)
"""In each of the windows."""


class GoPlugin:
    """What UTMStack's own plugin does: one page of 200 every five minutes, under random ids; then on from now."""

    def __init__(self, found: Site) -> None:
        self._url = found.central.url
        self._engine = f"unix://{found.folder}/engine.sock"
        self._tenant = found.central.default_tenant
        self._start = int(START)
        self.sent: list[str] = []

    def tick(self, end: int) -> None:
        form = {
            "grant_type": "client_credentials",
            "scope": "token",
            "client_id": "demo-client",
            "client_secret": SECRET,
        }
        token = requests.post(f"{self._url}/api/v2/oauth2/token", data=form, timeout=10).json()["access_token"]
        answer = requests.get(
            f"{self._url}/siem/v1/events",
            params={"from_date": str(self._start)},
            headers={"Authorization": f"Bearer {token}", "X-Tenant-ID": self._tenant},
            timeout=10,
        )
        items = answer.json()["items"]
        logs = [
            plugins_pb2.Log(
                id=str(uuid4()),
                dataType="sophos-central",
                dataSource="acme",
                timestamp="2026-03-10T00:00:00Z",
                tenantId="ce66672c-e36d-4761-a8c8-90058fee1a24",
                raw=json.dumps(item),
            )
            for item in items
        ]
        with grpc.insecure_channel(self._engine, options=[("grpc.default_authority", "localhost")]) as channel:
            engine = plugins_pb2_grpc.EngineStub(channel)  # type: ignore[no-untyped-call] # generated
            assert len(list(engine.Input(iter(logs)))) == len(logs)
        self.sent += [item["id"] for item in items]
        self._start = end


def ids_of(found: Site) -> Counter[str]:
    return Counter(json.loads(log.raw)["id"] for log in list(found.engine.received))


def drain(found: Site) -> None:
    while found.results("fetch-page")[0]["has_more"]:
        continue
    found.results("forward-batch")


def passes(found: Site, clock: Clock, events: int) -> None:
    """A window of five minutes, in which the events come and the connector observes."""
    for share in (events // 2, events - events // 2):
        clock.advance(140)
        if share:
            found.central.emit(share)
        clock.advance(10)
        drain(found)


def test_the_report_counts_what_the_old_plugin_missed_and_the_switch_over_has_no_hole_and_no_double() -> None:
    clock = Clock(start=START)
    with CentralServer(clock=clock) as central, Site(central, observe=True, keep_central=True) as found:
        plugin = GoPlugin(found)
        for number, events in enumerate(EVENTS, 1):
            passes(found, clock, events)
            plugin.tick(int(START) + number * WINDOW)
        assert ids_of(found) == Counter(plugin.sent), "observing forwards nothing"

        report = found.command("missed", status=1)
        everything = central.ids(central.default_tenant)
        lost = set(everything) - set(plugin.sent)
        assert report["missed"] == len(lost) == 255 + 3
        (line,) = report["streams"]
        assert (line["observed"], line["missed"], line["late"]) == (sum(EVENTS), 258, 0)
        start = datetime.fromtimestamp(START, UTC).strftime("%Y-%m-%dT%H:00Z")
        assert line["hours"] == {start: {"observed": sum(EVENTS), "missed": 258, "late": 0}}
        assert found.command("audit")["ok"]

        # The module is turned off; until the connector forwards, more is observed, and more is not yet.
        last = plugin.sent[-1]
        passes(found, clock, 300)
        central.emit(5)
        found.write_config(observe=False)
        assert found.command("switch-over", "--after", "no-such-id", status=2)["problem"]["code"] == "not_found"
        assert found.command("switch-over", "--after", last)["acked"] == 300
        drain(found)
        arrived = ids_of(found)
        assert set(arrived.values()) == {1}, "no double"
        assert set(central.ids(central.default_tenant)) - set(arrived) == lost, "no hole but the old plugin's own"
        assert {log.dataSource for log in found.engine.received} == {"acme"}


def test_a_damaged_batch_keeps_the_switch_over_from_nothing_else_and_is_named() -> None:
    clock = Clock(start=START)
    with CentralServer(clock=clock) as central, Site(central, observe=True, keep_central=True) as found:
        for _ in range(4):
            passes(found, clock, 10)
        first, *_, last = sorted((found.folder / "store/archive").rglob("*.gz"))
        first.write_bytes(b"x")
        last.write_bytes(b"x")
        found.write_config(observe=False)
        ids = central.ids(central.default_tenant)
        told = found.command("switch-over", "--after", ids[14], status=1)
        names = [str(path.relative_to(found.folder / "store")) for path in (first, last)]
        assert (told["acked"], told["damaged"]) == (len(ids) - 15 - 5, names[1:])
        unknown = found.command("switch-over", "--after", ids[0], status=2)["problem"]
        assert all(name in unknown["detail"] for name in names)


def test_a_full_page_is_nothing_missed_and_one_event_more_is_one() -> None:
    at = datetime.fromtimestamp(START, UTC)
    for count, missed in ((0, 0), (199, 0), (200, 0), (201, 1)):
        windows = {int(start): each for start, each in windows_of([at, None] * count).items()}
        assert sum(hour.missed for hour in hours_of(windows, {}).values()) == missed
    (hour,) = hours_of({}, {int(START): 300}).values()
    assert (hour.observed, hour.missed, hour.late) == (300, 0, 300), "of late ones nothing is claimed"
