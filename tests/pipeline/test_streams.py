"""Events, alerts and devices of one tenant: each with a cursor, a data type and troubles of its own."""

import json
from base64 import b64decode
from functools import partial
from typing import Any

from emulator.central import CentralServer, Credential
from tests.audited import audit
from tests.site import SECRET, site

STREAMS = ["events", "alerts", "endpoints"]


def integration(name: str, client_id: str) -> dict[str, Any]:
    return {
        "name": name,
        "client_id": client_id,
        "client_secret": SECRET,
        "streams": STREAMS,
        "alerts_data_type": "our-alerts",
        "endpoints_data_type": "our-devices",
    }


def test_each_stream_has_a_cursor_a_data_type_and_troubles_of_its_own() -> None:
    limited = Credential(client_id="limited", permissions=frozenset({"events", "endpoints"}))
    central = CentralServer(credentials=[Credential(), limited])
    with site(central, integrations=[integration("full", "demo-client"), integration("less", "limited")]) as found:
        central.fill(300)
        lines = found.results("fetch-page")
        outcomes = {(line["integration"], line["stream"]): line["outcome"] for line in lines}
        assert outcomes == {
            **{(name, kind): "fetched" for name in ("full", "less") for kind in STREAMS},
            ("less", "alerts"): "failed",
        }
        assert [line["problem"]["code"] for line in lines if "problem" in line] == ["permission_missing"]
        found.results("forward-batch")
        tenant = central.default_tenant
        held = {
            "sophos-central": len(central.raws(tenant)),
            "our-alerts": len(central.raws(tenant, "alerts")),
            "our-devices": len(central.devices()),
        }
        for name, kinds in (("full", held), ("less", {kind: held[kind] for kind in held if kind != "our-alerts"})):
            logs = [log for log in found.engine.received if log.dataSource == name]
            assert {kind: sum(log.dataType == kind for log in logs) for kind in kinds} == kinds
            assert len({log.id for log in logs}) == len(logs) == sum(kinds.values())
        cursors = {
            path.stem: json.loads(path.read_text())["cursor"]
            for path in (found.folder / "store/cursors/full").rglob("*.json")
        }
        assert b64decode(cursors["events"]).startswith(b"V2_CURSOR|")
        assert b64decode(cursors["alerts"]).startswith(b"0|")
        assert cursors["endpoints"] is None
        assert audit(found.state)["ok"]
        checks = json.loads(found.post("test-connection", {"integration": "full"}).body)["checks"]
        assert [check["ok"] for check in checks if check["name"] in ("siem_alerts", "endpoints")] == [True, True]


def test_the_answers_tell_how_many_events_each_stream_has_so_far() -> None:
    with site(integrations=[integration("full", "demo-client")]) as found:
        so_far = dict.fromkeys(STREAMS, 0)
        for add in (partial(found.central.fill, 300), partial(found.central.emit, 7)):
            add()
            fetched = [line for line in found.results("fetch-page") if line["events"]]
            for line in fetched:
                so_far[line["stream"]] += line["events"]
            assert {line["stream"]: line["events_total"] for line in fetched} == {
                line["stream"]: so_far[line["stream"]] for line in fetched
            }
            settled = {line["stream"]: line for line in found.results("forward-batch")}
            for line in fetched:
                assert settled[line["stream"]]["acked_total"] == so_far[line["stream"]]
        assert so_far["events"] == 307
        quiet = [*found.results("fetch-page"), *found.results("forward-batch")]
        assert not [line for line in quiet if "events_total" in line or "acked_total" in line]
