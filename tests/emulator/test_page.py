"""What the operator's page answers, without a browser: events that pass, odd names, actions."""

import contextlib
import html
import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Credential, Tenant
from emulator.web.health_changes import stored_changes
from lib.model.checkpoint import Checkpoint, Counts, NewestEvent
from lib.model.health import KINDS
from lib.model.stream import Stream
from lib.state.acknowledgements import Acknowledgements
from lib.state.gaps import CURSOR_EXPIRED, Gap
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
    found = re.findall(rf'(?:href|action)="({re.escape(begin)}[^"]*)"', get(emulator, "/"))
    return [html.unescape(link) for link in dict.fromkeys(found)]


def post(emulator: Emulator, action: str, **fields: str) -> requests.Response:
    (token, *_) = re.findall(r'name="token" value="([^"]+)"', get(emulator, "/confirm/reconcile"))
    return requests.post(emulator.url(f"/actions/{action}"), data={"token": token, **fields}, timeout=30)


def act(emulator: Emulator, action: str, **fields: str) -> str:
    """Do it; the sentence that it ends in."""
    answer = post(emulator, action, **fields)
    assert answer.status_code == 200, answer.text
    path = answer.url.removeprefix(emulator.url(""))
    ended: list[str] = []

    def over() -> bool:
        ended[:] = re.findall(r'id="result">(?:<span[^>]*>.</span>)?(.*?)</p>', get(emulator, path), re.DOTALL)
        return bool(ended)

    until(over, "the end of the action")
    return html.unescape(ended[0]).strip()


def get(emulator: Emulator, path: str, headers: dict[str, str] | None = None, **query: str) -> str:
    answer = requests.get(emulator.url(path), params=query, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_page_and_status_name_the_version(served: tuple[Site, Emulator]) -> None:
    found, emulator = served
    assert f'<span id="version">{VERSION}</span>' in get(emulator, "/")
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


@pytest.mark.parametrize("health", ["failing", "attention", "waiting", "ok"])
def test_only_the_chosen_tile_is_marked(served: tuple[Site, Emulator], health: str) -> None:
    shown = get(served[1], f"/streams?health={health}")
    assert re.findall(r'class="tile[^"]*" href="([^"]*)" aria-current', shown) == [f"/streams?health={health}"]


def test_the_links_of_an_integration_lead_to_it_whatever_its_name_is(served: tuple[Site, Emulator]) -> None:
    _, emulator = served
    (of_stream,), (of_test,) = links(emulator, "/stream?"), links(emulator, "/test")
    for begin in ("/confirm/pause", "/tenant", "/streams?integration"):
        (link,) = links(emulator, begin)
        assert html.escape(NAME) in get(emulator, link)
    assert DEFAULT_TENANT_ID in get(emulator, of_stream)
    shown = get(emulator, of_test)
    assert html.escape(NAME) in shown
    (form,) = re.findall(r'<form method="post" action="([^"]*)" data-live>', shown)
    assert html.unescape(form) == of_test


def test_what_is_set_aside_is_counted_everywhere_and_the_streams_page_says_why(
    served: tuple[Site, Emulator],
) -> None:
    found, emulator = served
    found.central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
    until(lambda: (emulator.status() or {}).get("set_aside") == 1, "an event that is set aside")
    (line,) = (emulator.status() or {})["streams"]
    assert line["set_aside"] == 1
    assert re.search(r"<b>1</b><span><span[^>]*>.</span> dead letter<", get(emulator, "/"))
    (key,) = [entry.key for entry in found.state.store.list("dead/")]
    (of_stream,) = links(emulator, "/stream?")
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
        until(lambda: not any("problem" in line for line in lines("streams")), "all streams")
        central.put_credential(Credential(secret="another"))
        central.revoke_tokens()
        until(lambda: any("retry_at" in line for line in lines("integrations")), "an integration that is held back")
        until(lambda: all(line["state"] == "failed" for line in lines("streams")), "the end of what was under way")
        secret.write_text("another")
        act(emulator, "run", integration="acme")
        until(lambda: lines("integrations")[0]["state"] == "collecting", "the integration")


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
        silent = Checkpoint(newest=NewestEvent(datetime.now(UTC) - timedelta(hours=3), 1.0), counts=Counts(events=60))
        found.state.checkpoints.write(QUIET, silent, expected=ABSENT)
        central.append(DEFAULT_TENANT_ID, "events", [event(EVIL)])
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 1, "everything delivered")
            yield found, emulator


def of_events(emulator: Emulator) -> str:
    return next(link for link in links(emulator, "/stream?") if link.endswith("stream=events"))


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
    assert html.unescape(newest).count(f">{event(EVIL).decode()}<") == 2  # its summary, and its raw text


def test_events_are_shown_to_who_may_act_only(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    passed_on = {"X-Forwarded-For": "192.0.2.7"}
    shown = [get(emulator, of_events(emulator), headers) for headers in ({}, passed_on)]
    assert ["<pre" in section(each, "Newest events") for each in shown] == [True, False]


def test_a_silent_stream_and_the_calls_that_are_left_are_shown(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    shown = get(emulator, "/")
    assert KINDS["silent"].title in shown
    assert re.search(r'class="n">[1-9]\d* of 100<', shown)


def test_run_now_fetches(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    found.central.append(DEFAULT_TENANT_ID, "events", [event("run")])
    act(emulator, "run", integration=EVIL)
    until(lambda: event("run") in found.raws(), "what was fetched now")


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
    ended = act(emulator, "reconcile", integration=EVIL)
    assert "3 events had been missing and will be delivered" in ended
    until(lambda: event("late 2") in found.raws(), "its delivery")
    shown = section(get(emulator, of_events(emulator)), "Last reconciliation")
    assert "3 were missing" in shown
    assert '<td class="n">3</td></tr>' in shown.partition("How late they were")[2]


def test_replay_sends_again_what_was_kept(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    ended = act(emulator, "replay", since="1d")
    assert re.fullmatch(r"\d+ events? of \d+ batch(es)? sent again\.", ended)
    assert found.raws().count(event(EVIL)) == 2


def test_a_form_that_cannot_be_used_is_told_and_nothing_is_done(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    answers = [post(emulator, "replay", since=since) for since in ("999999999h", "soon", "")]
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(400, "bad_action")] * 3
    assert post(emulator, "no-such-action").status_code == 404
    assert post(emulator, "acknowledge", key="cursors/no-gap.json").status_code == 200
    assert "there is no gap, no dead letter, no damaged object and no warning" in get(emulator, "/")


def test_a_page_of_another_site_holds_no_place_of_the_tail_and_sees_no_event(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for path in ("/tail", f"/events?stream={QUIET}"):
        answer = requests.get(emulator.url(path), headers=foreign, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_page")
    with requests.get(emulator.url("/tail"), stream=True, timeout=10) as own:
        assert own.status_code == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/status", "/gaps.csv", "/live", "/chart.json", "/settings"])
def test_a_name_that_was_made_to_lead_here_tells_no_tenant(hourly: tuple[Site, Emulator], path: str) -> None:
    _, emulator = hourly
    answer = requests.get(emulator.url(path), headers={"Host": "rebound.example.com"}, timeout=10)
    assert answer.status_code in (401, 403)
    assert DEFAULT_TENANT_ID not in answer.text


def test_connections_that_are_only_opened_shut_nobody_out(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", emulator.port), timeout=10))
            half.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert get(emulator, "/healthz")
        assert get(emulator, "/streams")


def test_what_has_not_changed_is_not_sent_again(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    url = emulator.url("/live?view=/streams")
    first = requests.get(url, timeout=10)
    again = requests.get(url, timeout=10, headers={"If-None-Match": first.headers["ETag"]})
    assert first.status_code == 200
    assert set(first.json()["parts"]) == {"pill", "tiles", "count", "streams", "pages"}
    assert (again.status_code, again.content) == (304, b"") or again.headers["ETag"] != first.headers["ETag"]
    assert requests.get(emulator.url("/live?view=/no-such-view"), timeout=10).status_code == 404


def test_what_another_process_does_to_the_store_is_seen_at_the_next_look(hourly: tuple[Site, Emulator]) -> None:
    found, emulator = hourly
    known = (emulator.status() or {})["gaps"]
    start = datetime.now(UTC) - timedelta(hours=30)
    gap = Gap(QUIET, 7, CURSOR_EXPIRED, start, start + timedelta(hours=6), datetime.now(UTC), 12)
    found.state.gaps.record(gap)
    until(lambda: (emulator.status() or {})["gaps"] == known + 1, "the gap")
    lines = json.loads(get(emulator, "/gaps.json"))
    assert [(line["key"], line["estimated_events"], line["acknowledged"]) for line in lines] == [(gap.key, 12, None)]
    assert get(emulator, "/gaps.csv").splitlines()[0].startswith("id,integration,tenant")
    Acknowledgements(found.state.store).add(gap.key, by="somebody", at=datetime.now(UTC))
    until(lambda: "acknowledged" in get(emulator, "/gaps") and "by somebody" in get(emulator, "/gaps"), "it")
    marks = json.loads(get(emulator, "/chart.json", range="7d"))["marks"]
    assert [mark["kind"] for mark in marks if "Gap:" in mark["text"]] == ["gap"]


def chart(emulator: Emulator, **query: str) -> dict[str, Any]:
    query.setdefault("range", "1h")
    return dict(json.loads(get(emulator, "/chart.json?" + urlencode(query))))


def counted(told: dict[str, Any]) -> tuple[int, int]:
    """Events fetched and acknowledged; buckets are told a minute."""
    minutes = (told["t"][1] - told["t"][0]) / 60
    fetched, acked = (sum(each or 0 for each in told[key]) for key in ("fetched", "acked"))
    return round(minutes * fetched), round(minutes * acked)


OF_TENANT = {"integration": "acme", "tenant": DEFAULT_TENANT_ID}


def test_a_restart_loses_nothing_of_the_chart_and_is_marked() -> None:
    with site() as found:
        found.central.fill(60)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 60, "everything delivered")
            emulator.kill()
        with Emulator(found) as emulator:
            until(lambda: emulator.status() is not None, "the page")
            until(lambda: chart(emulator)["complete"], "the past")
            assert counted(chart(emulator)) == (60, 60)
            assert [mark["kind"] for mark in chart(emulator)["marks"]] == ["restart"]
            assert re.search(r"The connector was started, <time [^>]*>[^<]+</time>", get(emulator, "/"))
            for length in ("1h", "3h", "24h", "7d"):
                assert counted(chart(emulator, range=length, **OF_TENANT)) == (60, 60)
                assert counted(chart(emulator, range=length, stream="events", **OF_TENANT)) == (60, 60)
                assert counted(chart(emulator, range=length, stream="alerts", **OF_TENANT)) == (0, 0)
            found.central.emit(5)
            until(lambda: counted(chart(emulator))[1] == 65, "what is new")
            assert counted(chart(emulator, stream="events", **OF_TENANT)) == (65, 65)


def test_two_connectors_on_one_store_share_their_charts_and_a_streams_lag_outlives_them() -> None:
    stream = {**OF_TENANT, "stream": "events", "range": "24h"}

    def lags(emulator: Emulator) -> list[float]:
        return [lag for lag in chart(emulator, **stream)["lag"] if lag is not None]

    with site() as found:
        with Emulator(found) as first, Emulator(found) as second:
            for emulator in (first, second):
                until(lambda emulator=emulator: emulator.status() is not None, "the page")  # type: ignore[misc]
                until(lambda emulator=emulator: chart(emulator)["complete"], "the past")  # type: ignore[misc]
            found.central.fill(60)
            until(lambda: (first.status() or {}).get("acked", 0) >= 60, "everything delivered")
            until(lambda: lags(second) != [], "a sample")
            assert (first.end(), second.end()) == (0, 0)
        with Emulator(found) as emulator:
            until(lambda: emulator.status() is not None, "the page")
            until(lambda: chart(emulator)["complete"], "the past")
            assert lags(emulator) != []
            assert counted(chart(emulator)) == counted(chart(emulator, **stream)) == (60, 60)


def test_charts_of_an_older_version_are_made_again_from_the_receipts() -> None:
    with site(every="1h") as found:
        found.central.fill(60)
        found.results("fetch-page")
        found.results("forward-batch")
        store, now = found.state.store, datetime.now(UTC)
        wrong = {str(int(now.timestamp()) // 3600): [7, 7]}
        older = {
            "layout": 1,
            "day": f"{now:%Y-%m-%d}",
            "until": now.timestamp(),
            "minutes": {"acme": {str(int(now.timestamp()) // 60): [7, 7]}},
            "hours": {"acme": {DEFAULT_TENANT_ID: wrong}},
            "samples": {str(int(now.timestamp()) // 60): {"acme": [41.0, 0, 3]}},
        }
        store.write(f"charts/{now:%Y-%m-%d}.json", json.dumps(older).encode(), expected=ABSENT)
        marks = {"layout": 1, "seen": now.timestamp(), "marks": []}
        store.write("charts/marks.json", json.dumps(marks).encode(), expected=ABSENT)
        with Emulator(found) as emulator:
            until(lambda: emulator.status() is not None, "the page")
            until(lambda: chart(emulator)["complete"], "the past")
            assert counted(chart(emulator)) == (60, 60)
            assert counted(chart(emulator, range="24h", stream="events", **OF_TENANT)) == (60, 60)
            assert 41.0 in chart(emulator)["lag"]


def test_an_outage_of_the_engine_is_marked_while_it_lasts_and_afterwards() -> None:
    with site() as found:
        found.central.fill(10)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 10, "everything delivered")
            found.engine.stop()
            found.central.emit(1)

            def marks() -> list[str]:
                return [mark["text"] for mark in chart(emulator)["marks"] if mark["kind"] == "outage"]

            until(lambda: marks() == ["The engine takes no events"], "the outage")
            until(lambda: "Not to the engine" in get(emulator, "/"), "the overview's word of it")
            found.engine.start()
            until(lambda: marks() == ["The engine took no events"], "its end")


def _told(status: dict[str, Any]) -> list[tuple[str, str, str, list[str]]]:
    """The changes of health, newest first."""
    return [
        (each["of"], each["from"], each["to"], [one["code"] for one in each["reasons"]])
        for each in status.get("health_changes", ())
    ]


def test_a_restart_loses_nothing_of_when_the_health_changed() -> None:
    with site() as found:
        found.central.fill(10)

        def changes(emulator: Emulator) -> list[tuple[str, str, str, list[str]]]:
            return _told(emulator.status() or {})

        with Emulator(found) as emulator:
            until(lambda: changes(emulator) == [("all", "unknown", "ok", [])], "the first health")
            found.central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
            until(lambda: len(changes(emulator)) == 4, "the dead letter's health")
            before = changes(emulator)
            assert before[-2] == ("all", "ok", "attention", ["dead_letters"])
            until(
                lambda: [each.after for each in stored_changes(found.state.store)].count("attention") == 3, "its saving"
            )
            emulator.kill()
        assert _told(found.command("status", status=1)) == before
        with Emulator(found) as emulator:
            until(lambda: changes(emulator) == before, "what was kept")
            shown = get(emulator, "/")
            assert "Health changes" in shown
            assert re.search(r"attention</span> <a [^>]*>acme · events</a>: Events could not be delivered", shown)
            assert [health for *_, health in chart(emulator)["health"]] == ["ok", "attention"]
            dead = json.loads(get(emulator, "/dead-letters.json"))
            Acknowledgements(found.state.store).add(dead[0]["key"], by="somebody", at=datetime.now(UTC))
            until(lambda: ("all", "attention", "ok", []) in changes(emulator), "the end of it, in the next process")
        listed = found.command("status", status=0)["health_changes"]
        assert [each["to"] for each in listed if each["of"] == "all"] == ["ok", "attention", "ok"]


def test_before_the_connector_was_there_nothing_is_called_not_counted() -> None:
    with site(every="1h") as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "the page")
        until(lambda: chart(emulator)["complete"], "the past")
        for path in ("/", "/completeness"):
            shown = get(emulator, path)
            assert "not counted" not in shown
            assert "No complete day with events yet" in shown
        assert chart(emulator)["fetched"][0] is None
        assert chart(emulator, range="90d")["fetched"].count(None) >= 88


def test_the_settings_tell_how_large_the_store_is_and_where_fetching_pauses() -> None:
    with site(every="1h", limits={"max_pending_bytes": 64 << 20}) as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "the page")
        until(lambda: chart(emulator)["complete"], "the past, which is kept in the store")
        until(lambda: "The whole store takes" in get(emulator, "/settings"), "the count")
        shown = get(emulator, "/settings")
        assert "At 64.0 MiB fetching pauses" in shown
        assert re.search(r"are free on its disk", shown)
        (told,) = re.findall(r"<tr><td>charts</td>.*?<td class=\"n\">(\d+)</td>", shown)
        assert int(told) >= 1


def test_script_and_style_are_small(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    sizes = {
        name: len(requests.get(emulator.url(f"/static/{name}"), timeout=10).content) for name in ("page.js", "page.css")
    }
    assert all(size > 1_000 for size in sizes.values())
    assert sum(sizes.values()) < 40_000


FILTER = "pipeline:\n  - dataTypes: [sophos-central]\n    steps:\n      - json: {source: raw}\n"
RULE = 'name: {0}\ndataTypes: [sophos-central]\nwhere: exists("log.type")\n'


def preview(emulator: Emulator, headers: dict[str, str] | None = None, **fields: str) -> requests.Response:
    (token, *_) = re.findall(r'name="token" value="([^"]+)"', get(emulator, "/confirm/reconcile"))
    data = {"token": token, "filter": FILTER, "rules": RULE.format("one"), "events": "simulator", **fields}
    return requests.post(emulator.url("/preview"), data=data, headers=headers, timeout=30)


def test_only_one_preview_is_made_at_a_time_and_only_of_what_is_whole_and_small(
    hourly: tuple[Site, Emulator],
) -> None:
    _, emulator = hourly
    missing = preview(emulator, rules="")
    assert (missing.status_code, missing.json()["detail"]) == (400, "There is no rule.")
    large = preview(emulator, rules="x" * (1 << 20))
    assert (large.status_code, large.json()["code"]) == (400, "bad_action")
    assert "1 MiB" in large.json()["detail"]
    many = json.dumps([{"name": f"r{number}", "where": 'exists("log.type")'} for number in range(200)])
    assert preview(emulator, rules=many).status_code == 200  # some seconds' work
    second = preview(emulator)
    assert (second.status_code, second.json()["detail"]) == (400, "A preview is under way.")
    until(lambda: 'id="result"' in get(emulator, "/preview"), "its end")
    assert "10\u202f080 events: 200 of 200 rules matched" in get(emulator, "/preview")


def test_a_preview_is_for_who_may_act_and_shown_to_nobody_else(hourly: tuple[Site, Emulator]) -> None:
    _, emulator = hourly
    passed_on = {"X-Forwarded-For": "192.0.2.7"}
    assert preview(emulator, passed_on).status_code in (401, 403)
    assert preview(emulator, rules=RULE.format("for few")).status_code == 200
    until(lambda: 'id="result"' in get(emulator, "/preview"), "its end")
    assert "for few" in get(emulator, "/preview")
    elsewhere = get(emulator, "/preview", passed_on)
    assert "for few" not in elsewhere
    assert "<textarea" not in elsewhere


def test_a_preview_of_the_stored_events_runs_the_filter_and_rules_of_this_utmstack() -> None:
    with site() as found:
        work = found.folder / "work"
        for path, text in (("pipeline/filters/sophos.yml", FILTER), ("rules/sophos/own.yml", RULE.format("own"))):
            (work / path).parent.mkdir(parents=True)
            (work / path).write_text(text)
        found.write_config(utmstack={"workdir": str(work)}, archive="1d")
        found.central.fill(40)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 40, "everything delivered")
            assert str(work) in get(emulator, "/preview")
            assert preview(emulator, source="workdir", filter="", rules="", events="1").status_code == 200
            until(lambda: 'id="result"' in get(emulator, "/preview"), "its end")
            shown = get(emulator, "/preview")
            assert "40 events: 1 of 1 rule matched" in shown
            assert str(work / "rules/sophos/own.yml") in shown
