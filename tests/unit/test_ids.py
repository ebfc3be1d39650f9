"""Log ids follow UTMStack v12's formula."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from lib.model.batch import GAP, POLL, RECONCILE, ids_of
from lib.model.ids import IdScope, group_key, log_id, qualified
from lib.model.integration import IntegrationSettings
from lib.model.page import SophosTenant
from lib.model.stream import ALERTS, ENDPOINTS, EVENTS, Stream

TENANT = "ce66672c-e36d-4761-a8c8-90058fee1a24"


def test_a_native_id_is_hashed_with_the_group() -> None:
    expected = sha256(f"id|{TENANT}/acme|66f8bc90".encode()).hexdigest()
    assert log_id(group_key(TENANT, "acme"), "events", "66f8bc90", b'{"id":"66f8bc90"}') == expected


def test_without_a_native_id_the_text_is_hashed() -> None:
    expected = sha256(f'raw|{TENANT}/acme|{{"a":"ü"}}'.encode()).hexdigest()
    assert log_id(group_key(TENANT, "acme"), "events", None, '{"a":"ü"}'.encode()) == expected


def test_a_group_that_shares_its_name_has_its_own_ids_and_data_source_still() -> None:
    name = qualified("default", "t-2")
    assert name == "default (t-2)"
    assert group_key("t-2", name) == "t-2/default"
    assert group_key("t-1", name) == f"t-1/{name}"
    settings = IntegrationSettings(name=name, utmstack_tenant_id="t-2")
    assert settings.source_of(SophosTenant("s-1", "Example Ltd", None), one_of_many=False) == "default"
    assert settings.source_of(SophosTenant("s-1", "Example Ltd", None), one_of_many=True) == "default/Example Ltd"


def test_an_alert_and_its_event_have_different_ids() -> None:
    group = group_key(TENANT, "acme")
    assert log_id(group, "alerts", "66f8bc90", b"{}") != log_id(group, "events", "66f8bc90", b"{}")


@given(st.text(), st.text(), st.none() | st.text(min_size=1), st.binary())
def test_an_id_is_64_lower_case_hex_digits_for_any_input(
    tenant: str, name: str, native: str | None, raw: bytes
) -> None:
    made = log_id(group_key(tenant, name), "events", native, raw)
    assert len(made) == 64
    assert set(made) <= set("0123456789abcdef")


@given(st.sampled_from([EVENTS, ALERTS]), st.sampled_from([POLL, RECONCILE, GAP]), st.text(min_size=1), st.binary())
def test_an_event_has_one_id_however_it_was_found(kind: str, origin: str, native: str, raw: bytes) -> None:
    scope = ids_of(Stream("acme", "t-1", kind), TENANT, origin)
    assert scope == IdScope(TENANT, "acme", kind)
    assert scope.log_id(native, raw) == log_id(group_key(TENANT, "acme"), kind, native, b"whatever")


@given(st.text(min_size=1), st.binary(), st.binary())
def test_each_version_of_a_device_has_its_own_id(native: str, one: bytes, other: bytes) -> None:
    scope = ids_of(Stream("acme", "t-1", ENDPOINTS), TENANT)
    assert (scope.log_id(native, one) == scope.log_id(native, other)) == (one == other)
    gap = ids_of(Stream("acme", "t-1", ENDPOINTS), TENANT, GAP)
    assert gap.log_id(native, one) == gap.log_id(native, other)
