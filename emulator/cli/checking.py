"""`check` and `test-connection`: whether a site can work."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from emulator.cli.site import (
    followed_settings,
    graph,
    print_followed,
    refused,
)
from emulator.cli.terminal import say
from lib import answers
from lib.config import loading as configuration
from lib.config.loading import InvalidConfigError
from lib.errors import ConnectorError, NotFoundError
from lib.model.families import expanded

if TYPE_CHECKING:
    from lib.pipeline.test_connection import Check

TEST_SECONDS = 300.0
"""How long testing one integration may take; a person can end it before."""


def check(location: str | None, *, as_json: bool) -> int:
    """Validate the configuration; 0 where it can be used, else 1 and every fault."""
    try:
        location = configuration.located(location)
        config = configuration.load(location)
        followed = followed_settings(config)
    except InvalidConfigError as error:
        faults = [{"line": fault.line, "key": fault.path, "fault": fault.message} for fault in error.faults]
        say(*([json.dumps({"ok": False, "faults": faults})] if as_json else str(error).split("\n")))
        return 1
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    names = [each.name for each in config.integrations]
    left_out = {each.name: list(expanded(each.exclude_types)) for each in config.integrations if each.exclude_types}
    problems = followed.status()["problems"] if followed else []
    if as_json:
        found = {"ok": not problems, "integrations": names, "exclude_types": left_out}
        say(json.dumps(found | ({"utmstack": followed.status()} if followed else {}), ensure_ascii=False))
        return 1 if problems else 0
    say(f"{location} can be used: {len(names)} integration(s): {', '.join(map(repr, names))}")
    for each in config.integrations:
        if each.exclude_types:
            say(f"{each.name!r} leaves out {', '.join(each.exclude_types)}: {len(left_out[each.name])} type(s)")
    if followed:
        print_followed(followed.status())
    return 1 if problems else 0


def test_connection(location: str | None, integration: str | None, *, as_json: bool) -> int:
    """Test one integration or each; 0 where everything works."""
    try:
        app, followed = graph(location)
        app.require(integration)
        names = [integration] if integration else [each.name for each in app.config().integrations]
        problems = followed.problems if followed and integration is None else ()
        if not names:
            raise NotFoundError("there is no integration to test yet") if not problems else problems[0]
        reports = {}
        for name in names:
            if not as_json:
                say(name)
            on_progress = _ignore if as_json else _print_check
            reports[name] = app.examine(name, deadline=time.monotonic() + TEST_SECONDS, on_progress=on_progress)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps({name: answers.connection(each) for name, each in reports.items()}, ensure_ascii=False))
    return 0 if all(each.ok for each in reports.values()) and not problems else 1


def _ignore(_: Check) -> None:
    """For machines, all checks are told at once."""


def _print_check(check: Check) -> None:
    marks = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "skipped": "skip" if check.ok else "----"}
    say(f"  {marks[check.outcome]} {check.name:<17} {check.milliseconds:>6} ms  {check.detail}")
    if check.remedy is not None:
        say(f"       {'':<17} {'':>9}  → {check.remedy}")
