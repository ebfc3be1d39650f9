"""`run`: the product on one machine, until SIGTERM or SIGINT."""

from __future__ import annotations

import gc

from emulator.cli.terminal import refuse
from emulator.ending import EndRequest
from emulator.runtime.functions import functions_of
from lib import telemetry
from lib.config import loading as configuration
from lib.errors import ConnectorError


def run(location: str | None, only: str | None = None) -> int:
    """Serve until told to stop, then 0; 2 where the configuration, its store or the address cannot be used.

    `only` names the one function to run, where another platform runs the others on the same store.
    """
    gc.disable()  # until all is loaded: next to nothing of it is garbage
    telemetry.start("emulator")
    try:
        location = configuration.absolute(configuration.located(location))
        config = configuration.load(location)
    except ConnectorError as error:
        refuse(error)
        return 2
    stop = EndRequest()
    watcher = None
    if config.utmstack:
        from emulator.utmstack.watcher import SettingsWatcher  # noqa: PLC0415 - who does not follow it does not wait

        watcher = SettingsWatcher(config.utmstack.workdir)
    functions = functions_of(config, location, only, watcher.path if watcher else None)
    for each in functions.values():
        each.start()
    try:
        from emulator.runtime.serving import serve  # noqa: PLC0415 - it loads while the functions do

        return serve(stop, config, location, functions, watcher)
    finally:
        for each in functions.values():
            each.stop()
