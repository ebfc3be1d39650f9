"""`drill`: the outage drill on a copy of the site's configuration."""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from emulator.cli.terminal import refuse, say, show
from emulator.drill import site
from emulator.drill.drill import Drill, Result
from emulator.drill.report import WORDS, page
from lib.config import loading as configuration
from lib.errors import ConfigError, ConnectorError, RetryableError
from lib.model.text import several


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 if no event was lost and every outage healed, otherwise 1; 2 if the drill cannot run."""
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    report_progress = _silent if args.json and not sys.stderr.isatty() else lambda text: say(text, file=sys.stderr)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # As Ctrl-C: the events are still counted.
        _check(args)
        integrations = site.copied(configuration.load(args.config))
        with tempfile.TemporaryDirectory(prefix="drill-") as folder:
            report_progress(f"seed {seed}; {several(len(integrations), 'integration')}, {args.minutes:g} min")
            result = Drill(
                integrations, Path(folder), minutes=args.minutes, seed=seed, on_progress=report_progress
            ).run()
    except ConnectorError as error:
        return _refused(error, as_json=args.json)
    except KeyboardInterrupt:
        detail = "it was interrupted before there was a result"
        return _refused(RetryableError(detail, remedy="Start the command again."), as_json=args.json)
    unwritten = None if args.report is None else _written(args.report, page(result))
    if args.json:
        report = None if args.report is None or unwritten else str(args.report)
        say(json.dumps(result.fields() | {"report": report}, ensure_ascii=False))
    else:
        _print(result)
    if unwritten:
        refuse(unwritten)
    return 0 if result.ok and not unwritten else 1


def _check(args: argparse.Namespace) -> None:
    """ConfigError if the options cannot be used: better now than after the drill."""
    if args.report is not None and not args.report.absolute().parent.is_dir():
        raise ConfigError(
            f"{args.report} cannot be written: its folder does not exist",
            remedy="Create the folder, or name another file.",
        )
    if args.report is not None and args.report.is_dir():
        raise ConfigError(f"{args.report} cannot be written: it is a folder", remedy="Name a file in it.")


def _written(file: Path, text: str) -> ConfigError | None:
    """Write the report; return the reason if it cannot be written."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        return ConfigError(f"{file} cannot be written: {error.strerror}", remedy="Correct the path, or free space.")
    return None


def _refused(error: ConnectorError, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


def _silent(_: str) -> None:
    """Print nothing yet: JSON is printed once, at the end."""


def _print(result: Result) -> None:
    rows = [("AT", "WHAT", "CUT OFF FOR", "HEALED IN")]
    rows += [
        (
            cut.began_at[11:19],
            WORDS[cut.what],
            f"{cut.seconds} s",
            "not" if cut.healed_seconds is None else f"{cut.healed_seconds} s",
        )
        for cut in result.cuts
    ]
    show(rows)
    counts = result.counts
    say(
        f"{several(counts.events, 'event')}, {counts.arrived} arrived, {counts.acked} acknowledged; "
        f"lost: {counts.lost}; altered: {counts.altered}; delivered again: {counts.doubled}.",
        f"The audit {'passed' if result.audit else 'FAILED'}. The drill {'passed' if result.ok else 'FAILED'}.",
    )
