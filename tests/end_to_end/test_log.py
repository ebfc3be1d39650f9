"""What a real run writes down: little while all is well, and of an outage its beginning and its end."""

from __future__ import annotations

import json
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from emulator.central import CentralServer, Credential, Tenant
from tests.site import Emulator, Site, site, until

TENANTS = 40
MINUTES_A_DAY = 1440


class Watched:
    """An emulator that ticks each second, its calls, and its log."""

    def __init__(self, found: Site, emulator: Emulator) -> None:
        self._emulator = emulator
        self._log = found.folder / "emulator.log"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def size(self) -> int:
        return self._log.stat().st_size

    def calls(self, function: str, status: int) -> float:
        text = requests.get(self._emulator.url("/metrics"), timeout=30).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "sophos_utmstack_function_calls_total"
            and sample.labels == {"function": function, "status": str(status)}
        )

    def ticks(self, more: int) -> None:
        """Wait for so many more answers of fetch-page."""
        end = self.calls("fetch-page", 200) + more
        until(lambda: self.calls("fetch-page", 200) >= end, f"{more} ticks", 240)


def test_forty_tenants_and_an_engine_that_is_down_have_a_few_lines() -> None:
    tenants = [Tenant(id=f"t-{number}", name=f"Customer {number}") for number in range(TENANTS)]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    with site(central, gap_data_type="off") as found:
        found.engine.stop()
        for tenant in tenants:
            central.fill(2, tenant=tenant.id)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("pending_batches") == TENANTS, "a batch of each tenant", 240)
            watched = Watched(found, emulator)
            # As many failed deliveries as some minutes have, at a tick a minute.
            until(lambda: watched.calls("forward-batch", 200) >= 2 * TENANTS, "failed deliveries", 240)
            first = watched.lines()
            assert len(first) <= 20, first
            (begun,) = [each for each in first if "engine_unavailable" in each["message"]]
            assert begun["severity"] == "WARNING"
            watched.ticks(10)
            assert len(watched.lines()) - len(first) <= 10, watched.lines()[len(first) :]
            found.engine.start()
            until(lambda: found.engine.count >= 2 * TENANTS, "all delivered", 240)
            until(lambda: any("Resolved" in each["message"] for each in watched.lines()), "the end of the outage")
            ends = [each["message"] for each in watched.lines() if "Resolved" in each["message"]]
            assert len(ends) == 1
            assert "engine_unavailable" in ends[0]
            assert "acme/Customer" in ends[0]
            assert "more" in ends[0]
            print(*(each["message"] for each in watched.lines()), sep="\n")


def test_a_day_of_one_tenant_is_well_below_two_megabytes() -> None:
    with site() as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "it answers")
        watched = Watched(found, emulator)
        found.central.emit(3)
        until(lambda: any("acknowledged" in each["message"] for each in watched.lines()), "the first summary")
        begun, lines = watched.size(), len(watched.lines())
        summary = max(len(json.dumps(each)) for each in watched.lines())
        for _ in range(20):
            found.central.emit(1)
            watched.ticks(1)
        until(lambda: found.engine.count >= 23, "all delivered")
        a_tick = (watched.size() - begun) / 20
        assert watched.lines()[lines:] == []
        assert begun + a_tick * MINUTES_A_DAY + 24 * summary < 2_000_000
