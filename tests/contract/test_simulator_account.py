"""The simulated account as Sophos lays it out: hosts of regions over TLS, tenants, permissions, limits, devices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from emulator.central import CentralServer, Credential, Tenant

TENANTS = [
    Tenant(id="t-us", name="Example Inc", region="us03"),
    Tenant(id="t-eu", name="Beispiel GmbH", region="eu02", geography="DE"),
]
KEYS = [
    Credential("partner", "s", id_type="partner", id="p-1"),
    Credential("us", "s", id="t-us"),
    Credential("eu", "s", id="t-eu", permissions=frozenset({"endpoints"})),
]


class Caller:
    """A plain client with a token: `ask(path)` answers with status and JSON."""

    def __init__(self, central: CentralServer, client_id: str = "partner", secret: str = "s", ca: Path | None = None):
        self.central = central
        self.session = requests.Session()
        self.session.trust_env = False  # the environment's own authorities would go first
        self.session.verify = str(ca) if ca else True
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret, "scope": "token"}
        answer = self.session.post(f"{central.url}/api/v2/oauth2/token", data=form, timeout=10)
        self.status, self.told = answer.status_code, answer.json()
        self.session.headers["Authorization"] = f"Bearer {self.told.get('access_token')}"
        self.session.headers["X-Partner-ID"] = "p-1"

    def ask(self, path: str, tenant: str = "", host: str = "", **params: Any) -> tuple[int, Any]:
        answer = self.session.get(
            (host or self.central.url) + path, params=params, headers={"X-Tenant-ID": tenant}, timeout=10
        )
        return answer.status_code, answer.json()

    def control(self, method: str, what: str, **fields: Any) -> Any:
        answer = self.session.request(method, f"{self.central.url}/_control/{what}", json=fields, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls") / "ca.pem"


@pytest.fixture(scope="module")
def spread(ca: Path) -> Iterator[CentralServer]:
    with CentralServer(tenants=TENANTS, credentials=KEYS, regions=["us03", "eu02"], tls_ca=ca) as central:
        central.emit(3, tenant="t-eu")
        yield central


def test_tls_is_trusted_with_its_own_authority_and_refused_without(spread: CentralServer, ca: Path) -> None:
    assert spread.url.startswith("https://")
    assert Caller(spread, ca=ca).ask("/whoami/v1")[0] == 200
    with pytest.raises(requests.exceptions.SSLError):
        Caller(spread)


def test_each_tenant_is_served_by_its_own_region_only(spread: CentralServer, ca: Path) -> None:
    partner = Caller(spread, ca=ca)
    _, listed = partner.ask("/partner/v1/tenants")
    hosts = {item["id"]: item["apiHost"] for item in listed["items"]}
    assert hosts == {"t-us": spread.regions["us03"], "t-eu": spread.regions["eu02"]}
    status, page = partner.ask("/siem/v1/events", "t-eu", hosts["t-eu"])
    assert (status, len(page["items"])) == (200, 3)
    assert partner.ask("/siem/v1/events", "t-eu", hosts["t-us"])[0] == 403
    assert partner.ask("/siem/v1/events", "t-eu")[0] == 404
    assert partner.ask("/whoami/v1", host=hosts["t-us"])[0] == 404


def test_whoami_names_the_region_of_the_credentials_tenant(spread: CentralServer, ca: Path) -> None:
    _, who = Caller(spread, "us", ca=ca).ask("/whoami/v1")
    assert who["apiHosts"] == {"global": spread.url, "dataRegion": spread.regions["us03"]}
    _, who = Caller(spread, "partner", ca=ca).ask("/whoami/v1")
    assert who["apiHosts"] == {"global": spread.url}


def test_a_permission_that_is_missing_is_403_for_that_api_alone(spread: CentralServer, ca: Path) -> None:
    limited = Caller(spread, "eu", ca=ca)
    status, told = limited.ask("/siem/v1/alerts", "t-eu", spread.regions["eu02"])
    assert (status, told["error"], told["message"]) == (403, "forbidden", "Access is denied")
    assert limited.ask("/endpoint/v1/endpoints", "t-eu", spread.regions["eu02"])[0] == 200
