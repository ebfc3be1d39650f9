"""What the commands print: nothing of what comes from outside commands a terminal.

Whoever looks at a terminal gets colours, and tables that fit its window, by `rich`, which nobody else waits for.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from lib.errors import ConnectorError
from lib.model.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {
    "collecting": "green",
    "fetched": "green",
    "up_to_date": "green",
    "ok": "green",
    "reconciled": "green",
    "failed": "red",
    "failing": "bold red",
    "attention": "bold yellow",
    "rate_limited": "yellow",
    "paused": "yellow",
    "retired": "dim",
    "idle": "dim",
}
"""Of words that tell a state."""
NARROWEST = 24
"""Characters of a table's first column, before a column at its end is left out."""


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print each as one line, at once."""
    print("\n".join(map(printable, lines)), file=file, flush=True)


def refuse(error: ConnectorError) -> None:
    """Say on standard error why it cannot be done, and what to do about it."""
    complain(*str(error).split("\n"), f"→ {error.remedy}")


def complain(*lines: str) -> None:
    """Print the lines on standard error; in systemd's journal as errors."""
    from lib import telemetry  # noqa: PLC0415 - most commands have nothing to complain of

    before = telemetry.JOURNAL_ERROR if telemetry.is_journal(sys.stderr) else ""
    say(*(f"{before}{line}" for line in lines), file=sys.stderr)


def width(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters two, marks on another one none."""
    return sum(
        0 if unicodedata.combining(each) or unicodedata.category(each) in ("Cf", "Me", "Mn") else
        2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )  # fmt: skip


def window() -> tuple[int, int] | None:
    """Columns and lines of the window that a person looks at; None where nobody does."""
    columns, lines = shutil.get_terminal_size()
    return (columns, lines) if sys.stdout.isatty() else None


def height(*lines: str) -> int:
    """How many lines of the window the text takes."""
    space = window()
    return len(lines) if space is None else sum(max(1, -(-width(line) // space[0])) for line in lines)


def headline(health: str, text: str) -> None:
    """Print a verdict, and its words."""
    if window() is None:
        say(f"{health.upper()}  {text}")
    else:
        from rich.text import Text  # noqa: PLC0415 - see above

        style = STYLES.get(health, "")
        _console().print(Text.assemble((health.upper(), style), "  ", printable(text)))


def show(rows: Sequence[Sequence[str]], *, one_line: bool = False) -> None:
    """Print a table; in a window that has no room for it, its widest cells go on in the line below.

    With `one_line`, names in the first column are shortened, and columns at the end left out, in place of that.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    space = window()
    if space is not None:
        _console().print(_shortened(cells, space[0]) if one_line else _folded(cells))
        return
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        say("  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)).rstrip())


def _folded(cells: Sequence[Sequence[str]]) -> Table:
    from rich.text import Text  # noqa: PLC0415 - see above

    table = _table()
    for name in cells[0]:
        table.add_column(Text(name), overflow="fold")
    for row in cells[1:]:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def _table() -> Table:
    from rich.table import Table  # noqa: PLC0415 - see above

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _shortened(cells: Sequence[Sequence[str]], columns: int) -> Table:
    from rich.text import Text  # noqa: PLC0415 - see above

    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    shown = len(widths)
    while shown > 1 and min(widths[0], NARROWEST) + sum(wide + 2 for wide in widths[1:shown]) > columns:
        shown -= 1
    table = _table()
    for at, name in enumerate(cells[0][:shown]):
        # Names give way; everything else stands whole.
        table.add_column(Text(name, no_wrap=True, overflow="ellipsis"), no_wrap=at > 0)
    for row in cells[1:]:
        table.add_row(
            *(Text(cell, style=STYLES.get(cell, ""), no_wrap=True, overflow="ellipsis") for cell in row[:shown])
        )
    return table


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - see above

    return Console(highlight=False, soft_wrap=False)
