"""The page's views. A view reads the snapshot, and at most the objects of one stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from flask import Flask, Response, request

from emulator.web import formatting
from emulator.web.charts import RANGES, Scope
from emulator.web.completeness import in_words
from emulator.web.context import HEADERS, Context, page
from emulator.web.drawing import Drawing
from emulator.web.events import EventRoutes, dead_events, last_receipts
from emulator.web.exports import dead_letter_lines, gap_lines
from emulator.web.health_changes import together
from emulator.web.listing import BADNESS, Query, find, ordered, waits, without_stream
from emulator.web.previews import Previews
from emulator.web.settings import documents, items, setting_text, title_of, value_text, versions
from emulator.web.snapshot import Taken
from lib.errors import NotFoundError
from lib.http.problems import to_json
from lib.model.clock import to_text
from lib.model.stream import Stream
from lib.version import COMMAND, VERSION

INTEGRATIONS = 12
"""Integrations on the overview. A click shows all."""
STREAMS = 10
TENANTS = 50
LISTED = 100
"""Gaps or dead letters a page."""
NAMED = 3
"""The most streams that a reason names."""
ASK_AGAIN = 3.0
"""Seconds between two refreshes of a page, if a pass is cheap."""
WORDS = {
    "ok": "All is well",
    "attention": "Needs attention",
    "failing": "Failing",
    "waiting": "Nothing fetched yet",
}
PART_WORDS = {
    "batches": "events that wait to be delivered",
    "archive": "delivered events, kept to be sent again",
    "dead": "events that could not be delivered",
    "ledger": "receipts: which batch was acknowledged when",
    "gaps": "intervals that are lost",
    "cursors": "how far each stream has been read",
    "leases": "who delivers a stream",
    "integrations": "the state of each credential",
    "schedules": "when each stream is polled next",
    "budgets": "calls that were made",
    "devices": "the device inventory",
    "reconciliations": "progress and results of reconciliations",
    "charts": "figures for the charts",
    "acknowledged": "gaps, dead letters and warnings that a person acknowledged",
}
"""The content of each part of the store."""
SHAPES = {"ok": "●", "attention": "▲", "failing": "✖", "waiting": "◌", "retired": "–", "unknown": "?"}
CHANGES = 8
"""The most changes of health on a page."""
DAY_SHAPES = {
    "whole": "●",
    "gap": "◇",
    "letters": "□",
    "fault": "✖",
    "waiting": "◌",
    "observed": "◌",
    "unread": "▲",
    "nothing": "–",
    "removed": "–",
    "unknown": "?",
    "today": "…",
}
TITLES = {
    "fetched": "fetching",
    "up_to_date": "up to date",
    "rate_limited": "waits for calls",
    "waiting": "waits for its turn",
    "busy": "busy",
    "paused": "paused",
    "failed": "failed",
    "idle": "not asked yet",
    "retired": "retired",
}

Values = dict[str, Any]
Arguments = Mapping[str, str]


class Views:
    """The routes of all views, and `/live`, which answers the changed parts of one view."""

    def __init__(self, app: Flask, context: Context, events: EventRoutes, previews: Previews) -> None:
        self._context = context
        self._events = events
        self._app = app
        self._drawing = Drawing(app, context)
        self._views: dict[str, tuple[str, Callable[[Arguments], Values]]] = {
            "/": ("overview.html", self._overview),
            "/streams": ("streams.html", self._streams),
            "/tenant": ("tenant.html", self._tenant),
            # Names in the query: a path cannot hold every name, such as one with a slash.
            "/stream": ("stream.html", self._stream),
            "/gaps": ("gaps.html", self._gaps),
            "/dead-letters": ("dead_letters.html", self._dead_letters),
            "/completeness": ("completeness.html", self._completeness),
            "/day": ("day.html", self._day),
            "/preview": ("preview.html", previews.view),
            "/settings": ("settings.html", self._settings),
            "/job": ("job.html", self._job),
        }
        for path, (template, build) in self._views.items():
            app.add_url_rule(path, path, self._route(template, build))
        app.add_url_rule("/live", "live", self._live)
        app.add_url_rule("/docs/<name>", "docs", self._document)
        self._add_template_names()

    def _add_template_names(self) -> None:
        env = self._app.jinja_env
        for name in (
            "number",
            "headline",
            "size",
            "seconds",
            "short",
            "ago",
            "lasting",
            "moment",
            "spaced",
            "pretty",
            "coded",
        ):
            env.filters[name] = getattr(formatting, name)
        env.globals.update(
            version=VERSION,
            command=COMMAND,
            plural=formatting.plural,
            utc_now=formatting.utc_now,
            gap_words=formatting.GAP_WORDS,
            check_words=formatting.CHECK_WORDS,
            part_words=PART_WORDS,
            shapes=SHAPES,
            words=WORDS,
            day_shapes=DAY_SHAPES,
            alone_words=formatting.ALONE,
            state_titles=TITLES,
            ranges=RANGES.values(),
            waits=waits,
            token=self._context.token,
            health_of=lambda line: "retired" if line["state"] == "retired" else line["health"],
            shown_health=shown_health,
            stream_url=stream_url,
            tenant_url=tenant_url,
            confirm_url=confirm_url,
        )
        env.globals["ui"] = env.get_template("macros.html").module

    def _route(self, template: str, build: Callable[[Arguments], Values]) -> Callable[[], Response]:
        def show() -> Response:
            return page(template, **self._common(request.full_path), **build(request.args))

        return show

    def _common(self, url: str) -> Values:
        taken = self._context.snapshot.current()
        return {
            "s": taken.status,
            "taken": taken,
            "now": formatting.utc_now(),
            "here": url.rstrip("?"),
            "jobs": self._context.jobs.newest()[:5],
        }

    def _live(self) -> Response:
        """The current HTML of a view's parts; 304 if nothing has changed since the browser's ETag."""
        split = urlsplit(request.args.get("view", "/"))
        if split.path not in self._views:
            raise NotFoundError(f"there is no view {split.path!r}")
        taken = self._context.snapshot.current()
        mark = f"{taken.number} {self._context.jobs.changes} {self._context.token} {request.full_path}"
        etag = sha256(mark.encode()).hexdigest()[:20]
        wait = max(ASK_AGAIN, 4 * taken.cost)
        if request.if_none_match.contains(etag):
            answer = Response(status=304, headers=HEADERS)
        else:
            template, build = self._views[split.path]
            arguments = dict(parse_qsl(split.query))
            values = {**self._common(f"{split.path}?{split.query}"), **build(arguments), "etag": etag}
            view_template = self._app.jinja_env.get_template(template)
            scope = view_template.new_context(values)
            parts = {
                name.removeprefix("part_"): "".join(block(scope))
                for name, block in {
                    **self._app.jinja_env.get_template("base.html").blocks,
                    **view_template.blocks,
                }.items()
                if name.startswith("part_")
            }
            body = {"parts": parts, "health": taken.status["health"], "at": taken.status["now"], "wait": wait}
            answer = Response(to_json(body), content_type="application/json", headers=HEADERS)
        answer.set_etag(etag)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    def _overview(self, arguments: Arguments) -> Values:
        taken = self._context.snapshot.current()
        named = [line["name"] for line in taken.status["integrations"]]
        chosen = arguments.get("integration") if arguments.get("integration") in named else None
        integrations = sorted(
            taken.status["integrations"], key=lambda line: (-BADNESS[line["health"]], line["name"].casefold())
        )
        shown = integrations if arguments.get("all") else integrations[:INTEGRATIONS]
        return {
            "nav": "overview",
            "look": shown_health(taken.status),
            "tiles": taken.tiles,
            "integrations": shown,
            "more": len(integrations) - len(shown),
            "named": named[:200],
            "chart_integration": chosen,
            "lines": list(islice((line for line in taken.ordered("trouble") if line["state"] != "retired"), STREAMS)),
            "links": taken.status.get("links", [])[:STREAMS],
            "labels": {(line["integration"], line["tenant"]): line["label"] for line in taken.lines}
            if taken.status.get("links")
            else {},
            "days": in_words(self._context.completeness.cells()),
            "flow": taken.newest,
            "late": taken.late,
            "reasons": [self._reason(taken, reason) for reason in taken.status["reasons"]],
            "changes": self._changes(taken, Scope()),
            **self._drawing.of(arguments, Scope(chosen)),
        }

    def _changes(self, taken: Taken, scope: Scope) -> list[Values]:
        """The newest changes of health, each with the line of a stream that changed alone."""
        changes = together(self._context.history.changes.newest(scope))[:CHANGES]
        return [
            {**change.fields(), "lines": [taken.by_path[name] for name in change.names[:1] if name in taken.by_path]}
            for change in changes
        ]

    @staticmethod
    def _reason(taken: Taken, reason: Mapping[str, Any]) -> Values:
        """A reason with the integrations that it concerns as a whole, or with the first of its streams."""
        whole = [line["name"] for line in taken.status["integrations"] if _concerns(line, reason["code"])]
        paths = [] if whole else reason["streams"]
        named = [taken.by_path[path] for path in paths[:NAMED] if path in taken.by_path]
        warnings = [
            {"integration": line["name"], **warning}
            for line in taken.status["integrations"]
            for warning in line["warnings"]
            if warning["code"] == reason["code"] and warning["acknowledged"] is None
        ]
        objects = [
            damage
            for damage in taken.status["damaged"]
            if reason["code"] == "object_damaged" and damage["acknowledged"] is None and damage["gap"] is None
        ]
        return {
            **reason,
            "warnings": warnings[:STREAMS],
            "objects": objects[:STREAMS],
            "whole": whole[:STREAMS],
            "named": named,
            "more": max(0, len(paths) - NAMED),
        }

    def _streams(self, arguments: Arguments) -> Values:
        taken = self._context.snapshot.current()
        query = Query.of(arguments)
        code = arguments.get("reason", "")
        reason = next((candidate for candidate in taken.status["reasons"] if candidate["code"] == code), None)
        if reason is None:
            lines = taken.ordered(query.sort)
        else:
            lines = ordered((taken.by_path[path] for path in reason["streams"] if path in taken.by_path), query.sort)
        return {
            "nav": "streams",
            "query": query,
            "reason": reason,
            "listing": find(lines, query),
            "bare": [line["name"] for line in without_stream(taken.status) if query.health == line["health"] != "ok"],
            "page_url": lambda number: query.url(page=number) + (f"&reason={quote(code)}" if reason else ""),
            "tiles": taken.tiles,
            "named": [line["name"] for line in taken.status["integrations"]][:200],
            "kinds": sorted({line["stream"] for line in taken.streams}),
        }

    def _tenant(self, arguments: Arguments) -> Values:
        taken = self._context.snapshot.current()
        integration, tenant = (arguments.get(key, "") for key in ("integration", "tenant"))
        lines = [line for line in taken.lines if (line["integration"], line["tenant"]) == (integration, tenant)]
        if not lines:
            raise NotFoundError(f"no tenant {tenant!r} of {integration!r} is known")
        name = lines[0]["label"]
        return {
            "nav": "streams",
            "lines": lines,
            "tenant": tenant,
            "tenant_name": name,
            "integration": integration,
            "changes": self._changes(taken, Scope(integration, tenant)),
            **self._drawing.of(arguments, Scope(integration, tenant)),
        }

    def _stream(self, arguments: Arguments) -> Values:
        stream = Stream(*(arguments.get(key, "") for key in ("integration", "tenant", "stream")))
        taken = self._context.snapshot.current()
        line = taken.by_stream.get(stream)
        if line is None:
            raise NotFoundError(f"no stream {stream} is known")
        place = (stream.integration, stream.tenant)
        links = [pairs for pairs in taken.status.get("links", ()) if (pairs["integration"], pairs["tenant"]) == place]
        state = self._context.app.state
        waiting = [
            {"sequence": batch.sequence, "size": batch.entry.size, "since": to_text(batch.entry.updated)}
            for _, batch in zip(range(LISTED), state.batches.waiting(stream), strict=False)
        ]
        admitted = self._context.may_read()
        dead = dead_letter_lines(state.store, taken.lines, stream)[:LISTED]
        for letter in dead:
            letter["lines"] = dead_events(state.store, letter["key"]) if admitted else []
        return {
            "nav": "streams",
            "line": line,
            "links": links,
            "waiting": waiting,
            "receipts": last_receipts(state, stream),
            "dead": dead,
            "newest": self._events.newest(state, stream) if admitted else None,
            "changes": self._changes(taken, Scope(stream.integration, stream.tenant, stream.kind)),
            **self._drawing.of(arguments, Scope(stream.integration, stream.tenant, stream.kind)),
        }

    def _completeness(self, _: Arguments) -> Values:
        days = self._context.completeness
        cells = days.cells(count=True)
        at, proposals = days.proposals()
        return {
            "nav": "completeness",
            "cells": cells,
            "summary": in_words(cells),
            "progress": days.progress,
            "proposals": proposals,
            "proposed_at": at,
        }

    def _day(self, arguments: Arguments) -> Values:
        days = self._context.completeness
        cell = next((candidate for candidate in days.cells(count=True) if candidate.day == arguments.get("day")), None)
        if cell is None:
            raise NotFoundError(
                "there is no data for that day, or it is not one of the last 90 days",
                remedy="Go to Completeness, and choose a day.",
            )
        by_stream = self._context.snapshot.current().by_stream
        labels = {(stream.integration, stream.tenant): line["label"] for stream, line in by_stream.items()}
        counted = days.day(cell.day)
        lines = {str(stream): line for stream, line in by_stream.items()}
        remarks = [formatting.split_remark(text, lines) for text in (counted and counted.remarks) or ()]
        return {
            "nav": "completeness",
            "cell": cell,
            "d": counted,
            "made_at": to_text(counted.made_at) if counted else None,
            "progress": days.progress,
            "remarks": [(lines[stream] if stream else None, text) for stream, text in remarks],
            "labels": labels,
        }

    def _gaps(self, arguments: Arguments) -> Values:
        return {"nav": "gaps", **paged("/gaps", gap_lines(self._context.snapshot.current().lines), arguments)}

    def _dead_letters(self, arguments: Arguments) -> Values:
        lines = dead_letter_lines(self._context.app.store, self._context.snapshot.current().lines)
        events = sum(line["events"] for line in lines)
        return {"nav": "dead", "events": events, **paged("/dead-letters", lines, arguments)}

    @staticmethod
    def _document(name: str) -> Response:
        path = documents().get(name)
        if path is None:
            raise NotFoundError(f"there is no document {name!r}", remedy="The settings page lists them.")
        return Response(path.read_text("utf-8"), content_type="text/plain; charset=utf-8", headers=HEADERS)

    def _job(self, arguments: Arguments) -> Values:
        number = arguments.get("id", "")
        job = self._context.jobs.get(int(number)) if number.isascii() and number.isdigit() and len(number) < 9 else None
        if job is None:
            raise NotFoundError("this action is no longer listed", remedy="Go to the overview.")
        return {"nav": "", "job": job}

    def _settings(self, _: Arguments) -> Values:
        config = self._context.app.config()
        status = self._context.snapshot.status()
        admitted = self._context.may_read()
        return {
            "nav": "settings",
            "settings": [(name, setting_text(name, value)) for name, value in items(config) if name != "integrations"],
            "integration_settings": [
                (integration.name, [(n, value_text(v)) for n, v in items(integration)])
                for integration in config.integrations[:TENANTS]
            ],
            "more": max(0, len(config.integrations) - TENANTS),
            "versions": versions(),
            "began": to_text(self._context.began),
            "pending": status["pending_bytes"],
            "limit": config.limits.max_pending_bytes,
            "size": self._context.footprint.size(),
            "functions": status.get("functions", []),
            "log": self._context.log.newest() if admitted else None,
            "docs": [(name, title_of(name)) for name in sorted(documents())],
        }


def _concerns(line: Mapping[str, Any], code: str) -> bool:
    """Whether the reason concerns the whole integration."""
    codes = [line.get("problem", {}).get("code"), *(warning["code"] for warning in line["warnings"])]
    return code in codes or (code == "paused" and line["state"] == "paused")


def paged(path: str, lines: list[Values], arguments: Arguments) -> Values:
    """One page of lines."""
    number = Query.of(arguments).page
    pages = max(1, -(-len(lines) // LISTED))
    number = min(number, pages)
    return {
        "lines": lines[(number - 1) * LISTED : number * LISTED],
        "total": len(lines),
        "left": sum(line["acknowledged"] is None for line in lines),
        "page": number,
        "pages": pages,
        "page_url": lambda chosen: f"{path}?page={chosen}",
    }


def shown_health(status: Mapping[str, Any]) -> str:
    """The health to show: `waiting` in place of `ok` until something was fetched."""
    is_empty = status["health"] == "ok" and not any(line["read_up_to"] for line in status["streams"])
    return "waiting" if is_empty else str(status["health"])


def stream_url(line: Mapping[str, Any]) -> str:
    """The URL of a stream's view."""
    return _url("/stream", line["integration"], line["tenant"], line["stream"])


def tenant_url(line: Mapping[str, Any]) -> str:
    """The URL of a tenant's view."""
    return _url("/tenant", line["integration"], line["tenant"])


@lru_cache(maxsize=16_384)
def _url(path: str, *place: str) -> str:
    return f"{path}?" + urlencode(
        list(zip(("integration", "tenant", "stream"), place, strict=False)), errors="surrogatepass"
    )


def confirm_url(action: str, back: str, **fields: str) -> str:
    """The URL of an action's confirmation. `back` is the page to return to."""
    return f"/confirm/{action}?" + urlencode({**fields, "back": back}, errors="surrogatepass")
