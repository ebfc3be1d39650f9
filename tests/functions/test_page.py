"""What the operator's page answers, without a browser: events that pass, odd names, actions."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Credential
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
    (key,) = [entry.key for entry in found.books.store.list("dead/")]
    (of_stream,) = links(emulator, "/stream")
    shown = html.unescape(get(emulator, of_stream))
    assert f"<code>{key}</code>" in shown
    assert "1 × not a JSON object" in shown
    assert found.command("status")["set_aside"] == 1


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
        secret.write_text("another")
        act(emulator, "run", integration="acme")
        until(lambda: lines("integrations")[0]["state"] == "collecting", "the integration", seconds=20)
