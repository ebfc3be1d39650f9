"""What `run` begins with: its configuration and its store, which may be out of reach for a while as a machine boots."""

from __future__ import annotations

import logging

from emulator.ending import EndRequest
from emulator.runtime.notify import notify
from emulator.web import status
from lib.app import App
from lib.config import loading as configuration
from lib.config.settings import Config
from lib.errors import RetryableError
from lib.model.backoff import full_jitter

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 30.0
PATIENCE_SECONDS = 120
"""What one try may take beside the pause before it, for the service manager."""


def begun(location: str, stop: EndRequest) -> Config | None:
    """The configuration, once it is read and its store can be used; None where told to stop before.

    What is elsewhere (a bucket, a secret) is waited for. Raises ConnectorError where waiting does not help, and
    RetryableError where the store is on this machine.
    """
    tries = 0
    while True:
        config: Config | None = None
        try:
            config = configuration.load(location)
            # The store is opened once, so that a bad one is told here and not each minute.
            status.collect(App(lambda config=config: config))  # type: ignore[misc]
        except RetryableError as error:
            if config is not None and config.store.startswith("file:"):
                raise
            tries += 1
            pause = full_jitter(tries, 1.0, base=1.0, cap=LONGEST_PAUSE_SECONDS)
            log.warning("not started yet, tried again in %.0f s: %s. %s", pause, error, error.remedy)
            notify(f"EXTEND_TIMEOUT_USEC={int((pause + PATIENCE_SECONDS) * 1e6)}")
            if stop.wait(pause):
                return None
        else:
            return None if stop.wait(0) else config
