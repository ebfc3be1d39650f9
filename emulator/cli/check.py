"""`check`: every fault and every warning of a configuration with its line, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from emulator.cli.site import followed_of, print_followed, refused
from emulator.cli.terminal import say, say_wrapped
from lib.config import loading as configuration
from lib.config import surroundings
from lib.config.advice import advice
from lib.config.loading import InvalidConfigError
from lib.config.settings import Config
from lib.config.yaml_lines import ConfigFault
from lib.errors import ConnectorError
from lib.model.families import expanded
from lib.model.text import several
from lib.parts import open_store


def check(location: str | None, *, with_environment: bool, as_json: bool) -> int:
    """Validate the configuration and what it needs on this machine; 0 if it can be used, 1 if it has faults."""
    try:
        location = configuration.located(location)
        config, document = configuration.load_document(location)
        faults: Sequence[ConfigFault] = ()
        warnings = advice(config, document)
        if with_environment:
            faults = surroundings.faults(config, document, lambda store: open_store(store, create=False))
            warnings += surroundings.warnings(config, document, location)
        followed = followed_of(config) if with_environment else None
    except InvalidConfigError as error:
        _print(location or "", error.faults, (), {}, as_json=as_json)
        return 1
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    beside = followed.status() if followed else None
    ok = not faults and not (beside and beside["problems"])
    more = _summary(config) | ({} if beside is None else {"utmstack": beside})
    _print(location, faults, warnings, more, as_json=as_json)
    if ok and not as_json:
        _print_summary(location, config)
    if beside is not None and not as_json:
        print_followed(beside)
    return 0 if ok else 1


def _summary(config: Config) -> dict[str, Any]:
    excluded = {
        integration.name: list(expanded(integration.exclude_types))
        for integration in config.integrations
        if integration.exclude_types
    }
    names = [integration.name for integration in config.integrations]
    return {"integrations": names, "exclude_types": excluded}


def _print_summary(location: str, config: Config) -> None:
    names = [integration.name for integration in config.integrations]
    say_wrapped(f"{location} can be used: {several(len(names), 'integration')}: {', '.join(map(repr, names))}")
    for integration in config.integrations:
        if integration.exclude_types:
            types = len(expanded(integration.exclude_types))
            say_wrapped(
                f"{integration.name!r} excludes {', '.join(integration.exclude_types)}: {several(types, 'type')}"
            )


def _print(
    location: str,
    faults: Sequence[ConfigFault],
    warnings: Sequence[ConfigFault],
    more: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    if as_json:
        ok = not faults and not more.get("utmstack", {}).get("problems")
        fields = {"ok": ok, "faults": list(map(_fields, faults)), "warnings": list(map(_fields, warnings))}
        say(json.dumps(fields | more, ensure_ascii=False))
        return
    if faults:
        say_wrapped(f"{location} cannot be used:")
    for kind, item in (*(("", fault) for fault in faults), *(("warning: ", warning) for warning in warnings)):
        say(f"  {kind}{item}", *_pointed(item))


def _fields(fault: ConfigFault) -> dict[str, Any]:
    return {
        "line": fault.line,
        "column": fault.column,
        "key": fault.path,
        "fault": fault.message,
        "text": fault.text,
    }


def _pointed(fault: ConfigFault) -> list[str]:
    """The line of the file, and a caret below the place."""
    if fault.column is None or not fault.text.strip():
        return []
    # A tab takes several columns; a space keeps the caret at the right one.
    return [f"      {fault.text.replace(chr(9), ' ')}", f"      {' ' * (min(fault.column, len(fault.text) + 1) - 1)}^"]
