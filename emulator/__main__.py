"""`python -m emulator`: the connector on one machine, its simulators, and the operator's commands."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from emulator.cli.arguments import parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["run"]:
        for number in (signal.SIGTERM, signal.SIGINT):
            # Until `run` installs its own handlers: nothing has started yet that must be stopped in order.
            signal.signal(number, lambda *_: os._exit(0))
    args = parsed(given)
    command: Callable[..., int] = args.command
    try:
        return command(args)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Python's last flush must not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
