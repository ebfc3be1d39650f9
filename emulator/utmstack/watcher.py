"""Follows UTMStack's own configuration, and hands it to the functions without writing a secret to a disk."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emulator.utmstack import settings
from emulator.utmstack.settings import Base, Found, Group
from lib.config.reloading import Signature, signature_of
from lib.errors import ConfigError, ConnectorError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the pipeline folder is looked at."""
POLL_SECONDS = 30.0
AGAIN_SECONDS = 5.0
"""Before a source that failed is asked again."""
ONCE_SECONDS = 3.0
"""How long a stream is listened to where only one look is taken; it is silent until somebody saves the form."""

NO_GROUP = "UTMStack has no Sophos group yet, or its Sophos module is off."


class Handed:
    """A file of integrations in memory: only processes of the same user can read it, and it ends with this one."""

    def __init__(self) -> None:
        self._file = os.memfd_create("integrations")
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.write([])

    def write(self, integrations: list[dict[str, str]]) -> None:
        """Put these in place of the present ones, at once."""
        fresh = os.memfd_create("integrations")
        try:
            os.write(fresh, json.dumps(integrations).encode())
            os.dup2(fresh, self._file, inheritable=False)
        finally:
            os.close(fresh)

    def close(self) -> None:
        """Forget them."""
        os.close(self._file)


class SettingsWatcher:
    """Reads UTMStack's configuration, from whichever source it has, and again whenever it changes."""

    def __init__(
        self,
        workdir: str,
        *,
        look: float = LOOK_SECONDS,
        again: float = AGAIN_SECONDS,
        keepalive: float = settings.KEEPALIVE_SECONDS,
    ) -> None:
        """All but the folder are seconds."""
        self._look_seconds = look
        self._again_seconds = again
        self._keepalive = keepalive
        self._workdir = workdir
        self._changed: Callable[[], None] = lambda: None
        self._handed = Handed()
        self._groups: tuple[Group, ...] = ()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._had_file = False
        self._told = ""
        self.base: Base | None = None
        """UTMStack's basic settings, once they could be read."""
        self.source: str | None = None
        """Where the configuration comes from."""
        self.problems: tuple[ConnectorError, ...] = ()
        """Why not all of it can be used; then what was good last is."""

    @property
    def path(self) -> str:
        """Where the functions find the integrations."""
        return self._handed.path

    def look(self) -> None:
        """Read once what there is."""
        try:
            self._detect(once=True)
        except ConnectorError as error:
            self._tell(error)
        except Exception as error:
            # Whatever UTMStack wrote, the integrations of the connector's own file go on.
            log.exception("UTMStack's configuration could not be read")
            self._tell(ConfigError(f"UTMStack's configuration could not be read: {type(error).__name__}"))

    def start(self, changed: Callable[[], None] = lambda: None) -> None:
        """Follow; `changed` is called after each change, when the functions can see it."""
        self._changed = changed
        self._thread.start()

    def stop(self) -> None:
        """No longer follow; what was handed over stays for those that bring their work to its end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        """Forget the secrets."""
        self._handed.close()

    def status(self) -> dict[str, Any]:
        """How it stands, without a secret."""
        found = {
            "source": self.source,
            "groups": [group.name for group in self._groups],
            "problems": [problem.as_problem() for problem in self.problems],
        }
        return found if self._groups or self.problems else found | {"note": NO_GROUP}

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._detect()
            except ConnectorError as error:
                self._tell(error)
                self._wait(self._again_seconds)
            except Exception:
                log.exception("UTMStack's configuration could not be read")
                self._over.wait(self._again_seconds)

    def _detect(self, *, once: bool = False) -> None:
        """Read the source there is, and return when it has changed or another one has to be looked for."""
        seen = self._signature()
        self.base = base = settings.base_of(self._workdir)
        found = settings.of_file(base)
        if found is not None or self._had_file:
            # Once there was a file, none means that the module is off.
            self._had_file = True
            self._take(found or Found(), str(base.file))
        elif base.modules_config:
            self.source = f"modules-config at {base.modules_config}"
            end = time.monotonic() + ONCE_SECONDS if once else math.inf
            for section in settings.streamed(
                base, lambda: self._moved_on(seen) or time.monotonic() > end, self._look_seconds, self._keepalive
            ):
                self._take(section, self.source)
                if once:
                    return
            return
        elif base.backend:
            self._take(settings.polled(base), f"backend at {base.backend}")
            if not once:
                self._wait(POLL_SECONDS, seen)
            return
        else:
            self._take(Found(), None)
        while not once and not self._moved_on(seen):
            self._over.wait(self._look_seconds)

    def _wait(self, seconds: float, seen: object = None) -> None:
        """Until so many seconds have passed, or the files have changed."""
        seen = seen or self._signature()
        for _ in range(int(seconds / self._look_seconds)):
            if self._moved_on(seen):
                return
            self._over.wait(self._look_seconds)

    def _moved_on(self, seen: object) -> bool:
        return self._over.is_set() or self._signature() != seen

    def _signature(self) -> Mapping[str, Signature]:
        """Of every settings file; a temporary or a lock file is none."""
        folders = {Path(self._workdir) / "pipeline", *([self.base.pipeline] if self.base else [])}
        paths = [path for folder in folders for kind in ("*.yaml", "*.yml") for path in folder.glob(kind)]
        return {str(path): signature_of(path) for path in paths}

    def _take(self, found: Found, source: str | None) -> None:
        self.source = source
        good = {group.name for group in found.groups}
        kept = tuple(each for each in self._groups if each.name in found.faults and each.name not in good)
        self._tell(*found.faults.values())
        groups = (*found.groups, *kept)
        if groups == self._groups:
            return
        self._groups = groups
        self._handed.write(
            [
                {
                    "name": each.name,
                    "client_id": each.client_id,
                    "client_secret": each.client_secret,
                    "tenant": each.tenant,
                }
                for each in groups
            ]
        )
        log.info("UTMStack configures %d group(s): %s", len(groups), ", ".join(repr(each.name) for each in groups))
        self._changed()

    def _tell(self, *problems: ConnectorError) -> None:
        self.problems = problems
        told = "; ".join(map(str, problems))
        if told and told != self._told:
            log.warning("%s", told)
        self._told = told
