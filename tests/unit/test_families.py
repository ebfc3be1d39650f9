"""Families of event types: one table, and names of families among names of types."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config.loading import InvalidConfigError, parse
from lib.model.families import FAMILIES, LONGEST, NEEDED, URL_SAFE, by_rule, expanded, family_of, fitting

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests/data/sample-events.jsonl"
EXAMPLES = {
    "real-time protection": "SavDisabled",
    "installed and removed": "EndpointUninstalled",
    "application control": "Application::Blocked",
    "comply": "NonCompliant",
    "isolated": "Isolation::Isolated",
    "services": "ServiceNotRunning",
    "malware": "Threat::Detected",
    "unwanted": "CorePuaDetection",
    "exploits": "HmpaExploitPrevented",
    "ransomware": "HmpaCryptoGuard",
    "malicious traffic": "Threat::CommandAndControlDetected",
    "suspicious files": "Threat::LowRepAppDetected",
    "threat intelligence": "CoreBlocklistDetection",
    "removable media": "Device::Blocked",
    "data-loss": "DataLossPreventionUserAllowed",
    "disk encryption": "Enc::DiskEncryptionFailed",
    "blocked sites": "WebFilteringBlocked",
    "updates": "UpdateFailure",
}
"""What docs/sophos.md gives as an example of a family, and a type of it."""
GROUPS = {
    "endpoint_protection": {"PROTECTION", "POLICY", "APPLICATION_CONTROL", "ISOLATION", "ENDPOINT_FIREWALL"},
    "threat": {"MALWARE", "PUA", "RUNTIME_DETECTIONS", "BLOCKLISTED", "APP_REPUTATION"},
    "data_control": {"DATA_LOSS_PREVENTION", "PERIPHERALS", "DENC", "FENC"},
    "web_control": {"WEB"},
    "system": {"UPDATING", "CONNECTIVITY", "AD_SYNC", "SECURITY", "SYSTEM_HEALTH"},
}


def config(*excluded: str) -> str:
    names = json.dumps(excluded)
    return f"integrations:\n  - name: a\n    client_id: b\n    client_secret: c\n    exclude_types: {names}\n"


def test_each_type_has_one_family() -> None:
    names = [name for family in FAMILIES.values() for name in family]
    assert len(names) == len(set(names)) > 190
    assert all(name.startswith("Event::") and name.isascii() and "{" not in name for name in names)


def test_types_of_sophos_s_samples_are_in_the_family_that_their_group_names() -> None:
    events = [json.loads(line) for line in SAMPLES.read_bytes().splitlines()]
    group_of = {group: family for family, groups in GROUPS.items() for group in groups}
    known = [event for event in events if event.get("group") in group_of and family_of(event["type"])]
    assert len(known) > 60
    wrong = [(e["type"], e["group"]) for e in known if family_of(e["type"]) != group_of[e["group"]]]
    assert wrong == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_family_holds_what_the_page_about_sophos_says(example: str) -> None:
    lines = (ROOT / "docs/sophos.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| ") and example in line.rpartition(" | ")[2]]
    assert f"`family:{family_of(f'Event::Endpoint::{EXAMPLES[example]}')}`" in row


def test_a_family_stands_for_its_types_each_once() -> None:
    names = expanded(["Event::Endpoint::WebControlViolation", "family:web_control", "Event::New"])
    web = ("Event::Endpoint::WebControlViolation", "Event::Endpoint::Smc::WebFiltering")
    assert names == (*web, "Event::Endpoint::WebFilteringBlocked", "Event::New")


def test_no_family_leaves_out_what_this_connector_needs_to_know() -> None:
    assert not NEEDED & set(expanded(f"family:{name}" for name in FAMILIES))
    assert set(expanded(NEEDED)) == NEEDED


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_fits_into_an_address(family: str) -> None:
    assert fitting(expanded([f"family:{family}"]))[1] == frozenset()


@given(st.lists(st.sampled_from(sorted(set().union(*FAMILIES.values()))) | st.text("aü:, ", max_size=999), unique=True))
def test_what_does_not_fit_into_an_address_is_told(names: list[str]) -> None:
    named, others = fitting(names)
    assert [*named, *(name for name in names if name in others)] == names
    assert len(quote(",".join(named), safe=URL_SAFE)) <= LONGEST
    parse(config(*(f"family:{family}" for family in FAMILIES)))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Event::EDR.DarkBytes::CaseCreated", "threat"),
        ("Event::MDR::SomethingNew", "threat"),
        ("Event::Endpoint::CoreNewThing", "threat"),
        ("Event::Endpoint::Threat::CleanupFailed::NONE", "threat"),
        ("Event::Endpoint::HomeThreatRemnantsFound", "threat"),
        ("Event::Endpoint::Smc::WebFiltering", "web_control"),
        ("Event::Endpoint::WebControlViolation::BLOCKED", "web_control"),
        ("Event::Xgemail::DlpViolationEvent", "data_control"),
        ("Event::Endpoint::Enc::SomethingNew", "data_control"),
        ("Event::Endpoint::Mobile::Enrolled", "endpoint_protection"),
        ("Event::Endpoint::SomethingNew", "endpoint_protection"),
        ("Event::Endpoint::UpdateFailure::INSTALL_FAILED", "system"),
        ("Event::Wireless::AccessPoint::Offline", "system"),
        ("Event::ZTNA::SomethingNew", "system"),
        ("Event::New", "system"),
        ("SomethingElse", None),
    ],
)
def test_a_type_that_nobody_knows_has_the_family_that_its_name_suggests(name: str, family: str | None) -> None:
    assert family_of(name) == family


def test_the_rules_agree_with_the_table() -> None:
    names = [name for family in FAMILIES.values() for name in family]
    assert [name for name in names if by_rule(name) != family_of(name)] == []


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (["family:web"], "family:endpoint_protection, family:threat, family:data_control, family:web_control"),
        (["Event::A,Event::B"], "must be one type"),
        ([" "], "must be one type"),
    ],
)
def test_what_cannot_be_left_out_is_refused_at_load(excluded: list[str], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        parse(config(*excluded))
