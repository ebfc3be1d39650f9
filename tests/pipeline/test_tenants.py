"""One integration for all the tenants of a partner or an organization."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Credential, Tenant
from emulator.engine import StandInEngine
from emulator.web.status import collect
from lib.app import App
from lib.config import loading as configuration
from lib.config.settings import Config
from tests.fakes.dying import Life, live
from tests.site import Site, site

HOUR = 3700.0
PARTNER = [Credential(id_type="partner", id="p-1")]
A, B, C = (Tenant(id=f"t-{name}", name=f"Tenant {name}") for name in "abc")


class Partner:
    """A partner whose tenants change; its Sophos keeps records in a journal, and its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.engine = StandInEngine(folder / "s").start()
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self._port: int = probe.getsockname()[1]
        self.hours = 0
        file = folder / "connector.yaml"
        file.write_text(
            f"store: file:{folder}/store\nengine: unix:{folder}/s\n"
            "integrations: [{name: acme, client_id: demo-client, client_secret: unused}]\n"
        )
        self.config: Config = configuration.load(str(file))

    def tick(self, *tenants: Tenant, emit: int = 0) -> dict[str, dict[str, Any]]:
        """An hour later, with these tenants; what fetch-page says of each."""
        self.hours += 1
        journal = self._folder / "journal"
        keys = Credential(id_type="partner", id="p-1", tenants=tuple(tenant.id for tenant in tenants))
        held = {tenant.id: tenant for tenant in (A, B, C, *tenants)}.values()
        with CentralServer(
            address=("127.0.0.1", self._port), tenants=held, credentials=[keys], journal=journal
        ) as central:
            for tenant in tenants:
                central.emit(emit, tenant=tenant.id)
            _, lines = live(Life(f"{self._folder}/store", f"{self._folder}/s", central.url, ahead=HOUR * self.hours))
        return {line["tenant"]: line for line in lines if "pages" in line}

    def status(self) -> dict[str, dict[str, Any]]:
        return {line["tenant"]: line for line in collect(App(lambda: self.config))["streams"]}


@pytest.fixture
def partner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Partner]:
    found = Partner(tmp_path_factory.mktemp("p"))
    yield found
    found.engine.close()


def test_a_new_tenant_is_found_and_one_that_left_goes_on_where_it_was(partner: Partner) -> None:
    assert {tenant: line["events"] for tenant, line in partner.tick(A, B, emit=3).items()} == {"t-a": 3, "t-b": 3}
    assert {tenant: line["events"] for tenant, line in partner.tick(A, C, emit=2).items()} == {"t-a": 2, "t-c": 2}
    told = partner.status()
    assert {tenant: line["state"] == "retired" for tenant, line in told.items()} == {
        "t-a": False,
        "t-b": True,
        "t-c": False,
    }
    assert told["t-b"]["events"] == 3
    back = partner.tick(A, B, C, emit=1)
    assert {tenant: line["events"] for tenant, line in back.items()} == {"t-a": 1, "t-b": 1, "t-c": 1}
    assert len(partner.engine.received) == len({log.id for log in partner.engine.received}) == 13


def test_a_renamed_tenant_keeps_its_cursor_and_gets_a_new_data_source(partner: Partner) -> None:
    partner.tick(A, B, emit=2)
    partner.tick(A, Tenant(id=B.id, name="Renamed"), emit=1)
    sources = [log.dataSource for log in partner.engine.received]
    assert sorted(sources) == sorted(["acme/Tenant a"] * 3 + ["acme/Tenant b"] * 2 + ["acme/Renamed"])
    assert partner.status()["t-b"]["tenant_name"] == "Renamed"


def partner_site(held: list[Tenant], **settings: Any) -> AbstractContextManager[Site]:
    central = CentralServer(tenants=held, credentials=PARTNER)
    one = {"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}", **settings}
    return site(central, integrations=[one])


@contextmanager
def delivered(found: Site) -> Iterator[Callable[[], list[str]]]:
    for tenant in ("t-a", "t-b"):
        found.central.emit(1, tenant=tenant)
    found.results("fetch-page")
    found.results("forward-batch")
    yield lambda: sorted({log.dataSource for log in found.engine.received})


def test_the_data_source_is_made_as_configured() -> None:
    with partner_site([A, B], data_source="central {tenant_id} ({tenant})") as found, delivered(found) as sources:
        assert sources() == ["central t-a (Tenant a)", "central t-b (Tenant b)"]


def test_a_listed_tenant_that_cannot_be_read_stops_no_other() -> None:
    asleep = Tenant(id="t-asleep", name="asleep", api_host=None)
    with partner_site([A, B, asleep], tenants=["t-a", "t-asleep", "t-nobody"]) as found:
        found.central.emit(2, tenant="t-a")
        lines = {line["tenant"]: line for line in found.results("fetch-page")}
        assert lines["t-a"]["events"] == 2
        assert lines["t-asleep"]["problem"]["code"] == lines["t-nobody"]["problem"]["code"] == "wrong_tenant"
        assert "not provisioned" in lines["t-asleep"]["problem"]["remedy"]
        assert "tenants" in lines["t-nobody"]["problem"]["remedy"]
        told = {line["tenant"]: line for line in collect(found.app)["streams"]}
        assert told["t-nobody"]["problem"]["code"] == "wrong_tenant"


def test_what_is_announced_to_a_customer_is_no_warning_to_the_partner() -> None:
    with partner_site([A, B]) as found:
        found.central.announce_renewal(tenant="t-a")
        assert {line["events"] for line in found.results("fetch-page")} == {0, 1}
        (integration,) = collect(App(lambda: configuration.load(str(found.config))))["integrations"]
        assert integration["warnings"] == []
        record = json.loads((found.folder / "store/integrations/acme.json").read_bytes())
        assert record["life"]["end_announced"] is None


def test_a_function_s_entry_names_the_tenant(capfd: pytest.CaptureFixture[str]) -> None:
    with partner_site([Tenant(id="t-1", name="Customer 1")]) as found:
        found.central.append("t-1", "events", [b'"no object"'])
        found.results("fetch-page")
        found.results("forward-batch")
        found.end("forward-batch")
    assert "acme/Customer 1 (t-1)/events: new dead letters of batch 1: 1" in capfd.readouterr().err
