"""`test-connection`: tests each step from DNS to the engine."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from emulator.cli.site import (
    graph,
    refused,
)
from emulator.cli.terminal import say, say_wrapped
from lib import answers
from lib.errors import ConnectorError, NotFoundError

if TYPE_CHECKING:
    from lib.pipeline.test_connection import Check

TEST_SECONDS = 300.0
"""The time limit for testing one integration."""
DETAIL = 36
"""The column in which a check's detail begins."""


def test_connection(location: str | None, integration: str | None, *, as_json: bool) -> int:
    """Test one integration or all; 0 if every check passes."""
    try:
        app, followed = graph(location)
        app.require(integration)
        names = [integration] if integration else [config.name for config in app.config().integrations]
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
        say(json.dumps({name: answers.connection(report) for name, report in reports.items()}, ensure_ascii=False))
    return 0 if all(report.ok for report in reports.values()) and not problems else 1


def _ignore(_: Check) -> None:
    """Print nothing yet: JSON is printed once, at the end."""


def _print_check(check: Check) -> None:
    marks = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "skipped": "skip" if check.ok else "----"}
    say_wrapped(f"  {marks[check.outcome]} {check.name:<17} {check.milliseconds:>6} ms  {check.detail}", indent=DETAIL)
    if check.remedy is not None:
        say_wrapped(f"{'':<{DETAIL}}→ {check.remedy}")
