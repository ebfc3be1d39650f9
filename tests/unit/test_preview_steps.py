"""Each step of a filter does what the public sources show of the engine's, and no step is guessed."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emulator.preview.events import Event, Site
from emulator.preview.files import read_filters, read_rules
from emulator.preview.session import Outcome, Session
from lib.model.batch import Envelope

ENVELOPE = Envelope("sophos-central", "acme", "t")
RULE = {"name": "any", "where": "true"}


def session(folder: Path, *pipelines: Any, rules: Any = RULE, **more: Any) -> Session:
    stages = [each if "steps" in each else {"dataTypes": ["sophos-central"], "steps": [each]} for each in pipelines]
    (folder / "filter.yml").write_text(yaml.safe_dump({"pipeline": stages, **more}))
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    return Session(read_filters([str(folder / "filter.yml")]), read_rules([str(folder / "rules.yml")]), Site())


def run(found: Session, event: object, data_type: str = "sophos-central") -> Outcome:
    raw = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
    return found.run(Event(raw, Envelope(data_type, "acme", "t")))


def fields(folder: Path, event: object, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = session(folder, {"dataTypes": ["sophos-central"], "steps": list(steps)}, **more)
    return run(found, event).fields


JSON = {"json": {"source": "raw"}}


def test_json_puts_letters_digits_and_dots_of_outermost_keys_below_log(tmp_path: Path) -> None:
    event = {
        "customer_id": "c",
        "source_info": {"ip": "192.0.2.1", "a_b": [{"c_d": 1}]},
        "täg": "x",
        "a.b": 2,
        "when": None,
        "n": 1.0,
        "big": 2**60 + 1,
        "text": "山田 & <b>",
        "empty": {},
        "list": [],
        "_": 1,
    }
    assert fields(tmp_path, event, JSON) == {
        "log.customerid": "c",
        "log.sourceinfo.ip": "192.0.2.1",
        "log.sourceinfo.a_b.0.c_d": 1,
        "log.tg": "x",
        "log.a.b": 2,
        "log.when": None,
        "log.n": 1,
        "log.big": float(2**60),
        "log.text": "山田 & <b>",
        "log.list": [],
    }


def test_a_filter_for_a_newer_engine_keeps_underscores_and_writes_below_event(tmp_path: Path) -> None:
    steps = (JSON, {"rename": {"from": ["event.customer_id"], "to": "event.customerId"}})
    found = fields(tmp_path, {"customer_id": "c", "endpoint_id": "e", "a-b": 1}, *steps)
    assert found == {"event.customerId": "c", "event.endpoint_id": "e", "event.ab": 1}


def test_a_filter_that_reads_squeezed_keys_is_for_an_older_engine_whatever_else_it_writes(tmp_path: Path) -> None:
    steps = (
        JSON,
        {"rename": {"from": ["log.customerid"], "to": "log.its_customer"}},
        {"add": {"function": "string", "params": {"key": "log.my_mark", "value": 1}}},
    )
    found = fields(tmp_path, {"customer_id": "c", "endpoint_id": "e"}, *steps)
    assert found == {"log.itscustomer": "c", "log.endpointid": "e", "log.mymark": "1"}


@pytest.mark.parametrize("raw", [b"no json", b"[1]", b'"text"', b"", b"{"])
def test_json_of_no_object_fails_and_the_event_goes_on(tmp_path: Path, raw: bytes) -> None:
    mark = {"add": {"function": "string", "params": {"key": "action", "value": "seen"}}}
    found = session(tmp_path, {"steps": [JSON, mark]})
    assert run(found, raw).fields == {"action": "seen"}
    assert [each.count for each in found.not_evaluated()][:1] == [1]


def test_json_reads_another_field_too(tmp_path: Path) -> None:
    step = {"json": {"source": "log.inner", "where": 'startsWith("log.inner", "{")'}}
    assert fields(tmp_path, {"inner": '{"x_y": 1}'}, JSON, step) == {"log.inner": '{"x_y": 1}', "log.xy": 1}
    assert fields(tmp_path, {"inner": "text"}, JSON, step) == {"log.inner": "text"}


def test_rename_moves_every_source_that_is_there_and_the_last_one_stays(tmp_path: Path) -> None:
    step = {"rename": {"from": ["log.a", "log.b", "log.absent"], "to": "target.user"}}
    assert fields(tmp_path, {"a": "1st", "b": "2nd", "c": 3}, JSON, step) == {"target.user": "2nd", "log.c": 3}
    assert fields(tmp_path, {"a": "1st"}, JSON, step) == {"target.user": "1st"}
    assert fields(tmp_path, {"c": 3}, JSON, step) == {"log.c": 3}


@pytest.mark.parametrize(
    ("source", "to", "event", "found"),
    [
        ("log.a", "log.b", {"a": "new", "b": {"c": 1}}, {"log.b": "new"}),
        ("log.a", "log.b.c", {"a": "new", "b": "old"}, {"log.b.c": "new"}),
        ("log.a", "log.a", {"a": "x", "k": 1}, {"log.k": 1}),
        ("log.l.0.ip", "target.ip", {"l": [{"ip": "192.0.2.9"}, {"n": 2}]}, {"target.ip": "192.0.2.9", "log.l.1.n": 2}),
        ("log.l.0", "log.z", {"l": ["a", "b"]}, {"log.z": "a", "log.l.0": "b"}),
    ],
)
def test_rename_replaces_what_stands_at_its_target_and_then_removes_its_source(
    tmp_path: Path, source: str, to: str, event: dict[str, Any], found: dict[str, Any]
) -> None:
    assert fields(tmp_path, event, JSON, {"rename": {"from": [source], "to": to}}) == found


@pytest.mark.parametrize(
    ("value", "renamed"),
    [
        ({"b": [1, 2.5], "a": "<x>"}, '{"a":"\\u003cx\\u003e","b":[1,2.5]}'),
        ([{"x": True}], '[{"x":true}]'),
        (None, ""),
        (7, 7),
        (False, False),
    ],
)
def test_rename_makes_text_of_objects_and_lists_and_keeps_other_values(
    tmp_path: Path, value: object, renamed: object
) -> None:
    found = fields(tmp_path, {"a": value}, JSON, {"rename": {"from": ["log.a"], "to": "log.z"}})
    assert found == {"log.z": renamed}


def test_what_was_renamed_has_no_paths_below_it_any_more(tmp_path: Path) -> None:
    steps = (
        JSON,
        {"rename": {"from": ["log.coreremedyitems"], "to": "log.remedy"}},
        {"grok": {"source": "log.remedy.items.0.path", "patterns": [{"fieldName": "target.path", "pattern": ".+"}]}},
    )
    found = fields(tmp_path, {"core_remedy_items": {"items": [{"path": "C:\\x"}]}}, *steps)
    assert found == {"log.remedy": '{"items":[{"path":"C:\\\\x"}]}'}


@pytest.mark.parametrize(
    ("to", "value", "cast"),
    [
        ("int", "42", 42),
        ("int", "-7", -7),
        ("int", "4.2", 0),
        ("int", "x", 0),
        ("int", 4.9, 4),
        ("int", True, 0),
        ("int", None, 0),
        ("int", str(2**63), 0),
        ("float", "4.25", 4.25),
        ("float", "4", 4),
        ("float", "x", 0),
        ("float", 3, 3),
        ("string", 4769, "4769"),
        ("string", 4.5, "4.5"),
        ("string", 12345678.5, "1.23456785e+07"),
        ("string", True, "true"),
        ("string", None, ""),
        ("string", [{"Name": "a"}], '[{"Name":"a"}]'),
        ("bool", "true", True),
        ("bool", "T", True),
        ("bool", "yes", False),
        ("bool", 1, True),
        ("bool", 0, False),
    ],
)
def test_cast(tmp_path: Path, to: str, value: object, cast: object) -> None:
    found = fields(tmp_path, {"a": value}, JSON, {"cast": {"fields": ["log.a", "log.absent"], "to": to}})
    assert found == {"log.a": cast}
    assert type(found["log.a"]) is type(cast)


def test_cast_to_a_list_of_texts(tmp_path: Path) -> None:
    found = fields(tmp_path, {"a": [1, "x"], "b": 2}, JSON, {"cast": {"fields": ["log.a", "log.b"], "to": "[]string"}})
    assert found == {"log.a.0": "1", "log.a.1": "x", "log.b.0": "2"}


@given(value=st.integers(-(2**53), 2**53))
def test_a_whole_number_survives_being_text(value: int) -> None:
    casts = [{"cast": {"fields": ["log.a"], "to": to}} for to in ("string", "int")]
    with tempfile.TemporaryDirectory() as folder:
        assert fields(Path(folder), {"a": value}, JSON, *casts) == {"log.a": value}


def test_delete_removes_fields_and_whole_objects(tmp_path: Path) -> None:
    step = {"delete": {"fields": ["log.a", "log.b.c", "log.absent.x", "log.l.0"]}}
    event = {"a": 1, "b": {"c": 2, "d": 3}, "l": [1, 2], "k": "keep"}
    assert fields(tmp_path, event, JSON, step) == {"log.b.d": 3, "log.l.0": 2, "log.k": "keep"}


@pytest.mark.parametrize(
    "step",
    [
        {"delete": {"fields": ["log.a", "raw"]}},
        {"rename": {"from": ["log.a", "raw"], "to": "log.b"}},
        {"cast": {"fields": ["@timestamp", "log.a"], "to": "int"}},
        {"trim": {"fields": ["log.a", "raw"], "function": "prefix", "substring": "a"}},
    ],
)
def test_a_step_with_a_reserved_field_does_nothing(tmp_path: Path, step: dict[str, Any]) -> None:
    found = session(tmp_path, {"steps": [JSON, step]}, rules={"name": "r", "where": 'contains("raw", "keep")'})
    outcome = run(found, {"a": "a", "k": "keep"})
    assert (outcome.fields, outcome.rules) == ({"log.a": "a", "log.k": "keep"}, ("r",))
    assert ["no step can change" in remark.what for remark in found.not_evaluated()] == [True]
    assert outcome.rules == ("r",)
    assert fields(tmp_path, {"a": 1}, JSON, {"delete": {"fields": ["log"]}}) == {}


def grok(source: str, *patterns: tuple[str, str], **more: object) -> dict[str, Any]:
    return {"grok": {"source": source, "patterns": [{"fieldName": n, "pattern": p} for n, p in patterns], **more}}


def test_grok_applies_its_patterns_one_behind_the_other(tmp_path: Path) -> None:
    step = grok(
        "log.line", ("log.first", r"\d+"), ("", "{{.space}}|:"), ("origin.ip", "{{.ipv4}}"), ("log.r", "{{.greedy}}")
    )
    found = fields(tmp_path, {"line": " 17: 192.0.2.9  the rest "}, JSON, step)
    assert found == {
        "log.line": " 17: 192.0.2.9  the rest ",
        "log.first": "17",
        "origin.ip": "192.0.2.9",
        "log.r": "the rest",
    }


@pytest.mark.parametrize("line", ["x 17", "17", "", "17 y"])
def test_grok_writes_nothing_unless_all_of_them_match_where_the_text_begins(tmp_path: Path, line: str) -> None:
    step = grok("log.line", ("log.a", r"\d+"), ("log.b", "x"))
    assert fields(tmp_path, {"line": line}, JSON, step) == {"log.line": line}


def test_grok_reads_raw_where_it_names_no_source_and_numbers_as_text(tmp_path: Path) -> None:
    step = {"grok": {"patterns": [{"fieldName": "log.all", "pattern": "(?s)^.+$"}]}}
    assert fields(tmp_path, {"a": 1}, step) == {"log.all": '{"a": 1}'}
    assert fields(tmp_path, {"a": 17}, JSON, grok("log.a", ("log.b", "."))) == {"log.a": 17, "log.b": "1"}


def test_a_filter_may_name_patterns_of_its_own(tmp_path: Path) -> None:
    step = grok("log.a", ("action", "{{.verdict}}"))
    found = fields(tmp_path, {"a": "blocked now"}, JSON, step, patterns={"verdict": "blocked|{{.word}}"})
    assert found["action"] == "blocked"


def test_kv_splits_and_keeps_text(tmp_path: Path) -> None:
    step = {"kv": {"source": "log.line", "fieldSplit": " ", "valueSplit": "="}}
    line = 'src=192.0.2.1 a_b=1 msg="two words" odd = x url=http://x/?q=1'
    assert fields(tmp_path, {"line": line}, JSON, step) == {
        "log.line": line,
        "log.src": "192.0.2.1",
        "log.ab": "1",
        "log.msg": '"two',
        "log.url": "http://x/?q=1",
    }
    commas = {"kv": {"source": "log.line", "fieldSplit": ", ", "valueSplit": ": "}}
    assert fields(tmp_path, {"line": "a: 1, b: 2"}, JSON, commas)["log.b"] == "2"


def test_csv_fills_its_headers_in_order(tmp_path: Path) -> None:
    step = {"csv": {"source": "log.line", "separator": ",", "headers": ["origin.user", "", "log.rest"]}}
    found = fields(tmp_path, {"line": 'anna,skipped,"with, comma"'}, JSON, step)
    assert (found["origin.user"], found["log.rest"]) == ("anna", "with, comma")
    piped = {"csv": {"source": "log.line", "separator": "|", "headers": ["log.a", "log.b"]}}
    assert fields(tmp_path, {"line": "1|2"}, JSON, piped)["log.b"] == "2"
    assert "log.a" not in fields(tmp_path, {"line": "1|2|3"}, JSON, piped)


@pytest.mark.parametrize(
    ("function", "substring", "value", "trimmed"),
    [
        ("prefix", "<", " <14> ", "14>"),
        ("suffix", ">", "<14> ", "<14"),
        ("prefix", "x", "abc", "abc"),
        ("substring", "-", "a-b-c", "abc"),
        ("regex", r"\d+", "a1b22c", "abc"),
        ("regex", r"[{{.integer}}]", "x", "x"),
        ("regex", r"\d", " x ", " x "),
        ("suffix", "0", 100, "10"),
        ("prefix", "ü", "übermäßig", "bermäßig"),
    ],
)
def test_trim(tmp_path: Path, function: str, substring: str, value: object, trimmed: str) -> None:
    step = {"trim": {"function": function, "substring": substring, "fields": ["log.a", "log.absent"]}}
    assert fields(tmp_path, {"a": value}, JSON, step) == {"log.a": trimmed}


def add(key: str, value: object, where: str | None = None) -> dict[str, Any]:
    return {
        "add": {"function": "string", "params": {"key": key, "value": value}, **({"where": where} if where else {})}
    }


def test_add_writes_text_and_the_last_one_wins(tmp_path: Path) -> None:
    steps = (
        JSON,
        add("severity", "info"),
        add("severity", "error", 'oneOf("log.severity", ["high"])'),
        add("statusCode", 200),
        add("log.flag", True),
        add("actionResult", "denied", '!exists("actionResult") && equals("severity", "error")'),
        add("actionResult", "failed", '!exists("actionResult")'),
    )
    found = fields(tmp_path, {"severity": "high"}, *steps)
    assert found["severity"] == "error"
    assert found["statusCode"] == 200, "the event's number"
    assert found["log.flag"] == "true"
    assert found["actionResult"] == "denied"
    assert fields(tmp_path, {"severity": "low"}, *steps)["actionResult"] == "failed"


def test_reformat_changes_times_and_leaves_what_it_cannot_read(tmp_path: Path) -> None:
    step = {
        "reformat": {
            "fields": ["log.when", "log.odd", "log.absent"],
            "function": "time",
            "fromFormat": "2006-01-02 15:04:05",
            "toFormat": "2006-01-02T15:04:05Z",
        }
    }
    found = session(tmp_path, {"steps": [JSON, step]})
    outcome = run(found, {"when": "2026-03-10 01:02:03", "odd": "10.03.2026"})
    assert outcome.fields == {"log.when": "2026-03-10T01:02:03Z", "log.odd": "10.03.2026"}
    assert ["log.odd" in each.what and each.count for each in found.not_evaluated()] == [1]


def test_drop_without_a_condition_drops_nothing(tmp_path: Path) -> None:
    found = session(tmp_path, {"steps": [JSON, {"drop": {}}]})
    assert run(found, {"type": "kept"}).fields == {"log.type": "kept"}
    assert [remark.what for remark in found.not_evaluated()] == ["the engine drops no event without a `where`"]


def test_expand_makes_fields_of_json_text(tmp_path: Path) -> None:
    step = {"expand": {"source": "log.meta", "to": "log.expanded", "where": 'exists("log.meta")'}}
    found = fields(tmp_path, {"meta": '{"user_id": "u", "n": [1]}'}, JSON, step)
    assert (found["log.expanded.userid"], found["log.expanded.n.0"]) == ("u", 1)
    assert fields(tmp_path, {"meta": {"a": 1}}, JSON, step)["log.expanded.a"] == 1


def test_drop_ends_the_event_before_anything_else(tmp_path: Path) -> None:
    found = session(tmp_path, {"steps": [JSON, {"drop": {"where": 'equals("log.type", "noise")'}}, add("action", "x")]})
    assert run(found, {"type": "noise"}) == Outcome("", "noise", {}, ())
    assert run(found, {"type": "other"}).rules == ("any",)
    assert (found.events, found.dropped) == (2, 1)


def test_stages_run_in_order_for_the_data_types_that_they_name(tmp_path: Path) -> None:
    found = session(
        tmp_path,
        {"dataTypes": ["sophos-central", "other"], "steps": [JSON, add("action", "first")]},
        {"dataTypes": ["other"], "steps": [add("protocol", "other")]},
        {"steps": [add("log.every", "1")]},
        {"dataTypes": ["sophos-central"], "order": -1, "steps": [add("action", "earlier"), add("log.early", "1")]},
    )
    assert run(found, {}).fields == {"action": "first", "log.early": "1", "log.every": "1"}
    assert run(found, {}, "other").fields == {"action": "first", "protocol": "other", "log.every": "1"}
    assert run(found, {}, "third").fields == {"log.every": "1"}
    assert ["third" in each.where for each in found.not_evaluated()] == []


def test_a_data_type_without_a_stage_is_named(tmp_path: Path) -> None:
    found = session(tmp_path, {"dataTypes": ["sophos-central"], "steps": [JSON]})
    run(found, {}, "sophos-central-alerts")
    assert [(each.where, each.count) for each in found.not_evaluated()] == [("sophos-central-alerts", 1)]


def test_only_fields_of_utmstack_s_event_reach_a_rule(tmp_path: Path) -> None:
    rules = [{"name": each, "where": f'exists("{each}")'} for each in ("scratch", "origin.hostname", "origin.host")]
    steps = (JSON, add("scratch", "x"), add("origin.hostname", "x"), add("origin.host", "x"), add("origin.port", "443"))
    found = session(tmp_path, {"steps": list(steps)}, rules=rules)
    outcome = run(found, {"n": 7})
    assert outcome.fields == {"log.n": 7, "origin.host": "x", "origin.port": 443}
    assert outcome.rules == ("origin.host",)
    assert {each.where for each in found.not_evaluated()} == {"scratch", "origin.hostname"}


def test_a_value_that_utmstack_s_event_cannot_hold_is_named(tmp_path: Path) -> None:
    steps = [JSON, {"rename": {"from": ["log.code"], "to": "action"}}, add("target.port", "no number")]
    found = session(tmp_path, {"steps": steps})
    run(found, {"code": 7})
    assert {each.where for each in found.not_evaluated()} == {"action", "target.port"}


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({"dynamic": {"plugin": "com.example.geo", "params": {"source": "a", "destination": "b"}}}, "com.example.geo"),
        ({"xml": {"source": "raw"}}, "unknown step 'xml'"),
        ({"where": 'exists("log.id")'}, "write the `where` within the step"),
        ({"renane": {"from": ["a"], "to": "b"}}, "did you mean 'rename'"),
        ({"cast": {"fields": ["log.a"], "to": "int64"}}, "int64"),
        ({"trim": {"fields": ["log.a"], "function": "both", "substring": "x"}}, "both"),
        ({"add": {"function": "uuid", "params": {"key": "log.a"}}}, "uuid"),
        ({"add": {"function": "string", "params": {"value": "x"}}}, "key"),
        ({"reformat": {"fields": ["log.a"], "function": "lower"}}, "lower"),
        ({"rename": {"fields": [{"from": "a", "to": "b"}]}}, "to"),
        ({"grok": {"source": "raw", "patterns": [{"fieldName": "log.a", "pattern": "("}]}}, "regular expression"),
        ({"grok": {"source": "raw", "patterns": [{"fieldName": "log.a", "pattern": "{{.nix}}"}]}}, "nix"),
        ({"grok": {"source": "raw"}}, "patterns"),
        ({"grok": {"source": "raw", "patterns": [{"fieldName": "raw", "pattern": "."}]}}, "raw"),
        ({"delete": {"fields": ["log.@ugly"]}}, "@ugly"),
        ({"delete": {"fields": ["log.a"], "where": "log.a =~ 'x'"}}, "not valid CEL"),
        ({"delete": {"fields": ["log.a"], "where": 'oneof("log.a", ["x"])'}}, "oneOf"),
    ],
)
def test_a_step_that_cannot_be_evaluated_is_named_and_counted(tmp_path: Path, step: dict[str, Any], what: str) -> None:
    found = session(tmp_path, {"steps": [JSON, step]})
    for _ in range(3):
        assert run(found, {"a": "x"}).fields == {"log.a": "x"}
    told = [each for each in found.not_evaluated() if what in each.what]
    assert [each.count for each in told] == [3]
    assert all("filter.yml, line" in each.where and next(iter(step)) in each.where for each in told)
    assert all(each.limit is ("dynamic" in step) for each in told)


def test_a_key_that_the_engine_does_not_know_is_named(tmp_path: Path) -> None:
    step = {"grok": {"source": "raw", "patterns": [{"field_name": "log.a", "pattern": "{{.greedy}}"}]}}
    found = session(tmp_path, {"steps": [step]})
    assert run(found, {}).fields == {}
    assert ["field_name" in each.what for each in found.not_evaluated()] == [True]


def test_a_condition_on_a_field_that_is_not_there_skips_the_step_and_is_counted(tmp_path: Path) -> None:
    found = session(tmp_path, {"steps": [add("action", "x", 'log.messageId == "1"')]})
    assert run(found, {}).fields == {}
    assert [each.count for each in found.not_evaluated()] == [1]


def test_a_where_of_the_first_versions(tmp_path: Path) -> None:
    old = {"variables": [{"get": "log.kind", "as": "kind", "ofType": "string"}], "expression": 'kind_ok && kind == "W"'}
    step = {"add": {"function": "string", "params": {"key": "severity", "value": "medium"}, "where": old}}
    assert fields(tmp_path, {"kind": "W"}, JSON, step)["severity"] == "medium"
    assert "severity" not in fields(tmp_path, {"kind": "E"}, JSON, step)
    assert "severity" not in fields(tmp_path, {}, JSON, step)
