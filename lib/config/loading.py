"""Reads the configuration: one YAML file, which is checked as a whole before anything runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from lib.config import environment
from lib.config.schema import UNKNOWN_KEY, ConfigSchema
from lib.config.secrets import access_secret
from lib.config.settings import DEFAULT_STORE, Config
from lib.config.yaml_lines import ConfigFault, Document, KeyPath, flat
from lib.errors import ConfigError

__all__ = ["Config", "InvalidConfigError", "lasting", "load", "located", "parse"]

ELSEWHERE = ("gs://", "secret:")
"""Prefixes of a configuration's location that is not a file on this machine."""
PATHS: frozenset[KeyPath] = frozenset(
    {
        ("sophos", "ca_bundle"),
        ("utmstack", "workdir"),
        *(("relay", key) for key in ("certificate", "key", "client_ca", "tokens")),
    }
)
"""Keys whose value is the path of a file or a folder."""
_FILE = re.compile(r"(file:)(.+)()", re.DOTALL)
_FILE_REFERENCE = re.compile(r"(\$\{file:)([^}]+)(\})")


class InvalidConfigError(ConfigError):
    """An unusable configuration, with all its faults."""

    def __init__(self, location: str, faults: Sequence[ConfigFault]) -> None:
        lines = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"{location} cannot be used:{lines}")
        self.faults = tuple(faults)


def located(location: str | None = None) -> str:
    """The configuration's location: the argument, or the environment's; ConfigError if neither names one."""
    location = location or environment.variable(environment.CONFIG)
    if not location:
        raise ConfigError(
            f"no configuration is named: --config is missing, and {environment.CONFIG} is not set",
            remedy="Copy connector.example.yaml, fill it in, and name it with --config.",
        )
    return location


def load(location: str | None = None) -> Config:
    """The configuration at a path, `gs://bucket/object` or `secret:projects/P/secrets/S/versions/V`.

    Without a location, the environment names it. Raises ConfigError with every fault and its line.
    """
    return load_document(location)[0]


def load_document(location: str | None = None) -> tuple[Config, Document]:
    """The configuration and its document, which gives the line of each key; raises as `load` does."""
    location = located(location)
    try:
        text = _bytes_of(location).decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{location} cannot be read: {error.strerror}", remedy="Correct the path, or the file's permissions."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{location} is not UTF-8 text (byte {error.start})", remedy="Save the file as UTF-8."
        ) from None
    folder = None if location.startswith(ELSEWHERE) else Path(location).absolute().parent
    return _parsed(text, location, folder)


def lasting(location: str) -> str:
    """The location as an absolute one, which processes with another working folder can read repeatedly.

    Raises ConfigError for a pipe, such as `<(...)`, and for standard input: only this process can read them, once.
    """
    if location.startswith(ELSEWHERE):
        return location
    path = Path(location).absolute()
    if path.is_relative_to("/dev/fd") or path.is_relative_to("/proc") or path == Path("/dev/stdin") or path.is_fifo():
        raise ConfigError(
            f"{location} can be read only once, but a running connector reads its configuration repeatedly",
            remedy="Write the configuration to a file, and name that file. Only `check` can read a pipe.",
        )
    return str(path)


def _bytes_of(location: str) -> bytes:
    if location.startswith("gs://"):
        from lib.store.gcs import read_object  # noqa: PLC0415 - a heavy import that few sites need

        return read_object(location)
    if location.startswith("secret:"):
        return access_secret(location.removeprefix("secret:"), "the configuration").encode()
    return Path(location).read_bytes()


def parse(text: str, location: str = "the configuration") -> Config:
    """The configuration in a text; relative paths stay relative. Raises InvalidConfigError with every fault."""
    return _parsed(text, location, None)[0]


def _parsed(text: str, location: str, folder: Path | None) -> tuple[Config, Document]:
    document = Document(text)
    faults = list(document.faults)
    if not faults:
        try:
            config: Config = ConfigSchema().load(_anchored(document.value, folder) if folder else document.value)
        except ValidationError as error:
            faults += [
                document.fault(path, message, at_key=message.startswith(UNKNOWN_KEY))
                for path, message in flat(error.messages_dict)
            ]
        else:
            return config, document
    raise InvalidConfigError(location, sorted(set(faults), key=lambda fault: (fault.line or 0, fault.path)))


def _anchored(value: Any, folder: Path, path: KeyPath = ()) -> Any:
    """The plain values with every relative path made absolute; `folder` is that of the configuration's file."""
    if path == () and isinstance(value, dict):
        value = {"store": DEFAULT_STORE} | value
    if isinstance(value, dict):
        return {key: _anchored(member, folder, (*path, key)) for key, member in value.items()}
    if isinstance(value, list):
        return [_anchored(element, folder, (*path, at)) for at, element in enumerate(value)]
    if not isinstance(value, str) or not value:
        return value
    if path in PATHS:
        return str(folder / value)
    match = _FILE.fullmatch(value) if path == ("store",) else _FILE_REFERENCE.fullmatch(value)
    return f"{match[1]}{folder / match[2]}{match[3]}" if match else value
