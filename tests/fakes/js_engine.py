"""The engine on @grpc/grpc-js: installed from `engine_js/package-lock.json` when that changed, run as a process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).parent / "engine_js"
BUILD = ROOT / "build" / "engine_js"


def install_js_engine() -> Path:
    """The folder with the engine and its packages, made unless it is there; RuntimeError says what is missing."""
    digest = hashlib.sha256()
    for name in ("main.js", "package.json", "package-lock.json"):
        digest.update((SOURCES / name).read_bytes())
    built = BUILD / digest.hexdigest()[:16]
    if not built.exists():
        _install(built)
    return built


def _install(target: Path) -> None:
    if shutil.which("npm") is None:
        raise RuntimeError("npm not found: apt-get install nodejs npm")
    # A folder of one's own process, and a rename at the end: several test processes may install at once.
    workspace = BUILD / f"installing-{os.getpid()}"
    shutil.copytree(SOURCES, workspace, ignore=shutil.ignore_patterns("node_modules"))
    try:
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=workspace,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"npm ci failed: {done.stderr.strip()}")
        if not target.exists():
            workspace.rename(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def js_engine(socket: Path, record: Path, options: Mapping[str, int]) -> Iterator[subprocess.Popen[str]]:
    """A running engine on `socket` with these channel options, ready to be connected to; ended on leaving."""
    command = ["node", "main.js", str(socket), str(record), json.dumps(options)]
    process = subprocess.Popen(command, cwd=install_js_engine(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the engine on grpc-js ended with {process.wait()}")
        yield process
    finally:
        process.terminate()
        process.communicate()
