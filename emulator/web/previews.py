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

from emulator.web.actions import BadActionError, Tell
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
        self._found: Values | None = None
        self._asked: dict[str, str] = {}
        app.add_url_rule("/preview", "preview_now", self._start, methods=["POST"])

    def view(self, _: Mapping[str, str]) -> Values:
        """What the page shows, to who may see events."""
        values: Values = {"nav": "preview", "days": DAYS, "workdir": self._workdir()}
        if not self._context.admits():
            return values | {"admitted": False, "job": None, "found": None, "asked": {}}
        found = self._found
        return values | {"admitted": True, "job": self._job, "found": found and shown(found), "asked": self._asked}

    def _workdir(self) -> Path | None:
        """The work folder of the UTMStack beside this connector, where the configuration names one."""
        followed = self._context.app.config().utmstack
        place = Path(followed.workdir) if followed else None
        return place if place and all((place / each).is_dir() for each in WORKDIR.values()) else None

    def _start(self) -> AnyResponse:
        try:
            self._context.let_act()
        except RequestEntityTooLarge:
            remedy = f"Use `{COMMAND} preview`, which reads folders of any size."
            raise BadActionError("Filter and rules have more than the page takes: 1 MiB.", remedy=remedy) from None
        texts = self._texts()
        with self._lock:
            if self._job is not None and self._job.result is None:
                raise BadActionError("A preview is under way.", remedy="Wait for it to end, and start this one then.")
            self._asked = {key: request.form.get(key, "") for key in ("filter", "rules", "events")}
            self._found = None
            days = next((each for each in DAYS if str(each) == self._asked["events"]), 0)
            self._job = self._context.jobs.run("Preview of filter and rules", "/preview", self._work(texts, days))
        return redirect("/preview", 303)

    def _texts(self) -> dict[str, list[tuple[str, bytes]]]:
        """Names and contents of what was sent; of the work folder, none. BadActionError where something is missing."""
        if request.form.get("source") == "workdir" and self._workdir() is not None:
            return {}
        texts = {}
        for key in WORKDIR:
            typed = request.form.get(key, "").strip()
            found = [(f"{key}.yml", typed.encode())] if typed else []
            found += [_file(each) for each in request.files.getlist(f"{key}_file")[:FILES] if each.filename]
            if not found:
                what = "filter" if key == "filter" else "rule"
                raise BadActionError(f"There is no {what}.", remedy=f"Paste UTMStack's {what} as YAML, or name a file.")
            texts[key] = found
        return texts

    def _work(self, texts: Mapping[str, Sequence[tuple[str, bytes]]], days: int) -> Any:
        workdir = self._workdir()

        def do(tell: Tell) -> str:
            with folder() as place:
                names = {key: str(workdir / each) for key, each in WORKDIR.items()} if not texts and workdir else {}
                for key, files in texts.items():
                    names[key] = str(place / key)
                    _write(place / key, files)
                order = {"work": "preview", "filters": [names["filter"]], "rules": [names["rules"]], "days": days}
                env = self._context.platform.config_env
                try:
                    self._found = _without(place, work(place, order, env, seconds=SECONDS, tell=tell))
                except WorkError as error:
                    raise WorkError(_without(place, str(error)), remedy=error.remedy) from None
            return sentence(self._found)

        return do


def _file(sent: FileStorage) -> tuple[str, bytes]:
    return secure_filename(sent.filename or "") or "unnamed.yml", sent.read()


def _write(place: Path, files: Sequence[tuple[str, bytes]]) -> None:
    place.mkdir()
    for at, (name, body) in enumerate(files):
        path = place / name
        path = path if path.suffix in {".yml", ".yaml"} else path.with_suffix(".yml")
        (path if not path.exists() else path.with_stem(f"{path.stem}-{at}")).write_bytes(body)


def _without(place: Path, found: Any) -> Any:
    """What was found, without the folder in which the files lay for a moment."""
    text = json.dumps(found, ensure_ascii=False)
    for key in WORKDIR:
        text = text.replace(f"{place}/{key}/", "").replace(f"{place}/{key}", f"the {key}")
    return json.loads(text)


def sentence(found: Mapping[str, Any]) -> str:
    """What a preview found, in one sentence."""
    if not found["events"]:
        return "There was no event to look at, so nothing can be said of the rules."
    rules = found["rules"]
    matched, never = sum(bool(each["matches"]) for each in rules), sum(bool(each["never"]) for each in rules)
    told = f"{plural(found['events'], 'event')}: {number(matched)} of {plural(len(rules), 'rule')} matched"
    return f"{told}, {number(never)} can never match here."


def shown(found: Mapping[str, Any]) -> Values:
    """The report as the page lists it: rules that can never match first, then those that match most."""
    rules = sorted(found["rules"], key=lambda each: (not each["never"], -each["matches"], each["name"].casefold()))
    unmatched = {*found["unmatched_types"]}
    types = [{"name": name, **each, "unmatched": name in unmatched} for name, each in found["types"].items()]
    return {
        **found,
        "sentence": sentence(found),
        "rules": rules[:LISTED],
        "types": sorted(types, key=lambda each: (not each["unmatched"], each["name"]))[:LISTED],
        "not_evaluated": found["not_evaluated"][:LISTED],
        "more": max(0, *(len(found[key]) - LISTED for key in ("rules", "types", "not_evaluated"))),
    }
