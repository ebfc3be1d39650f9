"""What `run` begins with may be out of reach for a while as a machine boots: it is waited for."""

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
"""What one try may take beside the pause before it, for the service manager."""


def once_in_reach(attempt: Callable[[], T], stop: EndRequest) -> T | None:
    """What the attempt gives, as soon as it raises no RetryableError; None where told to stop before."""
    tries = 0
    while True:
        try:
            result = attempt()
        except RetryableError as error:
            tries += 1
            pause = full_jitter(tries, 1.0, base=1.0, cap=LONGEST_PAUSE_SECONDS)
            log.warning("not started yet, tried again in %.0f s: %s. %s", pause, error, error.remedy)
            notify(f"EXTEND_TIMEOUT_USEC={int((pause + PATIENCE_SECONDS) * 1e6)}")
            if stop.wait(pause):
                return None
        else:
            return None if stop.wait(0) else result
