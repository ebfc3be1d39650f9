"""Values, paths, patterns and times of the preview are those of the engine's language, Go."""

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from emulator.preview.functions import parse_time
from emulator.preview.layouts import parse, reformat, show
from emulator.preview.paths import UnsupportedPathError, get, leaves, put, reader, remove
from emulator.preview.patterns import NAMED, PatternError, expand, pattern
from emulator.preview.values import MISSING, as_go, decode, number, parse_number, printed, text_of, to_json

KEYS = st.text("abcXYZ019", min_size=1, max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
DOCUMENT: dict[str, Any] = {
    "log": {
        "items": [{"type": "file", "size": 3, "ok": True}, {"type": "regkey", "size": 7.5}, {"type": "process"}],
        "dotted.key": {"a": 1},
        "empty": [],
        "grid": [[1, 2], [3]],
        "nothing": None,
        "deep": [{"n": 1, "tags": ["x", "y"], "none": None}, {"n": 2, "tags": []}],
        "first_name": "Ana",
        "last_name": "Souza",
        "@type": "a key",
    },
    "@timestamp": "2026-03-10T00:00:00Z",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("log.items.#", 3),
        ("log.items.0.type", "file"),
        ("log.items.1.size", 7.5),
        ("log.items.9.type", MISSING),
        ("log.items.x", MISSING),
        ("log.items.-1", MISSING),
        ("log.items.#.type", ["file", "regkey", "process"]),
        ("log.items.#.size", [3, 7.5]),
        ("log.items.#.none", []),
        ('log.items.#(type=="regkey").size', 7.5),
        ("log.items.#(type==regkey).size", 7.5),
        ("log.items.#(type=regkey).size", 7.5),
        ("log.items.#(size>3)#.type", ["regkey"]),
        ("log.items.#(size>=3)#|#", 2),
        ('log.items.#(type!="file")#.type', ["regkey", "process"]),
        ('log.items.#(type%"re*").type', "regkey"),
        ('log.items.#(type!%"re*").type', "file"),
        ("log.items.#(ok==true).type", "file"),
        ("log.items.#(ok).type", "file"),
        ("log.items.#(type==none).type", MISSING),
        ("log.empty.#", 0),
        ("log.empty.#.a", []),
        ("log.first_name.#", MISSING),
        ("log.grid.#.#", [2, 1]),
        ("log.grid.1.0", 3),
        ("log.dotted\\.key.a", 1),
        ("log.dotted.key.a", MISSING),
        ("log.first*", "Ana"),
        ("log.????_name", "Souza"),
        ("log.items|#", 3),
        ("log.nothing", None),
        ("log.nothing.a", MISSING),
        ("log.@keys.#", 9),
        ("log.items.#.type|#", 3),
        ("log.items.#.type|1", "regkey"),
        ("log.grid.#.0|1", 3),
        ("log.*.1.size", 7.5),
        ("log.*.a", 1),
        ("*.first_name", "Ana"),
        ("log.*name", "Ana"),
        ("log.items.#(ok>=false).type", "file"),
        ("log.items.#(ok>false).type", "file"),
        ("log.items.#(ok<true).type", MISSING),
        ("log.items.#(size>text).type", "file"),
        ('log.deep.#(tags.#(=="x"))#.n', [1]),
        ('log.deep.#(tags.#(=="x")=="x").n', 1),
        ("log.deep.#(none==null).n", MISSING),
        ("log.deep.0.tags.@keys", [None, None]),
        ("log.deep.0.@reverse.*", None),
        ("log.absent.@keys", []),
        ("@timestamp", "2026-03-10T00:00:00Z"),
        ("log.@type", "a key"),
        ("log|@type", "a key"),
        ("", MISSING),
        ("log", DOCUMENT["log"]),
    ],
)
def test_paths_are_gjson_s(path: str, value: object) -> None:
    assert get(DOCUMENT, path) == value or get(DOCUMENT, path) is value


@pytest.mark.parametrize(
    "path", ["{a,b}", "a.@pretty", "[a]", "a.#x", "!true", "a.{b,c}", "a.[b]", "a.#()", "a.#(b==~true)"]
)
def test_a_path_of_another_form_is_refused_and_not_guessed(path: str) -> None:
    with pytest.raises(UnsupportedPathError):
        reader(path)


@given(document=st.dictionaries(KEYS, VALUES, max_size=4), keys=st.lists(KEYS, min_size=1, max_size=4), value=VALUES)
def test_what_is_written_at_a_path_is_read_there_until_it_is_deleted(
    document: dict[str, Any], keys: list[str], value: Any
) -> None:
    path = ".".join(keys)
    put(document, path, value)
    assert get(document, path) == value
    if keys[-1].isdigit():
        return  # A list closes the gap.
    remove(document, path)
    assert get(document, path) is MISSING


@given(document=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_every_leaf_is_read_at_its_path(document: dict[str, Any]) -> None:
    for path, value in leaves(document):
        assert get(document, path) == value


def test_a_parent_that_is_a_value_becomes_an_object_and_an_item_of_a_list_can_be_written() -> None:
    document: dict[str, Any] = {"a": "text", "l": [1]}
    put(document, "a.b.c", 1)
    put(document, "l.2", 3)
    put(document, "x\\.y", 4)
    assert document == {"a": {"b": {"c": 1}}, "l": [1, None, 3], "x.y": 4}
    remove(document, "l.0")
    remove(document, "nowhere.at.all")
    assert document["l"] == [None, 3]


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("1", 1, "1"),
        ("1.0", 1, "1"),
        ("1.5", 1.5, "1.5"),
        ("9007199254740993", 9007199254740992.0, "9007199254740992"),
        ("12345678901234567890", 12345678901234567890.0, "12345678901234567000"),
        ("1e21", 1e21, "1000000000000000000000"),
        ("1e-7", 1e-7, "0.0000001"),
        ("0.000001", 0.000001, "0.000001"),
        ("-0.0", 0, "0"),
    ],
)
def test_numbers_are_float64_and_printed_as_go_prints_them(text: str, value: float, shown: str) -> None:
    assert decode(text) == value
    assert text_of(decode(text)) == shown
    assert type(decode(text)) is type(value)


@pytest.mark.parametrize(
    ("value", "shown"), [(1234567.5, "1.2345675e+06"), (123456.5, "123456.5"), (0.00001, "1e-05"), (7, "7")]
)
def test_a_float_that_is_cast_to_text_has_go_s_exponent(value: float, shown: str) -> None:
    assert printed(value) == shown


@given(value=VALUES)
def test_json_text_is_read_back_as_the_value_and_hides_nothing_of_html(value: Any) -> None:
    text = to_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")
    assert as_go(value) == value


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_s_text_is_that_number(value: float) -> None:
    assert parse_number(text_of(number(value))) == value
    assert math.isclose(float(printed(value)), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1_000", 1000), ("1_0.2_5", 10.25), ("0x1p4", 16), ("0x_1.8P+1", 3), (".5", 0.5), ("5.", 5), ("-INF", -math.inf)],
)
def test_numbers_in_go_s_rarer_forms(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1__0", "_1", "1_", "0x10", "0x1p1024", "1,5", "x", "١٢", "1e", "--1", "+nan", "infin"]
)
def test_what_go_does_not_read_as_a_number_is_none(text: str) -> None:
    assert parse_number(text) is None


@given(text=st.text("aZ0 \t\n\v\r\u00a0ü", max_size=12))
@pytest.mark.parametrize("source", ["(?s)^.+$", "(?s:.*)", "[^[:space:]]"])
def test_what_is_asked_without_a_regular_expression_is_answered_as_with_one(source: str, text: str) -> None:
    found = re2.search(source, text)
    assert pattern(source).first(text) == (found.group() if found else "")
    assert pattern(source).found_in(text) is (found is not None)


@pytest.mark.parametrize("source", ["[", "(?!x)", "a{2,1}", r"(a)\1"])
def test_a_regular_expression_that_re2_refuses_is_named(source: str) -> None:
    with pytest.raises(PatternError, match="regular expression"):
        pattern(source)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ipv4", "192.0.2.255"),
        ("ipv6", "2001:db8::1"),
        ("hostname", "srv-01.example.com"),
        ("email", "a.b+c@example.com"),
        ("uuid", "66f8bc90-77a6-4fce-9e28-d99682c20d9f"),
        ("integer", "-42"),
        ("word", "abc_1"),
        ("time", "23:59:59.123"),
        ("monthName", "September"),
        ("greedy", "all of it"),
        ("notSpace", "a:b"),
    ],
)
def test_named_patterns_match_what_they_are_named_for(name: str, text: str) -> None:
    assert pattern(expand(f"{{{{.{name}}}}}", NAMED)).first(text) == text


def test_names_may_use_names_and_an_unknown_one_is_refused() -> None:
    assert expand("<{{.a}}>", {"a": "({{.b}})", "b": "x"}) == "<(x)>"
    with pytest.raises(PatternError, match=r"\{\{\.nix\}\}"):
        expand("{{.nix}}", NAMED)


@pytest.mark.parametrize(
    ("before", "text", "after", "shown"),
    [
        ("2006-01-02T15:04:05Z07:00", "2026-03-10T00:24:17.956Z", "2006-01-02 15:04:05", "2026-03-10 00:24:17"),
        ("02/01/2006 03:04 PM", "10/03/2026 01:30 PM", "15:04 on Jan 2", "13:30 on Mar 10"),
        ("Jan 02 15:04:05", "Mar 10 01:02:03", "2006-01-02T15:04:05Z", "0000-03-10T01:02:03Z"),
        ("2006-01-02T15:04:05.000-0700", "2026-03-10T00:24:17.956+0530", "Mon 2 Jan 06 -07:00", "Tue 10 Mar 26 +05:30"),
        ("Monday, January 2 2006", "Tuesday, March 10 2026", "2006.01.02", "2026.03.10"),
        ("2006-01-02 15:04:05 MST", "2026-03-10 00:24:17 UTC", "15h04", "00h24"),
        ("2006 002", "2026 069", "01-02", "03-10"),
    ],
)
def test_times_follow_go_s_layouts(before: str, text: str, after: str, shown: str) -> None:
    assert reformat(text, before, after) == shown


@pytest.mark.parametrize("text", ["", "2026-13-01 00:00", "2026-02-30 00:00", "10.03.2026", "2026-03-10 00:00 "])
def test_a_time_that_the_layout_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse("2006-01-02 15:04", text)


@given(
    moment=st.datetimes(datetime(1971, 1, 1), datetime(2068, 1, 1)),  # noqa: DTZ001 - hypothesis wants them naive
    minutes=st.integers(-14 * 60, 14 * 60),
)
def test_a_time_that_is_shown_in_full_is_read_back(moment: datetime, minutes: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    layout = "2006-01-02T15:04:05.000000Z07:00"
    assert parse(layout, show(layout, zoned)) == zoned
    told = parse_time(show("2006-01-02T15:04:05Z07:00", zoned))
    assert told == zoned.replace(microsecond=0)
