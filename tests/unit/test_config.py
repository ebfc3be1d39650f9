"""A configuration is checked as a whole: every fault at once, each with its line; no secret in any of them."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config.loading import InvalidConfigError, load, located, parse
from lib.config.secrets import Reference
from lib.config.settings import RelaySettings
from lib.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ONE = """
integrations:
  - name: acme
    client_id: id-1
    client_secret: hunter2
"""


def faults(text: str) -> dict[str, tuple[int | None, str]]:
    with pytest.raises(InvalidConfigError) as refusal:
        parse(text)
    assert "hunter2" not in str(refusal.value)
    return {fault.path: (fault.line, fault.message) for fault in refusal.value.faults}


def test_the_example_can_be_used_and_names_every_key() -> None:
    text = (ROOT / "connector.example.yaml").read_text()
    config = parse(text)
    for part in (
        config,
        config.sophos,
        config.limits,
        config.integrations[0],
        config.engine_access,
        RelaySettings("", ""),
    ):
        for key in part.__slots__:
            assert f"{key}:" in text, key


def test_defaults_are_those_of_the_contract() -> None:
    config = parse(ONE)
    one = config.integrations[0]
    assert (config.store, config.listen) == ("file:var/store", ("127.0.0.1", 8080))
    assert config.every.interval == timedelta(seconds=60)
    assert (config.sophos.auth_url, config.sophos.api_url) == (
        "https://id.sophos.com",
        "https://api.central.sophos.com",
    )
    assert (one.region, one.tenants, one.streams) == ("auto", None, ("events",))
    assert (one.lookback, one.settle, one.reconcile) == (timedelta(hours=24), timedelta(0), timedelta(hours=6))
    assert config.limits.max_pending_bytes == 2 * 1024**3


def test_every_fault_is_told_at_once_with_its_line() -> None:
    found = faults(
        """store: s3://bucket
every: 60
listen: 8080
engin: unix:/run/engine.sock
sophos:
  auth_url: https://login.example.com
integrations:
  - name: acme
    client_id: ${env:ID}
    client_secret: ${evn:SECRET}
    regoin: us
    streams: [event]
    settle: 90s
    lookback: 1.5h
    tenants: everything
  - client_id: x
"""
    )
    assert {path: line for path, (line, _) in found.items()} == {
        "store": 1,
        "every": 2,
        "listen": 3,
        "engin": 4,
        "sophos.auth_url": 6,
        "integrations[0].client_secret": 10,
        "integrations[0].regoin": 11,
        "integrations[0].streams[0]": 12,
        "integrations[0].settle": 13,
        "integrations[0].lookback": 14,
        "integrations[0].tenants": 15,
        "integrations[1].name": 16,
        "integrations[1].client_secret": 16,
    }
    assert "'engine'" in found["engin"][1]
    assert "'region'" in found["integrations[0].regoin"][1]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "integrations"),
        ("integrations: []", "integrations"),
        ("integrations:", "integrations"),
        (ONE.replace("hunter2", "[hunter2]"), "integrations[0].client_secret"),
        (ONE.replace("hunter2", ""), "integrations[0].client_secret"),
        (ONE.replace("id-1", "1234"), "integrations[0].client_id"),
        (ONE + ONE.partition("\n  - ")[2].join(["  - ", ""]), "integrations[1].name"),
        (ONE + "    region: https://region.example.com", "integrations[0].region"),
        (ONE + "engine: unix:relative.sock", "engine"),
        (ONE + "engine: unix:/" + "x" * 120, "engine"),
        (ONE + "every: 0s", "every"),
        (ONE + "every: '* * * *'", "every"),
        (ONE + "every: 61 * * * *", "every"),
        (ONE + "limits: 5", "limits"),
        (ONE + "limits: {max_pending_bytes: -1}", "limits.max_pending_bytes"),
        (ONE + "store: file:a\nstore: file:b", "store"),
        (ONE + "    region: europe", "integrations[0].region"),
        (ONE + "sophos: {ca_bundle: /nowhere/ca.pem}", "sophos.ca_bundle"),
        (ONE + "sophos: {ca_bundle: /}", "sophos.ca_bundle"),
        (ONE + f"sophos: {{ca_bundle: {__file__}}}", "sophos.ca_bundle"),
        (ONE + "sophos: {proxy: proxy.example.com}", "sophos.proxy"),
        (ONE + "sophos: {proxy: 'socks5://proxy.example.com'}", "sophos.proxy"),
        (ONE + "sophos: {proxy: 'http://proxy.example.com:99999'}", "sophos.proxy"),
        (ONE + "sophos: {proxy: 'http://user:password@proxy.example.com'}", "sophos.proxy"),
        (ONE + "access: {keys: [too-short]}", "access.keys[0]"),
        (ONE + "access: {keys: a-key-that-is-in-no-list}", "access.keys"),
        (ONE + "access: {audiences: [https://x.example.com]}", "access"),
        (ONE + "access: {emails: [x@example.com]}", "access"),
        (ONE + "access: {platform: elsewhere}", "access.platform"),
        (ONE + "access: {platform: cloud-run, audiences: [x], emails: [y]}", "access.platform"),
        (ONE + "access: {certs_url: 'https://www.example.com/certs'}", "access.certs_url"),
        (ONE + "engine: grpcs://relay.example.com", "engine"),
        (ONE + "engine: grpcs://a/b:7443", "engine"),
        (ONE + "engine_access: {token: a-token-of-a-relay}", "engine_access"),
        (ONE + "engine: grpcs://x:1\nengine_access: {certificate: x}", "engine_access"),
        ("relay: {certificate: a, key: b}", "relay"),
        ("relay: {certificate: a, tokens: c}", "relay.key"),
        ("relay: {certificate: a, key: b, tokens: c, metrics: '0.0.0.0:1'}", "relay.metrics"),
        ("relay: {certificate: a, key: b, tokens: c, rate: 0}", "relay.rate"),
    ],
)
def test_a_fault_is_told_where_it_is(text: str, path: str) -> None:
    assert path in faults(text)


@pytest.mark.parametrize(
    "text", ["[1]", "a: b: c", "a: &a [*a]", "\x00", "{", "text", "? [a]: b", "!!python/object:os.system x"]
)
def test_what_is_no_configuration_is_told_without_a_trace(text: str) -> None:
    assert faults(text)


def test_surrogate_pairs_are_joined_and_halves_are_faults() -> None:
    name = "\N{THUMBS UP SIGN} x"
    written = json.dumps(name)
    assert "\\ud83d" in written
    (one,) = parse(ONE.replace("name: acme", f"name: {written}")).integrations
    assert one.name == name
    for half in ('"\\ud83d x"', '"\\udc4d\\ud83d"'):
        told = faults(ONE.replace("name: acme", f"name: {half}"))
        assert "surrogate" in told["integrations[0].name"][1]
        assert "surrogate" in next(iter(faults(f"{ONE}{half}: 1").values()))[1]


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_has_faults(text: str) -> None:
    with suppress(InvalidConfigError):
        parse(text)


def test_a_relay_needs_no_integrations() -> None:
    relay = parse("relay: {certificate: a, key: b, tokens: c, metrics: off, rate: off}").relay
    assert relay is not None
    assert (relay.listen[1], relay.metrics, relay.rate) == (7443, None, None)


def test_off_means_never() -> None:
    assert parse(ONE + "gap_data_type: off").gap_data_type is None
    assert "gap_data_type" in faults(ONE + "gap_data_type: 5")
    assert parse(ONE + "    reconcile: off").integrations[0].reconcile is None


def test_a_cron_line_tells_the_next_tick() -> None:
    every = parse(ONE + "every: '*/5 * * * *'").every
    assert every.seconds_after(datetime(2026, 3, 10, 0, 1, 30, tzinfo=UTC)) == 210
    assert every.seconds_around(datetime(2026, 3, 10, 0, 1, 30, tzinfo=UTC)) == 300


def test_references_are_resolved_late_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    text = ONE.replace("id-1", "${env:TEST_CLIENT_ID}").replace("hunter2", f"${{file:{tmp_path}/secret}}")
    one = parse(text).integrations[0]
    with pytest.raises(ConfigError, match=r"client_id of integration 'acme'.*TEST_CLIENT_ID is not set"):
        one.client_id.resolve()
    monkeypatch.setenv("TEST_CLIENT_ID", "from-env")
    assert (one.client_id.resolve(), one.client_secret.resolve()) == ("from-env", "from-file")
    (tmp_path / "secret").write_text("rotated")
    assert one.client_secret.resolve() == "rotated"
    assert "rotated" not in repr(one)
    assert "hunter2" not in repr(parse(ONE))


@pytest.mark.parametrize("text", ["${env:}", "${file}", "${secret:short}", "${ENV:X}", "${env:X"])
def test_a_reference_that_cannot_be_one_is_a_fault(text: str) -> None:
    assert "integrations[0].client_secret" in faults(ONE.replace("hunter2", f"'{text}'"))


def test_an_empty_secret_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    for text, reason in ((f"${{file:{tmp_path}/empty}}", "empty"), (f"${{file:{tmp_path}/none}}", "cannot be read")):
        with pytest.raises(ConfigError, match=reason):
            Reference(text, "client_secret of integration 'acme'").resolve()


def test_where_it_is_read_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOPHOS_UTMSTACK_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="no configuration is named"):
        located()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "none.yaml"))
    (tmp_path / "c.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text(ONE)
    monkeypatch.setenv("SOPHOS_UTMSTACK_CONFIG", str(tmp_path / "c.yaml"))
    assert load().integrations[0].name == "acme"


def test_integrations_may_come_from_utmstack_alone_but_not_from_nowhere() -> None:
    assert parse("utmstack: {workdir: /workdir}").integrations == ()
    for text in ("store: file:x", "integrations: []", "integrations:"):
        with pytest.raises(InvalidConfigError, match="integrations"):
            parse(text)


def test_a_proxys_password_is_taken_by_reference_only_and_shown_nowhere() -> None:
    text = ONE + "sophos: {proxy: 'http://user:hidden@proxy.example.com'}"
    assert "hidden" not in str(faults(text))
    assert "${env:SOPHOS_PROXY}" in faults(text)["sophos.proxy"][1]
    held = parse(ONE + "sophos: {proxy: '${env:SOPHOS_PROXY}', ca_bundle: " + certifi.where() + "}").sophos
    assert held.ca_bundle == certifi.where()
    assert held.proxy is not None
    assert "SOPHOS_PROXY" not in repr(held)
