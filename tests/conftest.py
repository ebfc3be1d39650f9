"""What several test files share, and what holds for every test."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.gcs import ENDPOINT, FakeGcs

MEMORY = Path("/dev/shm")  # noqa: S108
ROOM = 4 << 30

# What tests write is kept in memory if there is room. The product flushes each object, and waiting for a disk would
# take most of the tests' time. The system calls are the same. TMPDIR=/tmp chooses the disk.
if (
    "TMPDIR" not in os.environ
    and MEMORY.is_dir()
    and shutil.disk_usage(MEMORY).free > ROOM
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
):
    os.environ["TMPDIR"] = str(MEMORY)

# Speed is measured by `make bench`; a machine that is busy with other things makes no test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


LONG = ("end_to_end", "browser", "emulator", "functions", "pipeline")
"""The rooms whose tests take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with its share of what takes long: xdist deals in order, to one after the other.

    A long test that began last would be waited for by all.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    rooms = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        rooms[item.path.parent.name if item.path.parent.name in LONG else ""].append(item)
    shares = [
        [
            *rooms["end_to_end"][worker::workers],
            *(rooms["browser"] if worker == 0 else ()),  # one browser is enough
            # The tests of a file stay together, for their fixtures' sake.
            *(each for room in LONG[2:] for each in rooms[room][_part(rooms[room], worker, workers)]),
        ]
        for worker in range(workers)
    ]
    rest = iter(rooms[""])
    for worker, share in enumerate(shares):
        part = _part(items, worker, workers)
        share.extend(islice(rest, max(0, part.stop - part.start - len(share))))
    items[:] = [*chain(*shares), *rest]


def _part(items: list[pytest.Item], worker: int, workers: int) -> slice:
    return slice(len(items) * worker // workers, len(items) * (worker + 1) // workers)


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
