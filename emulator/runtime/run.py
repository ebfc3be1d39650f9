"""`run`: the connector on one machine, until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

from emulator.cli.terminal import refuse
from emulator.ending import EndRequest
from emulator.runtime.begin import once_in_reach
from emulator.runtime.functions import config_env, functions_of
from lib import telemetry
from lib.config import loading as configuration
from lib.errors import ConnectorError, RetryableError

if TYPE_CHECKING:
    from lib.config.settings import Config


def run(location: str | None, only: str | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 if the configuration or address is unusable, 1 for a passing failure.

    `only` names the one function to run, if another platform runs the others on the same store.
    """
    gc.disable()  # Imported objects stay, so that collecting during imports only costs time.
    telemetry.start("emulator")
    stop = EndRequest()
    try:
        location = configuration.lasting(configuration.located(location))
        # A configuration or a secret on another machine may be unreachable at first; wait for it.
        config = once_in_reach(partial(configuration.load, location), stop)
        return 0 if config is None else _with_functions(stop, config, location, only)
    except ConnectorError as error:
        refuse(error)
        # A service manager restarts the process after exit status 1, but not after 2.
        return 1 if isinstance(error, RetryableError) else 2


def _with_functions(stop: EndRequest, config: Config, location: str, only: str | None) -> int:
    watcher = None
    if config.utmstack:
        from emulator.utmstack.watcher import SettingsWatcher  # noqa: PLC0415 - only sites that follow UTMStack need it

        watcher = SettingsWatcher(config.utmstack.workdir)
    env = config_env(location, config.store, watcher.path if watcher else None)
    functions = functions_of(config, env, only)
    for function in functions.values():
        function.start()
    try:
        from emulator.runtime.serving import serve  # noqa: PLC0415 - imported while the functions start

        return serve(stop, config, functions, env, watcher)
    finally:
        for running in functions.values():
            running.stop()
