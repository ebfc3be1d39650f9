"""The current configuration. It is read again after its files change; an unusable edit leaves the last good one.

A few keys change only with a restart (FIXED). An edit of them is reported, and has no effect before.

A second file may hold the integrations that the emulator follows in UTMStack's own configuration. It holds secrets, so
only the user can read it. Its path comes from the environment.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.config import loading as configuration
from lib.config.secrets import Reference
from lib.config.settings import Config, IntegrationConfig
from lib.errors import ConfigError, ConnectorError

log = logging.getLogger(__name__)

Signature = tuple[int, ...] | None
FIXED = ("store", "listen", "utmstack")
"""Keys that are the same from start to end: processes of one site must not differ in them."""


def signature_of(path: Path) -> Signature:
    """Values that change when a file is edited or replaced; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class ReloadingConfig:
    """The configuration at a location, with the integrations of a second file if there is one.

    Safe between threads.
    """

    def __init__(
        self,
        location: str,
        followed: str | None = None,
        on_change: Callable[[Config], None] = lambda _: None,
        *,
        store: str | None = None,
    ) -> None:
        """`on_change` is called with each new configuration.

        `store` replaces the configuration's: a process that starts after an edit shares the store of the others.
        """
        self.location = location
        self.problem: ConnectorError | None = None
        """Why the current files are not in use, or not wholly."""
        self._followed = Path(followed) if followed else None
        self._on_change = on_change
        self._store = store
        self._lock = threading.Lock()
        self._seen: tuple[Signature, Signature] | None = None
        self._config: Config | None = None

    def current(self) -> Config:
        """The configuration; ConfigError if there was no usable configuration yet."""
        with self._lock:
            # The signatures come before the read: a change during the read differs from them, so the next call reads.
            seen = (signature_of(Path(self.location)), signature_of(self._followed) if self._followed else None)
            if self._config is None:
                self._config = self._read()
                self._on_change(self._config)
            elif seen != self._seen:
                self._refresh(self._config)
            self._seen = seen
            return self._config

    def _read(self) -> Config:
        config = configuration.load(self.location)
        if self._store is not None:
            config = replace(config, store=self._store)
        return with_followed(config, read_followed(self._followed)) if self._followed else config

    def _refresh(self, before: Config) -> None:
        try:
            self._config = self._read()
        except ConnectorError as error:
            self.problem = ConfigError(f"the last good configuration stays in use: {error}", remedy=error.remedy)
            log.warning("%s", " ".join(str(self.problem).split()))  # The error has a line for each fault.
            return
        changed = [key for key in FIXED if getattr(self._config, key) != getattr(before, key)]
        self.problem = None
        if changed:
            self._config = replace(self._config, **{key: getattr(before, key) for key in changed})
            names = " and ".join(f"`{key}`" for key in changed)
            self.problem = ConfigError(f"the change of {names} needs a restart", remedy="Restart the connector.")
            log.warning("%s: restart the connector", self.problem)
        if self._config != before:
            log.info("the configuration has changed")
            self._on_change(self._config)


def with_followed(config: Config, followed: Iterable[IntegrationConfig]) -> Config:
    """The configuration with the followed integrations added; its own integration wins over one of the same name."""
    own = {integration.name for integration in config.integrations}
    added = (integration for integration in followed if integration.name not in own)
    return replace(config, integrations=(*config.integrations, *added))


def read_followed(path: Path) -> list[IntegrationConfig]:
    """The integrations in the emulator's file; none if it is missing, ConfigError if it cannot be read."""
    try:
        return [_integration(fields) for fields in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", remedy="Start the emulator again.") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged", remedy="Start the emulator again; it writes the file again.") from None


def _integration(fields: dict[str, Any]) -> IntegrationConfig:
    name = fields["name"]
    client_id, client_secret = (
        Reference(fields[key], f"{key} of UTMStack's group {name!r}", literal=True)
        for key in ("client_id", "client_secret")
    )
    return IntegrationConfig(
        name=name, client_id=client_id, client_secret=client_secret, utmstack_tenant_id=fields["tenant"]
    )
