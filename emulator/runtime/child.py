"""Start a program that ends with its parent: `python child.py PARENT_PID PROGRAM ARGUMENT…`.

The kernel sends SIGKILL when the thread that started the program ends (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request the signal, then become the program.

    The parent may die before the request. Then it is no longer the parent, and no signal will come: end at once.
    """
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has ended already")
    os.execv(program[0], program)  # noqa: S606 - the program is the emulator's own list


if __name__ == "__main__":
    main()
