"""What several test files share, and what holds for every test."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.fakes.gcs import ENDPOINT, FakeGcs

# Speed is measured by `make bench`; a machine that is busy with other things makes no test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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
