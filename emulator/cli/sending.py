"""`replay` and `switch-over`: what was kept, sent again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from emulator.cli.progress import Progress
from emulator.cli.site import (
    graph,
    refused,
    running_status,
    window_of,
)
from emulator.cli.terminal import say
from lib import answers
from lib.errors import ConfigError, ConnectorError
from lib.model.duration import duration_text

if TYPE_CHECKING:
    from lib.config.settings import Config
    from lib.pipeline.replay import ReplayReport


def replay(
    location: str | None, since: str | None, name: str | None, *, only_dead_letters: bool = False, as_json: bool
) -> int:
    """Send kept batches, or what was set aside, to the engine again; 0 where it has taken all."""
    try:
        if name is not None and only_dead_letters:
            raise ConfigError("`--dead-letters` goes with `--since`", remedy="`--batch` names one object by itself.")
        app, _ = graph(location)
        begin = None if since is None else datetime.now(UTC) - window_of(since)
        with Progress("events") as progress:
            told = partial(progress.tell, "replay")
            found = (
                app.replay.since(begin, told, only_dead_letters=only_dead_letters)
                if name is None
                else app.replay.named(name)
            )
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    hint = None
    if not found.batches and not found.damaged:
        hint = f"Nothing was set aside since {since}." if only_dead_letters else _not_kept(app.config(), since)
    return _sent(found, hint, as_json=as_json)


def _not_kept(config: Config, since: str | None) -> str:
    if config.archive is None and not config.observe:
        return (
            "`archive` is off: a batch that was delivered is not kept. `archive: 7d` keeps those to come. "
            f"Nothing was set aside since {since}. "
            "`reconcile` reads the last 24 hours from Sophos again."
        )
    kept = "" if config.archive is None else f" `archive` keeps batches for {duration_text(config.archive)}."
    return f"No batch that is kept was fetched, and nothing was set aside, since {since}.{kept}"


def switch_over(location: str | None, after: str, *, as_json: bool) -> int:
    """Forward what was observed behind the last event of UTMStack's own plugin; 0 where the engine has taken all."""
    try:
        app, _ = graph(location)
        if running_status(app.config()):
            raise ConfigError("the connector runs, and observes more meanwhile", remedy="Stop it first (SIGTERM).")
        with Progress("events") as progress:
            found = app.replay.observed_after(after, partial(progress.tell, "switch-over"))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    is_empty = not (found.acked or found.refused or found.damaged)
    return _sent(found, f"{after} is the newest event that was observed." if is_empty else None, as_json=as_json)


def _sent(report: ReplayReport, hint: str | None, *, as_json: bool) -> int:
    if as_json:
        told = answers.replayed(report) | ({"hint": hint} if hint else {})
        say(json.dumps(told, ensure_ascii=False))
    elif hint:
        say("There was nothing to send.", hint)
    else:
        say(f"{report.acked} events of {report.batches} batches were acknowledged; {report.refused} were refused.")
        for key in report.damaged:
            say(f"{key} is damaged, and was not sent.")
    return 0 if report.ok else 1
