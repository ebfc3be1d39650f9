"""What several test files share."""

import os
from collections.abc import Iterator

import pytest

from tests.fakes.gcs import ENDPOINT, FakeGcs


@pytest.fixture(scope="session")
def gcs() -> Iterator[FakeGcs]:
    """A Cloud Storage, named by the environment for this process and those that it starts."""
    with FakeGcs() as server:
        os.environ[ENDPOINT] = server.url
        yield server
        del os.environ[ENDPOINT]


@pytest.fixture
def bucket(gcs: FakeGcs) -> str:
    """The URL of a new bucket: gs://…"""
    return gcs.bucket()
