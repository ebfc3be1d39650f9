"""`attest`: create a key, sign a statement about a day's events, and verify such a statement."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from emulator.cli.site import LOOKING, stream_names
from emulator.cli.terminal import refuse, say, say_wrapped, show, window
from emulator.web.formatting import split_remark
from lib.app import App
from lib.config import loading as configuration
from lib.errors import ConfigError, ConnectorError, NotFoundError
from lib.model.clock import day_of
from lib.model.stream import Stream
from lib.pipeline import attest, signature
from lib.pipeline.accounts import streams_read
from lib.state.accounts import StoredAccounts
from lib.state.state import State
from lib.store.base import LAYOUT
from lib.version import VERSION

ALWAYS = 5
"""The first columns of the day's table, which a terminal window shows even if all is 0."""


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 no problem, 1 something needs attention, 2 the command cannot run."""
    try:
        if args.new_key:
            result = _new_key(args.new_key)
        elif args.verify:
            result = _verified(args.verify, _named(args.public_key, "--public-key"))
        else:
            out = _named(args.out, "--out")
            result = _attested(args.config, args.day, _named(args.key, "--key"), out)
    except OSError as error:
        return _refused(_unusable(error), as_json=args.json)
    except ConnectorError as error:
        return _refused(error, as_json=args.json)
    if args.json:
        say(json.dumps(result, ensure_ascii=False))
    else:
        _print(result, args.config)
    return 0 if result["ok"] else 1


def _new_key(file: Path) -> dict[str, Any]:
    """Create a pair of keys. Only the owner can read the private one. ConfigError if one of the files exists."""
    public_file = _beside(file, ".pub")
    private, public = signature.new_key()
    for path, mode, body in ((file, 0o600, private), (public_file, 0o644, public)):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
                os.fchmod(opened.fileno(), mode)
                opened.write(body)
        except FileExistsError:
            if path == public_file:
                file.unlink()
            raise ConfigError(
                f"{path} exists already, and a key is never overwritten", remedy="Name another file."
            ) from None
    return {"ok": True, "key": str(file), "public_key": str(public_file), "fingerprint": signature.fingerprint(public)}


def _attested(location: str | None, day: str, key_file: Path, out: Path) -> dict[str, Any]:
    """Write the day's statement and its signature; return the statement."""
    key = key_file.read_bytes()
    if key_file.resolve() in {out.resolve(), _beside(out, ".sig").resolve()}:
        raise ConfigError(f"--out {out} would overwrite the private key", remedy="Name another file.")
    fingerprint = signature.fingerprint(signature.public_key_of(key))
    config = configuration.load(location)
    now = datetime.now(UTC)
    state = _state(config.store)
    streams = attest.streams_of(state)
    statement = attest.statement(
        state,
        _day(day, now),
        now=now,
        measured=[
            attest.Measured(integration.name, integration.settle, integration.reconcile)
            for integration in config.integrations
        ],
        versions={"connector": VERSION, "python": platform.python_version(), "store_layout": LAYOUT},
        key=fingerprint,
        read=streams_read(config.integrations, StoredAccounts(state.store), streams),
    )
    body = json.dumps(statement, indent=1).encode() + b"\n"
    # Each file is renamed into place, so a crash leaves the old file or the new one, never half a file. The signature
    # comes last: after a crash between the two, verification fails, and the command can be repeated.
    for path, content in ((out, body), (_beside(out, ".sig"), signature.sign(key, body))):
        half = _beside(path, ".half")
        half.write_bytes(content)
        half.replace(path)
    return statement | {"out": str(out), "signature": str(_beside(out, ".sig"))}


def _verified(file: Path, public_file: Path) -> dict[str, Any]:
    """Whether the key signed the statement, with the statement's day, time and verdict."""
    body, signed, public = file.read_bytes(), _beside(file, ".sig").read_bytes(), public_file.read_bytes()
    ok = signature.is_signed(public, body, signed)
    verified: dict[str, Any] = {"ok": ok, "file": str(file), "fingerprint": signature.fingerprint(public)}
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        statement = json.loads(body) if ok else {}
        verified |= {"day": statement["day"], "made_at": statement["made_at"], "attests": statement["ok"]}
    return verified


def _state(store: str) -> State:
    path = Path(store.removeprefix("file:"))
    if store.startswith("file:") and not path.is_dir():
        raise NotFoundError(f"there is no store at {path}", remedy="Name the configuration of the running connector.")
    from lib.parts import existing_store  # noqa: PLC0415 - opens the store

    return State.of(existing_store(store))


def _day(text: str, now: datetime) -> str:
    if text == "yesterday":
        return day_of(now - timedelta(days=1))
    with suppress(ValueError):
        return day_of(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC))
    raise ConfigError(f"--day {text!r} is not a day", remedy="Write a date such as 2026-03-10, or yesterday.")


def _named(path: Path | None, option: str) -> Path:
    if path is None:
        raise ConfigError(f"{option} is missing", remedy="Run `attest --help` for an example.")
    return path


def _beside(file: Path, ending: str) -> Path:
    if not file.name:
        raise ConfigError(f"{file} is a folder", remedy="Name a file.")
    return file.with_name(file.name + ending)


def _unusable(error: OSError) -> ConfigError:
    return ConfigError(
        f"{error.filename} cannot be used: {error.strerror}", remedy="Correct the path, or the file's permissions."
    )


def _refused(error: ConnectorError, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


def _print(result: dict[str, Any], location: str | None) -> None:
    if "streams" in result:
        config = configuration.load(location)
        _print_day(result, stream_names(App(lambda: config, LOOKING)))
    elif "public_key" in result:
        say_wrapped(
            f"The private key is {result['key']}. Keep it on this machine. Verifying needs {result['public_key']}."
        )
    elif result["ok"]:
        made_at = result.get("made_at")
        say_wrapped(f"The signature of {result['file']} is valid. Day: {result.get('day')}; made at: {made_at}.")
        if result.get("attests") is False:
            say_wrapped("The statement itself reports problems.")
    else:
        say(f"The signature of {result['file']} is NOT valid.", file=sys.stderr)


def _print_day(statement: dict[str, Any], named: Callable[[Stream], str]) -> None:
    names = {str(stream): named(stream) for stream in map(Stream.of, statement["streams"])}
    rows: list[tuple[str, ...]] = [
        ("STREAM", "COMPLETE", "SOPHOS HELD", "RECEIVED", "DELIVERED", "WAITING", "DEAD", "LATE", "GAPS")
    ]
    for line in statement["streams"]:
        held, share = line["held_by_sophos"]["events"], line["completeness"]
        counts = (line["received"], line["delivered"], line["waiting"], line["dead_letters"]["events"])
        rows.append(
            (
                names[str(Stream.of(line))],
                "?" if share is None else f"{share:.4%}",
                "?" if held is None else str(held),
                *map(str, (*counts, line["late"]["events"], len(line["gaps"]))),
            )
        )
    if window() is not None:  # There, nothing but zeros needs no column.
        shown = [at for at, (_, *cells) in enumerate(zip(*rows, strict=True)) if at < ALWAYS or {*cells} != {"0"}]
        rows = [tuple(row[at] for at in shown) for row in rows]
    show(rows)
    for remark in statement["remarks"]:
        stream, text = split_remark(remark, names)
        say_wrapped(f"NOTE  {names[stream]}: {text}" if stream else f"NOTE  {text}")
    if not statement["is_over"]:
        say_wrapped(f"{statement['day']} is not over: its numbers may still change.")
    for line in statement["proposals"]:
        if line["now"] != line["proposed"]:
            say_wrapped(f"PROPOSED  {line['integration']}: {line['setting']}: {line['proposed']}. {line['why']}")
    say_wrapped(f"{statement['day']}: written to {statement['out']}, signed in {statement['signature']}.")
