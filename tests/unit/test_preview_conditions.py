"""Conditions: CEL as the library evaluates it, with the meaning that UTMStack's SDK gives its own functions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.preview.conditions import Condition
from emulator.preview.draft import Draft
from emulator.preview.expressions import calls, logic_of


def document() -> dict[str, Any]:
    return {
        "dataSource": "acme",
        "severity": "error",
        "log": {
            "huge": "7e999",
            "type": "Event::Endpoint::CoreDetection",
            "name": "Malware detected: 'Mal/Generic-S' at 'C:\\Users\\jürgen\\rechnung_märz.exe'",
            "upper": "BLOCKED",
            "count": 100,
            "float": 99.5,
            "text": "100.0",
            "yes": True,
            "nothing": None,
            "empty": "",
            "ip": "192.0.2.14",
            "ip6": "2001:db8::7",
            "mapped": "::ffff:192.0.2.14",
            "items": [{"type": "file", "path": "C:\\x"}, {"type": "regkey"}],
            "more": {"deep": {"cidr": "0.0.0.0/0"}},
            "monday": "2024-01-15T10:30:59.999Z",
            "saturday": "2024-01-20T23:45:00+05:30",
            "short": "2024-01-15T9:30:00Z",
            "lower": "2024-01-15t10:30:00z",
        },
    }


def holds(text: str, bag: str = "log") -> bool | None:
    condition = Condition(text, bag)
    first = condition.holds(Draft(document()))
    assert condition.holds(Draft(document())) is first, "kept and evaluated anew differ"
    return first


@pytest.mark.parametrize(
    "text",
    [
        # A value is there, even null.
        'exists("log.type")',
        'exists("log.nothing")',
        'exists("log.items")',
        '!exists("log.absent") && !exists("log.type.deeper")',
        # Equality is of numbers where both are numbers, also as text.
        'equals("log.count", 100)',
        'equals("log.count", 100.0)',
        'equals("log.count", "100")',
        'equals("log.text", 100)',
        'equals("log.text", "100")',
        'equals("log.float", "99.50")',
        'equals("log.yes", true) && equals("log.yes", "true") && !equals("log.yes", 1)',
        'equals("log.nothing", "") && !equals("log.nothing", 0) && !equals("log.nothing", "null")',
        'equals("log.empty", "")',
        '!equals("log.absent", "")',
        '!equals("log.items", "x") && !equals("log.type", "event::endpoint::coredetection")',
        'equalsIgnoreCase("log.upper", "blocked") && !equalsIgnoreCase("log.count", "100")',
        'oneOf("log.type", ["x", "Event::Endpoint::CoreDetection"])',
        'oneOf("log.count", ["no", 7, 100])',
        'oneOf("log.text", [1, 100])',
        '!oneOf("log.absent", ["", "-"]) && !oneOf("log.type", []) && !oneOf("log.items", ["file"])',
        # Text functions search text, and the JSON of objects and lists; no numbers.
        'contains("log.name", "Mal/Generic") && contains("log.name", "märz")',
        'contains("log.name", ["absent", " detected "])',
        'contains("log.items", "\\"type\\":\\"file\\"") && contains("log.more", "0.0.0.0/0")',
        '!contains("log.count", "100") && !contains("log.absent", "") && !contains("log.nothing", "")',
        'containsAll("log.name", ["Malware", "rechnung"]) && !containsAll("log.name", ["Malware", "absent"])',
        'startsWith("log.name", "Malware") && startsWith("log.name", ["x", "Mal"]) && startsWith("log.items", "[")',
        'endsWith("log.name", "exe\'") && endsWith("log.name", [".com", "exe\'"]) && endsWith("log.more", "}")',
        'regexMatch("log.type", "^Event::(Endpoint|Firewall)::Core") && regexMatch("log.upper", "(?i)^blocked$")',
        'regexMatch("log.empty", ".*") && regexMatch("log.items", "regkey") && !regexMatch("log.count", "1")',
        '!regexMatch("log.empty", "[^[:space:]]") && regexMatch("dataSource", "[^[:space:]]")',
        "regexMatch(\"log.name\", r'C:\\\\Users')",
        # Networks: an IPv4 address is in no IPv6 network, unless it is mapped, when it is IPv4.
        'inCIDR("log.ip", "192.0.2.0/24") && inCIDR("log.ip", "192.0.2.200/24") && !inCIDR("log.ip", "::/0")',
        'inCIDR("log.ip6", "2001:db8::/32") && !inCIDR("log.ip6", "0.0.0.0/0")',
        'inCIDR("log.mapped", "192.0.2.0/24") && !inCIDR("log.type", "0.0.0.0/0") && !inCIDR("log.absent", "::/0")',
        '!inCIDR("log.ip", "192.0.2.14") && !inCIDR("log.ip", "no/network")',
        'inCIDR("log.ip", "::ffff:192.0.2.0/120") && inCIDR("log.mapped", "::ffff:0:0/96")',
        # Order: numbers and text that is one; anything else is not so.
        'lessThan("log.float", 100) && lessOrEqual("log.count", 100) && greaterThan("log.text", "99.9")',
        'greaterOrEqual("log.count", 100.0) && !greaterThan("log.type", 1) && !lessThan("log.absent", 1)',
        # Time, in its own zone.
        'isHour("log.monday", 10) && isMinute("log.monday", 30) && isDayOfWeek("log.monday", 1)',
        'isWorkDay("log.monday") && !isWeekend("log.monday") && isWeekend("log.saturday")',
        'isHour("log.saturday", 23)',
        'isBetweenTime("log.monday", "08:00", "17:00") && isBetweenTime("log.saturday", "22:00", "06:00")',
        '!isBetweenTime("log.monday", "22:00", "06:00") && !isHour("log.type", 10) && !isWeekend("log.absent")',
        'isBetweenTime("log.monday", "8:00", "17:00") && !isBetweenTime("log.monday", "08:60", "17:00")',
        'isHour("log.short", 9) && !isHour("log.lower", 10) && !isHour("log.lower", 9)',
        # A default where there is no value of its kind.
        'safe("log.upper", "") == "BLOCKED" && safe("log.absent", "none") == "none" && safe("log.count", "") == ""',
        'safe("log.count", 0.0) == 100.0 && safe("log.text", 0.0) > 99.0 && safe("log.type", 9.5) == 9.5',
        'safe("log.yes", false) && !safe("log.absent", false)',
        # Paths are gjson's.
        'equals("log.items.#", 2) && equals("log.items.1.type", "regkey")',
        'equals("log.items.#(type==file).path", "C:\\\\x")',
        # CEL itself, on fields that are named without quotes.
        'log.type == "Event::Endpoint::CoreDetection" && log.count >= 100 && severity in ["error", "critical"]',
        "has(log.type) && !has(log.absent) && log.name.matches('Malware') && log.items.all(each, each.type != '')",
        'log.items.exists_one(each, each.type == "regkey") && size(log.items) == 2 && log.items[0].type == "file"',
        # The engine's JSON has no whole numbers.
        "log.count + 1.0 == 101.0 && log.count in [100] && string(log.count) == '100'",
        'safe("log.count", 0.0) in [100.0] && size(safe("log.type", "")) > 2 && (1 < 2) == exists("log.type")',
        # The names of versions in between.
        'containsAny("log.name", ["x", "Malware"]) && !containsAny("log.items", ["f"])',
        'oneOfInt("log.count", [1, 100]) && !oneOfDouble("log.text", [100.0])',
        'startsWithList("log.name", ["x", "Mal"]) && endsWithList("log.upper", ["ED"])',
        'equal("severity", "error") && log.name.contains("Malware")',  # The first versions left methods alone.
        'log.more.deep.cidr.matches("^0") && (log.yes ? true : false) && log.nothing == null',
        'exists("log.type") || log.absent == "an error that does not matter"',
        # The first versions' names.
        'equal("severity", "error") && lowerEqual("log.upper", "Blocked") && contain("log.name", "Malware")',
        'inList("severity", "low, error") && startWith("log.name", "Mal") && endWith("log.upper", "ED")',
        '!equals("log.huge", "8e999") && equals("log.huge", "7e999") && !greaterThan("log.huge", 1)',
        "true",
    ],
)
def test_it_holds(text: str) -> None:
    assert holds(text) is True


@pytest.mark.parametrize("text", ['exists("log.absent")', "false", 'log.type == "x"', 'regexMatch("log.type", "[")'])
def test_it_does_not_hold(text: str) -> None:
    assert holds(text) is False


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ('log.type =~ "x"', "regexMatch"),
        ('log.name contains "x"', "write contains"),
        ('exists("log.type") and true', "write &&"),
        ('oneof("log.type", ["x"])', "did you mean oneOf"),
        ('exists("log.type") || oneOfAny("log.type", "x")', "no function oneOfAny"),
        ('equals("log.type")', "there is no equals(text)"),
        ('equals("log.type", ["x"])', "there is no equals(text, list)"),
        ('contains("log.type", 5)', "there is no contains(text, int)"),
        ('containsAll("log.type", "x")', "there is no containsAll(text, text)"),
        ('oneOf("log.type", "x")', "there is no oneOf(text, text)"),
        ("exists(5)", "there is no exists(int)"),
        ('safe("log.count", 0) > 5', "0.0"),
        ('exists("{log}")', "builds a new value"),
        ('equals("log.type", "a" ', "not valid CEL"),
        ('regexMatch("log.type", "\\d")', "not valid CEL"),
        ('log.name.contains("Malware")', "contains() is no method"),
        ('exists("log.type") && safe("log.type", "").startsWith("Event")', "startsWith() is no method"),
        ('log.items.exists(each, each.type == "regkey")', "exists() is no method"),
        ('equals ("log.type", "x")', "a blank between equals"),
        ('oneOfInt("log.count", "1")', "there is no oneOfInt(text, text)"),
        ('equals("log.count", 100u)', "there is no equals(text, uint)"),
        # What CEL refuses before it reads a value.
        ('safe("log.count", 0.0) > 5', "write 5.0"),
        ('exists("log.type") && !(7 == safe("log.count", 0.0))', "write 7.0"),
        ('safe("log.count", 0.0) in [100]', "cannot compare a number with a point"),
        ('safe("log.type", "") == 5 || true', 'a text (safe("log.type", "")) with a whole number (5)'),
        ('exists("log.type") == "yes"', "cannot compare yes or no"),
        ('exists("log.type") || safe("log.type", "")', "is a text, where the engine wants yes or no"),
        ('!size("x")', "is a whole number, where the engine wants yes or no"),
    ],
)
def test_what_the_engine_does_not_compile_is_named_and_never_holds(text: str, fault: str) -> None:
    condition = Condition(text, "log")
    assert fault in condition.fault
    assert condition.holds(Draft(document())) is None


@pytest.mark.parametrize(
    "text",
    [
        'log.absent == "x"',
        'exists("log.type") || action == "x"',  # No such field at the top: the engine cannot even compile it.
        'log.count.matches("1")',
        "log.count + 1 == 101",
        "log.count % 2 == 0",
        'log.type + 1 == "x"',
        '"text"',
    ],
)
def test_an_error_on_a_value_is_no_match(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ('regexMatch("log.type", "[") || exists("log.type")', "matches nothing"),
        ('inCIDR("log.ip", "10.0.0.300/8")', "not a network"),
        (r'regexMatch("log.type", r"\C")', "matches nothing"),
        ('safe(log.type, "") == "x" || exists(log.name)', "needs quotes: log.type, log.name"),
    ],
)
def test_what_can_never_be_so_is_remarked(text: str, remark: str) -> None:
    condition = Condition(text, "log")
    assert condition.fault == ""
    assert any(remark in each for each in condition.remarks)


def test_the_engine_s_own_argument_lands_in_a_quoted_text_too() -> None:
    condition = Condition('equals("log.name", "it calls exists(1)")', "log")
    assert ["inserts `_data_,`" in each for each in condition.remarks] == [True]
    assert not condition.holds(Draft({"log": {"name": "it calls exists(1)"}}))
    assert condition.holds(Draft({"log": {"name": "it calls exists(_data_,1)"}}))


def test_a_path_without_quotes_is_the_value_s_as_in_the_engine() -> None:
    """The engine hands the field's value to the function, which takes it for a path."""
    assert holds('safe(log.type, "nothing") == "nothing"') is True
    draft = Draft({"log": {"which": "log.other", "other": "found"}})
    assert Condition('safe(log.which, "") == "found"', "log").holds(draft) is True
    assert Condition("exists(log.absent)", "log").holds(draft) is None


def test_log_and_event_are_two_names_of_the_vendor_s_fields() -> None:
    assert holds('equals("event.count", 100) && event.count == 100') is True
    newer = Draft({"event": {"type": "x"}})
    assert Condition('equals("log.type", "x") && log.type == "x" && event.type == "x"', "event").holds(newer) is True


def test_variables_of_the_first_versions_have_a_value_and_whether_it_is_there() -> None:
    variables = (("kind", "log.type", "string"), ("many", "log.count", "int"), ("gone", "log.absent", "int"))
    text = 'kind_ok && kind.contains("Core") && many == 100 && !gone_ok && gone == 0'
    assert Condition(text, "log", variables).holds(Draft(document())) is True


def test_what_a_step_writes_is_asked_anew() -> None:
    draft = Draft(document())
    condition = Condition('exists("action") || equals("log.more.deep.cidr", "x") || exists("target.host")', "log")
    assert condition.holds(draft) is False
    for path in ("action", "target.host", "log.more.deep.cidr"):
        draft.put(path, "x")
        assert condition.holds(draft) is True
        draft.remove(path)
        assert condition.holds(draft) is False
    draft.put("log", {"more": {"deep": {"cidr": "x"}}})
    assert condition.holds(draft) is True


ATOMS = st.sampled_from(
    [
        'exists("a")',
        'exists("log.b")',
        'equals("a", 1)',
        'oneOf("log.b", ["x", 2])',
        'contains("log.b", "x")',
        'greaterThan("a", 1)',
        'log.b == "x"',
        'safe("log.b", "none") == "x"',
        'safe("a", 0.0) > 1.0',
        "has(log.b)",
        "a == 1",
        'regexMatch("log.b", "^x")',
        "true",
    ]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
    ),
    max_leaves=8,
)
DRAFTS = st.fixed_dictionaries(
    {"log": st.fixed_dictionaries({}, optional={"b": st.sampled_from(["x", "xy", 2, None, [1]])})},
    optional={"a": st.sampled_from([0, 1, 2, 1.5, "1", True, None])},
)


@given(text=EXPRESSIONS, documents=st.lists(DRAFTS, min_size=1, max_size=12))
def test_what_is_kept_of_a_condition_answers_as_the_library_does(text: str, documents: list[dict[str, Any]]) -> None:
    """A condition that has seen many drafts says of each what one says that has seen none."""
    seasoned = Condition(text, "log")
    for each in documents * 2:
        assert seasoned.holds(Draft(each)) == Condition(text, "log").holds(Draft(each))


def test_calls_and_logic_are_read_off_the_text() -> None:
    text = '(equals("a, (b", "x")) && !(oneOf("c", ["y", 1, -2.5, true]) || log.d in [1])'
    found = list(calls(text))
    assert [(each.name, each.path) for each in found] == [("equals", "a, (b"), ("oneOf", "c")]
    assert found[1].arguments[1].value == ["y", 1, -2.5, True]
    logic = logic_of(text)
    assert (logic.kind, [each.kind for each in logic.parts]) == ("all", ["leaf", "not"])
    assert [each.text for each in logic.parts[1].parts[0].parts] == ['oneOf("c", ["y", 1, -2.5, true])', "log.d in [1]"]
