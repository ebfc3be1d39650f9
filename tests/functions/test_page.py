"""What the operator's page answers, without a browser: events that pass, odd names, actions."""

import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Credential, Tenant
from lib.model.checkpoint import Checkpoint
from lib.model.stream import Stream
from lib.store.base import ABSENT
from lib.version import VERSION
from tests.site import SECRET, Emulator, Site, site, until

NAME = "a/b & ü%2F?"
STREAM = f"{NAME}/{DEFAULT_TENANT_ID}/events"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Site, Emulator]]:
    """Nothing is archived, and all that was there is delivered."""
    integration = {"name": NAME, "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}
    with site(integrations=[integration]) as found:
        found.central.fill(30)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 30, "everything delivered")
            yield found, emulator


def links(emulator: Emulator, begin: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(rf'(?:href|action)="({begin}[^"]*)"', get(emulator, "/"))]


def act(emulator: Emulator, action: str, **fields: str) -> None:
    (token, *_) = re.findall(r'name="token" value="([^"]+)"', get(emulator, "/"))
    answer = requests.post(emulator.url(f"/actions/{action}"), data={"token": token, **fields}, timeout=30)
    assert answer.status_code == 200, answer.text


def get(emulator: Emulator, path: str, headers: dict[str, str] | None = None, **query: str) -> str:
    answer = requests.get(emulator.url(path), params=query, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_page_and_status_name_the_version(served: tuple[Site, Emulator]) -> None:
    found, emulator = served
    assert f"<footer>version {VERSION} " in get(emulator, "/")
    assert (emulator.status() or {})["version"] == VERSION
    (first, *_) = (found.folder / "emulator.log").read_text().splitlines()
    assert json.loads(first)["message"] == f"sophos-utmstack {VERSION}"


def test_the_newest_events_are_shown_though_they_are_delivered_and_nothing_is_kept(
    served: tuple[Site, Emulator],
) -> None:
    found, emulator = served
    found.central.emit(3)
    expected = [raw.decode() for raw in found.central.raws(DEFAULT_TENANT_ID)[:-4:-1]]
    until(lambda: get(emulator, "/events", stream=STREAM).splitlines()[:3] == expected, "the three newest, in order")
    until(lambda: (emulator.status() or {}).get("acked", 0) >= 33, "their delivery")
    assert get(emulator, "/events", stream=STREAM).splitlines()[:3] == expected
    found.central.emit(25)
    newest = found.central.raws(DEFAULT_TENANT_ID)[-1].decode()
    until(lambda: get(emulator, "/events", stream=STREAM).startswith(newest), "the next ones")
    assert len(get(emulator, "/events", stream=STREAM).splitlines()) == 20


def test_the_links_of_an_integration_lead_to_it_whatever_its_name_is(served: tuple[Site, Emulator]) -> None:
    _, emulator = served
    (of_stream,), (of_test,) = links(emulator, "/stream"), links(emulator, "/test")
    assert DEFAULT_TENANT_ID in get(emulator, of_stream)
    shown = get(emulator, of_test)
    assert html.escape(NAME) in shown
    (form,) = re.findall(r'<form method="post" action="([^"]*)" data-live>', shown)
    assert html.unescape(form) == of_test


def test_what_is_set_aside_is_counted_everywhere_and_the_streams_page_says_why(
    served: tuple[Site, Emulator],
) -> None:
    found, emulator = served
    assert "0 set aside" in get(emulator, "/")
    found.central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
    until(lambda: (emulator.status() or {}).get("set_aside") == 1, "an event that is set aside")
    (line,) = (emulator.status() or {})["streams"]
    assert line["set_aside"] == 1
    assert "1 set aside" in get(emulator, "/")
    (key,) = [entry.key for entry in found.state.store.list("dead/")]
    (of_stream,) = links(emulator, "/stream")
    shown = html.unescape(get(emulator, of_stream))
    assert f"<code>{key}</code>" in shown
    assert "1 × not a JSON object, or nested too deep" in shown
    assert found.command("status", status=1)["set_aside"] == 1


def test_run_now_tries_at_once_what_was_held_back_and_is_mended(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    integration = {
        "name": "acme",
        "client_id": "demo-client",
        "client_secret": f"${{file:{secret}}}",
        "streams": ["events", "alerts"],
    }
    central = CentralServer(credentials=[Credential(permissions=frozenset({"events"}))])
    with site(central, integrations=[integration]) as found, Emulator(found) as emulator:

        def lines(kind: str) -> list[dict[str, Any]]:
            return list((emulator.status() or {}).get(kind, []))

        until(lambda: any("retry_at" in line for line in lines("streams")), "a stream that is held back")
        central.put_credential(Credential())
        act(emulator, "run", integration="acme")
        until(lambda: not any("problem" in line for line in lines("streams")), "all streams", seconds=20)
        central.put_credential(Credential(secret="another"))
        central.revoke_tokens()
        until(lambda: any("retry_at" in line for line in lines("integrations")), "an integration that is held back")
        until(lambda: all(line["state"] == "failed" for line in lines("streams")), "the end of what was under way")
        secret.write_text("another")
        act(emulator, "run", integration="acme")
        until(lambda: lines("integrations")[0]["state"] == "collecting", "the integration", seconds=20)


EVIL = "<i>evil</i>"
QUIET = Stream(EVIL, DEFAULT_TENANT_ID, "alerts")


def event(name: str) -> bytes:
    return json.dumps({"id": f"id of {name}", "type": "Event::Endpoint::Threat", "name": name}).encode()


@pytest.fixture(scope="module")
def hourly() -> Iterator[tuple[Site, Emulator]]:
    """Nothing happens by itself for an hour; one stream has been silent for three."""
    central = CentralServer(tenants=[Tenant(name=EVIL)], credentials=[Credential(id_type="partner", id="p-1")])
    integration = {"name": EVIL, "client_id": "demo-client", "client_secret": SECRET, "streams": ["events", "alerts"]}
    with site(central, integrations=[integration], every="1h", archive="1d") as found:
        silent = Checkpoint(events=60, pace_seconds=1.0, newest=datetime.now(UTC) - timedelta(hours=3))
        found.state.checkpoints.write(QUIET, silent, expected=ABSENT)
        central.append(DEFAULT_TENANT_ID, "events", [event(EVIL)])
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 1, "everything delivered")
            yield found, emulator


def of_events(emulator: Emulator) -> str:
    return next(link for link in links(emulator, "/stream") if link.endswith("stream=events"))


def section(text: str, title: str) -> str:
    """What stands below a heading of a page."""
    return text.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def test_what_others_have_named_is_text_and_no_markup(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    (of_test, *_) = links(emulator, "/test")
    for path in ("/", of_events(emulator), of_test):
        shown = get(emulator, path)
        assert html.escape(EVIL) in shown
        assert "<i>" not in shown
    newest = section(get(emulator, of_events(emulator)), "Newest events")
    assert html.unescape(newest).count(event(EVIL).decode()) == 1


def test_events_are_shown_to_who_may_act_only(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    passed_on = {"X-Forwarded-For": "192.0.2.7"}
    shown = [get(emulator, of_events(emulator), headers) for headers in ({}, passed_on)]
    assert ["<pre" in section(each, "Newest events") for each in shown] == [True, False]


def test_a_silent_stream_and_the_calls_that_are_left_are_shown(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    shown = get(emulator, "/")
    assert "usually speaks, and has been silent since" in shown
    assert re.search(r'<td class="n">[1-9]\d* of 100<', shown)


def test_run_now_fetches(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    found.central.append(DEFAULT_TENANT_ID, "events", [event("run")])
    act(emulator, "run", integration=EVIL)
    until(lambda: event("run") in found.raws(), "what was fetched now", seconds=20)


def test_what_waits_for_the_engine_is_listed(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    until(lambda: "<li>" not in section(get(emulator, of_events(emulator)), "Waiting batches"), "nothing that waits")
    found.engine.stop()
    found.central.append(DEFAULT_TENANT_ID, "events", [event("wait")])
    act(emulator, "run")
    until(lambda: "<li>" in section(get(emulator, of_events(emulator)), "Waiting batches"), "a batch that waits")
    found.engine.start()
    until(lambda: (emulator.status() or {}).get("pending_batches") == 0, "its delivery")


def test_reconcile_finds_what_came_late_and_the_page_says_how_late(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    found.central.insert_late(DEFAULT_TENANT_ID, "events", [event(f"late {number}") for number in range(3)])
    act(emulator, "reconcile", integration=EVIL)
    until(lambda: event("late 2") in found.raws(), "its delivery", seconds=20)
    until(lambda: "3 were missing" in section(get(emulator, "/"), "Asked for here"), "the reconciliation")
    shown = section(get(emulator, of_events(emulator)), "Last reconciliation")
    assert "3 were missing" in shown
    assert '<td class="n">3</tr>' in shown.partition("How late they were")[2]


def test_replay_sends_again_what_was_kept(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    act(emulator, "replay", since="1d")
    until(lambda: found.raws().count(event(EVIL)) == 2, "what was kept, again", seconds=20)
    until(lambda: "acked" in section(get(emulator, "/"), "Asked for here"), "the report")
