"""Objects as files of a folder, with Cloud Storage's generations.

An object is exactly the file of its key, with exactly its bytes. Its generation is the file's modification time in
nanoseconds, which the writer sets to more than the one before: a file edited by hand has a new generation too.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from uuid import uuid4
from zlib import crc32

from lib.errors import ConflictError, LayoutError, NoStoreError, StoreError
from lib.store.base import ABSENT, LAYOUT, Entry, Stored, segments_of
from lib.store.reserve import Reserve

LOCKS = 64
LONGEST = 240
"""The longest part of a segment that becomes one file name: file systems take 255 bytes."""
CONTINUED = "%+"
"""Ends a folder's name whose segment goes on in the next one; percent-encoded names never hold it."""
LEAD = "+"
"""Begins each name in which a segment goes on, so that none begins with a dot, or is one."""
BULK = ("batches/", "archive/")
"""What may fill the disk: it leaves the reserve alone, so that what is there can still be delivered, and removed."""
FULL = (errno.ENOSPC, errno.EDQUOT)
STALE_SECONDS = 3600
"""A temporary file this old was left by a process that died."""


class DirectoryStore:
    """A store in a local folder; safe between threads and processes of one machine."""

    def __init__(self, root: Path, *, create: bool = True) -> None:
        """Open the store in that folder; NoStoreError where there is none and none is to be made."""
        self._root = root.absolute()
        self._temporary = self._root / ".tmp"
        self._locks = self._root / ".locks"
        self._reserve = Reserve(self._root / ".reserve")
        self._durable: set[Path] = {self._root}
        """Folders whose entry in the folder above is known to be durable. One that is merely there may not be: whoever
        made it may have been killed before it was, and a power cut would take all that was stored in it since."""
        if create:
            self._open()
        else:
            self._look()

    def read(self, key: str) -> Stored | None:
        """The object, or None where there is none."""
        try:
            with self._path(key).open("rb") as file:
                return Stored(file.read(), os.fstat(file.fileno()).st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            _refuse(error, key)

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace the object if it is still at generation `expected`, durably; the new generation."""
        path = self._path(key)
        try:
            if key.startswith(BULK):
                self._keep_reserve(len(body))
            with self._locked(key):
                present = _generation(path)
                if present != expected:
                    raise ConflictError(f"{key} is at generation {present}, not {expected}")
                generation = max(time.time_ns(), present + 1)
                try:
                    self._replace(path, body, generation)
                except OSError as error:
                    if error.errno not in FULL or key.startswith(BULK) or not self._reserve.give_up():
                        raise
                    self._replace(path, body, generation)
                return generation
        except OSError as error:
            _refuse(error, key)

    def _keep_reserve(self, size: int) -> None:
        if not self._reserve.leaves_room(size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _replace(self, path: Path, body: bytes, generation: int) -> None:
        """Make the file hold the body, whole or not at all, and durably.

        The order is the proof: content, then the folders, then the name, then the name made durable. A power cut
        before the last step leaves what was there before.
        """
        self._make_folder(path.parent)
        try:
            self._rename_over(self._temporary / uuid4().hex, path, body, generation)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # A part of the store is a mount of its own: what is renamed into it has to lie in it.
            self._rename_over(path.parent / f".{uuid4().hex}", path, body, generation)
        _sync_folder(path.parent)

    def _rename_over(self, temporary: Path, path: Path, body: bytes, generation: int) -> None:
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(body)
                file.flush()
                os.utime(file.fileno(), ns=(generation, generation))
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, key: str, *, expected: int) -> None:
        """Remove the object if it is still at generation `expected`."""
        path = self._path(key)
        try:
            with self._locked(key):
                present = _generation(path)
                if present != expected or present == ABSENT:
                    raise ConflictError(f"{key} is at generation {present}, not {expected}")
                path.unlink()
                _sync_folder(path.parent)
        except OSError as error:
            _refuse(error, key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` and sorts after `after`, in order of key."""
        try:
            yield from self._walk(self._root, "", prefix, after)
        except OSError as error:
            _refuse(error, prefix)

    def _walk(self, folder: Path, above: str, prefix: str, after: str, lead: str = "") -> Iterator[Entry]:
        """The objects below a folder whose keys begin with `above`."""
        found: list[tuple[str, os.DirEntry[str]]] = []
        continued: list[Iterator[Entry]] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = entry.name.removeprefix(lead)
                    if name.endswith(CONTINUED):
                        start = above + name.removesuffix(CONTINUED)
                        if _may_hold(start, prefix, after):
                            continued.append(self._walk(Path(entry.path), start, prefix, after, LEAD))
                        continue
                    # A folder sorts as its keys do: with the slash that follows its name.
                    key = f"{above}{name}/" if entry.is_dir() else above + name
                    if _may_hold(key, prefix, after) if key.endswith("/") else key.startswith(prefix) and key > after:
                        found.append((key, entry))
        except (FileNotFoundError, NotADirectoryError):
            return
        found.sort(key=lambda pair: pair[0])
        plain = self._below(found, prefix, after)
        yield from heapq.merge(plain, *continued, key=lambda entry: entry.key) if continued else plain

    def _below(self, found: Sequence[tuple[str, os.DirEntry[str]]], prefix: str, after: str) -> Iterator[Entry]:
        for key, entry in found:
            if key.endswith("/"):
                yield from self._walk(Path(entry.path), key, prefix, after)
                continue
            with suppress(FileNotFoundError):
                # Asked for only now, and not of the listing: the object may have been replaced or removed meanwhile.
                found_now = os.stat(entry.path)  # noqa: PTH116 - a path object more for each of 60,000 entries
                updated = datetime.fromtimestamp(found_now.st_mtime, UTC)
                yield Entry(key, found_now.st_mtime_ns, found_now.st_size, updated)

    def _path(self, key: str) -> Path:
        segments = segments_of(key)
        if CONTINUED in key:
            raise ValueError(f"not an object's key: {key!r}")
        parts: list[str] = []
        for segment in segments:
            rest = segment
            while len(rest) > LONGEST:
                parts.append(rest[:LONGEST] + CONTINUED)
                rest = LEAD + rest[LONGEST:]
            parts.append(rest)
        return self._root.joinpath(*parts)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Exclude every other writer of the key: threads too, since each opens the lock file anew."""
        for folder in (self._locks, self._temporary):
            folder.mkdir(exist_ok=True, mode=0o700)  # Tools that copy a store leave empty folders out.
        lock = os.open(self._locks / f"{crc32(key.encode()) % LOCKS:02d}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _make_folder(self, folder: Path) -> None:
        """Make the folder, each level durable in the one above, be it made by somebody who died before it was."""
        if folder in self._durable and folder.is_dir():
            return
        if folder != self._root:
            self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        _sync_folder(folder.parent)
        self._durable.add(folder)

    def _open(self) -> None:
        marker = self._root / ".layout"
        try:
            written = marker.read_bytes() if marker.exists() else b""
            if not written.strip():  # Nothing yet, or a power cut came before its content.
                self._make_root()
                self._temporary.mkdir(exist_ok=True, mode=0o700)
                body = json.dumps({"layout": LAYOUT}).encode() + b"\n"
                self._replace(marker, body, time.time_ns())
            elif (layout := _layout_of(written, marker)) > LAYOUT:
                raise LayoutError(f"{self._root} has layout {layout}; this version reads layouts up to {LAYOUT}")
            self._remove_stale()
        except OSError as error:
            _refuse(error, str(self._root))

    def _make_root(self) -> None:
        """Make the store's folder, and those above it, each durable in the one above."""
        made = [folder for folder in self._root.parents if not folder.exists()]
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self._root, *made):
            with suppress(PermissionError):  # Whoever made it may keep the folder above from us.
                _sync_folder(folder.parent)

    def _look(self) -> None:
        """See that there is a store that this version reads, and change nothing."""
        marker = self._root / ".layout"
        try:
            if not self._root.is_dir() or not any(self._root.iterdir()):
                raise NoStoreError(f"there is no store at {self._root}")
            written = marker.read_bytes() if marker.exists() else b""
            if written.strip() and (layout := _layout_of(written, marker)) > LAYOUT:
                raise LayoutError(f"{self._root} has layout {layout}; this version reads layouts up to {LAYOUT}")
        except OSError as error:
            _refuse(error, str(self._root))

    def _remove_stale(self) -> None:
        now = time.time()
        for path in self._temporary.iterdir() if self._temporary.is_dir() else ():
            with suppress(OSError):  # Another process may be removing it, or the store may be read-only.
                if now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def _may_hold(start: str, prefix: str, after: str) -> bool:
    """Whether keys that begin with `start` can begin with `prefix` and sort after `after`."""
    in_prefix = start.startswith(prefix) or prefix.startswith(start)
    return in_prefix and (start > after or after.startswith(start))


_REMEDIES = {
    errno.ENOSPC: "Free some space on the store's disk. What is stored is delivered meanwhile, and frees space too.",
    errno.EDQUOT: "Raise the quota of the store's user, or free some space.",
    errno.EROFS: "The store's disk is mounted read-only: look in the kernel's log, then mount it read-write.",
    errno.EACCES: "Run the connector as the owner of the store's folder, or change the owner.",
    errno.EPERM: "Run the connector as the owner of the store's folder, or change the owner.",
}


def _layout_of(written: bytes, marker: Path) -> int:
    try:
        return int(json.loads(written)["layout"])
    except (ValueError, KeyError, TypeError):
        raise LayoutError(
            f"{marker} is not what was written",
            remedy=f'Put it back from a copy; this version wrote {{"layout": {LAYOUT}}} into it.',
        ) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _generation(path: Path) -> int:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    # A folder is where other keys lie, and no object.
    return ABSENT if stat.S_ISDIR(found.st_mode) else found.st_mtime_ns


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse(error: OSError, what: str) -> NoReturn:
    """The store's own error: the operating system's words, without the path of a temporary file."""
    remedy = _REMEDIES.get(error.errno or 0)
    raise StoreError(f"the store cannot do that with {what}: {error.strerror or error}", remedy=remedy) from error
