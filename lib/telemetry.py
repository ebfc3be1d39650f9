"""What the program says of itself: one line an entry, and Sentry where it is wanted; never a secret, never an event."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TextIO

from lib.config import environment
from lib.model.text import printable
from lib.version import VERSION

_SECRETS = re.compile(
    r"""(?ix)
    (?P<keep> bearer\s+ | (?:client_secret|access_token|refresh_token|password)["']?\s*[=:]\s*["']?)
    [^\s"'&,;}]+
    | (?P<jwt> \beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?)
    """
)
"""What would be a secret if ever one came here; nothing is meant to."""
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
_PLAIN = "\033[0m"
_COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced."""
    return _SECRETS.sub(lambda match: f"{match['keep'] or ''}[redacted]", text)


class JsonFormatter(logging.Formatter):
    """Cloud Logging's field names (https://cloud.google.com/logging/docs/structured-logging)."""

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


class TerminalFormatter(logging.Formatter):
    """For people who watch."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one readable line; a stack trace takes more."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        colour = _COLOURS.get(record.levelname, "")
        # What a message is about comes from outside too: no line of it is taken for another entry, or for a command.
        text = "\n".join(map(printable, (redact(record.getMessage()), *redact(_trace(record)).splitlines())))
        return f"{time} {self._service:<15} {colour}{text}{colour and _PLAIN}"


def _trace(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[1] is not None:
        return "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return ""


@cache
def start(service: str, stream: TextIO | None = None) -> None:
    """Begin to log as that service: readable on a terminal, JSON elsewhere; Sentry with SENTRY_DSN."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(TerminalFormatter(service) if target.isatty() else JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("werkzeug", "gunicorn", "urllib3", "waitress"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    dsn = environment.sentry_dsn()
    if dsn:
        _start_sentry(service, dsn)


def report(lines: Sequence[Mapping[str, Any]]) -> None:
    """Log what a call did with each stream, where a platform makes metrics of it; what did nothing is left out.

    Cloud Run and Knative set K_SERVICE. The emulator has the answers themselves.
    """
    if not environment.is_hosted():
        return
    for line in lines:
        if line["outcome"] in _QUIET:
            continue
        result = {name: line[name] for name in _REPORTED if line.get(name) is not None}
        if "problem" in line:
            result["code"] = line["problem"]["code"]
        text = f"{line['integration']}/{line['tenant']}/{line['stream']}: {line['outcome']}"
        logging.getLogger(__name__).info("%s", text, extra={"result": result})


def _start_sentry(service: str, dsn: str) -> None:
    import sentry_sdk  # noqa: PLC0415 - only who uses it waits for it

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
    """The event without the request (its body may hold credentials or events) and without anything like a secret."""
    for name in ("request", "extra", "user", "breadcrumbs", "modules"):
        event.pop(name, None)
    return _each_text(event, redact)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(each, change) for each in value]
    return value


def flush() -> None:
    """Send what Sentry has to be sent before a platform freezes the process."""
    if "sentry_sdk" in sys.modules:
        sys.modules["sentry_sdk"].flush(timeout=2)
