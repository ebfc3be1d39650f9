"""The command `preview`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from emulator.terminal import refuse, say, show
from lib import config as configuration
from lib.config import ENVIRONMENT, Config
from lib.errors import ConfigError, ConnectorError
from lib.model.duration import parse_duration

# ruff: noqa: PLC0415 - what evaluates is loaded when the command runs, and in no other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--filter", nargs="+", required=True, metavar="FILE", help="UTMStack's filters, YAML")
    parser.add_argument(
        "--rules", nargs="+", required=True, metavar="FILE_OR_FOLDER", help="UTMStack's rules, YAML; folders whole"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--events", metavar="FILE", help="raw events, one a line; or a batch of the store")
    source.add_argument("--recording", metavar="FILE", help="a recording of pages")
    source.add_argument("--since", metavar="TIME", help="what the store holds since a duration ago, such as 7d")
    parser.add_argument("--each", action="store_true", help="a JSON line for each event instead of the report")
    parser.epilog = "Without --events, --recording or --since: a week of the simulator's events."


def run(args: argparse.Namespace) -> int:
    """Show what filter and rules make of the events; 0 where all is well, 1 where something needs a look."""
    try:
        return _run(args)
    except ConnectorError as error:
        if args.json:
            say(json.dumps({"ok": False, "problem": error.as_problem()}, ensure_ascii=False))
        refuse(error)
        return 2
    except BrokenPipeError:
        os._exit(0)  # Whoever read it has had enough.


def _run(args: argparse.Namespace) -> int:
    from emulator.preview.events import site_of
    from emulator.preview.files import read_filters, read_rules
    from emulator.preview.report import report_of, tables_of, words_of
    from emulator.preview.session import Session

    config = _config(args)
    session = Session(read_filters(args.filter), read_rules(args.rules), site_of(config))
    for outcome in _outcomes(args, config, session):
        if args.each:
            print(outcome)
    found = report_of(session)
    if args.each:
        sys.stdout.flush()
    elif args.json:
        say(json.dumps(found, ensure_ascii=False))
    else:
        for rows in tables_of(session, found):
            show(rows)
            say("")
        say(*words_of(session, found))
    return 0 if found["ok"] else 1


def _config(args: argparse.Namespace) -> Config | None:
    """The configuration, where one is named; the store cannot be read without."""
    if args.config is None and args.since is None and ENVIRONMENT not in os.environ:
        return None
    return configuration.load(args.config)


def _outcomes(args: argparse.Namespace, config: Config | None, session: object) -> Iterator[str]:
    """Each event's JSON line; empty where nobody wants it."""
    from emulator.preview.events import from_file, from_simulator, from_store, site_of
    from emulator.preview.report import line_of
    from emulator.preview.session import Session

    assert isinstance(session, Session)  # noqa: S101
    site = site_of(config)
    name = args.events or args.recording
    if name:
        events = from_file(name, site)
    elif args.since:
        assert config is not None  # noqa: S101
        events = from_store(config, _since(args.since))
    else:
        events = from_simulator(site)
    for event in events:
        outcome = session.run(event)
        if outcome is not None and args.each:
            yield json.dumps(line_of(outcome), ensure_ascii=False)


def _since(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError:
        raise ConfigError(f"--since {text!r} is no duration", remedy="Write 7d, or 12h.") from None
