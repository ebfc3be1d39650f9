"""`drill`: the outage drill on a copy of the site's configuration."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from emulator.cli.terminal import refuse, say, show
from emulator.drill import site
from emulator.drill.drill import Drill, Result
from emulator.drill.report import WORDS, page
from lib.config import loading as configuration
from lib.errors import ConfigError, ConnectorError


def run(args: argparse.Namespace) -> int:
    """0 where nothing was lost and everything healed, 1 where not, 2 where the drill cannot be held."""
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    tell = _silent if args.json and not sys.stderr.isatty() else lambda text: say(text, file=sys.stderr)
    try:
        if args.report is not None and not args.report.absolute().parent.is_dir():
            raise ConfigError(f"{args.report} cannot be written: there is no such folder", remedy="Name another file.")
        integrations = site.copied(configuration.load(args.config))
        with tempfile.TemporaryDirectory(prefix="drill-") as folder:
            tell(f"seed {seed}; {len(integrations)} integration(s) for {args.minutes:g} minutes")
            result = Drill(integrations, Path(folder), minutes=args.minutes, seed=seed, tell=tell).run()
    except ConnectorError as error:
        if args.json:
            say(json.dumps({"ok": False, "problem": error.as_problem()}))
        refuse(error)
        return 2
    if args.report is not None:
        args.report.write_text(page(result), encoding="utf-8")
    if args.json:
        report = None if args.report is None else str(args.report)
        say(json.dumps(result.fields() | {"report": report}, ensure_ascii=False))
    else:
        _tell(result)
    return 0 if result.ok else 1


def _silent(_: str) -> None:
    """For machines, all is told at once."""


def _tell(result: Result) -> None:
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
    say(
        f"{result.events} events, {result.arrived} arrived, {result.acked} acknowledged; lost: {result.lost}; "
        f"altered: {result.altered}; delivered again: {result.doubled}.",
        f"The ledger is {'whole' if result.audit else 'NOT whole'}. The drill {'passed' if result.ok else 'FAILED'}.",
    )
