"""The configuration in force, as the settings page tells it: never the value of a secret."""

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
"""Where the documentation lies, in a source tree."""


def items(config: Any) -> list[tuple[str, Any]]:
    """The settings of a part of the configuration, in order."""
    return [(setting.name, getattr(config, setting.name)) for setting in fields_of(config)]


def setting_text(name: str, value: Any) -> str:
    """A setting as people write it."""
    if name == "listen":
        return f"{value[0]}:{value[1]}"
    if name == "limits":
        bytes_ = formatting.size(value.max_pending_bytes)
        times = f"ack_timeout {value_text(value.ack_timeout)}, deadline {value_text(value.deadline)}"
        return f"max_pending_bytes {bytes_}, {times}"
    return value_text(value)


def value_text(value: object) -> str:
    """A setting as text: a reference by where it leads, and never by what it stands for."""
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
    """What may be shown of a secret: the kind of place that it comes from."""
    text = str(getattr(reference, "text", ""))
    kinds = {"${env:": "an environment variable", "${file:": "a file", "${secret:": "Secret Manager"}
    place = next((kind for begin, kind in kinds.items() if text.startswith(begin)), None)
    return f"•••••• (from {place})" if place else "••••••"


def documents() -> Mapping[str, Path]:
    """The documentation that lies beside the program, by name."""
    return {path.name: path for path in [*ROOT.glob("README.md"), *ROOT.glob("docs/*.md")]}


@cache
def title_of(name: str) -> str:
    """A document's own title, else its name."""
    with suppress(OSError), documents()[name].open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip() or name
    return name


def versions() -> list[tuple[str, str]]:
    """What runs here."""
    pairs = [("connector", VERSION), ("Python", sys_platform.python_version())]
    for name in ("grpcio", "protobuf", "Flask", "waitress", "requests"):
        with suppress(metadata.PackageNotFoundError):
            pairs.append((name, metadata.version(name)))
    return pairs
