"""What a recording replaces: the same everywhere, of the same form, and nothing of it left."""

import base64
import ipaddress
import json
import re
import uuid
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.recording.forms import unpacked
from emulator.recording.leaks import Search
from emulator.recording.pseudonyms import ADDRESSES, Blanks, Pseudonyms
from emulator.recording.texts import Reader, Replacer, rewritten, swapped

KEY = b"k" * 32
DOCUMENTATION = [ipaddress.ip_network(each) for each in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]


def replaced(*events: Mapping[str, object], key: bytes = KEY) -> list[dict[str, object]]:
    return [json.loads(each) for each in lines(*events, key=key)[0]]


def lines(*events: Mapping[str, object], key: bytes = KEY) -> tuple[list[bytes], Pseudonyms, Reader]:
    raws = [json.dumps(event, ensure_ascii=False).encode() for event in events]
    reader, give = Reader(), Pseudonyms(key)
    for raw in raws:
        reader.read(raw)
    give.avoid(reader.addresses)
    replacer = Replacer(give, reader.names)
    return [replacer.item(raw) for raw in raws], give, reader


def test_one_person_is_one_pseudonym_however_the_name_is_written() -> None:
    names = [
        {"source": "EXAMPLE\\amelie.martin"},
        {"source": "Martin, Amelie"},
        {"source": "Amélie Martin"},
        {"source": "WS-1\\Amelie.Martin", "location": "WS-1"},
        {"name": "'x' at 'C:\\Users\\amelie.martin\\Downloads\\x.exe'"},
        {"name": "mail from amelie.martin@corp.example to somebody"},
        {"name": "Added automatically: EXAMPLE\\amelie.martin"},
        {"name": "amelie.martin's computer is well"},
    ]
    texts = [json.dumps(each) for each in replaced(*names)]
    found = [re.findall(r"user-[0-9a-f]{8}", text) for text in texts]
    assert len({each for one in found for each in one}) == 1
    assert all(found)
    assert not [text for text in texts if "martin" in text.lower()]


def test_forms_stay_valid() -> None:
    (event,) = replaced(
        {
            "id": "66f8bc90-77a6-4fce-9e28-d99682c20d9f",
            "user_id": "6747e4eb97073e3b1bdeb05f",
            "case_id": "AB-1234",
            "source_info": {"ip": "10.1.2.3"},
            "name": "fe80::1:2 and 10.1.2.3 and bob@corp.de and 3C-5A-B4-00-11-22 and S-1-5-21-1-2-3-99 at in.corp.de",
            "location": "kiosk.corp.de ",
            "data": {"user_match_id": {"timestamp": 1657424774, "date": 1657424774000}},
        }
    )
    assert uuid.UUID(str(event["id"])).version == 4
    assert re.fullmatch(r"[0-9a-f]{24}", str(event["user_id"]))
    assert re.fullmatch(r"[A-F]{2}-\d{4}", str(event["case_id"]))
    assert any(ipaddress.ip_address(event["source_info"]["ip"]) in net for net in DOCUMENTATION)  # type: ignore[index]
    v6, v4, email, mac, sid, domain = re.split(r" (?:and|at) ", str(event["name"]))
    assert ipaddress.ip_address(v6) in ipaddress.ip_network("2001:db8::/32")
    assert v4 == event["source_info"]["ip"]  # type: ignore[index]
    assert re.fullmatch(r"user-[0-9a-f]{8}@example\.(com|org)", email)
    assert mac.startswith("00-00-5E-00-53-")
    assert re.fullmatch(r"S-1-5-21(-\d+){4}", sid)
    assert domain.endswith(".example.com")
    assert str(event["location"]).endswith(".example.com ")
    told = event["data"]["user_match_id"]  # type: ignore[index]
    assert (len(str(told["timestamp"])), len(str(told["date"]))) == (10, 13)
    assert told["timestamp"] != 1657424774


KNOWN: list[Mapping[str, object]] = [
    {"source": "ACME\\jmueller", "location": "LAPTOP-ÄÖ17"},
    {"source": "Jürgen Müller", "location": "fs-1.corp.acme-werke.de"},
    {"source": "p.o'brien", "source_info": {"ip": "10.44.7.9"}},
    {"source": "amélie.martin"},
]


def in_base64(text: str, encoding: str) -> str:
    return base64.b64encode(text.encode(encoding)).decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Access by Ju\u0308rgen Mu\u0308ller", "ller"),  # Each letter with its accent beside it.
        ("Müller, Jürgen logged in", "müller"),
        ("/q?user=J%C3%BCrgen%20M%C3%BCller&host=laptop-%c3%84%C3%9617", "ller|laptop|%c3"),
        ("<b>J&uuml;rgen M&uuml;ller</b>, p.o&#39;brien", "ller|brien"),
        ("J\\u00fcrgen M\\u00fcller", "ller"),
        ('{"path":"C:\\\\Users\\\\somebody\\\\x","as":"CORP\\\\other.one"}', "somebody|other|corp"),
        ("jmueller_backup.zip from laptop-äö17_old", "jmueller|laptop"),
        ("j\u200bmueller and \uff4a\uff4d\uff55\uff45\uff4c\uff4c\uff45\uff52", "mueller|\uff4a"),
        ("ip-10-44-7-9 h_10.44.7.9_x", "44.7.9"),
        ("::ffff:10.44.7.9", "44.7.9"),
        ("mac aabbcc123456 or aabb.cc12.3456", "aabb|3456"),
        ("S-1-12-1-1943430372-1249052806-2496021943", "1943430372"),
        ("call +49 170 1234567 or (555) 867-5309", "1234567|5309"),
        (f"powershell -enc {in_base64('net use /user:jmueller', 'utf-16-le')}", "oAbQB1AGUAbABsAGUAcg"),
        (f"it is {in_base64('Jürgen Müller was here', 'utf-8')}", "xsbGVy|IHdhcw"),
        # Half a letter outside of Unicode's first 65,536, beside a name with escapes.
        (f"it is {in_base64('user=J%C3%BCrgen%20M%C3%BCller ' + chr(92) + 'ud83d', 'utf-8')}", "dXNlcj1KJUMzJUJD"),
        ("by am%C3%A9lie.martin", "am%C3"),  # What follows the escape alone would be a domain.
    ],
)
def test_a_name_is_replaced_in_other_forms_too(text: str, left: str) -> None:
    *_, event = replaced(*KNOWN, {"name": text, "details": [{"info": text}]})
    assert not re.search(left, str(event["name"]), re.IGNORECASE), event
    assert event["details"] == [{"info": event["name"]}]


@pytest.mark.parametrize("key", ["userName", "owner", "computer_name", "serialNumber", "imei", "phone"])
def test_a_field_of_a_name_or_a_number_is_replaced_whole(key: str) -> None:
    (event,), give, _ = lines({key: "Klumpp, 0170"})
    assert b"Klumpp" not in event
    assert give.originals


def test_forms_of_numbers_stay_valid() -> None:
    (event,), *_ = lines({"name": "::ffff:10.44.7.9 | aabb.cc12.3456 | S-1-12-1-1943430372-7 | +49 170 1234567"})
    address, mac, sid, phone = json.loads(event)["name"].split(" | ")
    assert ipaddress.ip_address(address) in ipaddress.ip_network("2001:db8::/32")
    assert re.fullmatch(r"0000\.5e00\.53[0-9a-f]{2}", mac)
    assert re.fullmatch(r"S-1-12-1-\d+-\d+", sid)
    assert re.fullmatch(r"\+\d\d \d{3} \d{7}", phone)


def test_an_alert_and_its_event_keep_their_common_id_in_all_its_forms() -> None:
    id_ = "47c5eb91-96ac-422b-becd-d37f2e9fc12f"
    packed = base64.b64encode(uuid.UUID(id_).bytes).decode()
    alert = {
        "id": id_,
        "javaUUID": swapped(id_),
        "data": {"event_service_id": {"type": 3, "data": packed}, "endpoint_id": id_.upper()},
    }
    found, told = replaced({"id": id_}, alert)
    assert found["id"] == told["id"] != id_
    assert swapped(str(told["javaUUID"])) == told["id"]
    data = told["data"]
    assert isinstance(data, dict)
    assert data["endpoint_id"] == str(told["id"]).upper()
    assert str(uuid.UUID(bytes=base64.b64decode(data["event_service_id"]["data"]))) == told["id"]


def test_what_is_sophoss_own_stays() -> None:
    event = {
        "type": "Event::Endpoint::CoreDetection",
        "group": "MALWARE",
        "severity": "high",
        "when": "2026-03-10T01:02:03.456Z",
        "name": "Malware detected: 'Mal/Generic-S' at 'C:\\Windows\\Temp\\setup.exe', engine 3.2, 12:34:56",
        "source": "n/a",
        "threat": "Mal/Generic-S",
        "data": {"endpoint_platform": "windows", "created_at": 1773105718215, "executablePid": "4711"},
        "odd": [1, 2.5e3, True, None, "[global] \u2028 emoji 🙂", {"": ""}],
    }
    assert replaced(event) == [event]


def test_another_key_gives_other_pseudonyms_and_the_same_key_the_same() -> None:
    event = {"source": "bob.builder", "id": "66f8bc90-77a6-4fce-9e28-d99682c20d9f"}
    one, again, other = replaced(event), replaced(event), replaced(event, key=b"o" * 32)
    assert one == again
    assert not {*map(str, one[0].values())} & {*map(str, other[0].values())}


def test_no_address_that_was_met_is_given_to_anybody_while_others_are_left() -> None:
    met = ADDRESSES[:700]
    events = replaced(*({"source_info": {"ip": address}} for address in met))
    given = {event["source_info"]["ip"] for event in events}  # type: ignore[index]
    assert not given & {*met}
    assert len(given) > 50  # all that are left, as chance has it


def test_no_pseudonym_contains_what_is_to_be_avoided() -> None:
    macs = [f"00-00-5E-00-53-{number:02X}" for number in range(256)]
    give = Pseudonyms(KEY, macs[:200])
    assert {give.mac(mac) for mac in macs} <= {*macs[200:]}
    avoided = {"CD-7", "5", "f-00000", *(f"{number:06}" for number in range(0, 10**6, 3))}
    give = Pseudonyms(KEY, avoided)
    ids = [*map(str, range(10)), *(f"CD-{number}" for number in range(10)), *(f"x{10**5 + n}" for n in range(300))]
    made = {give.id(text) for text in ids}
    assert not made & avoided
    assert not {text[1:] for text in made if len(text) == 7} & avoided


def test_where_every_pseudonym_is_to_be_avoided_none_is_the_original() -> None:
    digits = [str(number) for number in range(10)]
    give = Pseudonyms(KEY, digits)
    assert not [digit for digit in digits if give.id(digit) == digit]


def test_names_are_found_with_other_characters_between_their_words() -> None:
    people = {"source": "Zephyrine Quill", "location": "LAPTOP-ZQ77"}
    texts = ["Zephyrine  Quill", "Zephyrine+Quill", "c:\\zephyrine_quill\\x", "laptop_zq77", "LAPTOP ZQ77 is well"]
    found = replaced(people, *({"name": text} for text in texts))
    assert not [event for event in found if {"quill", "zq77"} & set(re.findall("[a-z0-9]+", str(event).lower()))]
    assert replaced(people, {"name": "a quill"})[1] == {"name": "a quill"}


@pytest.mark.parametrize(
    "event",
    [
        {"users": ["Alfonso Tester"]},
        {"user": {"id": "u-1", "name": "Alfonso Tester"}},
        {"person": {"displayName": "Alfonso Tester"}, "assignedTo": "Alfonso Tester"},
        {"managedAgent": {"name": "alfonso"}},
        {"name": "https://alfonso:secret@intra.corp.de/x"},
        {"name": base64.b64encode(b"to alfonso@corp.de!").decode().rstrip("=")},
        {"name": base64.urlsafe_b64encode("??>> ÿÿÿ alfonso@corp.de".encode()).decode()},
        {"name": "10[.]77[.]3[.]4", "x": "alfonso@corp[.]de"},
    ],
)
def test_names_in_rarer_places_and_forms_are_replaced(event: dict[str, object]) -> None:
    text = json.dumps(replaced(event)[0])
    contents = [content for match in re.findall(r"[\w+/-]{16,}", text) for *_, content in unpacked(match)]
    assert not re.search("alfonso|77.?.?.?3", " ".join((text, *contents)).lower())


def test_short_ids_and_digits_within_longer_numbers_are_no_leak() -> None:
    search = Search.of({"id": {"443", "12345", "200001"}}, set())
    assert search.not_searched == 2
    assert not list(search.leaks([b'{"name": "port 443 (12345)", "bytes": 12000017, "when": 1772000011}']))
    assert [leak.original for leak in search.leaks([b'{"name": "id200001x"}'])] == ["200001"]


def test_blanks_leave_only_what_was_not_replaced() -> None:
    event = {"source": "amelie.martin", "user_id": "200001", "javaUUID": "66f8bc90-77a6-4fce-9e28-d99682c20d9f"}
    raw = json.dumps(event | {"device_id": 200002, "data": "ZvjbkHemT86eKNmWgsINnw==", "type": "200001"}).encode()
    reader, blanks = Reader(), Blanks()
    reader.read(raw)
    assert re.findall(r"\d{6}|martin|66f8|Zvjb", Replacer(blanks, reader.names).item(raw).decode()) == ["200001"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_json, st.sampled_from([None, 1]), st.booleans())
def test_what_is_not_changed_keeps_its_bytes_but_for_line_breaks(
    value: object, indent: int | None, ascii_: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return
    kept = rewritten(raw, lambda _, __: None, lambda _, __: None)
    assert kept == raw.replace(b"\n", b" ").replace(b"\r", b" ")
    seen: list[str] = []
    rewritten(raw, lambda text, _: seen.append(text), lambda _, __: None)
    assert sorted(seen) == sorted(_strings(value))


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in (key, *_strings(inner))]
    if isinstance(value, list):
        return [each for inner in value for each in _strings(inner)]
    return [value] if isinstance(value, str) else []


_login = st.from_regex(r"[a-z]{2,8}[._-][a-z]{3,9}", fullmatch=True)
_place = st.sampled_from(
    [
        "{}",
        "user {} logged in",
        "C:\\Users\\{}\\x.exe",
        "/home/{}/x",
        "({}), again {}",
        "{}@corp.net",
        "CORP\\{}",
        "über {}…",
    ]
)


@given(_login, _place, st.booleans())
def test_a_user_who_is_known_from_one_event_is_in_no_other(login: str, place: str, upper: bool) -> None:
    text = place.replace("{}", login.upper() if upper else login)
    found, give, reader = lines({"name": text, "other": {"x": [text]}}, {"source": f"CORP\\{login}"})
    assert all(login not in each.decode().lower() for each in found)
    assert not list(Search.of(give.originals, reader.words).leaks(found))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"x": "Amelie.Martin was here"}', "user"),
        (b'{"x": "xamelie.martinx"}', "user"),
        (b'{"x": "am\\u0065lie.martin"}', "user"),
        (b'{"x": "at WS-FIN-014:"}', "host"),
        (b'{"x": "66F8BC90-77a6-4fce-9e28-d99682c20d9f"}', "id"),
        (b'{"x": "somebody@corp.de"}', "email"),
        (b'{"x": "10.9.8.7"}', "address"),
        (b'{"x": "bob"}', "user"),
        (b'{"x": "a_bob_b"}', "user"),
        (b'{"x": "am%C3%A9lie.martin"}', "user"),
    ],
)
def test_the_second_pass_finds_what_is_left(line: bytes, kind: str) -> None:
    originals = {
        "user": {"amelie.martin", "amélie.martin", "bob"},
        "host": {"WS-FIN-014", "PARTNER"},
        "id": {"66f8bc90-77a6-4fce-9e28-d99682c20d9f"},
    }
    found = list(Search.of(originals, set()).leaks([b"{}", line]))
    assert [(leak.kind, leak.line) for leak in found] == [(kind, 2)] * len(found)
    assert found
    assert not list(Search.of(originals, set()).leaks([b'{"recording": 1, "id_type": "partner"}']))
    clean = [b'{"x": "bobby at WS-FIN-0145 192.0.2.1 user-1@example.com"}'.replace(b"WS-FIN-0145", b"WS-FIN-01")]
    assert not list(Search.of(originals, set()).leaks(clean))
