"""A key of the configuration is in four places: settings, schema, example and documents."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from marshmallow import fields as kinds

from lib.config import settings
from lib.config.loading import parse
from lib.config.schema import ConfigSchema
from lib.config.settings import Config

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = [each for each in vars(settings).values() if is_dataclass(each) and each.__module__ == settings.__name__]


def keys_of_settings(made: Any, path: str = "") -> Iterator[str]:
    hints = get_type_hints(made)
    for field in fields(made):
        key = f"{path}{field.name}"
        hint = hints[field.name]
        section = next((each for each in (hint, *get_args(hint)) if each in SECTIONS and each != settings.Every), None)
        if section is None:
            yield key
        else:
            yield from keys_of_settings(section, f"{key}.")


def keys_of_schema(schema: Any, path: str = "") -> Iterator[str]:
    for name, field in schema.fields.items():
        inner = field.inner if isinstance(field, kinds.List) else field
        if isinstance(inner, kinds.Nested):
            yield from keys_of_schema(inner.schema, f"{path}{name}.")
        else:
            yield f"{path}{name}"


DOCUMENTS = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]
KEYS = sorted(keys_of_schema(ConfigSchema()))


def test_settings_and_schema_have_the_same_keys() -> None:
    assert sorted(keys_of_settings(Config)) == KEYS
    assert {"store", "every", "sophos.proxy", "integrations.inventory", "relay.streams"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_the_example_shows_the_key(key: str) -> None:
    name = key.rpartition(".")[2]
    assert re.search(rf"(?m)^[\s#-]*{name}:", (ROOT / "connector.example.yaml").read_text())


@pytest.mark.parametrize("key", KEYS)
def test_the_documents_name_the_key(key: str) -> None:
    section, _, name = key.rpartition(".")
    # What a section of its own explains in the example alone needs no row for each of its keys.
    explained = name if section in ("", "integrations") else section
    assert any(re.search(rf"`[^`\n]*\b{explained}\b[^`\n]*`", text) for text in DOCUMENTS), key


EXAMPLE = (ROOT / "connector.example.yaml").read_text()
SAMPLES = {"name", "client_id", "client_secret"}
"""Keys of an integration that have no default."""


def test_the_example_shows_the_defaults() -> None:
    config = parse(EXAMPLE)
    (one,) = config.integrations
    assert replace(config, integrations=()) == Config(())
    plain = settings.IntegrationConfig(**{name: getattr(one, name) for name in SAMPLES})
    assert one == plain
    relay = parse(re.sub("(?m)^# ?", "", EXAMPLE[EXAMPLE.index("# relay:") : EXAMPLE.index("\nintegrations:")])).relay
    assert relay is not None
    given = {name: getattr(relay, name) for name in ("certificate", "key", "client_ca", "tokens")}
    assert relay == settings.RelaySettings(**given)


def test_the_table_of_the_documents_has_the_defaults_of_the_example() -> None:
    values = yaml.safe_load(EXAMPLE)
    rows = re.findall(r"(?m)^\| `([\w.\[\]]+)` \| `([^`|]+)` \|", (ROOT / "docs/configuration.md").read_text())
    assert len(rows) > 15
    for key, told in rows:
        value: Any = values
        for part in key.replace("[]", ".0").split("."):
            value = value[int(part)] if part.isdigit() else value.get(part)
        if value is not None:  # A key that is not set falls back to what the cell names.
            shown = "off" if value is False else f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
            assert told == shown, key
