"""The engine in Go: built from `engine_go/` when its sources changed, run as a process of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).parent / "engine_go"
PROTO = ROOT / "proto"
BUILD = ROOT / "build"
GOPATH = os.environ.get("ENGINE_GOPATH", "/usr/share/gocode")
"""Where the Go libraries are: Debian's place by default."""
PACKAGES = "golang-go golang-google-grpc-dev golang-goprotobuf-dev protobuf-compiler"


def build_go_engine() -> Path:
    """The executable, built unless the one for these very sources is there; RuntimeError says what is missing."""
    digest = hashlib.sha256()
    for source in (*sorted(SOURCES.rglob("*.go")), PROTO / "plugins.proto"):
        digest.update(source.read_bytes())
    built = BUILD / "engine_go" / f"engine-{digest.hexdigest()[:16]}"
    if not built.exists():
        _build(built)
    return built


def _build(target: Path) -> None:
    missing = [tool for tool in ("go", "protoc", "protoc-gen-go") if shutil.which(tool) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not found: apt-get install {PACKAGES}")
    # A workspace of one's own process, and a rename at the end: several test processes may build at once.
    workspace = target.parent / f"gopath-{os.getpid()}"
    package = workspace / "src" / "engine_go"
    try:
        (package / "plugins").mkdir(parents=True)
        for source in SOURCES.glob("*.go"):
            shutil.copy(source, package)
        _run("protoc", f"-I{PROTO}", f"--go_out=plugins=grpc:{package}", str(PROTO / "plugins.proto"), cwd=package)
        env = {"GO111MODULE": "off", "GOPATH": f"{workspace}:{GOPATH}", "GOFLAGS": "", "CGO_ENABLED": "0"}
        _run("go", "build", "-o", str(workspace / "engine"), "engine_go", cwd=package, env=env)
        (workspace / "engine").rename(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()} (packages: {PACKAGES})")


@contextmanager
def go_engine(socket: Path, record: Path | None = None, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running engine on `socket`, ready to be connected to; ended on leaving. `options` are its flags."""
    command = [str(build_go_engine()), "-socket", str(socket), *options]
    if record is not None:
        command += ["-record", str(record)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the Go engine ended with {process.wait()}")
        yield process
    finally:
        process.terminate()
        process.communicate()
