"""`replay` and `switch-over`: send stored events to the engine again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from emulator.cli.progress import ProgressLine
from emulator.cli.site import (
    graph,
    refused,
    running_status,
    window_of,
)
from emulator.cli.terminal import say, say_wrapped
from lib import answers
from lib.errors import ConfigError, ConnectorError
from lib.model.duration import duration_text
from lib.model.text import several

if TYPE_CHECKING:
    from lib.config.settings import Config
    from lib.pipeline.replay import ReplayReport


def replay(
    location: str | None, since: str | None, name: str | None, *, only_dead_letters: bool = False, as_json: bool
) -> int:
    """Send archived batches or dead letters to the engine again; 0 if it acknowledges all."""
    try:
        if name is not None and only_dead_letters:
            raise ConfigError("`--dead-letters` goes with `--since`", remedy="`--batch` names one object by itself.")
        app, _ = graph(location)
        begin = None if since is None else datetime.now(UTC) - window_of(since)
        with ProgressLine("events") as progress:
            update = partial(progress.update, "replay")
            report = (
                app.replay.since(begin, update, only_dead_letters=only_dead_letters)
                if name is None
                else app.replay.named(name)
            )
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    hint = None
    if not report.batches and not report.damaged:
        hint = f"There are no dead letters since {since}." if only_dead_letters else _not_kept(app.config(), since)
    return _sent(report, hint, as_json=as_json)


def _not_kept(config: Config, since: str | None) -> str:
    none = f"There are no dead letters since {since}."
    if config.archive is None and not config.observe:
        return (
            "`archive` is off: delivered batches are not kept. To keep future batches, set `archive: 7d`. To read the "
            f"last 24 hours from Sophos again, run `reconcile`. {none}"
        )
    kept = "" if config.archive is None else f" `archive` keeps batches for {duration_text(config.archive)}."
    return f"The archive holds no batch that was fetched since {since}.{kept} {none}"


def switch_over(location: str | None, after: str, *, as_json: bool) -> int:
    """Forward the events observed after the last event of UTMStack's own plugin; 0 if the engine acknowledges all."""
    try:
        app, _ = graph(location)
        if running_status(app.config()):
            raise ConfigError("the connector still runs", remedy="Stop the connector first (SIGTERM).")
        with ProgressLine("events") as progress:
            report = app.replay.observed_after(after, partial(progress.update, "switch-over"))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    is_empty = not (report.acked or report.refused or report.damaged)
    return _sent(report, f"{after} is the newest observed event." if is_empty else None, as_json=as_json)


def _sent(report: ReplayReport, hint: str | None, *, as_json: bool) -> int:
    if as_json:
        answer = answers.replayed(report) | ({"hint": hint} if hint else {})
        say(json.dumps(answer, ensure_ascii=False))
    elif hint:
        say_wrapped("There was no event to send.", hint)
    else:
        sent = several(report.batches, "batch", "batches")
        say_wrapped(f"{several(report.acked, 'event')} of {sent} acknowledged, {report.refused} refused.")
        for key in report.damaged:
            say_wrapped(f"{key} is damaged and was not sent.")
    return 0 if report.ok else 1
