"""What the emulator shows on `listen`: the functions, /status, /metrics, /healthz, and a page for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from flask import Flask, Request, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from waitress.server import create_server

from emulator.functions import TARGETS, FunctionDownError
from emulator.platform import Platform
from lib.access import Access, AccessError
from lib.boundary import DESCRIPTION_PATH, MAX_BODY_BYTES, description, problem, refusal
from lib.errors import ConnectorError

log = logging.getLogger(__name__)

Status = Callable[[], dict[str, Any]]


def application(platform: Platform, status: Status, access: Access) -> Flask:
    """The WSGI application; `access` says who may call the functions."""
    app = Flask("emulator")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

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

    @app.get("/")
    def _page() -> Response:
        headers = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "Cache-Control": "no-store",
        }
        return Response(page(status()), content_type="text/html; charset=utf-8", headers=headers)

    app.register_error_handler(AccessError, refusal)
    app.register_error_handler(ConnectorError, _failed)
    return app


def listening(app: Flask, host: str, port: int) -> Any:
    """A server of the application that listens already, and has yet to `run`; OSError where it cannot."""
    # A proxy's headers tell that a caller on loopback is none of this machine.
    return create_server(app, host=host, port=port, threads=8, clear_untrusted_proxy_headers=False)


def _failed(error: ConnectorError) -> Response:
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


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2330;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid #dde2ea}
th{font-weight:600;color:#556}td.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:#157347}.bad{color:#b02a37}.box{border-left:4px solid #b02a37;padding:.3rem .8rem;margin:.6rem 0;
background:#fbf1f2}
@media(prefers-color-scheme:dark){body{background:#12161d;color:#dde3ec}th{color:#9aa6b8}th,td{border-color:#2b3340}
.box{background:#2a1c20}}
"""


def page(status: dict[str, Any]) -> str:
    """The status as a plain page that loads itself again."""
    rows = "".join(_row(line) for line in status["streams"])
    state = "<b class=good>all is well</b>" if status["ok"] else "<b class=bad>needs a look</b>"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width"><title>Sophos Central → UTMStack</title><style>{_STYLE}</style>
<h1>Sophos Central → UTMStack</h1>
<p>{state} · {status["events"]} events fetched · {status["acked"]} acknowledged by the engine ·
{status["pending_batches"]} batches wait ({status["pending_bytes"]} bytes) · {status["gaps"]} gaps ·
every {escape(status["every"])}</p>
{"".join(_problem(line["name"], line) for line in status["integrations"])}
{"".join(_problem(f"{line['integration']} · {line['stream']}", line) for line in status["streams"])}
<table><thead><tr><th>Integration<th>Tenant<th>Stream<th>State<th>Lag<th>Fetched<th>Acknowledged<th>Waiting<th>Gaps
<th>Last event</tr></thead><tbody>{rows or "<tr><td colspan=10>Nothing has been fetched yet.</td></tr>"}</tbody></table>
<p>{escape(status["now"])} · <a href="/status">status</a> · <a href="/metrics">metrics</a></p></html>"""


def _row(line: dict[str, Any]) -> str:
    lag = "–" if line["lag_seconds"] is None else f"{line['lag_seconds']:.0f} s"
    state = "bad" if "problem" in line else "good"
    tenant = line["tenant_name"] or line["tenant"]
    cells = "".join(f"<td>{escape(text)}" for text in (line["integration"], tenant, line["stream"]))
    numbers = (lag, line["events"], line["acked"], line["pending_batches"], len(line["gaps"]))
    return (
        f"<tr>{cells}<td class={state}>{escape(line['state'])}"
        + "".join(f"<td class=n>{escape(str(number))}" for number in numbers)
        + f"<td>{escape(line['last_event'] or '–')}</tr>"
    )


def _problem(what: str, line: dict[str, Any]) -> str:
    if "problem" not in line:
        return ""
    told = line["problem"]
    until = f" Next try: {escape(line['retry_at'])}." if line.get("retry_at") else ""
    return f"<div class=box><b>{escape(what)}</b>: {escape(told['detail'])}{until}<br>{escape(told['remedy'])}</div>"
