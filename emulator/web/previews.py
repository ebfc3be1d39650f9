"""The page of `preview`: what UTMStack's filter and rules make of this site's events."""

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
"""Of what the store holds; anything else asks for the simulator's week."""
LISTED = 500
"""Rules, types and remarks that are shown."""
WORKDIR = {"filter": "pipeline/filters", "rules": "rules"}
"""Where UTMStack keeps them, below its work folder."""

Values = dict[str, Any]


class Previews:
    """The route `POST /preview`, and what the view shows: one preview at a time, of which the newest is kept."""

    def __init__(self, app: Flask, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._report: Values | None = None
        self._form: dict[str, str] = {}
        app.add_url_rule("/preview", "preview_now", self._start, methods=["POST"])

    def view(self, _: Mapping[str, str]) -> Values:
        """What the page shows, to who may see events."""
        values: Values = {"nav": "preview", "days": DAYS, "workdir": self._workdir()}
        if not self._context.may_read():
            return values | {"admitted": False, "job": None, "found": None, "asked": {}}
        report = self._report
        return values | {"admitted": True, "job": self._job, "found": report and for_page(report), "asked": self._form}

    def _workdir(self) -> Path | None:
        """The work folder of the UTMStack beside this connector, where the configuration names one."""
        followed = self._context.app.config().utmstack
        place = Path(followed.workdir) if followed else None
        return place if place and all((place / name).is_dir() for name in WORKDIR.values()) else None

    def _start(self) -> AnyResponse:
        try:
            self._context.authorize_action()
        except RequestEntityTooLarge:
            remedy = f"Use `{COMMAND} preview`, which reads folders of any size."
            raise BadActionError("Filter and rules have more than the page takes: 1 MiB.", remedy=remedy) from None
        texts = self._texts()
        with self._lock:
            if self._job is not None and self._job.result is None:
                raise BadActionError("A preview is under way.", remedy="Wait for it to end, and start this one then.")
            self._form = {key: request.form.get(key, "") for key in ("filter", "rules", "events")}
            self._report = None
            days = next((choice for choice in DAYS if str(choice) == self._form["events"]), 0)
            self._job = self._context.jobs.run("Preview of filter and rules", "/preview", self._work(texts, days))
        return redirect("/preview", 303)

    def _texts(self) -> dict[str, list[tuple[str, bytes]]]:
        """Names and contents of what was sent; of the work folder, none. BadActionError where something is missing."""
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
    """What was found, without the folder in which the files lay for a moment."""
    text = json.dumps(report, ensure_ascii=False)
    for key in WORKDIR:
        text = text.replace(f"{place}/{key}/", "").replace(f"{place}/{key}", f"the {key}")
    return json.loads(text)


def sentence(report: Mapping[str, Any]) -> str:
    """What a preview found, in one sentence."""
    if not report["events"]:
        return "There was no event to look at, so nothing can be said of the rules."
    rules = report["rules"]
    matched, never = sum(bool(rule["matches"]) for rule in rules), sum(bool(rule["never"]) for rule in rules)
    matches = f"{plural(report['events'], 'event')}: {number(matched)} of {plural(len(rules), 'rule')} matched"
    return f"{matches}, {number(never)} can never match here."


def for_page(report: Mapping[str, Any]) -> Values:
    """The report as the page lists it: rules that can never match first, then those that match most."""
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
