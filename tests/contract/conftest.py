"""Every kind of store."""

from pathlib import Path

import pytest

from lib.parts import open_store
from lib.store.base import ObjectStore


@pytest.fixture(params=["directory", "gcs"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be."""
    if request.param == "directory":
        return f"file:{tmp_path}/store"
    return f"{request.getfixturevalue('bucket')}/a/b"


@pytest.fixture
def store(location: str) -> ObjectStore:
    """A store of every kind, empty."""
    return open_store(location)
