"""The configuration in force as text for the settings page. It never contains the value of a secret."""

from __future__ import annotations

import platform as sys_platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from datetime import timedelta
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from emulator.web import formatting
from lib.config.secrets import Reference
from lib.config.settings import Every
from lib.model.duration import duration_text
from lib.version import VERSION

ROOT = Path(__file__).parents[2]
"""The root of the source tree, with the documentation."""


def items(config: Any) -> list[tuple[str, Any]]:
    """The settings of a part of the configuration, in order."""
    return [(setting.name, getattr(config, setting.name)) for setting in fields_of(config)]


def setting_text(name: str, value: Any) -> str:
    """A setting in the notation of the configuration file."""
    if name == "listen":
        return f"{value[0]}:{value[1]}"
    if name == "limits":
        bytes_ = formatting.size(value.max_pending_bytes)
        times = f"ack_timeout {value_text(value.ack_timeout)}, deadline {value_text(value.deadline)}"
        return f"max_pending_bytes {bytes_}, {times}"
    return value_text(value)


def value_text(value: object) -> str:
    """A value as text. A reference to a secret shows only the kind of place it points to."""
    texts: dict[type, Callable[[Any], str]] = {
        Reference: masked,
        timedelta: duration_text,
        Every: lambda every: every.cron or value_text(every.interval),
    }
    if type(value) in texts:
        return texts[type(value)](value)
    if value is None or isinstance(value, bool):
        return {None: "–", True: "on", False: "off"}[value]
    if is_dataclass(value) and not isinstance(value, type):
        inner = [
            f"{name}: {value_text(inner_value)}"
            for name, inner_value in items(value)
            if inner_value not in (None, (), "")
        ]
        return ", ".join(inner) or "–"
    if isinstance(value, tuple | list):
        return ", ".join(map(value_text, value)) or "–"
    return str(value)


def masked(reference: Reference) -> str:
    """A secret as dots, with the kind of place it comes from."""
    text = str(getattr(reference, "text", ""))
    kinds = {"${env:": "an environment variable", "${file:": "a file", "${secret:": "Secret Manager"}
    place = next((kind for begin, kind in kinds.items() if text.startswith(begin)), None)
    return f"•••••• (from {place})" if place else "••••••"


def documents() -> Mapping[str, Path]:
    """The documentation files by name."""
    return {path.name: path for path in [*ROOT.glob("README.md"), *ROOT.glob("docs/*.md")]}


@cache
def title_of(name: str) -> str:
    """The first line of a document as its title; its name if it cannot be read."""
    with suppress(OSError), documents()[name].open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip() or name
    return name


def versions() -> list[tuple[str, str]]:
    """Names and versions of the connector, Python and the main packages."""
    pairs = [("connector", VERSION), ("Python", sys_platform.python_version())]
    for name in ("grpcio", "protobuf", "Flask", "waitress", "requests"):
        with suppress(metadata.PackageNotFoundError):
            pairs.append((name, metadata.version(name)))
    return pairs
