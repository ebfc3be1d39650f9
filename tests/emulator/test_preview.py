"""`preview` as an operator calls it: what it says of rules, from which events, and with which status it ends."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.__main__ import main
from lib.config.environment import CONFIG
from tests.site import Site, site

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests/data"
STEPS: list[dict[str, Any]] = [
    {"json": {"source": "raw"}},
    {"rename": {"from": ["log.endpointid"], "to": "log.endpointId"}},
    {"rename": {"from": ["log.location"], "to": "target.host", "where": 'exists("log.endpointId")'}},
    {
        "add": {
            "function": "string",
            "params": {"key": "severity", "value": "error"},
            "where": 'oneOf("log.severity", ["high", "critical"])',
        }
    },
]
EXPLOIT = "Event::Endpoint::HmpaExploitPrevented"


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG, raising=False)


class Folder:
    """A filter, rules and events in a folder, and the command on them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys
        (path / "rules").mkdir()
        self.filter(STEPS)

    def filter(self, steps: list[dict[str, Any]], **more: Any) -> None:
        pipeline = [{"dataTypes": ["sophos-central"], "steps": steps, **more}]
        (self.path / "filter.yml").write_text(yaml.safe_dump({"pipeline": pipeline}))

    def rule(self, name: str, where: str, **more: Any) -> None:
        fields = {"name": name, "dataTypes": ["sophos-central"], "where": where, **more}
        (self.path / f"rules/{name}.yml").write_text(yaml.safe_dump(fields))

    def events(self, *events: dict[str, Any], name: str = "events.jsonl") -> list[str]:
        lines = [json.dumps({"id": f"id-{number}", **each}) for number, each in enumerate(events)]
        (self.path / name).write_text("\n".join([*lines, ""]))
        return ["--events", str(self.path / name)]

    def run(self, *arguments: str, status: int = 0) -> str:
        names = ["--filter", str(self.path / "filter.yml"), "--rules", str(self.path / "rules")]
        assert main(["preview", *names, *arguments]) == status
        return self._capsys.readouterr().out

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*arguments, "--json", status=status))
        return found

    def each(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--each", status=status).split("\n") if line]

    def never(self, *arguments: str, status: int = 1) -> dict[str, str | None]:
        return {each["name"]: each["never"] for each in self.json(*arguments, status=status)["rules"]}


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


def test_the_report_tells_fields_matches_and_what_nothing_looks_at(folder: Folder) -> None:
    folder.rule("exploit", f'equals("log.type", "{EXPLOIT}") && exists("target.host")')
    events = folder.events(
        {"type": EXPLOIT, "endpoint_id": "e", "location": "WS-1", "severity": "high"},
        {"type": EXPLOIT, "endpoint_id": "e", "location": "WS-2"},
        {"type": EXPLOIT},
        {"type": "Event::Endpoint::UpdateSuccess", "severity": "low"},
    )
    assert folder.json(*events) == {
        "ok": True,
        "events": 4,
        "types": {
            EXPLOIT: {
                "count": 3,
                "fields": ["log.endpointId", "log.id", "log.severity", "log.type", "severity", "target.host"],
            },
            "Event::Endpoint::UpdateSuccess": {"count": 1, "fields": ["log.id", "log.severity", "log.type"]},
        },
        "rules": [
            {
                "name": "exploit",
                "file": str(folder.path / "rules/exploit.yml"),
                "matches": 2,
                "example": "id-0",
                "never": None,
            }
        ],
        "unmatched_types": ["Event::Endpoint::UpdateSuccess"],
        "not_evaluated": [],
    }


def test_each_event_s_line_has_its_fields_as_utmstack_shows_them(folder: Folder) -> None:
    folder.rule("exploit", f'equals("log.type", "{EXPLOIT}")')
    folder.rule("any", "true")
    lines = folder.each(*folder.events({"type": EXPLOIT, "location": "WS-ÄÖ", "tags": ["a", {"b": 1}]}, {"type": 5}))
    assert lines == [
        {
            "id": "id-0",
            "type": EXPLOIT,
            "fields": {
                "log.id": "id-0",
                "log.type": EXPLOIT,
                "log.location": "WS-ÄÖ",
                "log.tags.0": "a",
                "log.tags.1.b": 1,
            },
            "rules": ["any", "exploit"],
        },
        {"id": "id-1", "type": "", "fields": {"log.id": "id-1", "log.type": 5}, "rules": ["any"]},
    ]


def test_people_get_tables_and_are_told_that_it_is_not_the_engine(folder: Folder) -> None:
    folder.rule("exploit", f'equals("log.type", "{EXPLOIT}")', afterEvents=[{"within": "5m", "count": 2}])
    folder.rule("phishing", 'equals("log.type", "Event::Email::Phishing")')
    told = folder.run(*folder.events({"type": EXPLOIT}), status=1)
    assert re.search(r"^exploit +1 +candidate +id-0$", told, re.MULTILINE)
    assert re.search(r"^phishing +0 +never +-$", told, re.MULTILINE)
    assert 'NEVER  phishing: Sophos sends no type that is "Event::Email::Phishing"' in told
    assert "not UTMStack's closed engine" in told


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ('equals("log.type", "Event::Smc::Invented")', 'Sophos sends no type that is "Event::Smc::Invented"'),
        ('oneOf("log.type", ["mtr_alert", "threat_case"])', "mtr_alert"),
        ('regexMatch("log.type", "^Event::Email")', "Sophos sends no type that matches"),
        ('equals("log.threatName", "x")', "no event has the field log.threatName"),
        ('equals("event.threatName", "x")', "no event has the field event.threatName"),
        (f'equals("log.type", "{EXPLOIT}") && exists("log.absent")', "no event has the field log.absent"),
        ('equals("log.group", "EMAIL")', 'no event has a log.group that is "EMAIL": seen: "MALWARE"'),
        ('contains("log.name", ["Phishing", "Spam"])', 'contains "Phishing", "Spam"'),
        ('greaterThan("log.score", 90)', "is more than 90: seen: 10"),
        ('exists("log.no1") || equals("log.group", "EMAIL")', "log.no1; no event has a log.group"),
        ('log.absent == "x"', "no event has the field log.absent"),
        ('safe(log.type, "") == "x"', "needs quotes: log.type"),
        ('log.type =~ "x"', "cannot evaluate it: not valid CEL"),
        ('oneof("log.type", ["x"])', "did you mean oneOf()?"),
        ('regexMatch("log.name", "(?=x)")', "regexMatch of log.name: it matches nothing: the regular expression"),
        ('inCIDR("log.name", "192.0.2")', "'192.0.2' is not a network"),
    ],
)
def test_a_rule_that_can_never_match_says_why(folder: Folder, where: str, reason: str) -> None:
    folder.rule("r", where)
    events = folder.events({"type": EXPLOIT, "group": "MALWARE", "name": "Exploit", "score": 10})
    told = folder.never(*events)["r"]
    assert told is not None
    assert reason in told


@pytest.mark.parametrize(
    "where",
    [
        'equals("log.type", "Event::Endpoint::CoreDetection")',  # Sophos lists it.
        'equals("action", "Event::Endpoint::CoreDetection")',  # The type, under another name.
        'equals("log.severity", "critical")',  # A severity that Sophos has.
        'equals("severity", "error")',  # The filter writes it, of events that may come.
        'equals("log.group", "MALWARE") && equals("log.score", 2)',  # Each is seen, though not together.
        'exists("log.absent") || equals("log.type", "Event::Endpoint::CoreDetection")',
        '!exists("log.type")',
        'equals("origin.geolocation.country", "France")',  # A plugin would make it, which is not run.
    ],
)
def test_a_rule_that_could_still_match_is_silent_and_no_more(folder: Folder, where: str) -> None:
    plugin = {"plugin": "com.utmstack.geolocation", "params": {"source": "x", "destination": "origin.geolocation"}}
    copy = {"grok": {"source": "log.type", "patterns": [{"fieldName": "action", "pattern": "(?s)^.+$"}]}}
    folder.filter([*STEPS, copy, {"dynamic": {**plugin, "where": 'exists("origin.ip")'}}])
    folder.rule("r", where)
    events = folder.events(
        {"type": EXPLOIT, "group": "MALWARE", "score": 1}, {"type": EXPLOIT, "group": "PUA", "score": 2}
    )
    assert folder.never(*events, status=0) == {"r": None}


def test_a_rule_of_a_data_type_that_is_not_sent_can_never_match(folder: Folder) -> None:
    folder.rule("windows", "true", dataTypes=["wineventlog"])
    folder.rule("both", "true", dataTypes=["wineventlog", "sophos-central"])
    told = folder.never(*folder.events({"type": EXPLOIT}))
    assert told["windows"] is not None
    assert "data type wineventlog is sent; the sent data types are sophos-central" in told["windows"]
    assert told["both"] is None


def test_a_match_whose_search_misses_its_field_is_no_candidate_that_could_become_an_alert(folder: Folder) -> None:
    search = [{"with": [{"field": "origin.ip", "operator": "filter_term", "value": "{{.origin.ip}}"}], "count": 3}]
    folder.rule("r", "true", afterEvents=search)
    found = folder.json(*folder.events({"type": EXPLOIT}, {"type": EXPLOIT}), status=1)
    assert found["rules"][0]["matches"] == 2
    told = {each["what"]: each["count"] for each in found["not_evaluated"]}
    assert [count for what, count in told.items() if "needs origin.ip" in what] == [2]
    assert [count for what, count in told.items() if "candidate" in what] == [2]


def test_alerts_without_the_event_that_caused_them_are_counted(folder: Folder) -> None:
    folder.rule("any", "true")
    alerts = [{"id": id_, "data": {"event_service_event_id": id_}} for id_ in ("e-1", "e-2", "e-1")]
    given = folder.events({"id": "e-1", "type": EXPLOIT}, *alerts)
    assert folder.json(*given, status=1)["links"] == {"alerts": 2, "alerts_without_event": 1}
    assert "2 alerts, 1 of them without their event." in folder.run(*given, status=1)


@pytest.mark.parametrize(
    ("search", "fault"),
    [
        ({"with": [{"field": "a", "operator": "filter_term", "value": "{{log.type}}"}]}, "write '{{.log.type}}'"),
        ({"with": [{"field": "a", "operator": "filter_term", "value": "{{ .log.type }}"}]}, "write '{{.log.type}}'"),
        ({"with": [{"field": "a", "operator": "term", "value": "x"}]}, "does not know the operator 'term'"),
        ({"within": "now-15m"}, "`within: now-15m` is no duration"),
        ({"within": "7d"}, "`within: 7d` is no duration"),
        ({"or": [{"within": "1 h"}]}, "`within: 1 h` is no duration"),
    ],
)
def test_a_search_that_does_not_do_what_it_says_is_named(folder: Folder, search: dict[str, Any], fault: str) -> None:
    folder.rule("r", "true", afterEvents=[{"within": "1h30m", "count": 2, **search}])
    found = folder.json(*folder.events({"type": EXPLOIT}), status=1)
    told = [each for each in found["not_evaluated"] if fault in each["what"]]
    assert [(each["count"], "rules" in each["where"] or ": r" in each["where"]) for each in told] == [(1, True)]


def test_correlation_and_plugins_are_limits_that_are_listed_and_no_faults(folder: Folder) -> None:
    folder.filter([*STEPS, {"dynamic": {"plugin": "com.utmstack.geolocation", "params": {}}}])
    folder.rule("r", 'equals("event.severity", "high")', correlation=[{"within": "5m", "count": 2}])
    found = folder.json(*folder.events({"type": EXPLOIT, "severity": "high"}, {"type": EXPLOIT}))
    assert found["ok"] is True
    assert [(each["count"]) for each in found["not_evaluated"]] == [2, 1, 2]


def test_the_time_when_the_engine_gets_an_event_is_not_known_here(folder: Folder) -> None:
    folder.rule("night", 'exists("@timestamp") && isBetweenTime("@timestamp", "22:00", "23:00")')
    folder.rule("sunday", 'isDayOfWeek("deviceTime", 0)')  # The engine writes @timestamp there if the filter does not.
    found = folder.json(*folder.events({"type": EXPLOIT}))
    assert [(rule["matches"], rule["never"]) for rule in found["rules"]] == [(0, None), (0, None)]
    assert [each["count"] for each in found["not_evaluated"] if "asks for @timestamp" in each["what"]] == [1]


def test_without_an_event_nothing_is_well(folder: Folder) -> None:
    folder.rule("any", "true")
    assert folder.json(*folder.events(), status=1)["events"] == 0
    assert "There was no event" in folder.run(*folder.events(), status=1)


def test_a_week_of_the_simulator_where_nothing_else_is_named(folder: Folder) -> None:
    folder.rule("exploit", f'equals("log.type", "{EXPLOIT}")')
    found = folder.json()
    assert found["events"] == 7 * 24 * 60
    assert len(found["types"]) > 40
    assert 50 < found["rules"][0]["matches"] < 500


# Alerts are not asked for where nothing says so: a rule on them is blind then.
@pytest.mark.parametrize(("kind", "status"), [("events", 1), ("alerts", 0)])
def test_sophos_s_samples_are_events_of_their_data_type(folder: Folder, kind: str, status: int) -> None:
    folder.filter(STEPS[:1], dataTypes=["sophos-central", "sophos-central-alerts"])
    folder.rule("events", 'exists("log.id")')
    folder.rule("alerts", 'exists("log.id")', dataTypes=["sophos-central-alerts"])
    lines = folder.each("--events", str(SAMPLES / f"sample-{kind}.jsonl"), status=status)
    assert len(lines) == len((SAMPLES / f"sample-{kind}.jsonl").read_bytes().splitlines())
    assert {name for each in lines for name in each["rules"]} == {kind}


def test_a_recording_is_read_page_by_page_and_nothing_of_it_but_items(folder: Folder) -> None:
    folder.rule("any", "true")
    pages = [
        {"recording": 1},
        {"items": [{"id": "a"}, {"id": "b"}], "has_more": True},
        {"items": []},
        {"items": [{"id": "c"}]},
    ]
    file = folder.path / "pages.jsonl"
    file.write_text("\n".join(map(json.dumps, pages)))
    assert [each["id"] for each in folder.each("--recording", str(file))] == ["a", "b", "c"]
    assert len(folder.each("--events", str(file))) == 4


def test_an_event_with_items_of_its_own_is_no_page(folder: Folder) -> None:
    folder.rule("files", 'equals("log.items.#(type==\\"file\\").path", "/a") && equals("log.items.#", 2)')
    events = folder.events({"type": EXPLOIT, "items": [{"type": "process"}, {"type": "file", "path": "/a"}]})
    assert [(line["type"], line["rules"]) for line in folder.each(*events)] == [(EXPLOIT, ["files"])]


def test_a_recorded_page_says_of_which_kind_its_items_are(folder: Folder) -> None:
    folder.rule("events", "true")
    folder.rule("alerts", "true", dataTypes=["sophos-central-alerts"])
    folder.filter(STEPS[:1], dataTypes=["sophos-central", "sophos-central-alerts"])
    pages = [{"kind": "alerts", "items": [{"id": "a"}]}, {"kind": "events", "items": [{"id": "b"}, "no object"]}]
    file = folder.path / "pages.jsonl"
    file.write_text("\n".join(map(json.dumps, pages)))
    assert [each["rules"] for each in folder.each("--recording", str(file), status=1)] == [
        ["alerts"],
        ["events"],
        ["events"],
    ]


def preview(found: Site, folder: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    names = ["--filter", str(folder / "filter.yml"), "--rules", str(folder / "rules")]
    return found.command("preview", *names, *arguments, status=status)


def test_the_store_s_events_are_looked_at_once_whether_kept_waiting_or_set_aside(folder: Folder) -> None:
    folder.rule("any", "true")
    with site(archive="7d") as found:
        found.central.fill(30)
        found.results("fetch-page")
        assert preview(found, folder.path, "--since", "1h")["events"] == 30
        found.results("forward-batch")
        kept = next((found.folder / "store/archive").rglob("*.gz"))
        assert preview(found, folder.path, "--since", "1h")["events"] == 30
        found.central.emit(5)
        found.results("fetch-page")
        assert preview(found, folder.path, "--since", "1h")["events"] == 35
        assert preview(found, folder.path, "--events", str(kept))["events"] == 30
        plain = folder.path / "batch.ndjson"
        plain.write_bytes(gzip.decompress(kept.read_bytes()))
        assert preview(found, folder.path, "--events", str(plain))["events"] == 30
        # Set aside too, it is still one event.
        raw = plain.read_text().splitlines()[1]
        assert "Event::" in raw
        log = {"id": "1", "data_type": "sophos-central", "data_source": "a", "timestamp": "t", "tenant_id": "t"}
        dead = found.folder / "store/dead/acme/t/events/00000000000000000001.ndjson"
        dead.parent.mkdir(parents=True)
        dead.write_text(json.dumps({**log, "raw": raw}) + "\n" + json.dumps({**log, "raw": '{"id": "other"}'}))
        assert preview(found, folder.path, "--since", "1h")["events"] == 36


def test_what_is_damaged_in_the_store_is_named(folder: Folder) -> None:
    folder.rule("any", "true")
    with site(archive="7d") as found:
        found.central.fill(3)
        found.results("fetch-page")
        found.results("forward-batch")
        found.central.emit(2)
        found.results("fetch-page")
        store = found.folder / "store"
        kept, waiting = (
            next(each for each in (store / name).rglob("*") if each.is_file()) for name in ("archive", "batches")
        )
        kept.write_bytes(kept.read_bytes()[:40])
        waiting.write_bytes(b"{}\n")
        (store / "dead/acme/t/events").mkdir(parents=True)
        (store / "dead/acme/t/events/00000000000000000001.ndjson").write_text("{}\n{}\n")
        told = preview(found, folder.path, "--since", "1h", status=1)
        assert told["events"] == 0
        named = {each["where"].split("/")[0]: each["count"] for each in told["not_evaluated"]}
        assert named == {"archive": 1, "batches": 1, "dead": 2}


def test_set_aside_events_are_looked_at_under_their_own_data_type(folder: Folder) -> None:
    folder.filter(STEPS[:1], dataTypes=["other-type"])
    folder.rule("other", 'equals("dataSource", "elsewhere")', dataTypes=["other-type"])
    log = {"id": "1", "data_type": "other-type", "data_source": "elsewhere", "timestamp": "t", "tenant_id": "t"}
    with site(archive="7d") as found:
        dead = found.folder / "store/dead/acme/t/events"
        dead.mkdir(parents=True)
        line = json.dumps({**log, "raw": json.dumps({"id": "x", "type": EXPLOIT})})
        (dead / "00000000000000000001.ndjson").write_text(line + "\n")
        told = preview(found, folder.path, "--since", "1h")
        assert (told["events"], told["rules"][0]["matches"]) == (1, 1)
        assert preview(found, folder.path, "--events", str(dead / "00000000000000000001.ndjson"))["events"] == 1


def test_a_rule_goes_blind_where_the_configuration_leaves_its_types_out(folder: Folder) -> None:
    folder.rule("exploit", f'equals("log.type", "{EXPLOIT}")')
    folder.rule("web", 'oneOf("log.type", ["Event::Endpoint::WebControlViolation"])')
    folder.rule("both", f'oneOf("log.type", ["{EXPLOIT}", "Event::Endpoint::WebControlViolation"])')
    events = folder.events({"type": EXPLOIT}, {"type": "Event::Endpoint::WebControlViolation"})
    integration = {"name": "acme", "client_id": "c", "client_secret": "s", "exclude_types": ["family:web_control"]}
    with site(integrations=[integration]) as found:
        told = {each["name"]: each for each in preview(found, folder.path, *events, status=1)["rules"]}
        assert told["web"]["matches"] == 0
        assert "`exclude_types` of acme leaves out Event::Endpoint::WebControlViolation" in told["web"]["never"]
        assert [told[name]["never"] for name in ("exploit", "both")] == [None, None]
        assert told["both"]["matches"] == 1
        # Another integration still asks for them.
        found.write_config(integrations=[integration, {**integration, "name": "b", "exclude_types": []}])
        assert preview(found, folder.path, *events)["rules"][2]["matches"] == 1


def refused(folder: Folder, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    names = ["--filter", str(folder.path / "filter.yml"), "--rules", str(folder.path / "rules")]
    assert main(["preview", *names, *arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("filter.yml", "pipeline:\n  - steps:\n    - {a: b\n", "filter.yml, line "),
        ("filter.yml", "steps: []\n", "filter.yml, line 1: holds no filter"),
        ("filter.yml", "pipeline:\n- dataTypes: [a]\n  steps:\n  - json: {}\n  - text\n", "line 2: step 2 is not"),
        ("filter.yml", "pipeline:\n- steps: 5\n", "line 2: a stage of `pipeline` needs a list"),
        ("rules/r.yml", "name: r\nwhere: [\n", "r.yml, line "),
        ("rules/r.yml", "# none\n\n- dataTypes: [a]\n", "r.yml, line 3: is not a rule"),
        ("rules/r.yml", "\tname: r\n", "r.yml, line 1"),
        ("rules/r.yml", b"name: \xff\n", "r.yml is not UTF-8"),
        ("events.jsonl", '{"id": "a"}\n[]\n', "events.jsonl, line 2: it is not a JSON object"),
        ("events.jsonl", '{"id": "a"}\nnot json\n', "events.jsonl, line 2: it is not a JSON object"),
        ("events.jsonl", b"\x1f\x8bxx", "events.jsonl cannot be read"),
        ("events.jsonl", gzip.compress(b'{"id": "a"}', mtime=0)[:10] + b"\xff" * 20, "events.jsonl cannot be read"),
    ],
)
def test_a_fault_in_a_file_is_told_with_its_line(
    folder: Folder, capsys: pytest.CaptureFixture[str], file: str, text: str | bytes, told: str
) -> None:
    folder.rule("r", "true")
    folder.events({"id": "a"})
    (folder.path / file).write_bytes(text.encode() if isinstance(text, str) else text)
    assert told in refused(folder, capsys, "--events", str(folder.path / "events.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--events", "/nowhere/events.jsonl"), "/nowhere/events.jsonl cannot be read"),
        (("--recording", "/nowhere/pages.jsonl"), "/nowhere/pages.jsonl cannot be read"),
        (("--since", "7d"), "no configuration is named"),
        (("--config", "/nowhere/c.yaml"), "/nowhere/c.yaml cannot be read"),
    ],
)
def test_what_is_not_there_is_named(
    folder: Folder, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    folder.rule("r", "true")
    assert told in refused(folder, capsys, *arguments)


def test_rules_that_are_not_there_a_bad_duration_and_a_store_that_was_never_made_are_refused(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no rule in" in refused(folder, capsys)
    assert "neither a file nor a folder" in refused(folder, capsys, "--rules", "/nowhere")
    folder.rule("r", "true")
    with site() as found:
        config = ("--config", str(found.config))
        assert "not a duration" in refused(folder, capsys, *config, "--since", "monday")
        assert "there is no store at" in refused(folder, capsys, *config, "--since", "7d")
        assert not (found.folder / "store").exists()


def test_a_refusal_is_json_where_json_is_asked_for(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--filter", "/nowhere", "--rules", "/nowhere"]
    assert main(["preview", *names, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert "/nowhere" in told["problem"]["detail"]


def test_rules_in_one_file_as_a_list_in_documents_and_below_a_key(folder: Folder) -> None:
    (folder.path / "rules/list.yml").write_text("- name: a\n  where: 'true'\n- name: b\n  where: true\n")
    (folder.path / "rules/docs.yaml").write_text("name: c\nwhere: 'true'\n---\nrules:\n- name: d\n  where: 'false'\n")
    (folder.path / "rules/deeper").mkdir()
    (folder.path / "rules/deeper/more.yml").write_text("name: e\ndataTypes: sophos-central\nwhere: |\n  true\n")
    (folder.path / "rules/notes.txt").write_text("not a rule")
    lines = folder.each(*folder.events({"id": "x"}), status=1)
    assert sorted(lines[0]["rules"]) == ["a", "b", "c", "e"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_commands_of_the_documentation_run_as_it_says(tmp_path: Path) -> None:
    """On the filter and the rules that it shows itself."""
    text = (ROOT / "docs/preview.md").read_text()
    files = re.findall(r"`([\w/]+\.yml)`:\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["sophos_central.yml", "rules/exploit.yml", "rules/phishing.yml"]
    (tmp_path / "rules").mkdir()
    for name, body in files:
        (tmp_path / name).write_text(body)
    sample = (SAMPLES / "sample-events.jsonl").read_bytes()
    (tmp_path / "events.jsonl").write_bytes(sample)
    (tmp_path / "pages.jsonl").write_text(json.dumps({"items": [json.loads(line) for line in sample.splitlines()]}))
    (tmp_path / "store").mkdir()
    integration = {"name": "acme", "client_id": "c", "client_secret": "s"}
    config = {"store": "file:store", "engine": "unix:/tmp/none.sock", "integrations": [integration]}
    (tmp_path / "connector.yaml").write_text(yaml.safe_dump(config))
    commands = [line for block in blocks(text, "sh") for line in block.splitlines()]
    assert len(commands) == 6
    for line in commands:
        name, *words = shlex.split(line)
        assert name == "sophos-utmstack"
        done = subprocess.run(
            [sys.executable, "-m", "emulator", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 1, line + done.stdout + done.stderr
        assert done.stderr == ""
        if "--each" not in words:
            assert "Phishing mail" in done.stdout
