"""All gaps and dead letters, as lines, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Flask, Response

from emulator.web.context import HEADERS, Context
from lib.http.problems import to_json
from lib.model.stream import Stream
from lib.state.dead_letters import dead_letters_by_stream
from lib.store.base import ObjectStore

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""First characters with which a spreadsheet takes a cell for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
GAP_COLUMNS = (
    "id",
    "integration",
    "tenant",
    "tenant_name",
    "stream",
    "from",
    "to",
    "reason",
    "noticed_at",
    "estimated_events",
    "acknowledged_at",
    "acknowledged_by",
    "key",
)
DEAD_COLUMNS = (
    "id",
    "integration",
    "tenant",
    "tenant_name",
    "stream",
    "events",
    "reasons",
    "acknowledged_at",
    "acknowledged_by",
    "key",
)

Line = dict[str, Any]


class Exports:
    """The routes `/gaps.csv`, `/gaps.json`, `/dead-letters.csv` and `/dead-letters.json`."""

    def __init__(self, app: Flask, context: Context) -> None:
        self._context = context
        app.add_url_rule("/gaps.json", "gaps_json", lambda: _json(gap_lines(self._lines())))
        app.add_url_rule("/gaps.csv", "gaps_csv", lambda: _csv(gap_lines(self._lines()), GAP_COLUMNS, "gaps"))
        app.add_url_rule(
            "/dead-letters.json", "dead_json", lambda: _json(dead_letter_lines(context.app.store, self._lines()))
        )
        app.add_url_rule(
            "/dead-letters.csv",
            "dead_csv",
            lambda: _csv(dead_letter_lines(context.app.store, self._lines()), DEAD_COLUMNS, "dead-letters"),
        )

    def _lines(self) -> Sequence[Mapping[str, Any]]:
        return self._context.snapshot.current().lines


def gap_lines(lines: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Every gap with the names of its stream: first the unacknowledged ones, each group newest first."""
    gaps = [{**_names(line), **gap} for line in lines for gap in line["gaps"]]
    gaps.sort(key=lambda gap: gap["noticed_at"] or "", reverse=True)
    return sorted(gaps, key=lambda gap: gap["acknowledged"] is not None)


def dead_letter_lines(store: ObjectStore, lines: Sequence[Mapping[str, Any]], only: Stream | None = None) -> list[Line]:
    """Every dead letter, of all streams or of one: first the unacknowledged ones."""
    names = {Stream.of(line): _names(line) for line in lines if line["dead_letter_objects"]}
    if not names:
        return []
    by_stream = dead_letters_by_stream(store)
    letters = [
        {
            "id": letter.id,
            "key": letter.key,
            **names[stream],
            "events": letter.events,
            "reasons": dict(letter.reasons),
            "acknowledged": letter.acknowledged.fields() if letter.acknowledged else None,
        }
        for stream in sorted(by_stream)
        if only in (None, stream) and stream in names
        for letter in by_stream[stream]
    ]
    return sorted(letters, key=lambda letter: letter["acknowledged"] is not None)


def _names(line: Mapping[str, Any]) -> Line:
    return {key: line[key] for key in ("integration", "tenant", "tenant_name", "stream", "label")}


def _json(lines: Sequence[Line]) -> Response:
    return Response(
        to_json([{k: v for k, v in line.items() if k != "label"} for line in lines]),
        content_type="application/json",
        headers=HEADERS,
    )


def _csv(lines: Sequence[Line], columns: Sequence[str], name: str) -> Response:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for line in lines:
        seen = line["acknowledged"] or {}
        flat = line | {"acknowledged_at": seen.get("at"), "acknowledged_by": seen.get("by")}
        if isinstance(flat.get("reasons"), dict):
            flat["reasons"] = "; ".join(f"{count} × {reason}" for reason, count in flat["reasons"].items())
        writer.writerow([_cell(flat[column]) for column in columns])
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}.csv"'}
    text = out.getvalue().encode("utf-8", "backslashreplace")
    return Response(text, content_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: object) -> str:
    """Text for a spreadsheet. A quote keeps it from running a name from outside as a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text
