"""What the commands share: the site that a configuration describes, and what runs there."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from emulator.cli.terminal import refuse, say
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
"""What a command is built on that only looks: it makes no store."""


def graph(location: str | None, parts: Parts | None = None) -> tuple[App, SettingsWatcher | None]:
    """The use cases over the configuration, and over what UTMStack configures beside it."""
    config = configuration.load(location)
    followed = followed_of(config)
    if followed:
        for problem in followed.problems:
            refuse(problem)
        config = with_followed(config, read_followed(Path(followed.path)))
    return App(lambda: config, parts), followed


def followed_of(config: Config) -> SettingsWatcher | None:
    """UTMStack's own configuration as it is now; None where it is not followed."""
    if config.utmstack is None:
        return None
    from emulator.utmstack.watcher import SettingsWatcher  # noqa: PLC0415 - only where UTMStack is followed

    followed = SettingsWatcher(config.utmstack.workdir)
    followed.look()
    return followed


def window_of(since: str) -> timedelta:
    """How long ago a date, or the duration itself."""
    with suppress(ValueError):
        return parse_duration(since)
    with suppress(ValueError):
        window = datetime.now(UTC) - datetime.fromisoformat(since).astimezone(UTC)
        if window > timedelta(0):
            return window
    raise ConfigError(
        f"--since {since!r} is neither a past time nor a duration", remedy="Write 12h, or 2026-03-10T08:00."
    )


def day_of_option(since: str | None) -> str:
    """The ledger's day of a date, or of so long ago."""
    if not since:
        return ""
    with suppress(ValueError):
        return day_of(datetime.now(UTC) - parse_duration(since))
    try:
        return day_of(datetime.fromisoformat(since).astimezone(UTC))
    except ValueError:
        raise ConfigError(
            f"--since {since!r} is neither a date nor a duration", remedy="Write 2026-03-10, or 7d."
        ) from None


def running_status(config: Config) -> dict[str, Any] | None:
    """What a running emulator says, which knows more than the store; None where none answers."""
    try:
        answer = asked(config, "/status", reading=5)
        found: dict[str, Any] = answer.json()
    except (requests.RequestException, ValueError):
        return None
    # Something else may listen there, or an emulator with another store.
    return found if answer.status_code == 200 and found.get("store") == config.store else None


def asked(config: Config, path: str, *, reading: float | None, stream: bool = False) -> requests.Response:
    """What listens there answers, asked on this machine and under this machine's name, so that it lets us in."""
    host, port = config.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - everywhere is here too
    return requests.get(
        f"http://{f'[{host}]' if ':' in host else host}:{port}{path}",
        headers={"Host": f"localhost:{port}", **_key_of(config)},
        proxies={"http": "", "https": ""},
        timeout=(5, reading),
        stream=stream,
    )


def _key_of(config: Config) -> dict[str, str]:
    """The header that shows a key, where callers on this machine show one too."""
    if config.access.local != "key" or not config.access.keys:
        return {}
    return {"Authorization": f"Bearer {config.access.keys[0].resolve()}"}


def refused(error: ConnectorError, *, as_json: bool) -> int:
    """Say why a command cannot do its work; 2, its exit status."""
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


def print_followed(found: dict[str, Any]) -> None:
    """Print how UTMStack's own configuration stands."""
    if found["groups"]:
        say("", f"{found['source']}: {len(found['groups'])} group(s): {', '.join(map(repr, found['groups']))}")
    if "note" in found:
        say("", f"{found['note']}")
    for problem in found["problems"]:
        print_problem({"name": "UTMStack's configuration", "problem": problem})


def print_problem(line: dict[str, Any]) -> None:
    """A line's trouble and its warnings, each with what to do."""
    if "problem" in line:
        name = line.get("tenant_name")
        what = line.get("name") or f"{Stream.of(line)}{f' ({name})' if name else ''}"
        until = f" (next try {line['retry_at']})" if line.get("retry_at") else ""
        say("", f"{what}: {line['problem']['detail']}{until}", f"→ {line['problem']['remedy']}")
    for each in line.get("warnings", ()):
        say("", f"{line['name']}: {each['text']}", f"→ {each['remedy']}")
