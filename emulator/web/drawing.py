"""A chart as JSON for the browser's script, and as bars and a table for a browser without script."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, request

from emulator.web.charts import DEFAULT, HOUR, RANGES, Range, Scope
from emulator.web.context import HEADERS, Context
from emulator.web.formatting import utc_now
from lib.http.problems import to_json
from lib.model.clock import to_text

SCOPE = {"integration": "integration", "tenant": "tenant", "stream": "kind"}
"""The chart's scope: each argument of the URL, and its field of `Scope`."""
COLUMNS = ("fetched", "acked", "lag", "waiting", "calls")
ROWS = 24

Values = dict[str, Any]


class Drawing:
    """The route `/chart.json`, and the values for a template with a chart."""

    def __init__(self, app: Flask, context: Context) -> None:
        self._app = app
        self._context = context
        app.add_url_rule("/chart.json", "chart", self._chart)

    def of(self, arguments: Mapping[str, str], scope: Scope) -> Values:
        """The values for a template. `drawn` computes the chart: only a whole page calls it, not a refresh."""
        chosen = self._range(arguments)
        query = urlencode(
            {key: value for key in SCOPE if (value := getattr(scope, SCOPE[key])) is not None}, errors="surrogatepass"
        )

        def drawn() -> Values:
            chart = self._context.history.chart(chosen, scope)
            return {"bars": bars(chart), "rows": rows(chart), "marks": chart["marks"]}

        return {"chosen": chosen, "chart_query": query, "drawn": drawn}

    def _chart(self) -> Response:
        chosen = self._range(request.args)
        scope = Scope(*(request.args.get(key) or None for key in SCOPE))
        chart = self._context.history.chart(chosen, scope)
        budgets = [
            line["calls"]["per_minute"]
            for line in self._context.snapshot.status()["integrations"]
            if "calls" in line and scope.integration in (None, line["name"])
        ]
        macros = self._app.jinja_env.get_template("macros.html").module
        chart |= {
            "budget": sum(budgets) or None if scope.tenant is None else None,
            "rows": macros.chart_rows(rows(chart)),  # type: ignore[attr-defined]  # a template's macro
            "happened": macros.happened(chart["marks"], utc_now()),  # type: ignore[attr-defined]  # likewise
        }
        return Response(to_json(chart), content_type="application/json", headers=HEADERS)

    def _range(self, arguments: Mapping[str, str]) -> Range:
        """The range in the URL; otherwise the default, which is an hour in a connector's first hour."""
        since = self._context.history.known_since
        is_young = since is not None and time.time() - since < HOUR
        return RANGES.get(arguments.get("range", ""), RANGES["1h" if is_young else DEFAULT])


def bars(chart: Mapping[str, Any]) -> Values:
    """The chart as at most 90 bars of a drawing 720 wide and 120 high. A bar is the highest of its buckets."""
    fetched = [value or 0 for value in chart["fetched"]]
    group = max(1, -(-len(fetched) // 90))
    sums = [max(fetched[at : at + group], default=0) for at in range(0, len(fetched), group)]
    most = max(sums, default=0)
    width = 720 / max(1, len(sums))
    return {
        "most": most,
        "width": round(width * 0.8, 2),
        "all": [
            {"x": round(at * width, 2), "h": round(120 * value / most, 1)}
            for at, value in enumerate(sums)
            if value and most
        ],
    }


def rows(chart: Mapping[str, Any]) -> list[Values]:
    """The chart as a table of at most ROWS rows, newest first, without rows that have no data."""
    times = chart["t"]
    group = max(1, -(-len(times) // ROWS))
    step = times[1] - times[0]
    lines = []
    for at in range(0, len(times), group):
        buckets = slice(at, at + group)
        values = {key: [value for value in chart[key][buckets] if value is not None] for key in COLUMNS}
        end = times[at] + group * step
        if values["fetched"]:
            sums = {key: round(sum(values[key]) * step / 60) for key in ("fetched", "acked")}
            worst = {key: max(values[key], default=None) for key in ("lag", "waiting", "calls")}
            marks = [mark["text"] for mark in chart["marks"] if times[at] <= mark["from"] < end]
            begin = to_text(datetime.fromtimestamp(times[at], UTC))
            lines.append({"at": begin, **sums, **worst, "marks": marks})
    return lines[::-1]
