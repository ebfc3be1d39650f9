"""The second half of `check`: what the configuration needs on this machine. It changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.config.advice import has_plain_secret
from lib.config.secrets import Reference, credential
from lib.config.settings import Config
from lib.config.yaml_lines import ConfigFault, Document, KeyPath
from lib.errors import ConnectorError, NoStoreError

Finding = tuple[KeyPath, str]
_CREDENTIALS = ("client_id", "client_secret", "next_client_id", "next_client_secret")


def faults(config: Config, document: Document, open_store: Callable[[str], object]) -> list[ConfigFault]:
    """What is missing on this machine. `open_store` creates no store; it opens one or raises ConnectorError."""
    missing = (*_references(config), *_store(config.store, open_store), *_socket(config.engine), *_relay(config))
    return [document.fault(path, message) for path, message in missing]


def warnings(config: Config, document: Document, location: str) -> list[ConfigFault]:
    """Secrets and events that other users of this machine can read."""
    exposed: list[Finding] = []
    if has_plain_secret(config) and _mode(Path(location)) & stat.S_IROTH:
        exposed.append(((), f"every user of this machine can read a secret in this file: run chmod o-r {location}"))
    folder = config.store.removeprefix("file:")
    if folder != config.store and _mode(Path(folder)) & (stat.S_IROTH | stat.S_IXOTH):
        exposed.append((("store",), f"every user of this machine can read the store: run chmod o-rwx {folder}"))
    return [document.fault(path, message) for path, message in exposed]


def _references(config: Config) -> Iterator[Finding]:
    for path, reference in _all_references(config):
        try:
            credential(reference) if path[-1] in _CREDENTIALS else reference.resolve()
        except ConnectorError as error:
            yield path, f"{error}. {error.remedy}"


def _all_references(config: Config) -> Iterator[tuple[KeyPath, Reference]]:
    for at, integration in enumerate(config.integrations):
        for key in _CREDENTIALS:
            if getattr(integration, key) is not None:
                yield ("integrations", at, key), getattr(integration, key)
    if config.sophos.proxy is not None:
        yield ("sophos", "proxy"), config.sophos.proxy
    for at, reference in enumerate(config.access.keys):
        yield ("access", "keys", at), reference
    for key in ("ca", "certificate", "key", "token"):
        if getattr(config.engine_access, key) is not None:
            yield ("engine_access", key), getattr(config.engine_access, key)


def _store(location: str, open_store: Callable[[str], object]) -> Iterator[Finding]:
    folder = location.removeprefix("file:")
    if folder == location or Path(folder).is_dir():
        try:
            open_store(location)
        except NoStoreError:
            pass  # `run` creates the store.
        except ConnectorError as error:
            yield ("store",), f"{error}. {error.remedy}"
            return
    if folder == location:
        return
    there = _nearest(Path(folder))
    if not there.is_dir():
        yield ("store",), f"{folder} cannot be created: {there} is not a folder"
    elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield ("store",), f"{folder} cannot be used: this user may not write to {there}. {_OWNER}"


def _socket(engine: str) -> Iterator[Finding]:
    path = engine.removeprefix("unix:").removeprefix("//")
    if engine.startswith("unix:") and not Path(path).parent.is_dir():
        yield (
            ("engine",),
            f"the folder {Path(path).parent} does not exist: mount the engine's folder there, or correct the path",
        )


def _relay(config: Config) -> Iterator[Finding]:
    for key in ("certificate", "key", "client_ca", "tokens") if config.relay else ():
        path = getattr(config.relay, key)
        if path is not None and not os.access(path, os.R_OK):
            yield ("relay", key), f"{path} cannot be read: correct the path or its permissions"


_OWNER = "Run the connector as the owner of the folder, or change the owner."


def _nearest(path: Path) -> Path:
    """The path, or its nearest folder that exists."""
    return next(ancestor for ancestor in (path, *path.parents) if os.path.lexists(ancestor))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
