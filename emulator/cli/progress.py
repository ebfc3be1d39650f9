"""Progress of long commands, shown only if standard error is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lib.model.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

AFTER_SECONDS = 2.0
"""A command that ends sooner shows no progress."""


class ProgressLine:
    """Lines on standard error, each with a bar, the rate and the time left. They disappear at the end."""

    def __init__(self, unit: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._unit = unit
        self._monotonic = monotonic
        self._began: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: Bars | None = None
        self._is_seen = sys.stderr.isatty()

    def update(self, name: str, count: int, done: float | None = None) -> None:
        """Show that `count` units of the task are done; `done` is the share of all (0 to 1), None if unknown."""
        now = self._monotonic()
        began = self._began.setdefault(name, now)
        if not self._is_seen or now - min(self._began.values()) < AFTER_SECONDS:
            return
        text = progress_text(self._unit, count, now - began, done)
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(printable(name), total=None, text=text)
        total, completed = (None, 0.0) if done is None else (1.0, done)
        self._bars.update(self._tasks[name], total=total, completed=completed, text=text)
        if done is not None and done >= 1:
            self._bars.remove_task(self._tasks.pop(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


def progress_text(unit: str, count: int, seconds: float, done: float | None) -> str:
    """The count, with rate and time left once there is a second to tell them from."""
    if seconds < 1:
        return f"{count} {unit}"
    left = "" if not done or done < 0.01 else f", {_span(seconds / min(done, 1.0) - seconds)} left"
    return f"{count} {unit}, {count / seconds:.0f}/s{left}"


def part_of(window: timedelta, up_to: datetime | None) -> float:
    """The share of the window that is read, if the newest event read has that time; None: the whole window."""
    return 1.0 if up_to is None else max(0.0, min(1.0, 1 - (datetime.now(UTC) - up_to) / window))


def _bars() -> Bars:
    from rich.console import Console  # noqa: PLC0415 - a slow import that only a terminal needs
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415 - as above
    from rich.progress import Progress as Bars  # noqa: PLC0415 - as above

    words = "{task.description}"
    return Bars(
        TextColumn(words, markup=False),
        BarColumn(20),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
