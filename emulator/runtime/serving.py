"""The part of `run` beside the functions: the platform's clocks, the page, and UTMStack's configuration."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from emulator.cli.terminal import complain
from emulator.ending import EndRequest
from emulator.runtime.begin import once_in_reach
from emulator.runtime.functions import Function
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
from lib.config.environment import CONFIG, FOLLOWED
from lib.config.reloading import ReloadingConfig
from lib.config.settings import Config
from lib.model.checkpoint import problem_after
from lib.model.stream import Stream
from lib.parts import Parts, PlatformFacts
from lib.store.base import ObjectStore
from lib.version import VERSION

log = logging.getLogger(__name__)


def serve(
    stop: EndRequest,
    config: Config,
    functions: Mapping[str, Function],
    env: Mapping[str, str],
    watcher: SettingsWatcher | None,
) -> int:
    """Serve until SIGTERM or SIGINT, stop the functions, and return 0.

    Returns 2 if the address cannot be used, 1 if it may become usable later. Raises ConnectorError if the store cannot
    be used. `env` comes from `config_env`.
    """
    recent = RecentLog()
    logging.getLogger().addHandler(recent)
    log.info("sophos-utmstack %s", VERSION)
    # Open the store now, so that a bad one is reported once and not every minute. Wait for a store on another machine.
    read_status = partial(status.collect, App(lambda: config))
    if (read_status() if config.store.startswith("file:") else once_in_reach(read_status, stop)) is None or stop.wait(
        0
    ):
        return 0
    if watcher:
        watcher.look()
    where = PlatformFacts(environment.platform_timeout(), environment.on_cloud_run())
    live = ReloadingConfig(env[CONFIG], env.get(FOLLOWED), lambda read: telemetry.set_level(read.log.level))
    app = App(live.current, Parts(platform=where))
    platform = Platform(config, functions, env, _probe_of(app), lambda: app.config().every)
    links = Links(app.config, lambda: app.state, app.parts.now)
    platform.batch_listeners.append(links.passes)
    host, port = config.listen
    pages = web.Web(platform, partial(_status, app, live, platform, watcher, links), app, recent)
    if watcher:
        validation.serve(pages.app, platform, watcher)
    try:
        server = listening(pages.app, host, port)
    except OSError as error:
        is_missing = error.errno == errno.EADDRNOTAVAIL  # While a machine boots, the address may come later.
        hint = "Check that this machine has that address." if is_missing else "Check if another connector is running."
        complain(f"cannot listen on {host}:{port}: {error.strerror}. {hint}")
        return 1 if is_missing else 2
    serving = threading.Thread(target=server.run, name="web", daemon=True)
    serving.start()
    platform.start()
    pages.start()
    if watcher:
        watcher.start(platform.tick)
    log.info("status page at http://%s:%s/", host, server.effective_port)
    _all_is_loaded()
    _watch(stop, platform, serving)
    notify("STOPPING=1")
    log.info("stopping: calls under way are finished first")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # A second signal ends the process at once.
    # In this order: the watcher asks for ticks, the platform calls the page's listeners, the page saves its history.
    if watcher:
        watcher.stop()
    platform.stop()
    pages.stop()
    if watcher:
        watcher.close()
    server.close()
    return 0


def _all_is_loaded() -> None:
    """Turn garbage collection on. Objects loaded so far stay, so they are left out of it."""
    gc.freeze()
    gc.enable()


def _probe_of(app: App) -> Callable[[], None] | None:
    """A function that probes the currently configured engine; None in observe mode."""

    def probe() -> None:
        app.engine.probe()

    return None if app.config().observe else probe


def _watch(stop: EndRequest, platform: Platform, serving: threading.Thread) -> None:
    """Until the request to stop: notify the service manager when everything runs, then keep its watchdog alive."""
    while not all(function.is_up() for function in platform.functions.values()):
        if stop.wait(0.1):
            return
    notify("READY=1")
    while not stop.wait(watchdog_seconds()):
        # A function's process is restarted by itself. A dead thread of the platform needs a restart of the whole.
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
) -> status.SiteStatus:
    now = datetime.now(UTC)
    running = status.Running(
        latest=dict(platform.latest),
        budgets=platform.budgets,
        engine=platform.engine_problem,
        functions=platform.failing_functions,
        config_edit=None if live.problem is None else problem_after(None, live.problem, now, None),
        ticked_at=platform.ticked_at,
    )
    followed = [problem_after(None, problem, now, None) for problem in watcher.problems] if watcher else []
    site = status.site_status(app, running, followed, store=store, record=record)
    more: dict[str, object] = {}
    more["functions"] = [
        {
            "name": name,
            "up": function.is_up(),
            "state": function.state,
            "pid": function.pid,
            "restarts": function.restarts,
        }
        for name, function in platform.functions.items()
    ]
    if alone := links.shown():
        more["links"] = alone
    if watcher is not None:
        more["utmstack"] = watcher.status()
    return site.with_fields(**more)
