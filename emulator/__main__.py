"""`python -m emulator`: the product on one machine, its simulators, and the operator's commands."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from emulator.cli.arguments import parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["run"]:
        for number in (signal.SIGTERM, signal.SIGINT):
            # Until `run` knows better: nothing has begun that would have to be brought to its end.
            signal.signal(number, lambda *_: os._exit(0))
    args = parsed(given)
    command: Callable[..., int] = args.command
    try:
        return command(args)
    except BrokenPipeError:
        # Whoever read, such as `head`, has seen enough. What Python still wants to write as it ends goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
