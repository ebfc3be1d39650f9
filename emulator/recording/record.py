"""`record`: reads pages as fetch-page does, with its own cursors, and writes them with pseudonyms.

It changes only the credentials' rate limits in the store, because its calls count against them.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from emulator.cli.terminal import refuse, say, show
from emulator.recording.leaks import Leak, Search
from emulator.recording.pseudonyms import Blanks, Pseudonyms
from emulator.recording.texts import Reader, Replacer
from lib.app import App
from lib.config import loading as configuration
from lib.errors import ConfigError, ConnectorError, OverBudgetError, RetryableError, ThrottledError
from lib.model.clock import to_text
from lib.model.page import SophosTenant, Whoami
from lib.model.stream import ENDPOINTS
from lib.model.text import several
from lib.pipeline.accounts import known_targets
from lib.pipeline.integration import Integration, Target
from lib.state.accounts import Account

FORMAT = 1
CALL_SECONDS = 120.0
LONGEST_WAIT_SECONDS = 60.0
_ROUNDS = 3
_CURSOR = re.compile(rb"[A-Z0-9_]{1,20}\|\d{4}-\d\d-\d\dT[\d:.]{8,15}Z(\|[0-9a-f]{1,16})?")


@dataclass(slots=True)
class RecordedStream:
    """A stream to record, with its progress."""

    integration: Integration
    target: Target
    cursor: str | None = None
    due: float = 0.0
    """The monotonic time of its next request."""
    is_over: bool = False
    pages: int = 0
    problem: ConnectorError | None = None


@dataclass(frozen=True, slots=True)
class RecordedPage:
    """A page as it was read. Its items are compressed, because all pages stay in memory until all names are known."""

    source: RecordedStream
    at: float
    """Seconds since the recording began."""
    seconds: float
    """The time of the request."""
    cursor: str | None
    next_cursor: str
    has_more: bool
    items: bytes
    count: int
    size: int

    def raws(self) -> list[bytes]:
        """The items."""
        packed = zlib.decompress(self.items)
        sizes, _, body = packed.partition(b"\n")
        raws, at = list[bytes](), 0
        for size in map(int, sizes.split()):
            raws.append(body[at : at + size])
            at += size
        return raws


def _packed(items: Sequence[bytes]) -> bytes:
    return zlib.compress(b" ".join(b"%d" % len(item) for item in items) + b"\n" + b"".join(items))


@dataclass(slots=True)
class Recorder:
    """Reads the streams in turn."""

    sources: list[RecordedStream]
    every: float
    """Seconds between two requests for new events."""
    pages: list[RecordedPage] = field(default_factory=list)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.monotonic)
    is_interrupted: bool = False

    def run(self, most: int | None, seconds: float | None) -> None:
        """Read until the last page, or until so many pages or seconds; an interrupt ends it early."""
        end = None if seconds is None else self.began + seconds
        try:
            while (most is None or len(self.pages) < most) and (source := self._next(end)) is not None:
                if time.monotonic() < source.due:
                    time.sleep(min(source.due - time.monotonic(), 1.0))
                    continue
                self._ask(source, goes_on=end is not None)
                self._show_progress()
        except KeyboardInterrupt:
            if not self.pages:
                raise
            self.is_interrupted = True
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _next(self, end: float | None) -> RecordedStream | None:
        """The stream that is due first; None if that is after the end."""
        if end is not None and time.monotonic() >= end:
            return None
        open_ = [source for source in self.sources if not source.is_over]
        first = min(open_, key=lambda source: source.due, default=None)
        return None if first is None or (end is not None and first.due >= end) else first

    def _ask(self, source: RecordedStream, *, goes_on: bool) -> None:
        started = time.monotonic()
        try:
            page = self._page(source, started + CALL_SECONDS)
        except (OverBudgetError, ThrottledError) as error:
            source.due = time.monotonic() + min(error.retry_after or self.every, LONGEST_WAIT_SECONDS)
            return
        except ConnectorError as error:
            source.problem, source.is_over = error, True
            return
        now = time.monotonic()
        packed, size = _packed(page.items), sum(map(len, page.items))
        at, took = started - self.began, now - started
        self.pages.append(
            RecordedPage(
                source, at, took, source.cursor, page.next_cursor, page.has_more, packed, len(page.items), size
            )
        )
        is_stuck = page.has_more and page.next_cursor == source.cursor
        source.pages, source.cursor = source.pages + 1, page.next_cursor
        source.due = now if page.has_more else now + self.every
        source.is_over = is_stuck or not (page.has_more or goes_on)

    @staticmethod
    def _page(source: RecordedStream, deadline: float) -> Any:
        integration, stream, feed = source.integration, source.target.stream, source.integration.settings
        start = None
        if source.cursor is None:
            start = integration.start(feed.lookback, lambda: datetime.now(UTC), deadline=deadline)
        return integration.source.page(
            source.target.host,
            stream.tenant,
            stream.kind,
            cursor=source.cursor,
            from_date=start,
            exclude_types=feed.excluded_types,
            offset_minutes=int(feed.settle.total_seconds()) // 60,
            deadline=deadline,
        )

    def _show_progress(self) -> None:
        if sys.stderr.isatty():
            events = sum(page.count for page in self.pages)
            waits = sum(not source.is_over for source in self.sources)
            counts = f"{several(len(self.pages), 'page')}, {several(events, 'event')}"
            text = f"{counts}; streams that continue: {waits} of {len(self.sources)}"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 recording written, 1 a stream failed or an original leaked, 2 the command cannot run."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # As Ctrl-C: the pages read so far are kept.
        if not args.out.name or args.out.is_dir():
            raise ConfigError(f"--out {args.out} is a folder", remedy="Name a file in it.")
        key = _key(args.keep_key)
        recorder, who = _recorder(args.config, args.integration)
        recorder.run(args.pages, None if args.minutes is None else args.minutes * 60)
        problems = [source for source in recorder.sources if source.problem]
        if not recorder.pages and problems and (error := problems[0].problem):
            raise error
        report = _write(recorder, who, key, args.out)
    except OSError as error:
        unusable = ConfigError(
            f"{error.filename} cannot be used: {error.strerror}", remedy="Correct the path, or the file's permissions."
        )
        return _refused(unusable, as_json=args.json)
    except ConnectorError as error:
        return _refused(error, as_json=args.json)
    except KeyboardInterrupt:
        detail = "it was interrupted before there was a recording: no file is left"
        return _refused(RetryableError(detail, remedy="Start the command again."), as_json=args.json)
    report["interrupted"] = recorder.is_interrupted
    report["problems"] = [
        {"stream": str(source.target.stream), **source.problem.as_problem()} for source in problems if source.problem
    ]
    report["ok"] = not report["leaks"] and not problems
    if args.json:
        say(json.dumps(report, ensure_ascii=False))
    else:
        _print(report)
    return 0 if report["ok"] else 1


def _key(file: Path | None) -> bytes:
    """A new key that is not kept, or the key of the file, which is created if it does not exist."""
    key = secrets.token_bytes(32)
    if file is None:
        return key
    with suppress(FileExistsError), os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
        made.write(key.hex() + "\n")
    try:
        return bytes.fromhex(file.read_text())
    except ValueError:
        raise ConfigError(
            f"{file} holds no key", remedy="Name a file that --keep-key has created, or a new one."
        ) from None


def _recorder(location: str | None, name: str | None) -> tuple[Recorder, dict[str, Whoami]]:
    """The streams to read, and the owner of each integration's credential."""
    config = configuration.load(configuration.located(location))
    app = App(lambda: config)
    app.require(name)
    sources: list[RecordedStream] = []
    whose: dict[str, Whoami] = {}
    for integration in app.integrations.values():
        if name in (None, integration.settings.name):
            deadline = time.monotonic() + CALL_SECONDS
            who = whose[integration.settings.name] = integration.source.whoami(deadline=deadline)
            account = Account(who=who, tenants=tuple(integration.source.tenants(who, deadline=deadline)))
            targets = [
                target for target in known_targets(integration.settings, account) if target.stream.kind != ENDPOINTS
            ]
            sources += (
                RecordedStream(integration, target, problem=target.refusal, is_over=bool(target.refusal))
                for target in targets
            )
    return Recorder(sources, config.every.seconds_after(app.parts.now())), whose


def _write(recorder: Recorder, who: dict[str, Whoami], key: bytes, out: Path) -> dict[str, Any]:
    """Write the recording, search it for leaks, and keep it only if there are none; return the report.

    The file gets its name only after the search, so that a crash never leaves a recording with leaks.
    """
    reader = Reader()
    for source in recorder.sources:
        reader.tenant(source.target.tenant)
    for page in recorder.pages:
        for raw in page.raws():
            reader.read(raw)
    half = out.with_name(out.name + ".half")
    avoided: set[str] = set()
    try:
        for _ in range(_ROUNDS):
            pseudonyms = Pseudonyms(key, avoided)
            pseudonyms.avoid(reader.addresses)
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                for line in _lines(recorder, who, pseudonyms, Replacer(pseudonyms, reader.names)):
                    file.write(line + b"\n")
            search = Search.of(pseudonyms.originals, reader.words)
            with half.open("rb") as file:
                left = {leak.original for leak in search.leaks(file)}
            # By chance a short pseudonym can be another's original: without the pseudonyms, only a leak is left.
            blanks = Blanks()
            without = _lines(recorder, who, blanks, Replacer(blanks, reader.names)) if left else ()
            leaks = list(search.leaks(without))
            if leaks or left <= avoided:
                break
            avoided |= left
        if not leaks:
            half.replace(out)
    finally:
        half.unlink(missing_ok=True)
    return {
        "out": None if leaks else str(out),
        "pages": len(recorder.pages),
        "events": sum(page.count for page in recorder.pages),
        "streams": len({page.source.target.stream for page in recorder.pages}),
        "bytes": 0 if leaks else out.stat().st_size,
        "replaced": {
            kind: {"originals": len(texts), "times": pseudonyms.times[kind]}
            for kind, texts in sorted(pseudonyms.originals.items())
        },
        "not_searched": search.not_searched,
        "leaks": [_shown(leak) for leak in leaks],
    }


def _shown(leak: Leak) -> dict[str, Any]:
    """A leak as JSON fields, with only the first and last letters of its text."""
    return {"kind": leak.kind, "line": leak.line, "text": f"{leak.original[:2]}…{leak.original[-1:]}"}


def _lines(recorder: Recorder, who: dict[str, Whoami], give: Pseudonyms, replacer: Replacer) -> Iterator[bytes]:
    """The header, then one line for each page."""
    tenants: dict[str, SophosTenant] = {
        source.target.stream.tenant: source.target.tenant for source in recorder.sources
    }
    header = {
        "recording": FORMAT,
        "began_at": to_text(recorder.began_at),
        "seconds": round(time.monotonic() - recorder.began, 3),
        "id_type": "tenant"
        if {owner.id_type for owner in who.values()} == {"tenant"} and len(tenants) == 1
        else "partner",
        "tenants": [
            {"id": _identity(give, tenant.id), "name": give.tenant(tenant.name) if tenant.name else ""}
            for tenant in tenants.values()
        ],
        "streams": [
            {
                "tenant": _identity(give, source.target.stream.tenant),
                "kind": source.target.stream.kind,
                "pages": source.pages,
            }
            for source in recorder.sources
        ],
    }
    yield json.dumps(header, ensure_ascii=False).encode()
    for page in recorder.pages:
        stream = page.source.target.stream
        fields = {
            "at": round(page.at, 3),
            "seconds": round(page.seconds, 3),
            "tenant": _identity(give, stream.tenant),
            "kind": stream.kind,
            "cursor": None if page.cursor is None else _cursor(give, page.cursor),
            "next_cursor": _cursor(give, page.next_cursor),
            "has_more": page.has_more,
            "count": page.count,
            "bytes": page.size,
        }
        items = b",".join(_writable(replacer.item(raw)) for raw in page.raws())
        yield json.dumps(fields).encode()[:-1] + b', "items": [' + items + b"]}"


def _writable(item: bytes) -> bytes:
    """An object unchanged; anything else as a JSON string of its text, so that every line is valid JSON."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if item[:1] == b"{" and msgspec.json.decode(item) is not None:
            return item
    return json.dumps(item.decode("utf-8", "backslashreplace"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def _identity(give: Pseudonyms, id_: str) -> str:
    try:
        return give.uuid(id_) if len(id_) in (32, 36) and int(id_.replace("-", ""), 16) >= 0 else give.id(id_)
    except ValueError:
        return give.id(id_)


def _cursor(give: Pseudonyms, cursor: str) -> str:
    """A cursor that holds only a time, unchanged; a pseudonym for any other."""
    with suppress(ValueError):
        if _CURSOR.fullmatch(base64.b64decode(cursor, validate=True)):
            return cursor
    return give.token(cursor)


def _refused(error: ConnectorError, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


def _print(report: dict[str, Any]) -> None:
    rows = [("REPLACED", "ORIGINALS", "TIMES")]
    rows += [(kind, str(counts["originals"]), str(counts["times"])) for kind, counts in report["replaced"].items()]
    show(rows)
    if report["not_searched"]:
        say(f"{report['not_searched']} of them were not searched: they are too short, or Sophos uses these words.")
    for problem in report["problems"]:
        say(f"NOT READ  {problem['stream']}: {problem['detail']}", f"→ {problem['remedy']}")
    for leak in report["leaks"]:
        say(f"LEAK  {leak['kind']} {leak['text']} in line {leak['line']}")
    if report["leaks"]:
        say("Some originals were not replaced: the file was not kept.")
    else:
        counts = (several(report[f"{noun}s"], noun) for noun in ("page", "event", "stream"))
        early = " It was interrupted: these are the pages read so far." if report["interrupted"] else ""
        say(f"{report['out']}: {', '.join(counts)}.{early}")
