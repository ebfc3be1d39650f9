"""What a configuration needs of the machine it is read on: the second half of `check`. It looks, and makes nothing."""

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
    """What is missing here. `open_store` opens a store that is there; it raises ConnectorError, and makes none."""
    found = (*_references(config), *_store(config.store, open_store), *_socket(config.engine), *_relay(config))
    return [document.fault(path, message) for path, message in found]


def warnings(config: Config, document: Document, location: str) -> list[ConfigFault]:
    """What others on this machine can read and should not."""
    found: list[Finding] = []
    if has_plain_secret(config) and _mode(Path(location)) & stat.S_IROTH:
        found.append(((), f"everybody on this machine can read a secret in this file: chmod o-r {location}"))
    folder = config.store.removeprefix("file:")
    if folder != config.store and _mode(Path(folder)) & (stat.S_IROTH | stat.S_IXOTH):
        found.append((("store",), f"everybody on this machine can look into it: chmod o-rwx {folder}"))
    return [document.fault(path, message) for path, message in found]


def _references(config: Config) -> Iterator[Finding]:
    for path, reference in _all_references(config):
        try:
            credential(reference) if path[-1] in _CREDENTIALS else reference.resolve()
        except ConnectorError as error:
            yield path, f"{error}. {error.remedy}"


def _all_references(config: Config) -> Iterator[tuple[KeyPath, Reference]]:
    for at, each in enumerate(config.integrations):
        for key in _CREDENTIALS:
            if getattr(each, key) is not None:
                yield ("integrations", at, key), getattr(each, key)
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
            pass  # `run` makes it in the folder, or in the bucket.
        except ConnectorError as error:
            yield ("store",), f"{error}. {error.remedy}"
            return
    if folder == location:
        return
    there = _nearest(Path(folder))
    if not there.is_dir():
        yield ("store",), f"{folder} cannot be made: {there} is no folder"
    elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield ("store",), f"{folder} cannot be used: this user may not write to {there}. {_WHO}"


def _socket(engine: str) -> Iterator[Finding]:
    path = engine.removeprefix("unix:").removeprefix("//")
    if engine.startswith("unix:") and not Path(path).parent.is_dir():
        yield (
            ("engine",),
            f"{Path(path).parent} is not there: mount the folder of the engine's socket on this host, or correct it",
        )


def _relay(config: Config) -> Iterator[Finding]:
    for key in ("certificate", "key", "client_ca", "tokens") if config.relay else ():
        path = getattr(config.relay, key)
        if path is not None and not os.access(path, os.R_OK):
            yield ("relay", key), f"{path} cannot be read: correct the path or its permissions"


_WHO = "Run the connector as the owner of the folder, or change the owner."


def _nearest(path: Path) -> Path:
    """The path itself, or what of the way to it is there."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
