"""The actions of the page. Each one shows its effect, asks for confirmation if needed, and ends in a sentence."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from emulator.web.context import HEADERS, Context, page
from emulator.web.formatting import CHECK_WORDS, plural
from lib import answers
from lib.app import App
from lib.errors import ConnectorError, NotFoundError
from lib.http.problems import problem, to_json
from lib.model.clock import to_text
from lib.model.duration import parse_duration
from lib.pipeline.replay import ReplayReport
from lib.state.acknowledgements import Acknowledgements

TEST_SECONDS = 60.0
BY = "page"

OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Question:
    """The confirmation of an action."""

    title: str
    text: str
    button: str


class BadActionError(ConnectorError):
    """The form's fields are not valid."""

    code = "bad_action"
    title = "The form cannot be used"
    remedy = "Go back, correct it, and send it again."


class Actions:
    """The routes `/confirm/<action>`, `/actions/<action>`, `/job` and `/test`."""

    def __init__(self, app: Flask, context: Context) -> None:
        self._context = context
        self._app = context.app
        app.add_url_rule("/confirm/<name>", "confirm", self._confirm)
        app.add_url_rule("/actions/<name>", "action", self._action, methods=["POST"])
        app.add_url_rule("/test", "test", self._test, methods=["GET", "POST"])

    def _confirm(self, name: str) -> Response:
        integration = request.args.get("integration") or None
        self._app.require(integration)
        key = request.args.get("key", "")
        question = _question(name, integration, self._named(key) if key else "")
        if question is None:
            return problem(404, "not_found", f"there is no action {name!r}")
        fields = {key: request.args[key] for key in ("integration", "key", "since") if request.args.get(key)}
        return page(
            "confirm.html",
            name=name,
            question=question,
            fields=fields,
            back=local(request.args.get("back")),
            **self._around(),
        )

    def _around(self) -> dict[str, Any]:
        return {"s": self._context.snapshot.status(), "nav": ""}

    def _action(self, name: str) -> AnyResponse:
        self._context.authorize_action()
        integration = request.form.get("integration") or None
        self._app.require(integration)
        title, do, wait = self._work(name, integration, request.form)
        job = self._context.jobs.run(title, local(request.form.get("back")), do, wait=wait)
        self._context.snapshot.expire()
        return redirect(f"/job?id={job.number}", 303)

    def _work(
        self, name: str, integration: str | None, form: Mapping[str, str]
    ) -> tuple[str, Callable[[OnProgress], str], bool]:
        """The action's title, its function, and whether the request waits for it; NotFoundError for an unknown one."""
        key = form.get("key", "")
        match name:
            case "run":
                return f"Run {integration or 'all'} now", lambda _: self._run(integration), True
            case "pause" | "resume" if integration:
                resume = name == "resume"
                title = f"{'Resume' if resume else 'Pause'} {integration}"
                return title, lambda _: self._pause(integration, resume=resume), True
            case "reconcile":
                return (
                    f"Reconcile {integration or 'all'}",
                    lambda on_progress: self._reconcile(integration, on_progress),
                    False,
                )
            case "replay" if key:
                return f"Replay {self._named(key)}", lambda _: self._replay_one(key), False
            case "replay":
                since = _since(form.get("since", ""))
                return (
                    f"Replay since {to_text(since)[:16]}Z",
                    lambda on_progress: self._replay(since, on_progress),
                    False,
                )
            case "acknowledge" if key:
                return f"Acknowledge {self._named(key)}", lambda _: self._acknowledge(key), True
            case _:
                raise NotFoundError(f"there is no action {name!r}")

    def _named(self, key: str) -> str:
        """A gap or dead letters, by the name of their stream; any other object by its key."""
        kind, _, path = key.partition("/")
        noun = {"gaps": "the gap", "dead": "the dead letters"}.get(kind)
        line = self._context.snapshot.current().by_path.get("/".join(path.split("/")[:3]))
        return f"{noun} of {line['label']} · {line['stream']}" if noun and line else key

    def _run(self, integration: str | None) -> str:
        if integration:
            self._app.retry_now(integration)
        self._context.platform.tick()
        return f"{integration or 'Every integration'} is polled now. New events show within seconds."

    def _pause(self, integration: str, *, resume: bool) -> str:
        self._app.pause(integration, resume=resume)
        self._context.platform.tick()
        if resume:
            return f"{integration} is fetched again."
        return f"{integration} is paused. Sophos keeps its events for 24 hours; resume it before then."

    def _reconcile(self, integration: str | None, on_progress: OnProgress) -> str:
        read: dict[str, int] = {}

        def on_stream(stream: str, events: int, _: datetime | None) -> None:
            read[stream] = events
            on_progress(f"{plural(sum(read.values()), 'event')} of {plural(len(read), 'stream')} read so far")

        on_progress("Asking Sophos")
        reports = self._app.reconcile_all(integration, on_progress=on_stream)
        self._context.platform.deliver()
        self._context.snapshot.expire()
        total, missing = sum(report.sums.read for report in reports), sum(report.sums.missing for report in reports)
        outcome = (
            f"{plural(missing, 'event')} had been missing and will be delivered" if missing else "none was missing"
        )
        failed = [report for report in reports if report.error is not None]
        failures = (
            f" {plural(len(failed), 'stream')} could not be read to the end: {failed[0].error}." if failed else ""
        )
        return f"{plural(total, 'event')} of {plural(len(reports), 'stream')} read again: {outcome}.{failures}"

    def _replay(self, since: datetime, on_progress: OnProgress) -> str:
        on_progress("Reading the archive")
        report = self._app.replay.since(since, lambda sent: on_progress(f"{plural(sent, 'event')} sent so far"))
        if not report.batches:
            return (
                "There is nothing to send: the archive has no batch of that time, and there is no dead letter. "
                "Set `archive` in the configuration to keep delivered batches."
            )
        return _sent(report)

    def _replay_one(self, key: str) -> str:
        report = self._app.replay.named(key)
        self._context.snapshot.expire()
        return _sent(report)

    def _acknowledge(self, key: str) -> str:
        is_stored = key.startswith(("gaps/", "dead/")) and self._app.store.read(key) is not None
        damaged = {damage["key"] for damage in self._context.snapshot.status()["damaged"]}
        if not is_stored and key not in damaged and key not in self._warnings():
            raise NotFoundError(f"there is no gap, no dead letter, no damaged object and no warning {key!r}")
        new = Acknowledgements(self._app.store).add(key, by=BY, at=datetime.now(UTC))
        return "Acknowledged. It stays listed, and no longer needs attention." if new else "It was acknowledged before."

    def _warnings(self) -> set[str]:
        """The keys of all warnings about credentials."""
        integrations = self._context.snapshot.status()["integrations"]
        return {warning["key"] for line in integrations for warning in line["warnings"]}

    def _test(self) -> Response:
        name = request.args.get("integration", "")
        self._app.require(name)
        if request.method == "GET":
            return page("test.html", name=name, checks=[], answer=None, verdict="", **self._around())
        self._context.authorize_action(rare=True)
        if "ndjson" in request.headers.get("Accept", ""):
            return Response(_check_lines(self._app, name), content_type="application/x-ndjson", headers=HEADERS)
        report = self._app.examine(name, deadline=time.monotonic() + TEST_SECONDS)
        sentence = verdict([(check.name, check.outcome) for check in report.checks])
        return page("test.html", name=name, checks=report.checks, answer=report, verdict=sentence, **self._around())


def _with_title(check: Mapping[str, Any]) -> dict[str, Any]:
    """The check with its title for people."""
    return {**check, "title": CHECK_WORDS.get(check["name"], check["name"])}


def _question(name: str, integration: str | None, item: str) -> Question | None:
    """The confirmation of an action, if it is one. `item`: what it concerns, where it is not an integration."""
    whom = integration or "every integration"
    match name:
        case "pause" if integration:
            return Question(
                f"Pause {integration}?",
                f"Nothing is fetched for {integration} until you resume it. Stored batches are still delivered. "
                "Sophos keeps events for 24 hours: a longer pause loses events.",
                "Pause",
            )
        case "reconcile":
            return Question(
                f"Reconcile {whom}?",
                f"Reads the last 24 hours of {whom} from Sophos again, compares every event with the ledger, and "
                "delivers missing events. It uses calls of the credential's rate limit, and may take minutes.",
                "Reconcile",
            )
        case "replay":
            what = item or "the batches in the archive"
            return Question(
                "Replay?",
                f"Sends {what} to the engine again, under the same ids. The engine may show events twice that it "
                "acknowledged before.",
                "Replay",
            )
        case "acknowledge" if item:
            return Question(
                "Acknowledge?",
                f"Records that you have seen {item}. It stays listed, and no longer needs attention.",
                "Acknowledge",
            )
        case _:
            return None


def local(path: str | None) -> str:
    """The path, if it is one of this page, otherwise `/`: a crafted link must not redirect to another site."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")) or any(ord(c) < 32 for c in path):
        return "/"
    return quote(path, safe="/?&=%+-_.~:@!$'()*,;#")


def _since(text: str) -> datetime:
    try:
        return datetime.now(UTC) - parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise BadActionError(f"since: {error}") from None


def _sent(report: ReplayReport) -> str:
    text = f"{plural(report.acked, 'event')} of {plural(report.batches, 'batch', 'batches')} sent again"
    if report.refused:
        text += f"; {plural(report.refused, 'event')} refused, as before"
    if report.damaged:
        text += f"; {plural(len(report.damaged), 'batch', 'batches')} damaged: {', '.join(report.damaged)}"
    return text + "."


def verdict(checks: Sequence[tuple[str, str]]) -> str:
    """A sentence that sums up the checks (name, outcome) and names those that did not pass."""

    def named(outcome: str) -> str:
        return ", ".join(CHECK_WORDS.get(name, name) for name, result in checks if result == outcome)

    if failed := named("failed"):
        return f"Something does not work: {failed}."
    if warned := named("warning"):
        return f"It works, with a warning: {warned}."
    return "Everything works."


def _check_lines(app: App, name: str) -> Iterator[bytes]:
    """Each check as soon as it ends, then the verdict, as JSON lines."""
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def run() -> None:
        try:
            end = time.monotonic() + TEST_SECONDS
            report = app.examine(
                name, deadline=end, on_progress=lambda check: lines.put(_with_title(answers.check(check)))
            )
            sentence = verdict([(check.name, check.outcome) for check in report.checks])
            lines.put(answers.connection(report) | {"verdict": sentence})
        except ConnectorError as error:
            lines.put({"detail": f"{error} {error.remedy}"})
        finally:
            lines.put(None)

    threading.Thread(target=run, name=f"test {name}", daemon=True).start()
    while (line := lines.get()) is not None:
        yield to_json(line) + b"\n"
