"""`attest`: make a key, sign what became of a day's events, and check such a statement."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tomllib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from emulator.cli.terminal import refuse, say, show
from emulator.runtime.process import ROOT
from lib.config import loading as configuration
from lib.errors import ConfigError, ConnectorError, NotFoundError
from lib.model.clock import day_of
from lib.model.stream import Stream
from lib.pipeline import attest, signature
from lib.state.state import State
from lib.store.base import LAYOUT


def run(args: argparse.Namespace) -> int:
    """0 where all is well, 1 where something needs a look, 2 where it cannot be done."""
    try:
        if args.new_key:
            found = _new_key(args.new_key)
        elif args.verify:
            found = _verified(args.verify, _named(args.public_key, "--public-key"))
        else:
            out = _named(args.out, "--out")
            found = _attested(args.config, args.day, _named(args.key, "--key"), out)
    except OSError as error:
        return _refused(_unusable(error), as_json=args.json)
    except ConnectorError as error:
        return _refused(error, as_json=args.json)
    if args.json:
        say(json.dumps(found, ensure_ascii=False))
    else:
        _tell(found)
    return 0 if found["ok"] else 1


def _new_key(file: Path) -> dict[str, Any]:
    """A new pair of keys, the private one for its owner alone; ConfigError where one of the files is there."""
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
                f"{path} is there already, and a key is never overwritten", remedy="Name another file."
            ) from None
    return {"ok": True, "key": str(file), "public_key": str(public_file), "fingerprint": signature.fingerprint(public)}


def _attested(location: str | None, day: str, key_file: Path, out: Path) -> dict[str, Any]:
    """Write the day's statement and its signature; the statement."""
    key = key_file.read_bytes()
    fingerprint = signature.fingerprint(signature.public_key_of(key))
    config = configuration.load(location)
    now = datetime.now(UTC)
    found = attest.statement(
        _state(config.store),
        _day(day, now),
        now=now,
        measured=[
            attest.Measured(integration.name, integration.settle, integration.reconcile)
            for integration in config.integrations
        ],
        versions={"connector": _version(), "python": platform.python_version(), "store_layout": LAYOUT},
        key=fingerprint,
    )
    body = json.dumps(found, indent=1).encode() + b"\n"
    for path, content in ((out, body), (_beside(out, ".sig"), signature.sign(key, body))):
        half = _beside(path, ".half")
        half.write_bytes(content)
        half.replace(path)
    return found | {"out": str(out), "signature": str(_beside(out, ".sig"))}


def _verified(file: Path, public_file: Path) -> dict[str, Any]:
    """Whether the statement is the key's, and what it says of itself."""
    body, signed, public = file.read_bytes(), _beside(file, ".sig").read_bytes(), public_file.read_bytes()
    ok = signature.is_signed(public, body, signed)
    found: dict[str, Any] = {"ok": ok, "file": str(file), "fingerprint": signature.fingerprint(public)}
    with suppress(ValueError, KeyError, TypeError):
        told = json.loads(body) if ok else {}
        found |= {"day": told["day"], "made_at": told["made_at"], "attests": told["ok"]}
    return found


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
    raise ConfigError(f"--day {text!r} is no day", remedy="Write 2026-03-10, or yesterday.")


def _version() -> str:
    with suppress(OSError, KeyError):
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    return "unknown"


def _named(path: Path | None, option: str) -> Path:
    if path is None:
        raise ConfigError(f"{option} is missing", remedy="See `attest --help`.")
    return path


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _unusable(error: OSError) -> ConfigError:
    return ConfigError(f"{error.filename} cannot be used: {error.strerror}", remedy="Name another file, or mend it.")


def _refused(error: ConnectorError, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


def _tell(found: dict[str, Any]) -> None:
    if "streams" in found:
        _tell_day(found)
    elif "public_key" in found:
        say(
            f"The private key is {found['key']}: keep it on this machine. Whoever verifies needs {found['public_key']}."
        )
    elif found["ok"]:
        say(f"{found['file']} is what the key signed: the day {found.get('day')}, made at {found.get('made_at')}.")
        if found.get("attests") is False:
            say("It says itself that something needs a look.")
    else:
        say(f"{found['file']} is NOT what the key signed.", file=sys.stderr)


def _tell_day(found: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = [
        ("STREAM", "COMPLETE", "SOPHOS HELD", "RECEIVED", "DELIVERED", "WAITING", "DEAD", "LATE", "GAPS")
    ]
    for line in found["streams"]:
        held, share = line["held_by_sophos"]["events"], line["completeness"]
        counts = (line["received"], line["delivered"], line["waiting"], line["dead_letters"]["events"])
        rows.append(
            (
                str(Stream.of(line)),
                "?" if share is None else f"{share:.4%}",
                "?" if held is None else str(held),
                *map(str, (*counts, line["late"]["events"], len(line["gaps"]))),
            )
        )
    show(rows)
    for remark in found["remarks"]:
        say(f"LOOK  {remark}")
    if not found["is_over"]:
        say(f"{found['day']} is not over: its numbers may still change.")
    for line in found["proposals"]:
        if line["now"] != line["proposed"]:
            say(f"PROPOSED  {line['integration']}: {line['setting']}: {line['proposed']}. {line['why']}")
    say(f"{found['day']}: written to {found['out']}, signed in {found['signature']}.")
