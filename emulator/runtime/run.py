"""`run`: the product on one machine, until SIGTERM or SIGINT."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from emulator.cli.terminal import refuse
from emulator.ending import EndRequest
from emulator.runtime.begin import begun
from emulator.runtime.notify import notify, watchdog_seconds
from emulator.runtime.platform import Platform
from emulator.utmstack import validation
from emulator.utmstack.watcher import SettingsWatcher
from emulator.web import server as web
from emulator.web import status
from emulator.web.connections import listening
from emulator.web.context import RecentLog
from emulator.web.links import Links
from emulator.web.status import StreamRecord
from lib import telemetry
from lib.app import App
from lib.config import environment
from lib.config import loading as configuration
from lib.config.reloading import ReloadingConfig
from lib.config.settings import Config
from lib.errors import ConnectorError, RetryableError
from lib.model.checkpoint import problem_after
from lib.model.stream import Stream
from lib.parts import Parts, PlatformFacts
from lib.store.base import ObjectStore
from lib.version import VERSION

log = logging.getLogger(__name__)


def run(location: str | None, only: str | None = None) -> int:
    """Serve until told to stop, then 0; 2 where the configuration or the address cannot be used, 1 where that passes.

    `only` names the one function to run, where another platform runs the others on the same store.
    """
    telemetry.start("emulator")
    recent = RecentLog()
    logging.getLogger().addHandler(recent)
    log.info("sophos-utmstack %s", VERSION)
    stop = EndRequest()
    try:
        location = configuration.lasting(configuration.located(location))
        config = begun(location, stop)
        return 0 if config is None else _served(config, location, only, stop, recent)
    except ConnectorError as error:
        refuse(error)
        # A service manager starts it again after 1.
        return 1 if isinstance(error, RetryableError) else 2


def _served(config: Config, location: str, only: str | None, stop: EndRequest, recent: RecentLog) -> int:
    _give_a_runtime_folder()
    watcher = SettingsWatcher(config.utmstack.workdir) if config.utmstack else None
    if watcher:
        watcher.look()
    followed = watcher.path if watcher else None
    where = PlatformFacts(environment.platform_timeout(), environment.on_cloud_run())
    live = ReloadingConfig(location, followed, lambda read: telemetry.set_level(read.log.level))
    app = App(live.current, Parts(platform=where))
    platform = Platform(config, location, only, followed, _probe_of(app))
    links = Links(app.config, lambda: app.state, app.parts.now)
    platform.watchers.append(links.passes)
    host, port = config.listen
    pages = web.Web(platform, partial(_status, app, live, platform, watcher, links), app, recent)
    if watcher:
        validation.serve(pages.app, platform, watcher)
    try:
        server = listening(pages.app, host, port)
    except OSError as error:
        is_missing = error.errno == errno.EADDRNOTAVAIL  # The network of a machine that boots may bring it.
        hint = "Does this machine have that address?" if is_missing else "Is another emulator running?"
        print(f"cannot listen on {host}:{port}: {error.strerror}. {hint}", file=sys.stderr)
        return 1 if is_missing else 2
    serving = threading.Thread(target=server.run, name="web", daemon=True)
    serving.start()
    platform.start()
    pages.start()
    if watcher:
        watcher.start(platform.tick)
    log.info("status page at http://%s:%s/", host, server.effective_port)
    _watch(stop, platform, serving)
    notify("STOPPING=1")
    log.info("ending: what has begun is brought to its end")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # asked twice, it ends at once
    if watcher:
        watcher.stop()
    platform.stop()
    pages.stop()
    if watcher:
        watcher.close()
    server.close()
    return 0


def _probe_of(app: App) -> Callable[[], None] | None:
    """What probes the engine, of the configuration as it is then; None where nothing is delivered to one."""

    def probe() -> None:
        app.engine.probe()

    return None if app.config().observe else probe


def _give_a_runtime_folder() -> None:
    """gunicorn, under each function, keeps a socket in $XDG_RUNTIME_DIR, or below a home that a service has not."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        folder = os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="sophos-utmstack-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _watch(stop: EndRequest, platform: Platform, serving: threading.Thread) -> None:
    """Until told to stop: tell the service manager once everything runs, and from then on that it still does."""
    while not all(each.is_up() for each in platform.functions.values()):
        if stop.wait(0.1):
            return
    notify("READY=1")
    while not stop.wait(watchdog_seconds()):
        # A function that ends is started again; the threads that see to it are not.
        if platform.lives and serving.is_alive():
            notify("WATCHDOG=1")


def _status(  # noqa: PLR0917 - the first five are bound once
    app: App,
    live: ReloadingConfig,
    platform: Platform,
    watcher: SettingsWatcher | None,
    links: Links,
    store: ObjectStore,
    record: Callable[[Stream], StreamRecord],
) -> dict[str, object]:
    now = datetime.now(UTC)
    running = status.Running(
        latest=dict(platform.latest),
        budgets=platform.budgets,
        engine=platform.engine_problem,
        functions=platform.failing_functions,
        config_edit=None if live.problem is None else problem_after(None, live.problem, now, None),
        ticked_at=platform.ticked_at,
    )
    followed = [problem_after(None, each, now, None) for each in watcher.problems] if watcher else []
    found = status.collect(app, running, followed, store=store, record=record)
    found["functions"] = [
        {"name": name, "up": each.is_up(), "pid": each.pid, "restarts": each.restarts}
        for name, each in platform.functions.items()
    ]
    if platform.engine_problem is not None:
        found["engine_problem"] = platform.engine_problem.as_problem()
    if alone := links.shown():
        found["links"] = alone
    if watcher is not None:
        found["utmstack"] = watcher.status()
    return found
