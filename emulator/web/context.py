"""The state that the page's routes share."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from flask import Response, render_template, request

from emulator.runtime.platform import Platform
from emulator.web.completeness import Completeness
from emulator.web.footprint import Footprint
from emulator.web.history import History
from emulator.web.snapshot import Snapshot
from lib.app import App
from lib.errors import ConnectorError
from lib.http.access import Access, AccessError
from lib.http.handler import authorize
from lib.model.clock import to_text
from lib.telemetry import redact

log = logging.getLogger(__name__)

JOBS = 20
LOG_LINES = 200
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
ELSEWHERE = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site for a request of another site's page (https://www.w3.org/TR/fetch-metadata/)."""


class StaleTokenError(ConnectorError):
    """The form's token is not of this process."""

    code = "stale_page"
    title = "The page is out of date"
    remedy = "Load the page again, and repeat what you did."

    def __init__(self) -> None:
        super().__init__("This page was loaded before the emulator started.")


class ForeignPageError(AccessError):
    """The request comes from another site's page."""

    code = "foreign_page"
    title = "The request comes from another site"
    remedy = "Open the page itself."
    status = 403


@dataclass(slots=True)
class Job:
    """An action that somebody started on the page."""

    number: int
    what: str
    at: str
    back: str
    """The path of the page on which it was started."""
    progress: str = ""
    result: str | None = None
    """A sentence, when it has ended."""
    failed: bool = False


class Jobs:
    """The newest jobs. Each one has a thread, unless the request waits for it."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque(maxlen=JOBS)
        self._numbers = count(1)
        self.changes = 0
        """Rises with each change."""

    def newest(self) -> list[Job]:
        """The newest first."""
        return [*self._jobs][::-1]

    def get(self, number: int) -> Job | None:
        """The job with that number; None if it is unknown or too old."""
        return next((job for job in [*self._jobs] if job.number == number), None)

    def run(self, title: str, back: str, do: Callable[[Callable[[str], None]], str], *, wait: bool = False) -> Job:
        """Start `do`. It gets a function that reports progress, and returns the sentence with the result."""
        job = Job(next(self._numbers), title, to_text(datetime.now(UTC)), back)
        self._jobs.append(job)
        self.changes += 1

        def on_progress(text: str) -> None:
            job.progress = text
            self.changes += 1

        def run() -> None:
            try:
                job.result = do(on_progress)
            except ConnectorError as error:
                job.failed, job.result = True, f"{error} {error.remedy}"
            except Exception:
                log.exception("%s", title)
                job.failed, job.result = True, "That failed unexpectedly; the log says why."
            self.changes += 1

        if wait:
            run()
        else:
            threading.Thread(target=run, name=title, daemon=True).start()
        return job


class RecentLog(logging.Handler):
    """The newest lines of the log, in memory, with secrets redacted."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[dict[str, str]] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record."""
        with suppress(Exception):  # A line that cannot be shown must not stop what it is about.
            self._lines.append(
                {
                    "at": to_text(datetime.fromtimestamp(record.created, UTC)),
                    "level": record.levelname.lower(),
                    "text": redact(record.getMessage())[:2000],
                }
            )

    def newest(self) -> list[dict[str, str]]:
        """The newest first."""
        return [*self._lines][::-1]


@dataclass(slots=True)
class Context:
    """The state that the page's routes share."""

    platform: Platform
    snapshot: Snapshot
    history: History
    app: App
    """The use cases; its `access` says who may do more than look."""
    log: RecentLog
    completeness: Completeness
    footprint: Footprint
    jobs: Jobs = field(default_factory=Jobs)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Only this process's pages have it, so another site's page cannot post a form here (CSRF)."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def access(self) -> Access:
        """The rules for reading events and for actions."""
        return self.app.access

    def may_read(self) -> bool:
        """Whether the caller may see events, not only the status."""
        try:
            self.authorize_reading()
        except AccessError:
            return False
        return True

    def authorize_reading(self) -> None:
        """AccessError unless the caller may see events and the request is not from another site's page."""
        if request.headers.get("Sec-Fetch-Site") in ELSEWHERE:
            raise ForeignPageError("Events are not shown to a page of another site.")
        authorize(request, self.access)

    def authorize_action(self, *, rare: bool = False) -> None:
        """AccessError unless the caller may act; StaleTokenError unless the form has this process's token."""
        authorize(request, self.access, rare=rare)
        if not secrets.compare_digest(request.form.get("token", "").encode(), self.token.encode()):
            raise StaleTokenError


def page(template: str, **values: Any) -> Response:
    """A page of HTML."""
    return Response(as_html(template, **values), content_type="text/html; charset=utf-8", headers=HEADERS)


def as_html(template: str, **values: Any) -> bytes:
    """The template as UTF-8. Half of a surrogate pair, as in a name that was cut off, has none: it is escaped."""
    return render_template(template, **values).encode("utf-8", "backslashreplace")
