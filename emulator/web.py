"""What the emulator shows on `listen`: the functions, /status, /metrics, /healthz, and the operator's page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Request, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from waitress.server import create_server

from emulator.functions import TARGETS, FunctionDownError
from emulator.page import Page, StaleTokenError
from emulator.platform import Platform
from lib.access import Access, AccessError
from lib.boundary import DESCRIPTION_PATH, MAX_BODY_BYTES, description, problem, refusal
from lib.errors import ConnectorError, NotFoundError

log = logging.getLogger(__name__)

Status = Callable[[], dict[str, Any]]


def application(platform: Platform, status: Status, access: Access) -> Flask:
    """The WSGI application; `access` says who may call the functions."""
    app = Flask("emulator")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True

    def function() -> Response:
        name = request.path.strip("/")
        # The function is called from here, on loopback: it would let everybody in.
        access.admit(request.remote_addr, dict(request.headers), rare=name == "test-connection")
        return _proxied(platform, name, request)

    for name in TARGETS:
        app.add_url_rule(f"/{name}", name, function, methods=["POST"])

    app.add_url_rule(DESCRIPTION_PATH, "description", description, methods=["GET"])

    @app.get("/status")
    def _status() -> Response:
        return Response(json.dumps(status(), ensure_ascii=False), content_type="application/json")

    @app.get("/metrics")
    def _metrics() -> Response:
        registry = CollectorRegistry()
        registry.register(_Metrics(platform, status()))
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    def _healthz() -> Response:
        down = [name for name, each in platform.functions.items() if not each.is_up()]
        if down:
            return problem(503, "starting", f"not running: {', '.join(down)}", retry_after=1)
        return Response('{"ok": true}', content_type="application/json")

    Page(app, platform, status, access)
    app.register_error_handler(AccessError, refusal)
    app.register_error_handler(ConnectorError, _failed)
    return app


def listening(app: Flask, host: str, port: int) -> Any:
    """A server of the application that listens already, and has yet to `run`; OSError where it cannot."""
    # A proxy's headers tell that a caller on loopback is none of this machine.
    return create_server(app, host=host, port=port, threads=8, clear_untrusted_proxy_headers=False)


def _failed(error: ConnectorError) -> Response:
    if isinstance(error, NotFoundError):
        return problem(404, error.code, str(error), remedy=error.remedy)
    if isinstance(error, StaleTokenError):
        return problem(403, error.code, str(error), remedy=error.remedy)
    return problem(503, error.code, str(error), remedy=error.remedy, retry_after=10)


def _proxied(platform: Platform, name: str, asked: Request) -> Response:
    headers = {
        key: value for key, value in asked.headers if key.lower() == "content-type" or key.lower().startswith("ce-")
    }
    try:
        answer = platform.call(name, asked.get_data(), headers)
    except FunctionDownError as error:
        return problem(503, error.code, str(error), remedy=error.remedy, retry_after=1)
    passed = {key: answer.headers[key] for key in ("Content-Type", "Retry-After", "Allow") if key in answer.headers}
    return Response(answer.body, status=answer.status, headers=passed)


class _Metrics(Collector):
    """Prometheus's view of a status."""

    def __init__(self, platform: Platform, status: dict[str, Any]) -> None:
        self._platform = platform
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Every metric, made anew at each scrape."""
        labels = ["integration", "tenant", "stream"]
        for kind, name, key, text in (
            (GaugeMetricFamily, "lag_seconds", "lag_seconds", "Seconds up to which Sophos has not been read."),
            (GaugeMetricFamily, "pending_batches", "pending_batches", "Batches that wait for delivery."),
            (GaugeMetricFamily, "pending_bytes", "pending_bytes", "Bytes of the batches that wait."),
            (GaugeMetricFamily, "oldest_pending_seconds", "oldest_pending_seconds", "Age of the oldest such batch."),
            (CounterMetricFamily, "events_fetched", "events", "Events made durable."),
            (CounterMetricFamily, "events_acked", "acked", "Events that the engine has acknowledged."),
            (CounterMetricFamily, "repeats", "repeats", "Items of Sophos's pages that had been stored before."),
            (GaugeMetricFamily, "gaps", "gaps", "Intervals that can no longer be fetched."),
            (GaugeMetricFamily, "troubled", "problem", "1 while the stream has a problem."),
        ):
            family = kind(f"sophos_utmstack_{name}", text, labels=labels)
            for line in self._status["streams"]:
                value = line.get(key)
                if value is not None or key == "problem":
                    number = len(value) if key == "gaps" else float(bool(value)) if key == "problem" else value
                    family.add_metric([line[label] for label in labels], number)
            yield family
        yield from self._functions()

    def _functions(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("sophos_utmstack_function_up", "1 while the process takes calls.", labels=["function"])
        restarts = CounterMetricFamily("sophos_utmstack_function_restarts", "Restarts.", labels=["function"])
        for name, function in self._platform.functions.items():
            up.add_metric([name], float(function.is_up()))
            restarts.add_metric([name], function.restarts)
        calls = CounterMetricFamily("sophos_utmstack_calls", "Calls; status 0: none.", labels=["function", "status"])
        for (name, status), count in sorted(self._platform.calls.items()):
            calls.add_metric([name, str(status)], count)
        yield from (up, restarts, calls)
