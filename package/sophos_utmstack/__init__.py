"""The connector as an installed package. It holds `lib`, `functions` and `emulator`: no other `lib` is shadowed."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run a command of `sophos-utmstack`; its exit status."""
    # Ours go first in this process and, by emulator/process.py, in its children; in no other Python process.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from emulator.__main__ import main as command  # noqa: PLC0415 - it can be found from here on

    return command()
