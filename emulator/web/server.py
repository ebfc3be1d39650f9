"""The web server on `listen`: the functions, /status, /metrics, /healthz, and the operator's page."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable

from flask import Flask, Request, Response, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException

from emulator.runtime.functions import TARGETS, FunctionDownError
from emulator.runtime.platform import Platform
from emulator.web.actions import Actions, BadActionError
from emulator.web.completeness import Completeness
from emulator.web.context import HEADERS, Context, RecentLog, StaleTokenError, as_html
from emulator.web.events import EventRoutes
from emulator.web.exports import Exports
from emulator.web.footprint import Footprint
from emulator.web.history import History
from emulator.web.metrics import exposition
from emulator.web.previews import Previews
from emulator.web.snapshot import QUIET_SECONDS, Read, Snapshot
from emulator.web.status import SiteStatus, StreamRecord
from emulator.web.views import Views
from lib.app import App
from lib.errors import ConnectorError, NotFoundError
from lib.http.access import Access, AccessError, is_dns_rebinding
from lib.http.handler import DESCRIPTION_PATH, MAX_BODY_BYTES, authorize, description
from lib.http.problems import problem, refusal
from lib.model.stream import Stream
from lib.store.base import ObjectStore

log = logging.getLogger(__name__)

OPEN = ("/healthz", DESCRIPTION_PATH, "/api/v1/", "/static/")
"""Paths without the check against DNS rebinding: they show no status, or need a key of their own."""
BUCKET_SECONDS = 600.0
"""Seconds between two passes over a bucket while nobody reads the page: each listing costs money."""


class Web:
    """The server's parts over the use cases of `graph`. `read` makes a status."""

    def __init__(self, platform: Platform, read: Read, graph: App, recent: RecentLog) -> None:
        quiet = BUCKET_SECONDS if graph.config().store.startswith("gs://") else QUIET_SECONDS
        self._platform = platform
        self._read = read
        self.snapshot = Snapshot(lambda: graph.store, self._status, quiet)
        self.history = History(lambda: graph.store, self.snapshot.current, time.time, quiet)
        platform.result_listeners.append(self.history.add_results)
        self.app = _application(platform, self.snapshot, self.history, graph, recent)
        """The WSGI application."""

    def _status(self, store: ObjectStore, record: Callable[[Stream], StreamRecord]) -> SiteStatus:
        """A status, with the changes of health up to it."""
        changes = self.history.changes
        try:
            site = self._read(store, record)
        except ConnectorError as error:
            changes.cannot_be_read(error)
            raise
        if "health" in site.fields:
            waited_for = self._platform.functions.keys() - {"test-connection"} - self.history.answered
            changes.note(site, is_settled=not waited_for and site.engine is None)
        return site.with_fields(health_changes=[change.fields() for change in changes.newest()])

    def start(self) -> None:
        """Start the threads that read the past and refresh the status."""
        self.history.start()
        self.snapshot.start()

    def stop(self) -> None:
        """Save the history, and end the threads."""
        self.snapshot.stop()
        self.history.stop()


def _application(platform: Platform, snapshot: Snapshot, history: History, graph: App, log: RecentLog) -> Flask:
    app = Flask("emulator.web")

    def access() -> Access:
        return graph.access

    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    app.before_request(lambda: _refuse_dns_rebinding(access))
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True

    def function() -> Response:
        name = request.path.strip("/")
        # The function sees a call from loopback and would allow it, so the caller is checked here.
        authorize(request, access, rare=name == "test-connection")
        return _forwarded(platform, name, request)

    for name in TARGETS:
        app.add_url_rule(f"/{name}", name, function, methods=["POST"])

    app.add_url_rule(DESCRIPTION_PATH, "description", description, methods=["GET"])

    @app.get("/status")
    def _status() -> Response:
        return Response(snapshot.current().body, content_type="application/json")

    @app.get("/metrics")
    def _metrics() -> Response:
        answer = Response(exposition(platform, snapshot.status()), content_type=CONTENT_TYPE_LATEST)
        answer.vary.add("Accept-Encoding")
        # Names repeat in each line: 5,000 streams are 11.5 MB, and 0.3 MB compressed.
        if request.accept_encodings["gzip"]:
            answer.set_data(gzip.compress(answer.get_data(), compresslevel=1))
            answer.content_encoding = "gzip"
        return answer

    @app.get("/healthz")
    def _healthz() -> Response:
        down = [name for name, function in platform.functions.items() if not function.is_up()]
        if down:
            return problem(503, "starting", f"not running: {', '.join(down)}", retry_after=1)
        return Response('{"ok": true}', content_type="application/json")

    days = Completeness(
        lambda: graph.store, lambda: snapshot.current().site.gaps, lambda: history.known_since, platform.config_env
    )
    footprint = Footprint(lambda: graph.store, lambda: graph.config().store)
    context = Context(platform, snapshot, history, graph, log, days, footprint)
    Views(app, context, EventRoutes(app, context), Previews(app, context))
    Actions(app, context)
    Exports(app, context)
    app.after_request(_problem_page)
    app.register_error_handler(AccessError, refusal)
    app.register_error_handler(ConnectorError, _failed)
    app.register_error_handler(HTTPException, _refused)
    return app


def _refuse_dns_rebinding(access: Callable[[], Access]) -> None:
    """Anybody may read the status, except a site whose DNS name was pointed at this host (DNS rebinding)."""
    if not request.path.startswith(OPEN) and is_dns_rebinding(request.remote_addr, dict(request.headers)):
        authorize(request, access)


def _problem_page(response: Response) -> Response:
    """A problem as HTML if a browser asks for HTML, otherwise as it is."""
    json_type = "application/problem+json"
    if (
        response.content_type != json_type
        or request.accept_mimetypes.best_match([json_type, "text/html"]) != "text/html"
    ):
        return response
    shown = Response(as_html("problem.html", p=response.get_json()), response.status, HEADERS)
    shown.headers.extend((key, response.headers[key]) for key in ("Retry-After",) if key in response.headers)
    return shown


def _failed(error: ConnectorError) -> Response:
    if isinstance(error, NotFoundError):
        return problem(404, error.code, str(error), title=error.title, remedy=error.remedy)
    if isinstance(error, BadActionError):
        return problem(400, error.code, str(error), title=error.title, remedy=error.remedy)
    if isinstance(error, StaleTokenError):
        return problem(403, error.code, str(error), title=error.title, remedy=error.remedy)
    return problem(503, error.code, str(error), title=error.title, remedy=error.remedy, retry_after=10)


def _refused(error: HTTPException) -> Response | HTTPException:
    """Flask's own errors, such as an unknown path, as problems too."""
    if error.code is None or error.code < 400:
        return error  # a redirection
    response = problem(error.code, error.name.lower().replace(" ", "_"), error.description or "")
    response.headers.extend((key, value) for key, value in error.get_headers() if key == "Allow")
    return response


def _forwarded(platform: Platform, name: str, incoming: Request) -> Response:
    headers = {
        key: value for key, value in incoming.headers if key.lower() == "content-type" or key.lower().startswith("ce-")
    }
    try:
        answer = platform.call(name, incoming.get_data(), headers)
    except FunctionDownError as error:
        return problem(503, error.code, str(error), title=error.title, remedy=error.remedy, retry_after=1)
    passed = {key: answer.headers[key] for key in ("Content-Type", "Retry-After", "Allow") if key in answer.headers}
    return Response(answer.body, status=answer.status, headers=passed)
