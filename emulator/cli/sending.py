"""`replay` and `switch-over`: what was kept, sent again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from emulator.cli.site import (
    graph,
    refused,
    running_status,
    window_of,
)
from emulator.cli.terminal import say
from lib import answers
from lib.errors import ConfigError, ConnectorError

if TYPE_CHECKING:
    from lib.pipeline.replay import ReplayReport


def replay(location: str | None, since: str | None, name: str | None, *, as_json: bool) -> int:
    """Send kept batches, or what was set aside, to the engine again; 0 where it has taken all."""
    try:
        app, _ = graph(location)
        found = app.send_again(since=None if since is None else datetime.now(UTC) - window_of(since), name=name)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    return _sent(found, as_json=as_json)


def switch_over(location: str | None, after: str, *, as_json: bool) -> int:
    """Forward what was observed behind the last event of UTMStack's own plugin; 0 where the engine has taken all."""
    try:
        app, _ = graph(location)
        if running_status(app.config()):
            raise ConfigError("the connector runs, and observes more meanwhile", remedy="Stop it first (SIGTERM).")
        found = app.replay.observed_after(after)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    return _sent(found, as_json=as_json)


def _sent(report: ReplayReport, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps(answers.replayed(report), ensure_ascii=False))
    else:
        say(f"{report.acked} events of {report.batches} batches were acknowledged; {report.refused} were refused.")
        for key in report.damaged:
            say(f"{key} is damaged, and was not sent.")
    return 0 if report.ok else 1
