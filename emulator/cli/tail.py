"""`tail`: the events that pass."""

from __future__ import annotations

import os
import signal
import sys

import requests

from emulator.cli.site import (
    asked,
    refused,
)
from emulator.cli.terminal import say
from lib.config import loading as configuration
from lib.errors import ConnectorError


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
            for line in answer.iter_lines(chunk_size=1):
                if line:
                    # A tab stands between an event's fields only; it would be one of its text as an escape.
                    say(line.decode("utf-8", "replace").replace("\t", " "))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    except requests.RequestException:
        say(f"no emulator answers on {host}:{port}: start `python -m emulator run`", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os._exit(0)  # Whoever read it has had enough.
    return 0


def _told(answer: requests.Response) -> list[str]:
    """Why something was refused, and what to do, in the words of whoever refused it."""
    try:
        problem = answer.json()
        return [str(problem["detail"]), *([f"→ {problem['remedy']}"] if "remedy" in problem else [])]
    except (ValueError, TypeError, KeyError):
        return [f"{answer.url} answers {answer.status_code}: is it an emulator?"]
