"""The configuration as it is now: read again once its files have changed; what cannot be used leaves the last good one.

Beside the product's own file there may be a second one, with the integrations that the emulator follows elsewhere
(UTMStack's own configuration). It holds secrets: it is private to the user, and its path comes by the environment.
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


def signature_of(path: Path) -> Signature:
    """What changes with a file, however it is replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class ReloadingConfig:
    """The configuration at a location, with the integrations of a second file where there is one."""

    def __init__(
        self, location: str, followed: str | None = None, heard: Callable[[Config], None] = lambda _: None
    ) -> None:
        """`heard` is told each configuration that comes into force."""
        self.location = location
        self.problem: ConnectorError | None = None
        """Why the files as they are now cannot be used; then the last good configuration is."""
        self._followed = Path(followed) if followed else None
        self._heard = heard
        self._lock = threading.Lock()
        self._seen: tuple[Signature, Signature] | None = None
        self._config: Config | None = None

    def current(self) -> Config:
        """The configuration; ConfigError where there has been none yet that can be used."""
        with self._lock:
            # Looked at before reading: what changes meanwhile is read by the next call.
            seen = (signature_of(Path(self.location)), signature_of(self._followed) if self._followed else None)
            if self._config is None:
                self._config = self._read()
                self._heard(self._config)
            elif seen != self._seen:
                self._refresh(self._config)
            self._seen = seen
            return self._config

    def _read(self) -> Config:
        config = configuration.load(self.location)
        return with_followed(config, read_followed(self._followed)) if self._followed else config

    def _refresh(self, before: Config) -> None:
        try:
            self._config = self._read()
        except ConnectorError as error:
            self.problem = ConfigError(f"the last good configuration is used: {error}", remedy=error.remedy)
            log.warning("%s", " ".join(str(self.problem).split()))  # a fault a line
            return
        self.problem = None
        if self._config != before:
            log.info("the configuration has changed")
            self._heard(self._config)


def with_followed(config: Config, followed: Iterable[IntegrationConfig]) -> Config:
    """The configuration with those integrations beside its own; one of its own goes before another of that name."""
    own = {each.name for each in config.integrations}
    return replace(config, integrations=(*config.integrations, *(each for each in followed if each.name not in own)))


def read_followed(path: Path) -> list[IntegrationConfig]:
    """The integrations of such a file; none where it is missing, ConfigError where it cannot be read."""
    try:
        return [_integration(fields) for fields in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", remedy="Start the emulator again.") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is not what was written", remedy="Start the emulator again.") from None


def _integration(fields: dict[str, Any]) -> IntegrationConfig:
    name = fields["name"]
    client_id, client_secret = (
        Reference(fields[key], f"{key} of UTMStack's group {name!r}", literal=True)
        for key in ("client_id", "client_secret")
    )
    return IntegrationConfig(
        name=name, client_id=client_id, client_secret=client_secret, utmstack_tenant_id=fields["tenant"]
    )
