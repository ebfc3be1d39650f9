"""Output of the commands. Text from outside cannot control the terminal.

On a terminal, `rich` adds colours and tables that fit the window. It is imported only then, because it is slow.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TextIO

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
"""The colours of words that name a state."""
NARROWEST = 40
"""The least characters of a table's first column. A narrower window drops the last columns."""


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print each text as one line, and flush."""
    print("\n".join(map(printable, lines)), file=file, flush=True)


def refuse(error: ConnectorError) -> None:
    """Print an error and its remedy to standard error."""
    complain(*str(error).split("\n"), f"→ {error.remedy}")


def complain(*lines: str) -> None:
    """Print the lines to standard error, as errors in systemd's journal."""
    from lib import telemetry  # noqa: PLC0415 - most commands report no error

    before = telemetry.journal_mark(logging.ERROR) if telemetry.is_journal(sys.stderr) else ""
    say(*(f"{before}{line}" for line in lines), file=sys.stderr)


def width(text: str) -> int:
    """The columns that a text takes in a terminal: a wide character takes two, a combining mark none."""
    return sum(
        0 if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn") else
        2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )  # fmt: skip


def window() -> tuple[int, int] | None:
    """Columns and lines of the terminal window; None if standard output is not a terminal."""
    columns, lines = shutil.get_terminal_size()
    return (columns, lines) if sys.stdout.isatty() else None


def height(*lines: str) -> int:
    """The lines of the window that the texts take."""
    space = window()
    return len(lines) if space is None else sum(max(1, -(-width(line) // space[0])) for line in lines)


def say_wrapped(*lines: str, indent: int | None = None) -> None:
    """Print each text. In a terminal window, words stay whole, and each next line is indented by `indent` columns.

    Without `indent`, it is indented as the first one.
    """
    space = window()
    for line in lines:
        if space is None or width(line) <= space[0]:
            say(line)
            continue
        from rich.text import Text  # noqa: PLC0415 - slow to import

        begin = len(line) - len(line.lstrip()) if indent is None else indent
        parts = Text(printable(line[begin:])).wrap(_console(), max(1, space[0] - begin))
        say(*(f"{' ' * begin if at else line[:begin]}{part.plain.rstrip()}" for at, part in enumerate(parts)))


def bounds(begin: str | None, end: str | None) -> str:
    """An interval (UTC) whose begin or end may not be known."""
    first, last = (text and text[:19].replace("T", " ") for text in (begin, end))
    return f"{first} to {last}" if first and last else f"from {first}" if first else f"until {last or 'not known'}"


def headline(health: str, text: str) -> None:
    """Print a health and a text."""
    if window() is None:
        say(f"{health.upper()}  {text}")
    else:
        from rich.text import Text  # noqa: PLC0415 - slow to import

        style = STYLES.get(health, "")
        _console().print(Text.assemble((health.upper(), style), "  ", printable(text)))


def show(rows: Sequence[Sequence[str]], *, one_line: bool = False) -> None:
    """Print a table. In a window that is too narrow, wide cells continue on the next line.

    With `one_line`, names in the first column are shortened and the last columns are dropped instead.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    space = window()
    if space is not None:
        _console().print(_shortened(cells, space[0]) if one_line else _folded(cells))
        return
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        say("  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)).rstrip())


def show_names(rows: Sequence[Sequence[str]]) -> None:
    """Print a table with numbers, and in the last column names to copy.

    A name is never broken: where it does not fit beside the numbers, it stands on the next line.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    space = window()
    widths = [max(map(width, column)) for column in list(zip(*cells, strict=True))[:-1]]
    for *numbers, name in cells:
        begin = "  ".join(" " * (wide - width(cell)) + cell for cell, wide in zip(numbers, widths, strict=True))
        fits = space is None or width(begin) + 2 + width(name) <= space[0]
        say(*([f"{begin}  {name}"] if fits else [begin, f"  {name.lstrip()}"]))


def _folded(cells: Sequence[Sequence[str]]) -> Table:
    from rich.text import Text  # noqa: PLC0415 - slow to import

    table = _table()
    for at, name in enumerate(cells[0]):
        table.add_column(Text(name), overflow="fold", justify=_side(cells, at))
    for row in cells[1:]:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def _side(cells: Sequence[Sequence[str]], at: int) -> Literal["left", "right"]:
    """Numbers stand on the right."""
    column = [row[at] for row in cells[1:]]
    is_number = all(re.fullmatch(r"[-?]|[\d.,]+[%s]?", cell) for cell in column)
    return "right" if is_number and not {*column} <= {"-"} else "left"


def _table() -> Table:
    from rich.table import Table  # noqa: PLC0415 - slow to import

    return Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")


def _shortened(cells: Sequence[Sequence[str]], columns: int) -> Table:
    from rich.text import Text  # noqa: PLC0415 - slow to import

    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    shown = len(widths)
    while shown > 1 and min(widths[0], NARROWEST) + sum(wide + 2 for wide in widths[1:shown]) > columns:
        shown -= 1
    table = _table()
    for at, name in enumerate(cells[0][:shown]):
        # Only the first column, with names, is shortened.
        table.add_column(Text(name, no_wrap=True, overflow="ellipsis"), no_wrap=at > 0, justify=_side(cells, at))
    for row in cells[1:]:
        table.add_row(
            *(Text(cell, style=STYLES.get(cell, ""), no_wrap=True, overflow="ellipsis") for cell in row[:shown])
        )
    return table


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - slow to import

    return Console(highlight=False, soft_wrap=False)
