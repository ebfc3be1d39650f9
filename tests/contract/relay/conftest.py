"""What a relay stands between and is set up with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.engine import StandInEngine
from tests.fakes.authority import Authority
from tests.fakes.relay import TOKEN


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not pytest's own folder: a socket's path ends at 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="r"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def server(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server")


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Path:
    file = folder / "tokens"
    file.write_text(f"# in use\n{TOKEN}\n")
    return file


@pytest.fixture
def engine(folder: Path) -> Iterator[StandInEngine]:
    with StandInEngine(folder / "e.sock") as stand_in:
        yield stand_in
