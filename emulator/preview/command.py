"""The command `preview`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from emulator.cli.terminal import refuse, say, show
from lib.config import loading as configuration
from lib.config.environment import CONFIG, variable
from lib.config.settings import Config
from lib.errors import ConfigError, ConnectorError
from lib.model.duration import parse_duration

if TYPE_CHECKING:
    from emulator.preview.events import Event
    from emulator.preview.session import Session

DAMAGED = "it is damaged; its events are skipped"
# ruff: noqa: PLC0415 - what evaluates is loaded when the command runs, and in no other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--filter", nargs="+", action="extend", required=True, metavar="FILE", help="UTMStack's filters, YAML"
    )
    parser.add_argument(
        "--rules",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE_OR_FOLDER",
        help="UTMStack's rules: YAML files, or folders of them",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--events", metavar="FILE", help="raw events, one a line, or a batch of the store")
    source.add_argument("--recording", metavar="FILE", help="a recording of pages")
    source.add_argument("--since", metavar="TIME", help="events of the store since a duration ago, such as 7d")
    parser.add_argument("--each", action="store_true", help="print a JSON line for each event instead of the report")
    parser.epilog = "Without --events, --recording or --since: a week of the simulator's events."


def run(args: argparse.Namespace) -> int:
    """Apply filter and rules to the events and print a report; 0 if there is no problem, otherwise 1."""
    try:
        return _run(args)
    except ConnectorError as error:
        if args.json:
            say(json.dumps({"ok": False, "problem": error.as_problem()}, ensure_ascii=False))
        refuse(error)
        return 2
    except BrokenPipeError:
        os._exit(0)  # The reader has closed the pipe.


def _run(args: argparse.Namespace) -> int:
    from emulator.preview.events import site_of
    from emulator.preview.files import read_filters, read_rules
    from emulator.preview.report import line_of, report_of, tables_of, words_of
    from emulator.preview.session import Session

    config = _config(args)
    session = Session(read_filters(args.filter), read_rules(args.rules), site_of(config))
    for event in _events(args, config, session):
        outcome = session.run(event)
        if args.each:
            print(json.dumps(line_of(outcome), ensure_ascii=False))
    report = report_of(session)
    if args.json and not args.each:
        say(json.dumps(report, ensure_ascii=False))
    elif not args.each:
        for rows in tables_of(session, report):
            show(rows)
            say("")
        say(*words_of(session, report))
    return 0 if report["ok"] else 1


def _config(args: argparse.Namespace) -> Config | None:
    """The configuration, if one is named. Reading the store needs one."""
    if args.config is None and args.since is None and variable(CONFIG) is None:
        return None
    return configuration.load(args.config)


def _events(args: argparse.Namespace, config: Config | None, session: Session) -> Iterator[Event]:
    from emulator.preview.events import from_file, from_simulator, from_store

    if args.events:
        return from_file(args.events, session.site)
    if args.recording:
        return from_file(args.recording, session.site, pages=True)
    if args.since and config:
        return from_store(config, _since(args.since), partial(session.remarks.add, what=DAMAGED))
    return from_simulator(session.site)


def _since(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError:
        raise ConfigError(f"--since {text!r} is not a duration", remedy="Write for example 7d, or 12h.") from None
