"""How far something that takes long has come, for a person at a terminal."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

from lib.model.text import printable


class Progress:
    """Tells a person how far a long reading has come; nobody else."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._began: dict[str, float] = {}

    def show(self, stream: str, read: int, up_to: datetime | None) -> None:
        """So many events were read, up to that time."""
        if not sys.stderr.isatty():
            return
        began = self._began.setdefault(stream, time.monotonic())
        seconds = max(time.monotonic() - began, 0.001)
        line = f"{printable(stream)}: {read} read, {read / seconds:.0f}/s"
        if up_to is not None:
            done = 1 - max(timedelta(0), datetime.now(UTC) - up_to) / self._window
            if 0.01 < done <= 1:
                bar = "█" * round(20 * done)
                line += f" [{bar:░<20}] {done:4.0%}, {seconds / done - seconds:.0f} s left"
        print(f"\r\x1b[K{line}", end="\n" if up_to is None else "", file=sys.stderr, flush=True)
