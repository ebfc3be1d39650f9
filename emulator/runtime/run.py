"""`run`: the product on one machine, until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime

from emulator.cli.terminal import refuse
from emulator.runtime.notify import notify, watchdog_seconds
from emulator.runtime.platform import Platform
from emulator.utmstack import validation
from emulator.utmstack.watcher import SettingsWatcher
from emulator.web import page, status
from emulator.web import server as web
from emulator.web.links import Links
from lib import app, telemetry
from lib.config import loading as configuration
from lib.errors import ConnectorError
from lib.state.state import State

log = logging.getLogger(__name__)


def run(location: str | None, only: str | None = None) -> int:
    """Serve until told to stop, then 0; 2 where the configuration or the address cannot be used.

    `only` names the one function to run, where another platform runs the others on the same store.
    """
    telemetry.start("emulator")
    try:
        location = configuration.absolute(configuration.located(location))
        os.environ[configuration.ENVIRONMENT] = location  # for what the page asks of the use cases
        config = configuration.load(location)
        status.collect(config)  # the store is opened once, so that a bad one is told here and not each minute
    except ConnectorError as error:
        refuse(error)
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    platform = Platform(config, location, only)
    links = Links(app.config, lambda: State.of(app.store()), app.now)
    platform.watchers.append(links.passes)
    watcher = SettingsWatcher(config.utmstack.workdir, platform.tick) if config.utmstack else None
    if watcher:
        watcher.look()
        os.environ[configuration.FOLLOWED] = watcher.path  # for the functions, and for the page
    host, port = config.listen
    pages = web.application(platform, lambda: _status(platform, watcher, links), app.access)
    if watcher:
        validation.serve(pages, platform, watcher)
    try:
        server = web.listening(pages, host, port)
    except OSError as error:
        print(f"cannot listen on {host}:{port}: {error.strerror}. Is another emulator running?", file=sys.stderr)
        return 2
    serving = threading.Thread(target=server.run, name="web", daemon=True)
    serving.start()
    began = datetime.now(UTC)
    platform.start()
    threading.Thread(target=_remember, args=(platform, began), name="remember", daemon=True).start()
    if watcher:
        watcher.start()
    log.info("status page at http://%s:%s/", host, server.effective_port)
    _watch(stop, platform, serving)
    notify("STOPPING=1")
    log.info("ending: what has begun is brought to its end")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # asked twice, it ends at once
    if watcher:
        watcher.stop()
    platform.stop()
    if watcher:
        watcher.close()
    server.close()
    return 0


def _watch(stop: threading.Event, platform: Platform, serving: threading.Thread) -> None:
    """Until told to stop: tell the service manager once everything runs, and from then on that it still does."""
    while not all(each.is_up() for each in platform.functions.values()):
        if stop.wait(0.1):
            return
    notify("READY=1")
    while not stop.wait(watchdog_seconds()):
        # A function that ends is started again; the threads that see to it are not.
        if platform.lives and serving.is_alive():
            notify("WATCHDOG=1")


def _remember(platform: Platform, began: datetime) -> None:
    """Let the page's chart begin before this process did."""
    with suppress(ConnectorError):
        platform.fetched.update(page.remembered(State.of(app.store()), began))


def _status(platform: Platform, watcher: SettingsWatcher | None, links: Links) -> dict[str, object]:
    found = status.collect(app.config(), platform.latest, platform.budgets)
    found["functions"] = [
        {"name": name, "up": each.is_up(), "pid": each.pid, "restarts": each.restarts}
        for name, each in platform.functions.items()
    ]
    if platform.engine_problem is not None:
        found |= {"ok": False, "engine_problem": platform.engine_problem}
    if alone := links.shown():
        found["links"] = alone
    if watcher is not None:
        found["utmstack"] = watcher.status()
        found["ok"] = found["ok"] and not watcher.problems
    return found
