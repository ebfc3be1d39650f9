"""Faults for matching requests. The package's docstring explains each."""

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
    """A fault: what fails, for which requests, how often. ValueError for an unknown fault."""

    fault: str
    path: str = "/siem/v1/"
    """Only requests whose path begins with this."""
    tenant: str | None = None
    """Only requests with this `X-Tenant-ID`."""
    region: str | None = None
    """Only requests to this region's host, or to `global`, if regions have hosts of their own."""
    with_cursor: bool | None = None
    """Only requests with a cursor (true) or without one (false)."""
    skip: int = 0
    """The number of matching requests that pass first."""
    times: int | None = 1
    """The number of requests that get the fault; None: all, until the faults are cleared."""
    status: int = 503
    body: str = "json"
    """The body of a `status` fault: `json`, `bare` (JSON without message), `gateway`, `html` or `empty`."""
    retry_after: int | str | None = None
    """The `Retry-After` header of a `status` fault."""
    seconds: float = 1.0
    """The delay of `slow`."""
    location: str = "https://elsewhere.example.com/"
    """The target of `redirect`."""
    size: int = 64 << 20
    """The bytes that `huge` adds."""
    date: str = "Thu, 01 Jan 2099 00:00:00 GMT"
    """The `Date` header of a `date` fault."""

    def __post_init__(self) -> None:
        if self.fault not in NAMES:
            raise ValueError(f"unknown fault {self.fault!r}; known: {', '.join(sorted(NAMES))}")
        if self.body not in _BODIES:
            raise ValueError(f"unknown body {self.body!r}; known: {', '.join(sorted(_BODIES))}")
        if self.fault == "redirect" and not 300 <= self.status <= 399:
            self.status = 302

    def matches(self, request: Request) -> bool:
        """Whether the fault applies to the request."""
        return (
            request.path.startswith(self.path)
            and self.region in (None, request.region)
            and self.tenant in (None, request.headers.get("X-Tenant-ID"))
            and self.with_cursor in (None, "cursor" in request.query)
        )


def fault_from(value: object) -> Fault:
    """A fault from JSON or YAML; ValueError names the fault of the value."""
    if not isinstance(value, Mapping):
        raise ValueError(f"a fault must be a mapping, not {value!r}")  # noqa: TRY004 - as the docstring says
    unknown = set(value) - {field.name for field in fields(Fault)}
    if unknown or "fault" not in value:
        raise ValueError(f"a fault needs `fault` and has no {sorted(map(str, unknown))}")
    for name in _WHOLE_NUMBERS & set(value):
        if not isinstance(value[name], int) and (name, value[name]) != ("times", None):
            raise ValueError(f"{name} must be a whole number, not {value[name]!r}")
    return Fault(**value)


def faults_from(value: object) -> list[Fault]:
    """The faults of one fault, a list, or `{"faults": […]}`; ValueError for any other value."""
    if isinstance(value, Mapping) and "faults" in value:
        value = value["faults"]
    return [fault_from(item) for item in (value if isinstance(value, list) else [value])]


def load_faults(path: Path) -> list[Fault]:
    """The faults of a YAML or JSON file; ValueError if it holds anything else, OSError if it cannot be read."""
    import yaml  # noqa: PLC0415 - a slow import that only fault files need

    try:
        return faults_from(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error


class FaultQueue:
    """Waiting faults, in the order in which they were added."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting = list(faults)

    def add(self, *faults: Fault) -> None:
        """Append faults."""
        with self._lock:
            self._waiting.extend(faults)

    def clear(self) -> None:
        """Remove all waiting faults."""
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[dict[str, Any]]:
        """The waiting faults as JSON fields."""
        with self._lock:
            return [asdict(fault) for fault in self._waiting]

    def take(self, request: Request) -> Fault | None:
        """The fault for this request; None if no waiting fault matches."""
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
