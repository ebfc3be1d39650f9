"""Sophos is asked again: late events are found, exactly those, and the live cursor stays where it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Credential, Fault, Tenant
from lib.state.checkpoints import from_body
from tests.audited import audit
from tests.site import SECRET, Site, free_port, site

ROOT = Path(__file__).resolve().parents[2]


def integration(reconcile: str) -> list[dict[str, str]]:
    return [{"name": "acme", "client_id": "demo-client", "client_secret": SECRET, "reconcile": reconcile}]


def read(found: Site) -> dict[str, Any]:
    """Fetch and forward until Sophos has no more; the last answer of fetch-page."""
    while (line := found.results("fetch-page")[0])["has_more"]:
        continue
    found.results("forward-batch")
    return line


def natives(found: Site) -> list[str]:
    return [json.loads(log.raw)["id"] for log in found.engine.received]


def cursor(found: Site) -> tuple[str | None, object]:
    (path,) = (found.folder / "store/cursors").rglob("*.json")
    checkpoint = from_body(path.read_bytes())
    return checkpoint.cursor, checkpoint.as_of


def progress(found: Site) -> Path:
    (path,) = (found.folder / "store/reconciliations").rglob("*.json")
    return path


def make_due(found: Site) -> None:
    """The last one ended a day ago."""
    path = progress(found)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"ended_at": "2026-01-01T00:00:00.000000Z"}))


def test_late_events_are_found_exactly_those_and_the_live_cursor_stays() -> None:
    with site(integrations=integration("1h")) as found:
        found.central.fill(1500)
        read(found)
        assert "reconciled" not in read(found)
        before = cursor(found)
        late = found.central.insert_late(found.central.default_tenant, "events", 7, seconds=600)
        late += found.central.insert_late(found.central.default_tenant, "events", 3, seconds=30)
        assert "reconciled" not in read(found)
        make_due(found)
        line = found.results("fetch-page")[0]
        report = line["reconciled"]
        assert (report["outcome"], report["read"], report["missing"]) == ("reconciled", 1510, 10)
        assert report["lateness"] == {"1m": 3, "15m": 7}
        assert line["batches"] == report["batches"]
        assert cursor(found)[0] == before[0]
        found.results("forward-batch")
        assert natives(found)[1500:] == [
            each for each in found.central.ids(found.central.default_tenant) if each in late
        ]
        assert len(set(natives(found))) == 1510
        make_due(found)
        again = found.results("fetch-page")[0]["reconciled"]
        assert (again["missing"], again["batches"]) == (0, [])
        new = found.central.emit(5)
        read(found)
        assert natives(found)[1510:] == new
        (told,) = audit(found.state)["streams"]
        assert (told["ok"], told["events"]) == (True, 1515)


def test_a_long_reconciliation_goes_on_over_several_calls() -> None:
    with site(integrations=integration("1h")) as found:
        found.central.fill(7300)
        read(found)
        late = found.central.insert_late(found.central.default_tenant, "events", 4, seconds=3600)
        make_due(found)
        reports = [found.results("fetch-page")[0]["reconciled"] for _ in range(2)]
        assert [report["outcome"] for report in reports] == ["under_way", "reconciled"]
        assert (reports[1]["read"], reports[1]["missing"]) == (7304, 4)
        read(found)
        assert set(natives(found)[7300:]) == set(late)


def test_never_means_never() -> None:
    with site(integrations=integration("off")) as found:
        found.central.fill(5)
        read(found)
        assert not list((found.folder / "store").glob("reconciliations"))


def test_events_of_a_batch_that_was_lost_are_forwarded_after_all() -> None:
    with site(integrations=integration("1h")) as found:
        found.central.fill(1500)
        (line,) = found.results("fetch-page")
        (found.folder / "store" / line["batches"][0]).unlink()
        read(found)
        make_due(found)
        assert found.results("fetch-page")[0]["reconciled"]["missing"] == 1000
        found.results("forward-batch")
        sent = {json.loads(log.raw)["id"] for log in found.engine.received if log.dataType == "sophos-central"}
        assert sent == set(found.central.ids(found.central.default_tenant))


@pytest.mark.parametrize("arguments", [("reconcile",), ("backfill", "--since", "12h")])
def test_an_operator_can_ask_for_it_at_any_time(arguments: tuple[str, ...]) -> None:
    with site() as found:
        found.central.fill(1200, hours=3)
        read(found)
        late = found.central.insert_late(found.central.default_tenant, "events", 6, seconds=900)
        found.write_config(listen=f"127.0.0.1:{free_port()}")
        answer = found.command(*arguments)
        assert answer["ok"]
        assert [(line["read"], line["missing"]) for line in answer["results"]] == [(1206, 6)]
        assert set(natives(found)[1200:]) == set(late)
        status = found.command("status")
        assert (status["streams"][0].get("reconciled") or {}).get("missing") == (
            6 if arguments[0] == "reconcile" else None
        )


def test_a_failing_sophos_leaves_the_live_stream_alone() -> None:
    with site(integrations=integration("1h")) as found:
        found.central.fill(50)
        read(found)
        make_due(found)
        found.central.faults.add(Fault("status", status=400, with_cursor=False))
        new = found.central.emit(3)
        (line,) = found.results("fetch-page")
        assert line["events"] == 3
        read(found)
        assert natives(found)[50:] == new


def test_what_was_delivered_before_the_utmstack_tenant_changed_is_not_missing() -> None:
    new = "0b5a1f0e-51e5-4f0c-9d5c-1f2f3a4b5c6d"
    with site(integrations=integration("6h"), listen=f"127.0.0.1:{free_port()}") as found:
        found.central.fill(300)
        read(found)
        found.central.emit(20)
        found.results("fetch-page")  # which wait, under the old one
        found.write_config(integrations=[each | {"utmstack_tenant_id": new} for each in integration("6h")])
        late = found.central.insert_late(found.central.default_tenant, "events", 4, seconds=60)
        (line,) = found.command("reconcile")["results"]
        assert line["missing"] == 4
        found.results("forward-batch")
        assert sorted(natives(found)) == sorted(found.central.ids(found.central.default_tenant))
        arrived = [json.loads(log.raw)["id"] for log in found.engine.received if log.tenantId == new]
        assert sorted(arrived) == sorted(late)


AGAIN = [("reconcile",), ("backfill", "--since", "12h")]


@pytest.mark.parametrize("arguments", AGAIN)
def test_one_stream_that_fails_keeps_no_other_from_being_read_and_is_read_on_the_next_time(
    arguments: tuple[str, ...],
) -> None:
    tenants = [Tenant(id="t-1", name="One"), Tenant(id="t-2", name="Two")]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    with site(central, integrations=integration("off"), listen=f"127.0.0.1:{free_port()}") as found:
        for each in tenants:
            central.fill(2500, tenant=each.id, hours=3)
        while any(line["has_more"] for line in found.results("fetch-page")):
            continue
        found.results("forward-batch")
        late = [central.insert_late(each.id, "events", 4, seconds=9000) for each in tenants]
        # All pages but the first, and the tries of each.
        central.faults.add(Fault("status", status=503, tenant="t-1", with_cursor=True, times=None))
        one, two = found.command(*arguments, status=1)["results"]
        assert (one["tenant"], one["outcome"], one["problem"]["code"]) == ("t-1", "failed", "sophos_unavailable")
        assert (two["outcome"], two["missing"]) == ("reconciled", 4)
        assert one["missing"] == 4
        assert {each for pair in late for each in pair} <= set(natives(found))
        central.faults.clear()
        asked = len(central.requests)
        one, two = found.command(*arguments)["results"]
        assert (one["outcome"], one["read"], one["missing"]) == ("reconciled", 2504, 4)
        assert two["missing"] == 0
        firsts = [seen.tenant for seen in list(central.requests)[asked:] if "from_date" in seen.query]
        assert firsts == ["t-2"], "the stream that failed goes on from where it was"
        (only,) = found.command(*arguments, "--tenant", "Two")["results"]
        assert only["tenant"] == "t-2"
        assert found.command(*arguments, "--tenant", "Three", status=2)["problem"]["code"] == "not_found"


@pytest.mark.parametrize("arguments", AGAIN)
@pytest.mark.parametrize("path", ["/siem/v1/", "/whoami/"])
def test_a_429_is_waited_for(arguments: tuple[str, ...], path: str) -> None:
    with site(integrations=integration("off"), listen=f"127.0.0.1:{free_port()}") as found:
        found.central.fill(300, hours=3)
        if path == "/siem/v1/":
            read(found)
        found.central.faults.add(Fault("status", path=path, status=429, retry_after=1, times=2))
        (line,) = found.command(*arguments)["results"]
        assert (line["outcome"], line["read"]) == ("reconciled", 300)


def test_an_integration_that_is_refused_is_told_beside_the_others() -> None:
    two = [*integration("off"), integration("off")[0] | {"name": "bad", "client_secret": "wrong"}]
    with site(integrations=two, listen=f"127.0.0.1:{free_port()}") as found:
        found.central.fill(20)
        found.results("fetch-page", {"integration": "acme"})
        good, bad = found.command("reconcile", status=1)["results"]
        assert (good["integration"], good["outcome"]) == ("acme", "reconciled")
        assert (bad["integration"], bad["tenant"], bad["outcome"]) == ("bad", None, "failed")
        assert bad["problem"]["code"] == "credentials_refused"


def test_what_was_found_is_told_though_the_engine_takes_nothing() -> None:
    with site(integrations=integration("off"), listen=f"127.0.0.1:{free_port()}") as found:
        found.central.fill(20)
        read(found)
        found.central.insert_late(found.central.default_tenant, "events", 3, seconds=30)
        found.engine.stop()
        told = found.command("reconcile", status=1)
        assert (told["ok"], told["results"][0]["missing"]) == (False, 3)
        assert told["problem"]["code"] == "engine_unavailable"


def test_a_window_that_sophos_does_not_serve_is_refused_with_the_reason() -> None:
    with site() as found:
        problem = found.command("backfill", "--since", "48h", status=2)["problem"]
    assert "Sophos serves only the last 24 hours" in problem["detail"]
    assert "replay" in problem["remedy"]


def test_what_the_live_cursor_has_not_come_to_is_not_late() -> None:
    with site(integrations=integration("1h")) as found:
        found.central.fill(20)
        read(found)
        found.central.clock.advance(5)
        found.central.emit(6)
        (report,) = found.command("reconcile")["results"]
        assert (report["read"], report["missing"]) == (26, 0)
        read(found)
        assert natives(found) == found.central.ids(found.central.default_tenant)
