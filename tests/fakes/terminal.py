"""A terminal of a given size, in which a real process runs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from codecs import getincrementaldecoder
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from select import select
from time import monotonic
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
_CODES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|\][^\x07]*\x07|[=>])")


class Terminal:
    """The process, what it has shown, and a keyboard."""

    def __init__(self, *command: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        without = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            ("setsid", "--ctty", *command),  # Ctrl-C reaches whoever has it as the controlling terminal.
            cwd=ROOT,
            env={**without, "TERM": "xterm-256color", **(env or {})},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self.raw = ""
        """Everything that it has shown, control characters included."""

    @property
    def text(self) -> str:
        """What it has shown, without what commands the terminal."""
        return _CODES.sub("", self.raw).replace("\r\n", "\n")

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def until(self, seen: Callable[[str], bool], what: str, seconds: float = 60.0) -> str:
        """Wait until it has shown that; all that it has shown."""
        end = monotonic() + seconds
        while not seen(self.text):
            assert self._read(end - monotonic()), f"never seen: {what}\n{self.text}"
        return self.text

    def end(self, seconds: float = 90.0) -> int:
        """Wait for the process to end by itself; its exit status."""
        end = monotonic() + seconds
        while self._read(end - monotonic()):
            continue
        return self.process.wait(max(0.1, end - monotonic()))

    def _read(self, seconds: float) -> bool:
        with suppress(OSError):  # EIO: nobody has the other end any more.
            if seconds > 0 and select([self._ours], [], [], seconds)[0]:
                found = os.read(self._ours, 65_536)
                self.raw += self._decoder.decode(found)
                return bool(found)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


def shown(*arguments: str, columns: int, lines: int = 40, env: Mapping[str, str] | None = None) -> tuple[int, Terminal]:
    """What a command shows in a window of that size, and its exit status."""
    with Terminal(sys.executable, "-m", "emulator", *arguments, columns=columns, lines=lines, env=env) as terminal:
        return terminal.end(), terminal
