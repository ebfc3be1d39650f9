"""`check` in its parts: what is likely to be a mistake, and what is missing on this machine."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config import surroundings
from lib.config.advice import advice
from lib.config.loading import InvalidConfigError, load_document, parse
from lib.config.secrets import Reference, credential, credential_fault
from lib.config.yaml_lines import Document
from lib.errors import ConfigError
from lib.parts import existing_store

ONE = """integrations:
  - name: acme
    client_id: ${env:TEST_CLIENT_ID}
    client_secret: ${env:TEST_CLIENT_SECRET}
"""
Read = Callable[[str], tuple[dict[str, str], dict[str, str]]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Of a configuration: faults of its surroundings, and warnings, each by key."""
    monkeypatch.setenv("TEST_CLIENT_ID", "id-1")
    monkeypatch.setenv("TEST_CLIENT_SECRET", "hunter2")

    def looked(text: str) -> tuple[dict[str, str], dict[str, str]]:
        file = tmp_path / "connector.yaml"
        file.write_text(text if "engine:" in text else f"{text}engine: unix:{tmp_path}/engine.sock\n")
        config, document = load_document(str(file))
        missing = surroundings.faults(config, document, existing_store)
        doubts = advice(config, document) + surroundings.warnings(config, document, str(file))
        assert "hunter2" not in str(missing + doubts)
        assert all(each.text == file.read_text().split("\n")[(each.line or 0) - 1] for each in missing)
        return {each.path: each.message for each in missing}, {each.path: each.message for each in doubts}

    return looked


def test_a_sound_configuration_has_neither(read: Read, tmp_path: Path) -> None:
    assert read(ONE) == ({}, {})
    assert not (tmp_path / "var").exists(), "looking makes no store"


def test_a_reference_that_does_not_resolve_is_a_fault(read: Read) -> None:
    missing, _ = read(ONE.replace("TEST_CLIENT_ID", "NOT_SET").replace("env:TEST_CLIENT_SECRET", "file:/nowhere/x"))
    assert "NOT_SET is not set" in missing["integrations[0].client_id"]
    assert "/nowhere/x cannot be read" in missing["integrations[0].client_secret"]
    missing, _ = read(ONE + "access: {keys: ['${env:NOT_SET}']}\n")
    assert "access.keys[0]" in missing


def test_a_store_that_cannot_be_is_a_fault(read: Read, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/store", "file/a/b"):
        missing, _ = read(f"{ONE}store: file:{tmp_path}/{place}\n")
        assert "not a folder" in missing["store"]
    (tmp_path / "newer").mkdir(mode=0o700)
    (tmp_path / "newer/.layout").write_text('{"layout": 99}')
    assert "layout 99" in read(f"{ONE}store: file:newer\n")[0]["store"]
    (tmp_path / "empty").mkdir(mode=0o700)
    assert read(f"{ONE}store: file:empty\n") == ({}, {})


def test_a_folder_of_another_user_is_a_fault() -> None:
    config, document = parse(text := f"{ONE}store: file:/usr/store\n"), Document(text)
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        found = {each.path: each.message for each in surroundings.faults(config, document, existing_store)}
        os._exit(0 if "may not write to /usr" in found.get("store", "") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_sockets_folder_has_to_be_there(read: Read, tmp_path: Path) -> None:
    assert f"{tmp_path}/none does not exist" in read(f"{ONE}engine: unix:{tmp_path}/none/x.sock\n")[0]["engine"]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (ONE.replace("${env:TEST_CLIENT_SECRET}", "hunter2"), "integrations[0].client_secret", "plain text"),
        (ONE.replace("${env:TEST_CLIENT_ID}", "$TEST_CLIENT_ID"), "integrations[0].client_id", "${env:TEST_CLIENT_ID}"),
        (ONE.replace("acme", "“acme”"), "integrations[0].name", "typographic"),
        (ONE + ONE.partition("\n")[2].replace("acme", "Acme"), "integrations[1].name", "'acme'"),
        (ONE + "    lookback: 48h\n", "integrations[0].lookback", "24h"),
        (ONE + "    calls_per_minute: 1000\n", "integrations[0].calls_per_minute", "100 calls"),
        (
            ONE + "    exclude_types: [Event::Endpoint::UpdateSucess]\n",
            "integrations[0].exclude_types[0]",
            "'Event::Endpoint::UpdateSuccess'",
        ),
        (
            ONE + "    exclude_types: [' event::endpoint::updatesuccess']\n",
            "integrations[0].exclude_types[0]",
            "'Event::Endpoint::UpdateSuccess'",
        ),
        (ONE + "    data_source: '{integration}/{tennant}'\n", "integrations[0].data_source", "did you mean {tenant}?"),
        (ONE + "    data_source: 'x {y} {z}'\n", "integrations[0].data_source", "sent as it stands"),
        (ONE + "every: 0 9 * * 1-5\n", "every", "over 24h apart"),
        (ONE + "every: 0 0 29 2 *\n", "every", "over 24h apart"),
        (ONE + "every: '*/5 * * 2-12 *'\n", "every", "over 24h apart"),
        (ONE + "listen: 0.0.0.0:8080\n", "listen", "anyone"),
        (ONE + "access: {keys: [a-key-of-some-length]}\n", "access", "local: key"),
    ],
)
def test_what_is_likely_to_be_a_mistake_is_a_warning(read: Read, text: str, key: str, words: str) -> None:
    assert words in read(text)[1][key]


def test_what_is_no_mistake_is_none(read: Read) -> None:
    more = "    data_source: '{integration}|{tenant}|{tenant_id} {'\n"
    more += "    lookback: 24h\n    calls_per_minute: 100\n    exclude_types: ['Event::New::Kind', family:system]\n"
    access = "access: {keys: ['${env:TEST_CLIENT_SECRET}'], local: key}\n"
    for every in ("24h", "'*/5 * * * *'", "0 6 * * *", "0 6,18 * * *", "'* * * * * *'"):
        assert read(f"{ONE}{more}{access}every: {every}\n") == ({}, {})


def test_who_else_can_read_is_told(read: Read, tmp_path: Path) -> None:
    plain = ONE.replace("${env:TEST_CLIENT_SECRET}", "hunter2")
    read(plain)
    file = tmp_path / "connector.yaml"
    file.chmod(0o604)
    assert "can read a secret" in read(plain)[1][""]
    file.chmod(0o600)
    assert "" not in read(plain)[1]
    (tmp_path / "var/store").mkdir(parents=True)
    (tmp_path / "var/store").chmod(0o755)
    assert "can read the store" in read(ONE)[1]["store"]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("    exclude_types: [web_control]\n", "integrations[0].exclude_types[0]", "'family:web_control'"),
        ("    region: eu1\n", "integrations[0].region", "did you mean 'eu01'"),
        ("archive: 9999999d\n", "archive", "at most"),
        ("every: 200000d\n", "every", "at most 1d"),
        ("limits: {deadline: 9999999d}\n", "limits.deadline", "at most"),
        ("    reconcile: 9999999d\n", "integrations[0].reconcile", "at most"),
        ("    calls_per_minute: 0100\n", "integrations[0].calls_per_minute", "octal"),
        ("    alerts_data_type: 'x'\n    nmae: y\n", "integrations[0].nmae", "'name'"),
        ("access: {local: key}\n", "access.local", "no caller would be allowed"),
        ('store: "file:\\0"\n', "store", "U+0000"),
        ('engine: "unix:/\\0"\n', "engine", "U+0000"),
        ('sophos: {ca_bundle: "/ca\\0"}\n', "sophos.ca_bundle", "U+0000"),
        ('sophos: {auth_url: "https://id\\t.sophos.com"}\n', "sophos.auth_url", "U+0009"),
        ('access: {keys: ["${file:/x\\0}"]}\n', "access.keys[0]", "U+0000"),
        ("engine: grpcs://relay.example.com:0\n", "engine", "grpcs://relay"),
        ("engine: grpcs://relay.example.com:65536\n", "engine", "grpcs://relay"),
        ("    tenants: [all]\n", "integrations[0].tenants", "without brackets"),
        ("    tenants: ['11111111 ']\n", "integrations[0].tenants", "not a tenant id"),
        ("    alerts_data_type: Sophos Alerts\n", "integrations[0].alerts_data_type", "lower-case"),
        ("    endpoints_data_type: ' '\n", "integrations[0].endpoints_data_type", "is empty"),
        ("gap_data_type: a/b\n", "gap_data_type", "lower-case"),
    ],
)
def test_a_typed_in_value_out_of_bounds_is_told_with_what_to_write(text: str, path: str, words: str) -> None:
    with pytest.raises(InvalidConfigError) as refusal:
        parse(ONE + text)
    assert words in {each.path: each.message for each in refusal.value.faults}[path]


def test_a_name_too_long_for_the_store_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="too long"):
        parse(ONE.replace("acme", "\N{THUMBS UP SIGN}" * 400))
    assert parse(ONE.replace("acme", "\N{THUMBS UP SIGN}" * 50)).integrations


def test_relative_paths_begin_at_the_configurations_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "elsewhere"):
        (tmp_path / place).mkdir()
    (tmp_path / "here/secret").write_text("hunter2")
    (tmp_path / "here/c.yaml").write_text(ONE.replace("env:TEST_CLIENT_SECRET", "file:secret"))
    (tmp_path / "here/d.yaml").write_text(ONE + "store: file:data\nrelay: {certificate: a, key: /b, tokens: c}\n")
    for folder, name in (
        (tmp_path / "elsewhere", "../here/"),
        (tmp_path / "here", ""),
        (Path("/"), f"{tmp_path}/here/"),
    ):
        monkeypatch.chdir(folder)
        config, _ = load_document(f"{name}c.yaml")
        assert Path(config.store.removeprefix("file:")).resolve() == tmp_path / "here/var/store"
        assert config.integrations[0].client_secret.resolve() == "hunter2"
        config, _ = load_document(f"{name}d.yaml")
        assert Path(config.store.removeprefix("file:")).resolve() == tmp_path / "here/data"
        assert config.relay is not None
        assert Path(config.relay.certificate).resolve() == tmp_path / "here/a"
        assert config.relay.key == "/b"


@pytest.mark.parametrize("around", [" ", "\n", "\ufeff", "\u200b", "\xa0", "\x00", "\u2060 \n"])
def test_what_surrounds_a_pasted_credential_is_cut_off(
    around: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"{around}hunter2{around}", encoding="utf-8")
    for text in (f"${{file:{tmp_path}/secret}}", f"{around}hunter2{around}"):
        assert credential(Reference(text, "client_secret")) == "hunter2"
    if "\x00" not in around:
        monkeypatch.setenv("TEST_CLIENT_SECRET", f"{around}hunter2{around}")
        assert credential(Reference("${env:TEST_CLIENT_SECRET}", "client_secret")) == "hunter2"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"hunter2"', "quotes"),
        ("“hunter2”", "quotes"),
        ("hun\u200bter2", "ZERO WIDTH SPACE"),
        ("hun\xa0ter2", "NO-BREAK SPACE"),
        ("hun\x00ter2", "U+0000"),
        ("hun\nter2", "U+000A"),
    ],
)
def test_what_cannot_be_a_credential_is_named(value: str, words: str) -> None:
    with pytest.raises(ConfigError, match="client_secret") as refusal:
        credential(Reference(value, "client_secret of integration 'acme'"))
    assert words in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    assert "ter2" not in str(refusal.value)


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'`"), min_size=1))
def test_no_credential_of_plain_characters_is_refused(value: str) -> None:
    assert credential_fault(value) is None


@pytest.mark.parametrize("value", [" ", "\u200b", "\x00\n"])
def test_a_blank_credential_in_the_configuration_is_a_fault(read: Read, value: str) -> None:
    missing, _ = read(ONE.replace("${env:TEST_CLIENT_ID}", json.dumps(value)))
    assert "is empty" in missing["integrations[0].client_id"]


def test_a_socket_counts_as_no_configuration_and_no_folder(tmp_path: Path, read: Read) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "x.sock"))
        assert "not a folder" in read(f"{ONE}store: file:x.sock/y\n")[0]["store"]
