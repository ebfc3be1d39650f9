"""`run`: the product on one machine, until SIGTERM or SIGINT."""

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
    """Serve until told to stop, then 0; 2 where the configuration or the address cannot be used, 1 where that passes.

    `only` names the one function to run, where another platform runs the others on the same store.
    """
    gc.disable()  # until all is loaded: next to nothing of it is garbage
    telemetry.start("emulator")
    stop = EndRequest()
    try:
        location = configuration.lasting(configuration.located(location))
        # A configuration or a secret that is elsewhere is waited for.
        config = once_in_reach(partial(configuration.load, location), stop)
        return 0 if config is None else _with_functions(stop, config, location, only)
    except ConnectorError as error:
        refuse(error)
        # A service manager starts it again after 1.
        return 1 if isinstance(error, RetryableError) else 2


def _with_functions(stop: EndRequest, config: Config, location: str, only: str | None) -> int:
    watcher = None
    if config.utmstack:
        from emulator.utmstack.watcher import SettingsWatcher  # noqa: PLC0415 - who does not follow it does not wait

        watcher = SettingsWatcher(config.utmstack.workdir)
    env = config_env(location, watcher.path if watcher else None)
    functions = functions_of(config, env, only)
    for function in functions.values():
        function.start()
    try:
        from emulator.runtime.serving import serve  # noqa: PLC0415 - it loads while the functions do

        return serve(stop, config, functions, env, watcher)
    finally:
        for each in functions.values():
            each.stop()
