"""Waits for remote parts that `run` needs at its start: while a machine boots, they may be unreachable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from emulator.ending import EndRequest
from emulator.runtime.notify import notify
from lib.errors import RetryableError
from lib.model.backoff import full_jitter

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 30.0
PATIENCE_SECONDS = 120
"""The time of one try without its pause. The service manager must allow it."""


def once_in_reach(attempt: Callable[[], T], stop: EndRequest) -> T | None:
    """The result of the first attempt without RetryableError; None if the process is asked to stop before."""
    tries = 0
    while True:
        try:
            result = attempt()
        except RetryableError as error:
            tries += 1
            pause = full_jitter(tries, 1.0, base=1.0, cap=LONGEST_PAUSE_SECONDS)
            log.warning("cannot start yet; next try in %.0f s: %s. %s", pause, error, error.remedy)
            notify(f"EXTEND_TIMEOUT_USEC={int((pause + PATIENCE_SECONDS) * 1e6)}")
            if stop.wait(pause):
                return None
        else:
            return None if stop.wait(0) else result
