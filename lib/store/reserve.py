"""Reserved space on the store's disk.

A full disk would block delivery for ever: before it can remove a batch, delivery has to write a lease, a checkpoint and
a receipt. The reserve holds room for them. Batches may not use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

LARGEST = 1 << 20
"""Bytes in reserve; at most a fifth of a small file system."""
FILES = 8
"""Files in reserve, because a file system can run out of inodes too."""


class Reserve:
    """A folder of files that occupy space. They are removed when the disk is full, and created again later."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def leaves_room(self, size: int) -> bool:
        """Whether an object of `size` bytes fits beside the reserve. A missing reserve is created again if it fits."""
        self._make()
        disk = os.statvfs(self._folder.parent)
        missing = self._size(disk) if not self._is_there() else 0
        inodes = disk.f_files == 0 or disk.f_favail > 4
        return disk.f_bavail * disk.f_frsize > size + missing + 2 * disk.f_frsize and inodes

    def give_up(self) -> bool:
        """Remove the reserve; return whether there was one."""
        removed = False
        for path in self._files():
            with suppress(OSError):  # It is gone already, or something that is not ours.
                path.unlink()
                removed = True
        return removed

    def _make(self) -> None:
        disk = os.statvfs(self._folder.parent)
        size = self._size(disk)
        has_inodes = disk.f_files == 0 or disk.f_favail > 2 * FILES
        if self._is_there() or disk.f_bavail * disk.f_frsize < 2 * size or not has_inodes:
            return
        with suppress(OSError):  # The disk may fill up just now. The next batch tries again.
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(FILES - 1):
                (self._folder / f"inode-{number}").touch(mode=0o600)
            # The rename comes last, so that the reserve counts as present only once its space is allocated.
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
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from self._folder.iterdir()

    @staticmethod
    def _size(disk: os.statvfs_result) -> int:
        return min(LARGEST, disk.f_blocks * disk.f_frsize // 5)
