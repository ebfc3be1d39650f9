"""The simulated account as Sophos lays it out: hosts of regions over TLS, tenants, permissions, limits, devices."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml

from emulator.central import CentralServer, Clock, Credential, Tenant
from emulator.central.account_file import described, load_account
from emulator.central.faults import NAMES
from tests.site import until

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

    def __init__(
        self,
        central: CentralServer | SimpleNamespace,
        client_id: str = "partner",
        secret: str = "s",
        ca: Path | None = None,
    ):
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


@pytest.fixture
def alone() -> Iterator[CentralServer]:
    """One host, a clock that stands still."""
    with CentralServer(tenants=TENANTS, credentials=KEYS, clock=Clock(start=1_790_000_000)) as central:
        yield central


def names(caller: Caller) -> list[str]:
    return [item["name"] for item in caller.ask("/partner/v1/tenants")[1]["items"]]


def test_a_tenants_country_goes_with_its_region() -> None:
    regions = ("us03", "eu01", "eu02", "eu03", "jp01")
    tenants = [Tenant(id=f"t-{region}", region=region) for region in regions]
    keys = Credential("partner", "s", id_type="partner", id="p-1")
    with CentralServer(tenants=[*tenants, Tenant(id="t", geography="AT")], credentials=[keys]) as central:
        items = Caller(central).ask("/partner/v1/tenants")[1]["items"]
    assert [item["dataGeography"] for item in items] == ["US", "IE", "DE", "EU", "JP", "AT"]


def test_tenants_come_change_and_go_while_it_runs(alone: CentralServer) -> None:
    partner = Caller(alone)
    partner.control("POST", "tenants", name="New Ltd", id="t-new")
    partner.control("POST", "tenants", id="t-us", name="Renamed Inc")
    assert names(partner) == ["Renamed Inc", "Beispiel GmbH", "New Ltd"]
    assert partner.ask("/siem/v1/events", "t-new")[0] == 200
    partner.control("DELETE", "tenants", id="t-new")
    assert names(partner) == ["Renamed Inc", "Beispiel GmbH"]
    assert partner.ask("/siem/v1/events", "t-new")[0] == 404


def test_tenants_are_listed_in_pages_with_their_total(alone: CentralServer) -> None:
    for number in range(3):
        alone.put_tenant(Tenant(id=f"t-{number}"))
    pages = [Caller(alone).ask("/partner/v1/tenants", page=page, pageSize=2, pageTotal="true")[1] for page in (1, 3, 4)]
    assert [len(page["items"]) for page in pages] == [2, 1, 0]
    assert pages[1]["pages"] == {"current": 3, "size": 2, "maxSize": 100, "total": 3, "items": 5}
    assert "total" not in Caller(alone).ask("/partner/v1/tenants")[1]["pages"]


def test_a_secret_changes_and_a_credential_expires_while_it_runs(alone: CentralServer) -> None:
    old = Caller(alone, "us")
    old.control("POST", "credentials", client_id="us", secret="new")
    assert (Caller(alone, "us").status, Caller(alone, "us").told["errorCode"]) == (401, "oauth.invalid_client_secret")
    assert old.ask("/whoami/v1")[0] == 200
    assert Caller(alone, "us", "new").ask("/whoami/v1")[0] == 200
    old.control("POST", "credentials", client_id="us", expired=True)
    assert (Caller(alone, "us", "new").status, old.ask("/whoami/v1")[0]) == (401, 401)
    old.control("POST", "credentials", client_id="us", expired=False, permissions=["alerts"])
    assert [old.ask(f"/siem/v1/{kind}", "t-us")[0] for kind in ("events", "alerts")] == [403, 200]
    old.control("DELETE", "credentials", client_id="us")
    assert (old.ask("/whoami/v1")[0], Caller(alone, "us", "new").told["errorCode"]) == (401, "oauth.invalid_client_id")


def test_tokens_end_by_the_clock_and_by_revocation(alone: CentralServer) -> None:
    caller = Caller(alone)
    caller.control("POST", "tokens", seconds=60)
    brief = Caller(alone)
    assert brief.told["expires_in"] == 60
    alone.clock.advance(60)
    assert [one.ask("/whoami/v1")[0] for one in (caller, brief)] == [200, 401]
    caller.control("POST", "revoke", client_id="partner")
    assert caller.ask("/whoami/v1")[0] == 401


def test_a_quota_is_one_for_all_apis_of_a_credential_and_has_several_windows(alone: CentralServer) -> None:
    partner, other = Caller(alone), Caller(alone, "us")
    partner.control("POST", "limits", limits=[[3, 1], [5, 60]], retry_after=True)
    paths = ["/whoami/v1", "/partner/v1/tenants", "/siem/v1/events", "/endpoint/v1/endpoints"]
    assert [partner.ask(path, "t-us")[0] for path in paths] == [200, 200, 200, 429]
    assert other.ask("/whoami/v1")[0] == 200
    alone.clock.advance(1)
    assert [partner.ask("/whoami/v1")[0] for _ in range(3)] == [200, 200, 429]
    alone.clock.advance(1)
    assert partner.ask("/whoami/v1")[0] == 429
    answer = partner.session.get(f"{alone.url}/whoami/v1", timeout=10)
    assert 50 < int(answer.headers["Retry-After"]) <= 60
    partner.control("POST", "limits", limits="none")
    assert partner.ask("/whoami/v1")[0] == 200


def test_the_end_of_a_credential_is_announced_as_an_event(alone: CentralServer) -> None:
    caller = Caller(alone)
    (id_,) = caller.control("POST", "renew", tenant="t-us")["ids"]
    (event,) = caller.ask("/siem/v1/events", "t-us")[1]["items"]
    assert (event["id"], event["type"]) == (id_, "Event::Task::RenewApiToken")


def inventory(caller: Caller, **params: Any) -> list[dict[str, Any]]:
    """All pages, followed by `nextKey`."""
    items: list[dict[str, Any]] = []
    while True:
        page = caller.ask("/endpoint/v1/endpoints", "t-us", **params)[1]
        items += page["items"]
        if "nextKey" not in page["pages"]:
            return items
        params["pageFromKey"] = page["pages"]["nextKey"]


def test_the_inventory_is_paged_by_key_and_follows_what_changes(alone: CentralServer) -> None:
    caller = Caller(alone)
    before = inventory(caller, pageSize=25)
    assert [device["id"] for device in before] == sorted(device["id"] for device in before)
    assert len(before) == 60
    first, second, *_ = before
    new = caller.control("POST", "devices", tenant="t-us", device={"hostname": "WS-ADDED"})["id"]
    caller.control("POST", "devices", tenant="t-us", device={"id": first["id"], "health": {"overall": "bad"}})
    caller.control("DELETE", "devices", tenant="t-us", id=second["id"])
    after = {device["id"]: device for device in inventory(caller, pageSize=25)}
    assert len(after) == 60
    assert (after[new]["hostname"], second["id"] in after) == ("WS-ADDED", False)
    assert after[first["id"]] == first | {"health": first["health"] | {"overall": "bad"}}
    assert [device["id"] for device in inventory(caller, healthStatus="bad", fields="id")] == [first["id"]]


def test_a_page_of_the_inventory_survives_the_removal_of_the_device_it_ended_with(alone: CentralServer) -> None:
    caller = Caller(alone)
    every = [device["id"] for device in inventory(caller)]
    page = caller.ask("/endpoint/v1/endpoints", "t-us", pageSize=10, pageTotal="true")[1]
    assert page["pages"] | {"nextKey": ""} == {"size": 10, "maxSize": 500, "nextKey": "", "total": 6, "items": 60}
    alone.remove_device(every[9], tenant="t-us")
    rest = inventory(caller, pageSize=10, pageFromKey=page["pages"]["nextKey"])
    assert [device["id"] for device in rest] == every[10:]
    assert caller.ask("/endpoint/v1/endpoints", "t-us", pageFromKey="nonsense")[0] == 400


ACCOUNT = """
regions: [us03, eu02]
limits: enforced
tenants:
  - {id: t-1, name: Example Inc, region: us03, devices: [{hostname: WS-1}]}
  - {name: Customer, count: 3, region: eu02, devices: 2}
  - {id: t-asleep, name: Asleep, region: us03, api_host: null}
credentials:
  - {client_id: p, secret: s, id_type: partner, id: p-1, tenants: all}
  - {client_id: t, secret: s, id: t-1, permissions: [events]}
"""


def test_an_account_file_describes_everything(tmp_path: Path) -> None:
    file = tmp_path / "account.yaml"
    file.write_text(ACCOUNT)
    account = load_account(file)
    assert (account.regions, account.limits) == (("us03", "eu02"), ((100, 60), (200_000, 86_400)))
    assert [(tenant.name, tenant.devices) for tenant in account.tenants] == [
        ("Example Inc", 0),
        ("Customer 0001", 2),
        ("Customer 0002", 2),
        ("Customer 0003", 2),
        ("Asleep", 60),
    ]
    assert account.devices == (("t-1", {"hostname": "WS-1"}),)
    assert account.tenants[-1].api_host is None
    assert account.credentials[1].permissions == {"events"}


@pytest.mark.parametrize(
    ("account", "told"),
    [
        ([], "an account must be a mapping"),
        ({"tenant": []}, r"an account has no \['tenant'\]"),
        ({"tenants": []}, "at least one tenant"),
        ({"tenants": [{"nme": "x"}]}, r"a tenant has no \['nme'\]"),
        ({"tenants": [{"name": 7}]}, "name must be of type str"),
        ({"tenants": [{"forbidden": "yes"}]}, "forbidden must be of type bool"),
        ({"tenants": [{"id": "a"}, {"id": "a"}]}, "tenant 'a' is there twice"),
        ({"credentials": [{"permissions": ["everything"]}]}, "permissions must be of"),
        ({"credentials": [{"id_type": "admin"}]}, "id_type must be one of"),
        ({"limits": "few"}, "unknown limits 'few'"),
        ({"limits": [[0, 60]]}, "a limit must be"),
        ({"cursor_rule": "oldest"}, "cursor_rule must be"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_fault_in_an_account_is_named(account: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        described(account)


def test_a_tenant_whose_region_has_no_host_is_refused() -> None:
    with pytest.raises(ValueError, match="no host for region 'us03'"):
        CentralServer(tenants=[Tenant()], regions=["eu01"])


def central_process(folder: Path, account: str, *options: str) -> "subprocess.Popen[str]":
    (folder / "account.yaml").write_text(account)
    command = [sys.executable, "-m", "emulator", "central", "--listen", "127.0.0.1:0", "--rate", "0", *options]
    command += ["--account", str(folder / "account.yaml")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_serves_an_account_over_tls_until_sigterm(tmp_path: Path) -> None:
    told, ca = tmp_path / "told.json", tmp_path / "ca.pem"
    options = ("--announce", str(told), "--tls-ca", str(ca), "--backlog", "10")
    with central_process(tmp_path, ACCOUNT, *options) as process:
        try:
            until(told.exists, "the announcement")
            where = json.loads(told.read_text())
            partner = Caller(SimpleNamespace(url=where["url"]), where["client_id"], where["client_secret"], ca)
            _, page = partner.ask("/siem/v1/events", "t-1", where["regions"]["us03"])
            _, devices = partner.ask("/endpoint/v1/endpoints", "t-1", where["regions"]["us03"])
        finally:
            process.terminate()
        assert process.wait(10) == 0
    assert len(page["items"]) == 2
    assert [device["hostname"] for device in devices["items"]] == ["WS-1"]


def test_the_command_names_what_is_wrong_with_an_account(tmp_path: Path) -> None:
    with central_process(tmp_path, "tenants: [{region: us03}]\nregions: [eu01]") as process:
        _, told = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "no host for region 'us03'" in told


PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
EXAMPLES = [(path, body, "DELETE" in rest) for path, body, rest in re.findall(r"curl \$C/(\S+) +-d '(.+?)'(.*)", PAGE)]


def test_the_first_calls_of_the_page_are_answered() -> None:
    (calls,) = re.findall(r"## First calls\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
    with CentralServer() as central:
        central.fill(3)
        here = calls.replace("http://127.0.0.1:8181", central.url)
        done = subprocess.run(["bash", "-euc", here], capture_output=True, text=True, timeout=60, check=True)
    whoami, page = done.stdout.replace("}{", "}\n{").splitlines()
    assert json.loads(whoami)["idType"] == "tenant"
    assert len(json.loads(page)["items"]) == 3


def test_the_account_file_of_the_page_can_be_served() -> None:
    account = described(yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]))
    assert len(account.tenants) == 1003
    assert [credential.expired for credential in account.credentials] == [False, False, True]
    with CentralServer(tenants=account.tenants, credentials=account.credentials, regions=account.regions) as central:
        assert Caller(central, "narrow").ask("/whoami/v1")[0] == 200
        assert Caller(central, "old").status == 401


@pytest.mark.parametrize(("path", "body", "is_removal"), EXAMPLES)
def test_every_control_request_of_the_page_is_taken(path: str, body: str, is_removal: bool) -> None:
    with CentralServer() as central:
        some = central.default_tenant if path == "tenants" else central.devices()[0]["id"]
        method = "DELETE" if is_removal else "POST"
        answer = requests.request(method, f"{central.url}/_control/{path}", data=body.replace("…", some), timeout=10)
    assert answer.status_code == 200, answer.text


def test_the_page_shows_every_control_request_and_fault() -> None:
    with CentralServer() as central:
        told = requests.get(f"{central.url}/_control/nothing", timeout=10).json()["error"]
    for path in set(re.findall(r"[A-Z]+ ([a-z-]+)", told)):
        assert f"$C/{path}" in PAGE
    for name in NAMES:
        assert f"`{name}`" in PAGE
