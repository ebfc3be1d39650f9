"""The heartbeat goes the whole way, once a slot, and says what was interrupted."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.__main__ import main
from lib.config.environment import CONFIG
from lib.config.loading import parse
from lib.errors import ConfigError
from lib.http.cloud_events import FINALIZED
from lib.pipeline import attest, heartbeat
from lib.sophos.pages import event_fields
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.cloud_tasks import CloudTasks
from tests.site import ROOT, Emulator, Site, site, until

EVERY = timedelta(minutes=15)
NOON = datetime(2026, 3, 10, 12, 7, tzinfo=UTC)


def beat(state: State, now: datetime) -> str | None:
    return heartbeat.beat(state, EVERY, now=now, tenant_id="t", event_fields=event_fields)


def waiting(state: State) -> list[dict[str, Any]]:
    found = []
    for each in state.batches.waiting(heartbeat.STREAM):
        batch = state.batches.read(heartbeat.STREAM, each.sequence)
        assert batch is not None
        found += [json.loads(raw) for raw in batch.items]
    return found


def beats(found: Site) -> list[dict[str, Any]]:
    return [json.loads(log.raw) for log in list(found.engine.received) if log.dataType == heartbeat.DATA_TYPE]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.of(DirectoryStore(tmp_path / "store"))


def test_a_slot_has_one_heartbeat_and_the_next_slot_another(state: State) -> None:
    assert beat(state, NOON)
    assert beat(state, NOON + timedelta(minutes=7)) is None
    assert beat(state, NOON - timedelta(minutes=20)) is None  # a clock that was set back
    assert beat(state, NOON + timedelta(minutes=8))
    first, second = waiting(state)
    assert (first["created_at"], second["created_at"]) == ("2026-03-10T12:00:00.000000Z", "2026-03-10T12:15:00.000000Z")
    assert first["id"] != second["id"]
    assert (first["severity"], first["missed"], first["waiting"]) == ("low", 0, 0)


def test_instances_that_beat_at_once_make_one(state: State) -> None:
    made: list[str | None] = []
    threads = [threading.Thread(target=lambda: made.append(beat(state, NOON))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waiting(state)) == 1
    assert len([key for key in made if key]) == 1


def test_a_run_keeps_its_heartbeat_where_another_moves_the_checkpoint_past_it(tmp_path: Path) -> None:
    class Overtaken(DirectoryStore):
        def write(self, key: str, body: bytes, *, expected: int) -> int:
            if key.startswith("cursors/") and not overtaken:
                overtaken.append(beat(State.of(DirectoryStore(tmp_path)), NOON + EVERY))
            return super().write(key, body, expected=expected)

    overtaken: list[str | None] = []
    beat(State.of(DirectoryStore(tmp_path)), NOON)
    state = State.of(Overtaken(tmp_path))
    assert beat(state, NOON + EVERY) == list(state.store.list("batches/"))[-1].key
    assert overtaken == [None]


def test_it_says_how_many_were_missed_and_how_many_wait(state: State) -> None:
    beat(state, NOON)
    beat(state, NOON + 4 * EVERY)
    told = waiting(state)[-1]
    assert (told["severity"], told["missed"], told["waiting"]) == ("high", 3, 1)


@given(st.datetimes(datetime.fromisoformat("1970-01-02"), datetime.fromisoformat("2100-01-01")), st.integers(1, 10_000))
def test_a_slot_holds_its_time_and_the_same_for_all_times_in_it(moment: datetime, minutes: int) -> None:
    every, now = timedelta(minutes=minutes), moment.replace(tzinfo=UTC)
    slot = heartbeat.slot_of(now, every)
    assert slot <= now < slot + every
    assert heartbeat.slot_of(slot, every) == slot == heartbeat.slot_of(slot + every - timedelta(microseconds=1), every)


def test_it_goes_the_whole_way_and_counts_as_nobodys_event() -> None:
    with site(heartbeat="1h", every="1h") as found:
        found.central.emit(5)
        answer = json.loads(found.post("fetch-page").body)
        assert answer["heartbeat"].startswith("batches/connector/connector/heartbeat/")
        slot = heartbeat.slot_of(datetime.now(UTC), timedelta(hours=1))
        if heartbeat.slot_of(datetime.now(UTC), timedelta(hours=1)) == slot:
            assert "heartbeat" not in json.loads(found.post("fetch-page", {"max_pages": 1}).body)
        # A call for a stream is no tick.
        assert "heartbeat" not in json.loads(found.post("fetch-page", {"integration": "acme"}).body)
        found.results("forward-batch")
        (log,) = [each for each in found.engine.received if each.dataType == heartbeat.DATA_TYPE][:1]
        assert (log.dataSource, json.loads(log.raw)["type"]) == ("sophos-central-connector", "Connector::Heartbeat")
        status = found.command("status")
        assert [line["integration"] for line in status["streams"]] == ["acme"]
        assert (status["events"], status["acked"], status["ok"]) == (5, 5, True)
        told = status["heartbeat"]
        assert (told["every"], told["late"], told["waiting"]) == ("1h", False, 0)
        assert 0 <= told["round_trip_seconds"] < 3600
        assert audit(found.state)["ok"]
        (today,) = attest.counted(found.state, [log.timestamp[:10]], [heartbeat.STREAM]).values()
        assert sum(day.received for day in today) == 0


def test_one_that_does_not_arrive_is_late(state: State) -> None:
    assert heartbeat.shown(state, EVERY, NOON)["late"] is False
    now = datetime.now(UTC)
    beat(state, now)
    assert heartbeat.shown(state, EVERY, now + 2 * EVERY - timedelta(seconds=1))["late"] is False
    late = heartbeat.shown(state, EVERY, now + 2 * EVERY + timedelta(seconds=2))
    assert (late["late"], late["waiting"], late["round_trip_seconds"]) == (True, 1, None)


def test_the_emulator_hands_it_on_at_once_and_shows_its_round_trip() -> None:
    with site(heartbeat="1m") as found, Emulator(found) as emulator:
        until(lambda: bool(beats(found)), "the heartbeat")
        until(lambda: bool((emulator.status() or {}).get("heartbeat", {}).get("acked_at")), "its receipt")
        import requests

        metrics = requests.get(emulator.url("/metrics"), timeout=30).text
        assert "sophos_utmstack_heartbeat_round_trip_seconds " in metrics
        assert "sophos_utmstack_heartbeat_late 0.0" in metrics
        assert 'integration="connector"' not in metrics


def test_without_the_setting_there_is_none_and_a_wrong_one_is_refused() -> None:
    with site(every="1h") as found:
        assert "heartbeat" not in json.loads(found.post("fetch-page").body)
        found.results("forward-batch")
        assert not beats(found)
        assert "heartbeat" not in found.command("status")
    text = "integrations: [{name: a, client_id: b, client_secret: c}]\nheartbeat: "
    assert parse(text + "off").heartbeat is None
    assert parse(text + "15m").heartbeat == EVERY
    for wrong in ("30s", "15", "on"):
        with pytest.raises(ConfigError):
            parse(text + wrong)


def test_the_rule_for_utmstack_matches_a_heartbeat_after_an_interruption_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `preview` sees it, with the filter beside it."""
    monkeypatch.delenv(CONFIG, raising=False)
    told = [(0, 0), (1, 0), (0, 2)]
    raws = [
        heartbeat.event_of(NOON + number * EVERY, EVERY, missed=missed, waiting=waits).decode()
        for number, (missed, waits) in enumerate(told)
    ]
    fields = {"data_source": heartbeat.DATA_SOURCE, "timestamp": "2026-03-10T12:07:00Z", "tenant_id": "t"}
    events = tmp_path / "events.jsonl"
    lines = [
        fields | {"id": f"log-{number}", "data_type": heartbeat.DATA_TYPE, "raw": raw}
        for number, raw in enumerate(raws)
    ]
    events.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    files = ["--filter", "infra/utmstack/heartbeat-filter.yml", "--rules", "infra/utmstack/heartbeat-rule.yml"]
    named = [each if each.startswith("--") else str(ROOT / each) for each in files]
    assert main(["preview", *named, "--events", str(events), "--each"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    name = "Sophos Central connector heartbeat interrupted"
    assert [each["rules"] for each in found] == [[], [name], [name]]
    assert [each["fields"].get("log.missed") for each in found] == [0, 1, 0]
    main(["preview", *named, "--events", str(events), "--json"])
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert (rule["name"], rule["matches"], rule["never"]) == (name, 2, None)
    # The same from raw events, as `tail` prints them.
    events.write_text("".join(f"{raw}\n" for raw in raws))
    main(["preview", *named, "--events", str(events), "--json"])
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert (rule["matches"], rule["never"]) == (2, None)


def test_hosted_the_clocks_call_makes_it_and_the_calls_for_streams_do_not() -> None:
    with CloudTasks() as queue, site(heartbeat="1h", every="24h", tasks=queue.settings) as found:
        answer = json.loads(found.post("fetch-page").body)
        assert (answer["queued"], "heartbeat" in answer) == (1, True)
        assert queue.deliver(lambda body: found.function("fetch-page").call(body).status) == [200]
        event = {"bucket": "emulator", "name": answer["heartbeat"]}
        headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "//storage", "ce-type": FINALIZED}
        assert found.post("forward-batch", event, headers).status == 200
        assert len(beats(found)) == 1
