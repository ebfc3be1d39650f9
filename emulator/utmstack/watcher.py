"""Follows UTMStack's own configuration, and passes it to the functions without writing a secret to disk."""

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
"""The interval of checking the pipeline folder for changes."""
POLL_SECONDS = 30.0
AGAIN_SECONDS = 5.0
"""The pause before a failed source is read again."""
ONCE_SECONDS = 3.0
"""How long a single look listens to the stream, which may send nothing until the form is saved."""

NO_GROUP = "UTMStack has no Sophos group yet, or its Sophos module is off."


class Handed:
    """A file of integrations in memory. Only processes of the same user can read it. It vanishes with this process."""

    def __init__(self) -> None:
        self._file = os.memfd_create("integrations")
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.write([])

    def write(self, integrations: list[dict[str, str]]) -> None:
        """Replace the integrations atomically: `dup2` switches the path to the new, complete file in one step."""
        fresh = os.memfd_create("integrations")
        try:
            os.write(fresh, json.dumps(integrations).encode())
            os.dup2(fresh, self._file, inheritable=False)
        finally:
            os.close(fresh)

    def close(self) -> None:
        """Remove the file."""
        os.close(self._file)


class SettingsWatcher:
    """Reads UTMStack's configuration from its source, and again after each change."""

    def __init__(
        self,
        workdir: str,
        *,
        look: float = LOOK_SECONDS,
        again: float = AGAIN_SECONDS,
        keepalive: float = settings.KEEPALIVE_SECONDS,
    ) -> None:
        """`look`, `again` and `keepalive` are in seconds."""
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
        self._logged = ""
        self.base: Base | None = None
        """UTMStack's basic settings; None before they are read."""
        self.source: str | None = None
        """The source of the configuration, in words."""
        self.problems: tuple[ConnectorError, ...] = ()
        """Problems of the configuration. A group with a problem keeps its last good values."""

    @property
    def path(self) -> str:
        """The path at which the functions read the integrations."""
        return self._handed.path

    def look(self) -> None:
        """Read the configuration once."""
        try:
            self._detect(once=True)
        except ConnectorError as error:
            self._keep_problems(error)
        except Exception as error:
            # No content of UTMStack's files may stop the integrations of the connector's own file.
            log.exception("UTMStack's configuration could not be read")
            self._keep_problems(ConfigError(f"UTMStack's configuration could not be read: {type(error).__name__}"))

    def start(self, changed: Callable[[], None] = lambda: None) -> None:
        """Start to follow; `changed` is called after each change, when the functions can already read it."""
        self._changed = changed
        self._thread.start()

    def stop(self) -> None:
        """Stop to follow. The functions can still read the integrations while they finish their work."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        """Remove the integrations with their secrets."""
        self._handed.close()

    def status(self) -> dict[str, Any]:
        """The source, groups and problems as JSON fields, without a secret."""
        fields = {
            "source": self.source,
            "groups": [group.name for group in self._groups],
            "problems": [problem.as_problem() for problem in self.problems],
        }
        return fields if self._groups or self.problems else fields | {"note": NO_GROUP}

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._detect()
            except ConnectorError as error:
                self._keep_problems(error)
                self._wait(self._again_seconds)
            except Exception:
                log.exception("UTMStack's configuration could not be read")
                self._over.wait(self._again_seconds)

    def _detect(self, *, once: bool = False) -> None:
        """Read the source; return after a change, or when another source may exist."""
        seen = self._signature()
        self.base = base = settings.base_of(self._workdir)
        parsed = settings.of_file(base)
        if parsed is not None or self._had_file:
            # If there was a file before, a missing file means that the module is off.
            self._had_file = True
            self._take(parsed or Found(), str(base.file))
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
        """Wait for so many seconds, or until the files have changed."""
        seen = seen or self._signature()
        for _ in range(int(seconds / self._look_seconds)):
            if self._moved_on(seen):
                return
            self._over.wait(self._look_seconds)

    def _moved_on(self, seen: object) -> bool:
        return self._over.is_set() or self._signature() != seen

    def _signature(self) -> Mapping[str, Signature]:
        """The signatures of all settings files, without temporary and lock files."""
        folders = {Path(self._workdir) / "pipeline", *([self.base.pipeline] if self.base else [])}
        paths = [path for folder in folders for kind in ("*.yaml", "*.yml") for path in folder.glob(kind)]
        return {str(path): signature_of(path) for path in paths}

    def _take(self, parsed: Found, source: str | None) -> None:
        self.source = source
        good = {group.name for group in parsed.groups}
        kept = tuple(group for group in self._groups if group.name in parsed.faults and group.name not in good)
        self._keep_problems(*parsed.faults.values())
        groups = (*parsed.groups, *kept)
        if groups == self._groups:
            return
        self._groups = groups
        self._handed.write(
            [
                {
                    "name": group.name,
                    "client_id": group.client_id,
                    "client_secret": group.client_secret,
                    "tenant": group.tenant,
                }
                for group in groups
            ]
        )
        log.info("UTMStack configures %d group(s): %s", len(groups), ", ".join(repr(group.name) for group in groups))
        self._changed()

    def _keep_problems(self, *problems: ConnectorError) -> None:
        self.problems = problems
        text = "; ".join(map(str, problems))
        if text and text != self._logged:
            log.warning("%s", text)
        self._logged = text
