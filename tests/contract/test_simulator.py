"""The simulated Sophos Central keeps to what is known of the real one."""

import json
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from emulator.central import PUBLISHED_LIMITS, CentralServer, Credential, Fault, Tenant
from emulator.central.stories import FAMILIES

DAY = 86_400


@pytest.fixture(scope="module")
def shared() -> Iterator[CentralServer]:
    with CentralServer() as server:
        server.fill(1500, hours=3)
        yield server


@pytest.fixture
def own() -> Iterator[CentralServer]:
    with CentralServer() as server:
        server.fill(1500, hours=3)
        yield server


def token(central: CentralServer, client_id: str = "demo-client", secret: str = "demo-secret") -> str:
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret, "scope": "token"}
    answer = requests.post(f"{central.url}/api/v2/oauth2/token", data=form, timeout=10)
    answer.raise_for_status()
    fields = answer.json()
    assert (fields["token_type"], fields["expires_in"], fields["errorCode"]) == ("bearer", 3600, "success")
    return str(fields["access_token"])


def get(
    central: CentralServer, path: str, params: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> requests.Response:
    given = {"Authorization": f"Bearer {token(central)}", "X-Tenant-ID": central.default_tenant}
    return requests.get(f"{central.url}{path}", params=params, headers=given | (headers or {}), timeout=10)


def test_a_page_has_exactly_three_keys_and_always_a_cursor(shared: CentralServer) -> None:
    page = get(shared, "/siem/v1/events", {"limit": 1000}).json()
    assert set(page) == {"has_more", "next_cursor", "items"}
    assert (page["has_more"], len(page["items"])) == (True, 1000)
    last = get(shared, "/siem/v1/events", {"limit": 1000, "cursor": page["next_cursor"]}).json()
    assert (last["has_more"], len(last["items"])) == (False, 500)
    assert b64decode(last["next_cursor"]).startswith(b"V2_CURSOR|")
    empty = get(shared, "/siem/v1/events", {"limit": 1000, "cursor": last["next_cursor"]}).json()
    assert (empty["items"], empty["has_more"], bool(empty["next_cursor"])) == ([], False, True)


def test_the_default_page_has_200_items(shared: CentralServer) -> None:
    assert len(get(shared, "/siem/v1/events").json()["items"]) == 200


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 199},
        {"limit": 1001},
        {"limit": "many"},
        {"cursor": "nonsense"},
        {"pageFromKey": "key"},
        {"from_date": int(time.time()) - DAY - 60},
        {"from_date": "yesterday"},
    ],
)
def test_bad_parameters_are_400_in_the_envelope(shared: CentralServer, params: dict[str, Any]) -> None:
    answer = get(shared, "/siem/v1/events", params)
    assert answer.status_code == 400
    assert {"error", "correlationId", "requestId"} <= set(answer.json())


def test_a_cursor_of_the_other_stream_is_400(shared: CentralServer) -> None:
    cursor = get(shared, "/siem/v1/alerts").json()["next_cursor"]
    assert get(shared, "/siem/v1/events", {"cursor": cursor}).status_code == 400


def test_an_expired_cursor_is_ignored_without_a_word(own: CentralServer) -> None:
    page = get(own, "/siem/v1/events", {"limit": 1000}).json()
    own.expire_cursors()
    again = get(own, "/siem/v1/events", {"limit": 1000, "cursor": page["next_cursor"]}).json()
    assert again["items"] == page["items"]


def test_nothing_older_than_24_hours_is_served(own: CentralServer) -> None:
    own.clock.advance(DAY - 3600)
    page = get(own, "/siem/v1/events", {"limit": 1000}).json()
    oldest = datetime.fromtimestamp(own.clock.now() / 1000 - DAY, UTC)
    assert page["items"]
    assert all(datetime.fromisoformat(item["created_at"]) >= oldest for item in page["items"])
    assert len(page["items"]) < 1000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"Authorization": ""}, 401),
        ({"X-Tenant-ID": ""}, 401),
        ({"X-Tenant-ID": "unknown"}, 404),
    ],
)
def test_who_may_not_is_told(shared: CentralServer, headers: dict[str, str], status: int) -> None:
    assert get(shared, "/siem/v1/events", headers=headers).status_code == status


def test_the_token_host_has_an_envelope_of_its_own(shared: CentralServer) -> None:
    form = {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "wrong"}
    answer = requests.post(f"{shared.url}/api/v2/oauth2/token", data=form, timeout=10)
    assert (answer.status_code, answer.json()["errorCode"]) == (401, "oauth.invalid_client_secret")


def test_excluded_types_are_left_out_and_do_not_shorten_pages(shared: CentralServer) -> None:
    items = get(shared, "/siem/v1/events", {"limit": 1000}).json()["items"]
    (kind, _), *_ = Counter(item["type"] for item in items).most_common(1)
    page = get(shared, "/siem/v1/events", {"limit": 1000, "exclude_types": kind}).json()
    assert kind not in {item["type"] for item in page["items"]}
    assert len(page["items"]) > len(items) - Counter(item["type"] for item in items)[kind] or not page["has_more"]


def test_a_page_is_what_was_stored_byte_for_byte(own: CentralServer) -> None:
    odd = b'{ "id" : "x-1",\t"n": 12345678901234567890, "name": "\\u00e9\\ud834\\udd1e" }'
    own.append(own.default_tenant, "events", [odd])
    cursor = None
    bodies = []
    for _ in range(2):
        answer = get(own, "/siem/v1/events", {"limit": 1000} | ({"cursor": cursor} if cursor else {}))
        bodies.append(answer.content)
        cursor = answer.json()["next_cursor"]
    assert odd in b"".join(bodies)


def test_published_limits_end_in_429() -> None:
    with CentralServer(rate_limits=PUBLISHED_LIMITS, retry_after=True) as central:
        given = {"Authorization": f"Bearer {token(central)}"}
        answers = [requests.get(f"{central.url}/whoami/v1", headers=given, timeout=10) for _ in range(11)]
    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 1}
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_events_are_of_all_families_and_alerts_carry_their_ids(shared: CentralServer) -> None:
    events = [json.loads(raw) for raw in shared.raws(shared.default_tenant)]
    groups = {event["group"] for event in events}
    assert all(groups & set(names) for names in FAMILIES.values())
    assert len({event["id"] for event in events}) == len(events)
    alerts = [json.loads(raw) for raw in shared.raws(shared.default_tenant, "alerts")]
    assert alerts
    assert {alert["id"] for alert in alerts} <= {event["id"] for event in events}


def test_a_late_event_lies_behind_the_cursor(own: CentralServer) -> None:
    cursor = None
    for _ in range(2):
        page = get(own, "/siem/v1/events", {"limit": 1000} | ({"cursor": cursor} if cursor else {})).json()
        cursor = page["next_cursor"]
    late = own.insert_late(own.default_tenant, "events", 1, seconds=60)
    assert get(own, "/siem/v1/events", {"cursor": cursor}).json()["items"] == []
    start = int(own.clock.now() / 1000) - 600
    found = get(own, "/siem/v1/events", {"limit": 1000, "from_date": start}).json()["items"]
    assert late[0] in {item["id"] for item in found}


def test_faults_and_events_can_be_scripted_over_http(own: CentralServer) -> None:
    url = f"{own.url}/_control"
    fault = {"fault": "status", "status": 503, "times": 1}
    assert requests.post(f"{url}/faults", json=fault, timeout=10).json() == {"ok": True}
    assert get(own, "/siem/v1/events").status_code == 503
    assert get(own, "/siem/v1/events").status_code == 200
    event = {"id": "scripted", "created_at": datetime.now(UTC).isoformat()}
    assert requests.post(f"{url}/append", json={"events": [event]}, timeout=10).json() == {"ids": ["scripted"]}
    assert "scripted" in requests.get(f"{url}/ids", timeout=10).json()
    assert requests.post(f"{url}/faults", json={"fault": "nonsense"}, timeout=10).status_code == 400
    assert requests.get(f"{url}/stats", timeout=10).json()["requests"]["/siem/v1/events"] == {"200": 1, "503": 1}


def test_a_partner_sees_its_tenants_only() -> None:
    tenants = [Tenant(id="a"), Tenant(id="b"), Tenant(id="c")]
    keys = [
        Credential("p", "s", id_type="partner", id="p-1", tenants=("a", "b")),
        Credential("t", "s", id_type="tenant", id="c"),
    ]
    with CentralServer(tenants=tenants, credentials=keys) as central:
        given = {"Authorization": f"Bearer {token(central, 'p', 's')}", "X-Partner-ID": "p-1"}
        listed = requests.get(f"{central.url}/partner/v1/tenants", headers=given, timeout=10).json()
        denied = requests.get(f"{central.url}/siem/v1/events", headers=given | {"X-Tenant-ID": "c"}, timeout=10)
    assert [item["id"] for item in listed["items"]] == ["a", "b"]
    assert denied.status_code == 403


@pytest.mark.parametrize("name", ["same_cursor", "two_cursors", "empty_page", "unsorted", "repeat"])
def test_pages_can_be_wrong_on_purpose(own: CentralServer, name: str) -> None:
    first = get(own, "/siem/v1/events", {"limit": 500}).json()
    own.faults.add(Fault(name))
    page = get(own, "/siem/v1/events", {"limit": 500, "cursor": first["next_cursor"]}).json()
    right = get(own, "/siem/v1/events", {"limit": 500, "cursor": first["next_cursor"]}).json()
    match name:
        case "same_cursor":
            assert (page["next_cursor"], page["has_more"]) == (first["next_cursor"], True)
        case "empty_page" | "two_cursors":
            assert (page["items"], page["has_more"]) == ([], True)
        case "unsorted":
            assert page["items"] == right["items"][::-1]
        case "repeat":
            assert page["items"][0] == first["items"][-1]


def test_a_journal_brings_every_record_back_after_a_kill(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with CentralServer(journal=journal) as central:
        central.fill(50)
        central.append(central.default_tenant, "events", [b'{"id":"odd \xc3\xa9","x":1}'])
        before = [central.raws(central.default_tenant, kind) for kind in ("events", "alerts")]
        known = set(central.ids(central.default_tenant))
    journal.write_bytes(journal.read_bytes() + b'{"tenant": "half a li')
    with CentralServer(journal=journal) as central:
        assert [central.raws(central.default_tenant, kind) for kind in ("events", "alerts")] == before
        new = central.emit(5)
        assert not set(new) & known
        assert len(set(central.ids(central.default_tenant))) == 56
    with CentralServer(journal=journal) as central:
        assert central.ids(central.default_tenant)[-5:] == new
