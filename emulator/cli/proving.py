"""The arguments of `attest`, `record` and `drill`. Their code is imported when they run."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Protocol

# ruff: noqa: PLC0415 - each command imports only what it uses

MOST_MINUTES = 24 * 60
EXAMPLES = {
    "attest": ("--new-key site.key", "--day yesterday --key site.key --out yesterday.json"),
    "record": ("--out site.recording --pages 100", "--out site.recording --minutes 10 --integration acme"),
    "drill": ("--minutes 10 --report drill.html", "--minutes 1 --seed 7"),
}


class Add(Protocol):
    """Adds a command to the parser."""

    def __call__(
        self, name: str, text: str, command: Run, *, config: bool = False, json: bool = False
    ) -> argparse.ArgumentParser:
        """Return the parser of the new command."""


class Run(Protocol):
    """Runs a command and returns its exit status."""

    def __call__(self, args: argparse.Namespace, /) -> int:
        """Run it."""


def add_commands(add: Add) -> None:
    """Add the three commands."""
    _attest(add("attest", "sign a statement about a day's events, or verify one", _run_attest, config=True, json=True))
    _record(add("record", "record real pages with pseudonyms, for the simulator", _run_record, config=True, json=True))
    _drill(add("drill", "test outages on a simulated copy of this site", _run_drill, config=True, json=True))


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= MOST_MINUTES:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes: write 10, or 0.5; at most {MOST_MINUTES}")


def _pages(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of pages: write for example 100")


def _attest(parser: argparse.ArgumentParser) -> None:
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--new-key", type=Path, metavar="FILE", help="create a key: FILE, and FILE.pub for verifying")
    action.add_argument("--day", metavar="DAY", help="sign a day (UTC): 2026-03-10, or yesterday")
    action.add_argument("--verify", type=Path, metavar="FILE", help="verify a statement; its signature is FILE.sig")
    parser.add_argument("--key", type=Path, metavar="FILE", help="with --day: the private key")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with --day: the statement; FILE.sig is its signature")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="with --verify: the public key")


def _record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="`central --recording FILE` serves it")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--pages", type=_pages, metavar="N", help="stop after N pages of all streams")
    how_long.add_argument(
        "--minutes", type=_minutes, metavar="N", help="stop after N minutes; default: at the last page"
    )
    parser.add_argument("--integration", metavar="NAME", help="default: all")
    parser.add_argument(
        "--keep-key", type=Path, metavar="FILE", help="keep the pseudonyms' key for the next recording; default: none"
    )


def _drill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=_minutes, default=10.0, metavar="N", help="default: %(default)g")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the outages; default: random, and printed")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a report for an auditor")


def _run_drill(args: argparse.Namespace) -> int:
    from emulator.drill.command import run

    return run(args)


def _run_record(args: argparse.Namespace) -> int:
    from emulator.recording.record import run

    return run(args)


def _run_attest(args: argparse.Namespace) -> int:
    from emulator.cli.attest import run

    return run(args)
