"""`tail`: prints events as they are fetched."""

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
    """Print the raw events (JSON) that a running connector fetches, until it ends or Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The process may end at any moment: each line is flushed. A shell may have started it with SIGINT ignored.
        signal.signal(number, lambda *_: os._exit(0))
    try:
        config = configuration.load(location)
        host, port = config.listen
        with asked(config, "/tail", reading=None, stream=True) as answer:
            if answer.status_code != 200:
                say(*_refusal(answer), file=sys.stderr)
                return 1
            alone = Alone(config)
            for line in answer.iter_lines(chunk_size=1):
                if line:
                    # In JSON a bare tab can only stand between fields: within a text it is escaped.
                    say(line.decode("utf-8", "replace").replace("\t", " "))
                alone.print_new()
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    except requests.RequestException:
        say(f"no connector answers on {host}:{port}: start it with `{COMMAND} run`", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os._exit(0)  # The reader has closed the pipe.
    return 0


class Alone:
    """Prints alerts without their event, and events without their alert, each once, to standard error."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._asked_at = -ASK_SECONDS
        self._printed: set[tuple[str, str]] = set()

    def print_new(self) -> None:
        """Print the new ones, at most every ASK_SECONDS. A connector that does not answer is ignored."""
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return
        self._asked_at = time.monotonic()
        with suppress(requests.RequestException, ValueError, KeyError, TypeError):
            answer = asked(self._config, "/links", reading=5)
            for line in answer.json() if answer.status_code == 200 else ():  # An older connector has no such path.
                for key, (_, singular, _) in ALONE.items():
                    self._print(key, f"an {singular}", line)

    def _print(self, key: str, name: str, line: dict[str, Any]) -> None:
        for id_ in line.get(key, {}).get("ids", ()):
            if (key, id_) not in self._printed:
                self._printed.add((key, id_))
                say(f"{line['integration']}/{line['tenant']}: {name}: {id_}", file=sys.stderr)


def _refusal(answer: requests.Response) -> list[str]:
    """The reason and the remedy in an error answer."""
    try:
        problem = answer.json()
        return [str(problem["detail"]), *([f"→ {problem['remedy']}"] if "remedy" in problem else [])]
    except (ValueError, TypeError, KeyError):
        return [f"{answer.url} answers {answer.status_code}: check that the connector listens there"]
