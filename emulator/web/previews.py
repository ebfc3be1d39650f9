"""The page of `preview`: UTMStack's filter and rules, applied to this site's events."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flask import Flask, redirect, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response as AnyResponse

from emulator.web.actions import BadActionError, OnProgress
from emulator.web.background import WorkError, folder, work
from emulator.web.context import Context, Job
from emulator.web.formatting import number, plural
from lib.version import COMMAND

SECONDS = 300.0
FILES = 500
DAYS = (1, 7, 30)
"""Choices of days of the store's events. Any other value means a week of simulated events."""
LISTED = 500
"""The most rules, types and remarks that are shown."""
WORKDIR = {"filter": "pipeline/filters", "rules": "rules"}
"""Their folders in UTMStack's work folder."""

Values = dict[str, Any]


class Previews:
    """The route `POST /preview`, and the values of the view. One preview runs at a time, and the newest is kept."""

    def __init__(self, app: Flask, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._report: Values | None = None
        self._form: dict[str, str] = {}
        app.add_url_rule("/preview", "preview_now", self._start, methods=["POST"])

    def view(self, _: Mapping[str, str]) -> Values:
        """The values for the template. The report contains events, so it is only for callers that may see them."""
        values: Values = {"nav": "preview", "days": DAYS, "workdir": self._workdir()}
        if not self._context.may_read():
            return values | {"admitted": False, "job": None, "report": None, "asked": {}}
        report = self._report
        return values | {"admitted": True, "job": self._job, "report": report and for_page(report), "asked": self._form}

    def _workdir(self) -> Path | None:
        """UTMStack's work folder, if the configuration names one and it has filters and rules."""
        followed = self._context.app.config().utmstack
        place = Path(followed.workdir) if followed else None
        return place if place and all((place / name).is_dir() for name in WORKDIR.values()) else None

    def _start(self) -> AnyResponse:
        try:
            self._context.authorize_action()
        except RequestEntityTooLarge:
            remedy = f"Use `{COMMAND} preview`, which reads folders of any size."
            raise BadActionError("Filter and rules are larger than 1 MiB, the page's limit.", remedy=remedy) from None
        texts = self._texts()
        with self._lock:
            if self._job is not None and self._job.result is None:
                raise BadActionError("A preview is under way.", remedy="Wait until it ends, and start this one again.")
            self._form = {key: request.form.get(key, "") for key in ("filter", "rules", "events")}
            self._report = None
            days = next((choice for choice in DAYS if str(choice) == self._form["events"]), 0)
            self._job = self._context.jobs.run("Preview of filter and rules", "/preview", self._work(texts, days))
        return redirect("/preview", 303)

    def _texts(self) -> dict[str, list[tuple[str, bytes]]]:
        """The uploaded names and contents; empty for the work folder. BadActionError if filter or rules are missing."""
        if request.form.get("source") == "workdir" and self._workdir() is not None:
            return {}
        texts = {}
        for key in WORKDIR:
            typed = request.form.get(key, "").strip()
            files = [(f"{key}.yml", typed.encode())] if typed else []
            files += [_file(upload) for upload in request.files.getlist(f"{key}_file")[:FILES] if upload.filename]
            if not files:
                noun = "filter" if key == "filter" else "rule"
                raise BadActionError(f"There is no {noun}.", remedy=f"Paste UTMStack's {noun} as YAML, or name a file.")
            texts[key] = files
        return texts

    def _work(self, texts: Mapping[str, Sequence[tuple[str, bytes]]], days: int) -> Any:
        workdir = self._workdir()

        def do(on_progress: OnProgress) -> str:
            with folder() as place:
                names = (
                    {key: str(workdir / subfolder) for key, subfolder in WORKDIR.items()}
                    if not texts and workdir
                    else {}
                )
                for key, files in texts.items():
                    names[key] = str(place / key)
                    _write(place / key, files)
                order = {"work": "preview", "filters": [names["filter"]], "rules": [names["rules"]], "days": days}
                env = self._context.platform.config_env
                try:
                    self._report = _without(place, work(place, order, env, seconds=SECONDS, on_progress=on_progress))
                except WorkError as error:
                    raise WorkError(_without(place, str(error)), remedy=error.remedy) from None
            return sentence(self._report)

        return do


def _file(sent: FileStorage) -> tuple[str, bytes]:
    return secure_filename(sent.filename or "") or "unnamed.yml", sent.read()


def _write(place: Path, files: Sequence[tuple[str, bytes]]) -> None:
    place.mkdir()
    for at, (name, body) in enumerate(files):
        path = place / name
        path = path if path.suffix in {".yml", ".yaml"} else path.with_suffix(".yml")
        (path if not path.exists() else path.with_stem(f"{path.stem}-{at}")).write_bytes(body)


def _without(place: Path, report: Any) -> Any:
    """The report without the path of the temporary folder."""
    text = json.dumps(report, ensure_ascii=False)
    for key in WORKDIR:
        text = text.replace(f"{place}/{key}/", "").replace(f"{place}/{key}", f"the {key}")
    return json.loads(text)


def sentence(report: Mapping[str, Any]) -> str:
    """The result of a preview in one sentence."""
    if not report["events"]:
        return "There was no event, so the rules could not be tested."
    rules = report["rules"]
    matched, never = sum(bool(rule["matches"]) for rule in rules), sum(bool(rule["never"]) for rule in rules)
    matches = f"{plural(report['events'], 'event')}: {number(matched)} of {plural(len(rules), 'rule')} matched"
    return f"{matches}, {number(never)} can never match here."


def for_page(report: Mapping[str, Any]) -> Values:
    """The report in the page's order: first rules that can never match, then those with the most matches."""
    rules = sorted(report["rules"], key=lambda rule: (not rule["never"], -rule["matches"], rule["name"].casefold()))
    unmatched = {*report["unmatched_types"]}
    types = [{"name": name, **tally, "unmatched": name in unmatched} for name, tally in report["types"].items()]
    return {
        **report,
        "sentence": sentence(report),
        "rules": rules[:LISTED],
        "types": sorted(types, key=lambda type_: (not type_["unmatched"], type_["name"]))[:LISTED],
        "not_evaluated": report["not_evaluated"][:LISTED],
        "more": max(0, *(len(report[key]) - LISTED for key in ("rules", "types", "not_evaluated"))),
    }
