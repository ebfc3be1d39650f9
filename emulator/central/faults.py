"""Faults that the next matching requests meet. The package's docstring explains each."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from emulator.central.listener import Request

PAGE_FAULTS = frozenset({"same_cursor", "two_cursors", "empty_page", "unsorted", "repeat"})
NAMES = PAGE_FAULTS | {
    "status",
    "not_json",
    "redirect",
    "close",
    "cut",
    "slow",
    "huge",
    "date",
    "revoke_tokens",
    "expire_cursors",
}
_WHOLE_NUMBERS = frozenset({"skip", "times", "status", "size"})
_BODIES = frozenset({"json", "bare", "gateway", "html", "empty"})


@dataclass(slots=True)
class Fault:
    """What goes wrong, for which requests, how often; ValueError where it is no fault that the simulator knows."""

    fault: str
    path: str = "/siem/v1/"
    """Requests whose path begins so."""
    tenant: str | None = None
    """Only requests with this `X-Tenant-ID`."""
    region: str | None = None
    """Only requests to this region's host, or to `global`, where regions have hosts of their own."""
    with_cursor: bool | None = None
    """Only requests with a cursor (true) or without one (false)."""
    skip: int = 0
    """So many matching requests pass unharmed first."""
    times: int | None = 1
    """So many requests meet it; None: all, until the faults are cleared."""
    status: int = 503
    body: str = "json"
    """Of a `status` fault: `json` (the envelope), `bare` (it, with no message), `gateway`, `html` or `empty`."""
    retry_after: int | str | None = None
    """The `Retry-After` header of a `status` fault."""
    seconds: float = 1.0
    """How long `slow` waits."""
    location: str = "https://elsewhere.example.com/"
    """Where `redirect` leads."""
    size: int = 64 << 20
    """How many bytes `huge` adds."""
    date: str = "Thu, 01 Jan 2099 00:00:00 GMT"
    """The `Date` header of a `date` fault, as it is."""

    def __post_init__(self) -> None:
        if self.fault not in NAMES:
            raise ValueError(f"unknown fault {self.fault!r}; there are: {', '.join(sorted(NAMES))}")
        if self.body not in _BODIES:
            raise ValueError(f"unknown body {self.body!r}; there are: {', '.join(sorted(_BODIES))}")
        if self.fault == "redirect" and not 300 <= self.status <= 399:
            self.status = 302

    def matches(self, request: Request) -> bool:
        """Whether the fault is meant for this request."""
        return (
            request.path.startswith(self.path)
            and self.region in (None, request.region)
            and self.tenant in (None, request.headers.get("X-Tenant-ID"))
            and self.with_cursor in (None, "cursor" in request.query)
        )


def fault_from(value: object) -> Fault:
    """A fault from JSON or YAML; ValueError names what is wrong with it."""
    if not isinstance(value, Mapping):
        raise ValueError(f"a fault is a mapping, not {value!r}")  # noqa: TRY004 - as the docstring says
    unknown = set(value) - {field.name for field in fields(Fault)}
    if unknown or "fault" not in value:
        raise ValueError(f"a fault needs `fault` and has no {sorted(map(str, unknown))}")
    for name in _WHOLE_NUMBERS & set(value):
        if not isinstance(value[name], int) and (name, value[name]) != ("times", None):
            raise ValueError(f"{name} is a whole number, not {value[name]!r}")
    return Fault(**value)


def faults_from(value: object) -> list[Fault]:
    """One fault, a list of them, or `{"faults": […]}`; ValueError where it is none."""
    if isinstance(value, Mapping) and "faults" in value:
        value = value["faults"]
    return [fault_from(item) for item in (value if isinstance(value, list) else [value])]


def load_faults(path: Path) -> list[Fault]:
    """The faults of a YAML or JSON file; ValueError where it holds something else, OSError where it can't be read."""
    import yaml  # noqa: PLC0415 - only who scripts faults in a file waits for it

    try:
        return faults_from(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error


class FaultQueue:
    """Hands out faults in the order they were added."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting = list(faults)

    def add(self, *faults: Fault) -> None:
        """Put faults behind those that wait."""
        with self._lock:
            self._waiting.extend(faults)

    def clear(self) -> None:
        """Forget all that wait."""
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[dict[str, Any]]:
        """What is still to come, as JSON."""
        with self._lock:
            return [asdict(fault) for fault in self._waiting]

    def take(self, request: Request) -> Fault | None:
        """The fault that this request meets."""
        if not self._waiting:
            return None
        with self._lock:
            for fault in self._waiting:
                if fault.matches(request) and not self._passes(fault):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self._waiting.remove(fault)
                    return fault
        return None

    def _passes(self, fault: Fault) -> bool:
        fault.skip -= 1
        return fault.skip >= 0
