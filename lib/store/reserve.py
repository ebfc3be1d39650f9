"""Room that a full disk still has: delivery needs a lease, a cursor and a receipt before the batch that it frees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

LARGEST = 1 << 20
"""Bytes kept in reserve; of a small file system a fifth."""
FILES = 8
"""Files kept in reserve: a file system may run out of inodes too."""


class Reserve:
    """A folder of files that stand for room; they are removed when the disk is full, and made again once it is not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def leaves_room(self, size: int) -> bool:
        """Whether an object of `size` bytes fits beside the reserve; the reserve is made again where it is missing."""
        self._make()
        found = os.statvfs(self._folder.parent)
        missing = self._size(found) if not self._is_there() else 0
        inodes = found.f_files == 0 or found.f_favail > 4
        return found.f_bavail * found.f_frsize > size + missing + 2 * found.f_frsize and inodes

    def give_up(self) -> bool:
        """Remove it; whether there was one."""
        found = False
        for path in self._files():
            with suppress(FileNotFoundError):
                path.unlink()
                found = True
        return found

    def _make(self) -> None:
        found = os.statvfs(self._folder.parent)
        size = self._size(found)
        has_inodes = found.f_files == 0 or found.f_favail > 2 * FILES
        if self._is_there() or found.f_bavail * found.f_frsize < 2 * size or not has_inodes:
            return
        with suppress(OSError):  # A disk that fills up just now: the next batch tries again.
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(FILES - 1):
                (self._folder / f"inode-{number}").touch(mode=0o600)
            temporary = self._folder / uuid4().hex
            try:
                temporary.touch(mode=0o600, exist_ok=False)
                with temporary.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
                temporary.replace(self._folder / "blocks")
            finally:
                temporary.unlink(missing_ok=True)

    def _is_there(self) -> bool:
        return (self._folder / "blocks").exists()

    def _files(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            yield from self._folder.iterdir()

    @staticmethod
    def _size(found: os.statvfs_result) -> int:
        return min(LARGEST, found.f_blocks * found.f_frsize // 5)
