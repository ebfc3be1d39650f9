"""`tail`: the events that pass."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import requests

from emulator.cli.site import (
    asked,
    refused,
)
from emulator.cli.terminal import say
from emulator.web.formatting import ALONE
from lib.config import loading as configuration
from lib.config.settings import Config
from lib.errors import ConnectorError
from lib.version import COMMAND

ASK_SECONDS = 5.0


def tail(location: str | None, *, as_json: bool) -> int:
    """Print the raw events that a running emulator fetches, which are JSON, as they pass, until it ends or Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # At once, whatever it waits for; also where a shell has started it with SIGINT ignored. Each line is flushed.
        signal.signal(number, lambda *_: os._exit(0))
    try:
        config = configuration.load(location)
        host, port = config.listen
        with asked(config, "/tail", reading=None, stream=True) as answer:
            if answer.status_code != 200:
                say(*_told(answer), file=sys.stderr)
                return 1
            alone = Alone(config)
            for line in answer.iter_lines(chunk_size=1):
                if line:
                    # A tab stands between an event's fields only; it would be one of its text as an escape.
                    say(line.decode("utf-8", "replace").replace("\t", " "))
                alone.tell()
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    except requests.RequestException:
        say(f"no emulator answers on {host}:{port}: start `{COMMAND} run`", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os._exit(0)  # Whoever read it has had enough.
    return 0


class Alone:
    """Alerts without their event and events without their alert, each told once, beside the events (stderr)."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._asked_at = -ASK_SECONDS
        self._told: set[tuple[str, str]] = set()

    def tell(self) -> None:
        """Tell of those that are new; nothing where it was asked just now, or nobody answers."""
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return
        self._asked_at = time.monotonic()
        with suppress(requests.RequestException, ValueError, KeyError, TypeError):
            answer = asked(self._config, "/links", reading=5)
            for line in answer.json() if answer.status_code == 200 else ():  # An older emulator knows none.
                for key, (_, one, _) in ALONE.items():
                    self._tell(key, f"an {one}", line)

    def _tell(self, key: str, what: str, line: dict[str, Any]) -> None:
        for id_ in line.get(key, {}).get("ids", ()):
            if (key, id_) not in self._told:
                self._told.add((key, id_))
                say(f"{line['integration']}/{line['tenant']}: {what}: {id_}", file=sys.stderr)


def _told(answer: requests.Response) -> list[str]:
    """Why something was refused, and what to do, in the words of whoever refused it."""
    try:
        problem = answer.json()
        return [str(problem["detail"]), *([f"→ {problem['remedy']}"] if "remedy" in problem else [])]
    except (ValueError, TypeError, KeyError):
        return [f"{answer.url} answers {answer.status_code}: is it an emulator?"]
