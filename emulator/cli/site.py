"""Helpers that the commands share: the use cases of a configuration, and the running connector."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from emulator.cli.terminal import refuse, say, say_wrapped, window
from lib.app import App
from lib.config import loading as configuration
from lib.config.reloading import read_followed, with_followed
from lib.config.settings import Config
from lib.errors import ConfigError, ConnectorError
from lib.model.clock import day_of
from lib.model.duration import parse_duration
from lib.model.stream import Stream
from lib.parts import Parts, existing_store

if TYPE_CHECKING:
    from emulator.utmstack.watcher import SettingsWatcher

LOOKING = Parts(store=existing_store)
"""The parts of commands that only read: they create no store."""


def graph(location: str | None, parts: Parts | None = None) -> tuple[App, SettingsWatcher | None]:
    """The use cases over the configuration with the integrations of UTMStack's own configuration.

    Problems of UTMStack's configuration go to standard error.
    """
    config = configuration.load(location)
    followed = followed_of(config)
    if followed:
        for problem in followed.problems:
            refuse(problem)
        config = with_followed(config, read_followed(Path(followed.path)))
    return App(lambda: config, parts), followed


def followed_of(config: Config) -> SettingsWatcher | None:
    """UTMStack's own configuration, read now; None if it is not followed."""
    if config.utmstack is None:
        return None
    from emulator.utmstack.watcher import SettingsWatcher  # noqa: PLC0415 - only sites that follow UTMStack need it

    followed = SettingsWatcher(config.utmstack.workdir)
    followed.look()
    return followed


def stream_names(app: App) -> Callable[[Stream], str]:
    """The name of a stream in a table: in a terminal window with its tenant's name, which wraps at words."""
    if window() is None:
        return str
    tenants: dict[tuple[str, str], str] = {}
    for integration in app.config().integrations:
        with suppress(ConnectorError):
            listed = app.accounts.read(integration.name).tenants
            # The only tenant of an integration needs no id.
            tenants |= {(integration.name, who.id): who.name or (who.id if len(listed) > 1 else "") for who in listed}

    def name(stream: Stream) -> str:
        tenant = tenants.get((stream.integration, stream.tenant), stream.tenant)
        return " · ".join(filter(None, (stream.integration, tenant, stream.kind)))

    return name


def window_of(since: str) -> timedelta:
    """The age of a time, or the duration itself; ConfigError for any other text."""
    with suppress(ValueError):
        return parse_duration(since)
    with suppress(ValueError):
        window = datetime.now(UTC) - datetime.fromisoformat(since).astimezone(UTC)
        if window > timedelta(0):
            return window
    raise ConfigError(
        f"--since {since!r} is neither a past time nor a duration", remedy="Write for example 12h, or 2026-03-10T08:00."
    )


def day_of_option(since: str | None) -> str:
    """The ledger's day of a date, or of a duration ago; empty without an option. ConfigError for any other text."""
    if not since:
        return ""
    with suppress(ValueError):
        return day_of(datetime.now(UTC) - parse_duration(since))
    try:
        return day_of(datetime.fromisoformat(since).astimezone(UTC))
    except ValueError:
        raise ConfigError(
            f"--since {since!r} is neither a date nor a duration", remedy="Write for example 2026-03-10, or 7d."
        ) from None


def running_status(config: Config) -> dict[str, Any] | None:
    """The status of a running connector, which knows more than the store; None if none answers."""
    try:
        answer = asked(config, "/status", reading=5)
        status: dict[str, Any] = answer.json()
    except (requests.RequestException, ValueError):
        return None
    # Another program may listen there, or a connector with another store.
    return status if answer.status_code == 200 and status.get("store") == config.store else None


def asked(config: Config, path: str, *, reading: float | None, stream: bool = False) -> requests.Response:
    """The running connector's answer to a GET. The request is local, so that it needs no key by default."""
    host, port = config.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - the wildcard includes loopback
    return requests.get(
        f"http://{f'[{host}]' if ':' in host else host}:{port}{path}",
        headers={"Host": f"localhost:{port}", **_key_of(config)},
        proxies={"http": "", "https": ""},
        timeout=(5, reading),
        stream=stream,
    )


def _key_of(config: Config) -> dict[str, str]:
    """The header with a key, if local callers need one too."""
    if config.access.local != "key" or not config.access.keys:
        return {}
    return {"Authorization": f"Bearer {config.access.keys[0].resolve()}"}


def refused(error: ConnectorError, *, as_json: bool) -> int:
    """Print the error of a command that cannot run; return 2, its exit status."""
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


def print_followed(followed: dict[str, Any]) -> None:
    """Print the groups and problems of UTMStack's own configuration."""
    if followed["groups"]:
        groups = ", ".join(map(repr, followed["groups"]))
        say_wrapped("", f"{followed['source']}: {len(followed['groups'])} group(s): {groups}")
    if "note" in followed:
        say_wrapped("", f"{followed['note']}")
    for problem in followed["problems"]:
        print_problem({"name": "UTMStack's configuration", "problem": problem})


def print_problem(line: dict[str, Any]) -> None:
    """Print a line's problem and warnings, each with its remedy."""
    if "problem" in line:
        tenant = line.get("tenant_name")
        name = line.get("name") or f"{Stream.of(line)}{f' ({tenant})' if tenant else ''}"
        until = f" (next try {line['retry_at']})" if line.get("retry_at") else ""
        say_wrapped("", f"{name}: {line['problem']['detail']}{until}", f"→ {line['problem']['remedy']}")
    for warning in line.get("warnings", ()):
        say_wrapped("", f"{line['name']}: {warning['text']}", f"→ {warning['remedy']}")
