"""Logging, one line for each entry, and optional reports to Sentry. Neither ever holds a secret or an event."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TextIO

from lib.config import environment
from lib.errors import ConnectorError
from lib.model.health import WAITING
from lib.model.stream import Stream
from lib.model.text import printable
from lib.version import VERSION

_SECRETS = re.compile(
    r"""(?ix)
    (?P<keep> bearer\s+ | (?:client_secret|access_token|refresh_token|password)["']?\s*[=:]\s*["']?)
    [^\s"'&,;}]+
    | (?P<jwt> \beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?)
    """
)
"""Texts that look like a secret. None should get here; this is the last protection."""
_QUIET = ("up_to_date", "idle")
_REPORTED = (
    "integration",
    "tenant",
    "stream",
    "outcome",
    "pages",
    "events",
    "lag_seconds",
    "acked",
    "pending",
    "set_aside",
)
NAMES_KEPT = 600.0
"""Seconds for which the names of tenants are not read again."""
_PLAIN = "\033[0m"
_COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}


def redact(text: str) -> str:
    """The text with `[redacted]` in place of everything that looks like a secret."""
    return _SECRETS.sub(lambda match: f"{match['keep'] or ''}[redacted]", text)


class JsonFormatter(logging.Formatter):
    """JSON with Cloud Logging's field names (https://cloud.google.com/logging/docs/structured-logging)."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields: dict[str, Any] = {
            "severity": record.levelname,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "message": redact("\n".join(filter(None, (record.getMessage(), _trace(record))))),
            "logger": record.name,
            "serviceContext": {"service": self._service, "version": VERSION},
        }
        result = getattr(record, "result", None)
        if result is not None:
            fields["result"] = result
        return json.dumps(fields, ensure_ascii=False)


class JournalFormatter(logging.Formatter):
    """For systemd's journal: each line begins with its priority (sd-daemon(3)). The journal adds the time."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; a stack trace takes several."""
        before = journal_mark(record.levelno)
        lines = map(printable, (redact(record.getMessage()), *redact(_trace(record)).splitlines()))
        return "\n".join(f"{before}{self._service}: {line}" for line in lines)


def journal_mark(level: int) -> str:
    """What a line for systemd's journal begins with (sd-daemon(3)): 3 error, 4 warning, 6 information, 7 debugging."""
    priority = next(
        (of for least, of in ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)) if level >= least), 7
    )
    return f"<{priority}>"


class TerminalFormatter(logging.Formatter):
    """For people at a terminal."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one readable line; a stack trace takes several."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        colour = _COLOURS.get(record.levelname, "")
        # A message may hold text from outside. `printable` keeps it from faking an entry or controlling the terminal.
        text = "\n".join(map(printable, (redact(record.getMessage()), *redact(_trace(record)).splitlines())))
        return f"{time} {self._service:<15} {colour}{text}{colour and _PLAIN}"


class TenantNames(logging.Filter):
    """Writes the name of a tenant beside its id wherever an entry names a stream."""

    def __init__(self, names: Callable[[str], Mapping[str, str]]) -> None:
        super().__init__()
        self._names = names
        self._read: dict[str, tuple[float, Mapping[str, str]]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the streams among the record's arguments. No record is dropped."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                self._shown(argument) if isinstance(argument, Stream) else argument for argument in record.args
            )
        return True

    def _shown(self, stream: Stream) -> str:
        now = time.monotonic()
        read_at, names = self._read.get(stream.integration, (-NAMES_KEPT, {}))
        if now - read_at >= NAMES_KEPT:
            # Before the names are read: what that logs must not read them again.
            self._read[stream.integration] = (now, names)
            names = self._names(stream.integration)
            self._read[stream.integration] = (now, names)
        name = names.get(stream.tenant)
        return f"{stream.integration}/{name} ({stream.tenant})/{stream.kind}" if name else str(stream)


def _trace(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[1] is not None:
        return "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return ""


@cache
def start(service: str, stream: TextIO | None = None) -> None:
    """Start logging under a service's name: text to a terminal and the journal, JSON elsewhere; Sentry with SENTRY_DSN.

    Only the first call for a service has an effect.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_formatter(service, target))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level("info")
    for chatty in ("werkzeug", "gunicorn", "urllib3", "waitress"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    dsn = environment.sentry_dsn()
    if dsn:
        _start_sentry(service, dsn)


def name_tenants(names: Callable[[str], Mapping[str, str]]) -> None:
    """Write names of tenants into entries from now on. `names` returns those of an integration by id."""
    for handler in logging.getLogger().handlers:
        handler.filters[:] = [TenantNames(names)]


def set_level(name: str) -> None:
    """Set the least severe level to log: debug, info, warning or error."""
    level = logging.getLevelNamesMapping()[name.upper()]
    logging.getLogger().setLevel(max(logging.INFO, level))
    for ours in ("lib", "emulator", "functions"):
        # Debug entries of libraries stay off: some of them log headers, which hold tokens.
        logging.getLogger(ours).setLevel(level)
    # On a platform, metrics are computed from these entries. So they are logged at every level.
    logging.getLogger(__name__).setLevel(min(level, logging.INFO) if environment.is_hosted() else level)


def _formatter(service: str, target: TextIO) -> logging.Formatter:
    if target.isatty():
        return TerminalFormatter(service)
    return JournalFormatter(service) if is_journal(target) else JsonFormatter(service)


def is_journal(target: TextIO) -> bool:
    """Whether the target is the socket that systemd names. A child process inherits the name, maybe not the output."""
    named = environment.journal_stream()
    try:
        status = os.fstat(target.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def refused(error: ConnectorError, level: int) -> None:
    """Log why a call was answered with an error. Behind the emulator only at debug level: it logs outages itself."""
    logging.getLogger(__name__).log(logging.DEBUG if environment.is_behind_emulator() else level, "%s", error)


def report(lines: Sequence[Mapping[str, Any]]) -> None:
    """Log the results of a call: each stream with a problem; on a platform, each stream that did something.

    Platforms compute metrics from these entries. Behind the emulator nothing is logged: it reads the answers themselves
    and logs an outage once.
    """
    if environment.is_behind_emulator():
        return
    hosted = environment.is_hosted()
    for line in lines:
        problem = line.get("problem")
        if line["outcome"] in _QUIET or not (hosted or problem):
            continue
        result = {name: line[name] for name in _REPORTED if line.get(name) is not None}
        text = line["outcome"]
        level = logging.INFO
        if problem:
            result["code"] = problem["code"]
            text += f": {problem['detail']}"
            level = logging.INFO if problem["code"] in WAITING else logging.WARNING
        logging.getLogger(__name__).log(level, "%s: %s", Stream.of(line), text, extra={"result": result})


def _start_sentry(service: str, dsn: str) -> None:
    import sentry_sdk  # noqa: PLC0415 - a slow import that only sites with Sentry need

    sentry_sdk.init(
        dsn=dsn,
        server_name=service,
        release=f"sophos-utmstack@{VERSION}",
        send_default_pii=False,
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        before_send=_scrubbed,
    )


def _scrubbed(event: Any, _: Any) -> Any:
    """The event without the request (its body may hold credentials or events) and with secrets redacted."""
    for name in ("request", "extra", "user", "breadcrumbs", "modules"):
        event.pop(name, None)
    return _each_text(event, redact)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(member, change) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(element, change) for element in value]
    return value


def flush() -> None:
    """Send waiting reports to Sentry. A platform may freeze the process after the answer."""
    if "sentry_sdk" in sys.modules:
        sys.modules["sentry_sdk"].flush(timeout=2)
