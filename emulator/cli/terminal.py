"""What the commands print: nothing of what comes from outside commands a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from lib.errors import ConnectorError
from lib.model.text import printable

COLOURS = {
    "collecting": 32,
    "fetched": 32,
    "up_to_date": 32,
    "failed": 31,
    "rate_limited": 33,
    "paused": 33,
    "retired": 2,
    "idle": 2,
}
"""Of states, as terminals number them."""


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print each as one line, at once."""
    print("\n".join(map(printable, lines)), file=file, flush=True)


def refuse(error: ConnectorError) -> None:
    """Say on standard error why it cannot be done, and what to do about it."""
    say(*str(error).split("\n"), f"→ {error.remedy}", file=sys.stderr)


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print a table; states have their colours on a terminal."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def shown(cell: str, width: int) -> str:
        colour = COLOURS.get(cell) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else None
        text = cell.ljust(width)
        return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"

    print("\n".join("  ".join(map(shown, row, widths)).rstrip() for row in cells))
