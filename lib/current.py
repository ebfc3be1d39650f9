"""The object graph of a deployed function's process. The environment names its configuration."""

from __future__ import annotations

from contextlib import suppress
from functools import cache, partial

from lib import telemetry
from lib.app import App
from lib.config import environment
from lib.config.loading import located
from lib.config.reloading import ReloadingConfig
from lib.errors import ConnectorError
from lib.parts import Parts, PlatformFacts


@cache
def current() -> App:
    """The graph of this process, built once; ConfigError if the environment names no configuration."""
    set_level = lambda read: telemetry.set_level(read.log.level)  # noqa: E731
    config = ReloadingConfig(located(), environment.followed(), set_level, store=environment.store())
    platform = PlatformFacts(
        timeout=environment.platform_timeout(),
        is_cloud_run=environment.on_cloud_run(),
        is_behind_emulator=environment.is_behind_emulator(),
    )
    app = App(config.current, Parts(platform=platform))
    telemetry.name_tenants(partial(_tenant_names, app))
    return app


def _tenant_names(app: App, integration: str) -> dict[str, str]:
    from lib.state.accounts import StoredAccounts  # noqa: PLC0415 - the first call may not need it

    with suppress(ConnectorError):
        return StoredAccounts(app.store).tenant_names(integration)
    return {}
