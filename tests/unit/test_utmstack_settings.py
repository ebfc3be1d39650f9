"""UTMStack's configuration in its three forms: whatever stands at any level, the group beside it is read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emulator.utmstack import settings
from emulator.utmstack.settings import Base, Found, of_file, of_section
from emulator.utmstack.watcher import SettingsWatcher
from lib.errors import ConfigError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
GOOD = {"name": "good", "config": {"sophos_client_id": "id", "sophos_x_api_key": "a secret"}}
FORM = {
    "groupName": "good",
    "moduleGroupConfigurations": [
        {"confKey": "sophos_client_id", "confValue": "id"},
        {"confKey": "sophos_x_api_key", "confValue": "a secret"},
    ],
}
ENCRYPTED, KEY = "urdb0BaDZQ0gAew6bLXShn3p8FFNjMlTHB2r9IVeTkY=", "a-key"


def file_of(folder: Path, tenants: Any) -> Found:
    (folder / settings.FILE).write_text(json.dumps({"plugins": {"sophos": {"tenants": tenants}}}))
    found = of_file(Base(folder))
    assert found is not None
    return found


def names(found: Found) -> list[str]:
    return [each.name for each in found.groups]


@given(odd=ANYTHING)
def test_an_odd_config_is_a_fault_of_its_group_alone(tmp_path_factory: pytest.TempPathFactory, odd: Any) -> None:
    found = file_of(tmp_path_factory.mktemp("f"), [{"id": "t", "groups": [{"name": "odd", "config": odd}, GOOD]}])
    assert names(found) == ["good"]
    assert "'odd'" in str(found.faults["odd"])


@given(odd=ANYTHING)
def test_an_odd_group_or_an_odd_list_of_groups_stops_no_other(
    tmp_path_factory: pytest.TempPathFactory, odd: Any
) -> None:
    found = file_of(tmp_path_factory.mktemp("f"), [{"id": "t", "groups": [odd, GOOD]}, {"id": "u", "groups": odd}])
    assert "good" in names(found)


@given(odd=ANYTHING)
def test_odd_tenants_are_told_and_nothing_else_is_raised(tmp_path_factory: pytest.TempPathFactory, odd: Any) -> None:
    with contextlib.suppress(ConfigError):
        file_of(tmp_path_factory.mktemp("f"), odd)


@given(odd=ANYTHING)
def test_an_odd_section_of_stream_or_backend_stops_no_other_group(odd: Any) -> None:
    groups = [odd, {"groupName": "odd", "moduleGroupConfigurations": odd}, FORM]
    found = of_section({"moduleActive": True, "moduleGroups": groups}, [KEY])
    assert "good" in names(found)


def test_a_group_whose_name_was_cut_within_a_character_has_a_name() -> None:
    found = of_section({"moduleActive": True, "moduleGroups": [FORM | {"groupName": "ac\ud83d"}]}, [KEY])
    assert names(found) == ["ac?"]


@pytest.mark.parametrize("mask", ["*****", "••••••••", "<hidden>", "xxxxxxx", "REDACTED"])
def test_a_mask_is_no_secret_and_names_its_group(tmp_path: Path, mask: str) -> None:
    masked = {"name": "acme", "config": {"sophos_client_id": "id", "sophos_x_api_key": mask}}
    found = file_of(tmp_path, [{"id": "t", "groups": [masked]}])
    assert names(found) == []
    assert "mask" in str(found.faults["acme"])
    assert mask not in str(found.faults["acme"])


def test_every_form_decrypts(tmp_path: Path) -> None:
    value = "client-secret-value"
    key = "utmstack-key"
    sealed = seal(value, key)
    (tmp_path / settings.FILE).write_text(
        yaml.safe_dump(
            {"plugins": {"sophos": {"tenants": [{"id": "t", "groups": [group("sophos_x_api_key", sealed)]}]}}}
        )
    )
    from_file = of_file(Base(tmp_path, encryption_key=key))
    form = {
        "groupName": "acme",
        "moduleGroupConfigurations": [
            {"confKey": "sophos_client_id", "confValue": "id"},
            {"confKey": "sophos_x_api_key", "confValue": sealed},
        ],
    }
    from_section = of_section({"moduleActive": True, "moduleGroups": [form]}, [key])
    tried = settings.credential_of_form(form["moduleGroupConfigurations"], [key])
    assert from_file is not None
    assert from_file.groups[0].client_secret == from_section.groups[0].client_secret == tried[1] == value


def group(key: str, value: str) -> dict[str, Any]:
    return {"name": "acme", "config": {"sophos_client_id": "id", key: value}}


def seal(text: str, key: str) -> str:
    """As UTMStack's backend encrypts a secret: AES-128-CBC, PKCS#7, a key derived from the passphrase."""
    import base64
    import hashlib

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    salt = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
    derived = hashlib.pbkdf2_hmac("sha1", key.encode(), salt, settings.ROUNDS, settings.BLOCK)
    padding = settings.BLOCK - len(text) % settings.BLOCK
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(salt[: settings.BLOCK])).encryptor()
    return base64.b64encode(
        encryptor.update(text.encode() + bytes([padding]) * padding) + encryptor.finalize()
    ).decode()


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "plugins: " + "9" * 5000, BOMB, "plugins:\n  sophos: 3\n", "plugins: [1, 2]\n", "", "\x00", "- - - -"],
)
def test_no_file_of_utmstack_ends_the_connector_at_its_start(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / settings.FILE).write_text(text)
    watcher = SettingsWatcher(str(tmp_path))
    watcher.look()
    assert watcher.status()["groups"] == []
    watcher.close()
