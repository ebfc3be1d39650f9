"""A file that the simulator's records survive in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from emulator.central.feed import Record


class Journal:
    """JSON lines, one a record, in the order in which they were stored."""

    def __init__(self, path: Path) -> None:
        """OSError where the file cannot be written."""
        self._path = path
        self._lock = threading.Lock()
        self._file = path.open("ab")
        if path.read_bytes()[-1:] not in (b"", b"\n"):
            self._file.write(b"\n")  # A line that a crash left unfinished: its record was never served.

    def records(self) -> Iterator[tuple[str, str, Record]]:
        """Tenant, kind and record of every whole line."""
        for line in self._path.read_bytes().split(b"\n"):
            with suppress(ValueError, KeyError):
                kept = json.loads(line)
                raw = kept["raw"].encode("utf-8", "surrogateescape")
                yield kept["tenant"], kept["kind"], Record(kept["created"], kept["id"], kept["type"], raw)

    def keep(self, tenant: str, kind: str, record: Record) -> None:
        """Write the record down."""
        fields = record._asdict() | {"raw": record.raw.decode("utf-8", "surrogateescape")}
        line = json.dumps({"tenant": tenant, "kind": kind, **fields}).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()
