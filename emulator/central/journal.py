"""A file that keeps the simulator's records over a restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from emulator.central.feed import Record


class Journal:
    """JSON lines, one for each record, in the order of storing."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the file cannot be written."""
        self._path = path
        self._lock = threading.Lock()
        self._file = path.open("ab")
        if path.read_bytes()[-1:] not in (b"", b"\n"):
            self._file.write(b"\n")  # A crash left the last line unfinished. Its record was never served.

    def records(self) -> Iterator[tuple[str, str, Record]]:
        """Tenant, kind and record of every complete line."""
        for line in self._path.read_bytes().split(b"\n"):
            with suppress(ValueError, RecursionError, KeyError):
                kept = json.loads(line)
                raw = kept["raw"].encode("utf-8", "surrogateescape")
                yield kept["tenant"], kept["kind"], Record(kept["created"], kept["id"], kept["type"], raw)

    def keep(self, tenant: str, kind: str, record: Record) -> None:
        """Append the record."""
        fields = record._asdict() | {"raw": record.raw.decode("utf-8", "surrogateescape")}
        line = json.dumps({"tenant": tenant, "kind": kind, **fields}).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
