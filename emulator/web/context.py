"""What the page's routes share."""

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
"""What a browser says of a request that another site's page makes."""


class StaleTokenError(ConnectorError):
    """A form that is not from a page of this process."""

    code = "stale_page"
    title = "The page is out of date"
    remedy = "Load the page again, and repeat what you did."

    def __init__(self) -> None:
        super().__init__("This page is from before the emulator was started.")


class ForeignPageError(AccessError):
    """A page of another site asks."""

    code = "foreign_page"
    title = "Another site's page asks"
    remedy = "Open the page itself."
    status = 403


@dataclass(slots=True)
class Job:
    """What somebody asked for on the page."""

    number: int
    what: str
    at: str
    back: str
    """Where the person was."""
    progress: str = ""
    result: str | None = None
    """A sentence, once it is over."""
    failed: bool = False


class Jobs:
    """The newest jobs; each is a thread of its own, or done at once."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque(maxlen=JOBS)
        self._numbers = count(1)
        self.changes = 0
        """Rises with each change."""

    def newest(self) -> list[Job]:
        """The newest first."""
        return [*self._jobs][::-1]

    def get(self, number: int) -> Job | None:
        """The job with the number, while it is remembered."""
        return next((job for job in [*self._jobs] if job.number == number), None)

    def run(self, title: str, back: str, do: Callable[[Callable[[str], None]], str], *, wait: bool = False) -> Job:
        """Do it; `do` is given what tells of progress, and answers the sentence that it ends in."""
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
    """The newest lines of the log, in memory, without what looks like a secret."""

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
    """What the page's routes share."""

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
    """Only a page of ours holds it: another site cannot make a browser act here."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def access(self) -> Access:
        """Who may do more than look."""
        return self.app.access

    def may_read(self) -> bool:
        """Whether the caller may see more than how things stand."""
        try:
            self.authorize_reading()
        except AccessError:
            return False
        return True

    def authorize_reading(self) -> None:
        """Let who may see events in; AccessError for anybody else, and for another site's page."""
        if request.headers.get("Sec-Fetch-Site") in ELSEWHERE:
            raise ForeignPageError("Events are not shown to a page of another site.")
        authorize(request, self.access)

    def authorize_action(self, *, rare: bool = False) -> None:
        """Let who may act in, with a form of ours."""
        authorize(request, self.access, rare=rare)
        if not secrets.compare_digest(request.form.get("token", "").encode(), self.token.encode()):
            raise StaleTokenError


def page(template: str, **values: Any) -> Response:
    """A page of HTML."""
    return Response(render_template(template, **values), content_type="text/html; charset=utf-8", headers=HEADERS)
