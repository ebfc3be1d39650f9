"""Makes the archive of each function, as Cloud Run functions takes it: `python infra/stage.py [FOLDER]`.

An archive is `main.py`, `lib/`, and the lock with its hashes as `requirements.txt`. The same sources give the same
bytes, so that its hash tells whether a function has changed.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ("fetch_page", "forward_batch", "test_connection")
KINDS = (".py", ".yaml")
TIME = (2026, 1, 1, 0, 0, 0)


def members(function: str) -> dict[str, Path]:
    """What the archive holds, by its name there."""
    library = {
        str(path.relative_to(ROOT)): path for path in sorted((ROOT / "lib").rglob("*.*")) if path.suffix in KINDS
    }
    return {
        "main.py": ROOT / "functions" / function / "main.py",
        "requirements.txt": ROOT / "requirements.lock",
        **library,
    }


def stage(folder: Path) -> dict[str, Path]:
    """Write every function's archive into the folder, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    return {function: _written(folder / f"{function}.zip", members(function)) for function in FUNCTIONS}


def _written(archive: Path, files: dict[str, Path]) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, path in files.items():
            info = zipfile.ZipInfo(name, TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            target.writestr(info, path.read_bytes())
    return archive


if __name__ == "__main__":
    for path in stage(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "functions").values():
        sys.stdout.write(f"{path}\n")
