"""`gaps`, `dead-letters`, `warnings`: lists of items that a person can acknowledge."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emulator.cli.site import stream_names
from emulator.cli.terminal import bounds, refuse, say, say_wrapped, show
from lib.app import App
from lib.config import loading as configuration
from lib.errors import ConnectorError, NotFoundError
from lib.model.stream import Stream
from lib.parts import Parts, existing_store
from lib.state.acknowledgements import Acknowledgements, same_cause, short_id
from lib.state.damage import damaged
from lib.state.dead_letters import DeadLetter, dead_letters_by_stream
from lib.store.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Listing:
    """The items of one command, and how to print them."""

    singular: str
    plural_form: str
    lines: Callable[[App], list[dict[str, Any]]]
    header: tuple[str, ...]
    row: Callable[[dict[str, Any], str], tuple[str, ...]]
    """An item's cells. The second argument is the name of its stream."""


def run(listing: Listing, location: str | None, acknowledge: str | None, *, as_json: bool) -> int:
    """List the items, or acknowledge one or all; 0 if every item is acknowledged, otherwise 1."""
    try:
        config = configuration.load(location)
        app = App(lambda: config, Parts(store=existing_store))
        done = [] if acknowledge is None else _acknowledge(app.store, listing, listing.lines(app), acknowledge)
        lines = listing.lines(app)
    except ConnectorError as error:
        if as_json:
            say(json.dumps({"ok": False, "problem": error.as_problem()}, ensure_ascii=False))
        refuse(error)
        return 2
    left = [line for line in lines if line["acknowledged"] is None]
    if as_json:
        say(json.dumps(lines, ensure_ascii=False))
    elif acknowledge is not None:
        say_wrapped(
            *([f"Acknowledged: {', '.join(done)}." if done else f"There is no {listing.singular} to acknowledge."])
        )
    elif lines:
        names = stream_names(app)
        show([listing.header, *(listing.row(line, _name(line, names)) for line in lines)])
        if left:
            say_wrapped("", f"{len(left)} of {len(lines)} not acknowledged. Run with `--acknowledge ID`, or `all`.")
    else:
        say_wrapped(f"There are no {listing.plural_form}.")
    return 1 if left else 0


def _acknowledge(store: ObjectStore, listing: Listing, lines: Sequence[dict[str, Any]], which: str) -> list[str]:
    chosen = [line for line in lines if which in ("all", line["id"], line["key"])]
    if not chosen and which != "all":
        raise NotFoundError(
            f"there is no {listing.singular} {which!r}",
            remedy=f"Run `{listing.plural_form.replace(' ', '-')}` to list the ids.",
        )
    by, now = f"{getpass.getuser()}@{socket.gethostname()}", datetime.now(UTC)
    seen = Acknowledgements(store)
    return [line["id"] for line in chosen if line["acknowledged"] is None and seen.add(line["key"], by=by, at=now)]


def warning_lines(app: App) -> list[dict[str, Any]]:
    """All warnings about credentials, as JSON fields."""
    from emulator.web.status import warnings_of  # noqa: PLC0415 - only this command needs it

    seen, now = Acknowledgements(app.store).all(), datetime.now(UTC)
    names = [integration.name for integration in app.config().integrations]
    return [
        {"integration": name, **listed.fields()}
        for name in names
        for listed in warnings_of(name, app.accounts.read(name), now, seen)
    ]


def gap_lines(app: App) -> list[dict[str, Any]]:
    """All gaps, as JSON fields."""
    from emulator.web.status import gaps_by_stream  # noqa: PLC0415 - only this command needs it

    return [
        {**_names(stream), **recorded.fields()}
        for stream, gaps in sorted(gaps_by_stream(app.state).items())
        for recorded in gaps
    ]


def dead_letter_lines(app: App) -> list[dict[str, Any]]:
    """All dead letters and damaged objects, as JSON fields."""
    by_stream = dead_letters_by_stream(app.store)
    letters = [_dead_letter(stream, letter) for stream in sorted(by_stream) for letter in by_stream[stream]]
    listed = {key for letter in letters for key in same_cause(letter["key"])}
    return [*letters, *_damages(app.store, listed)]


def _damages(store: ObjectStore, listed: set[str]) -> list[dict[str, Any]]:
    """Damaged objects that are not listed yet. They hold no event, but a person should know of them too."""
    seen = Acknowledgements(store).all()
    return [
        {
            "id": short_id(damage.key),
            "key": damage.key,
            "integration": None,
            "tenant": None,
            "stream": None,
            "events": 0,
            "reasons": {damage.what: 1},
            "acknowledged": seen[damage.key].fields() if damage.key in seen else None,
        }
        for damage in damaged(store)
        if damage.key not in listed
    ]


def _dead_letter(stream: Stream, letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "key": letter.key,
        **_names(stream),
        "events": letter.events,
        "reasons": dict(letter.reasons),
        "acknowledged": letter.acknowledged.fields() if letter.acknowledged else None,
    }


def _names(stream: Stream) -> dict[str, str]:
    return {"integration": stream.integration, "tenant": stream.tenant, "stream": stream.kind}


def _name(line: dict[str, Any], names: Callable[[Stream], str]) -> str:
    """The name of the item's stream. A damaged object has a key only, and a warning no stream."""
    return names(Stream.of(line)) if line.get("stream") else str(line["key"])


def _seen(line: dict[str, Any]) -> str:
    seen = line["acknowledged"]
    return f"{seen['at'][:19].replace('T', ' ')} by {seen['by']}" if seen else "-"


def _gap_row(line: dict[str, Any], name: str) -> tuple[str, ...]:
    cost = "-" if line["estimated_events"] is None else str(line["estimated_events"])
    return line["id"], name, line["reason"], bounds(line["from"], line["to"]), cost, _seen(line)


def _dead_letter_row(line: dict[str, Any], name: str) -> tuple[str, ...]:
    reasons = "; ".join(f"{count} × {reason}" for reason, count in line["reasons"].items())
    return line["id"], name, str(line["events"]), reasons, _seen(line)


def _warning_row(line: dict[str, Any], _: str) -> tuple[str, ...]:
    return line["id"], line["integration"], line["text"], _seen(line)


WARNINGS = Listing("warning", "warnings", warning_lines, ("ID", "INTEGRATION", "WARNING", "ACKNOWLEDGED"), _warning_row)
GAPS = Listing("gap", "gaps", gap_lines, ("ID", "STREAM", "REASON", "WHEN (UTC)", "EVENTS", "ACKNOWLEDGED"), _gap_row)
DEAD_LETTERS = Listing(
    "dead letter",
    "dead letters",
    dead_letter_lines,
    ("ID", "STREAM", "EVENTS", "REASONS", "ACKNOWLEDGED"),
    _dead_letter_row,
)
