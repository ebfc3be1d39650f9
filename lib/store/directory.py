"""An object store in a local folder, with Cloud Storage's generations.

An object is the file at its key's path, with exactly its bytes. Its generation is the file's modification time in
nanoseconds. Each write sets it to a greater value than before. So an edit by hand makes a new generation too.

A write is atomic and durable by its order of steps; `_replace` explains it. Writers exclude each other with file locks;
readers take no lock, because they see the old file or the new one.
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

from lib.errors import ConflictError, LayoutError, NoStoreError, StoreError, UnreadableError
from lib.store.base import ABSENT, LAYOUT, Entry, Stored, segments_of
from lib.store.reserve import Reserve

# A fixed number, because a lock file of each key could never be removed safely. Keys that share one only wait.
LOCKS = 64
LONGEST = 240
"""The longest part of a segment in one file name. File systems allow 255 bytes."""
CONTINUED = "%+"
"""The end of a folder's name if its segment continues in the next name. Percent-encoded names never hold it."""
LEAD = "+"
"""The beginning of each name that continues a segment, so that no such name begins with a dot."""
BULK = ("batches/", "archive/")
"""Prefixes of objects that can fill the disk. They may not use the reserve: delivery needs it to free space again."""
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_FILE = (errno.ELOOP, errno.ENXIO)
"""The errors of opening what is no file: a symbolic link that leads back to itself, a socket."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EIO)
"""The errors of reading one file that say nothing about the others."""
STALE_SECONDS = 3600
"""A temporary file of this age belongs to a process that died."""


class DirectoryStore:
    """A store in a local folder; safe between threads and processes of one machine."""

    def __init__(self, root: Path, *, create: bool = True) -> None:
        """Open the store in the folder. Without `create`, a missing store raises NoStoreError and nothing is changed.

        Raises LayoutError if a newer version wrote the store, StoreError if the folder cannot be used.
        """
        self._root = root.absolute()
        self._temporary = self._root / ".tmp"
        self._locks = self._root / ".locks"
        self._reserve = Reserve(self._root / ".reserve")
        self._durable: set[Path] = {self._root}
        """Folders whose entry in the parent folder is durable.

        A folder that merely exists may not be durable: its creator may have died before the parent was synced. A power
        cut would then remove the folder with everything stored in it since.
        """
        if create:
            self._open()
        else:
            self._check_existing()

    def read(self, key: str) -> Stored | None:
        """The object; None if there is none."""
        path = self._name(key)
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                # The generation of the open file, not of the path: a writer may have replaced the path since.
                status = os.fstat(file.fileno())
                # A pipe or a device holds no object: it reads as an empty one, which is damaged.
                return Stored(file.read() if stat.S_ISREG(status.st_mode) else b"", status.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            if error.errno in NO_FILE:
                return Stored(b"", _generation(Path(path)))
            if error.errno in REFUSED:
                raise UnreadableError(f"{path}: {error.strerror}") from None
            _fail(error, f"read {key} in")

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace the object if its generation is still `expected`, durably; return the new generation.

        If the disk is full, an object that is not BULK uses the reserve.
        """
        path = self._path(key)
        try:
            if key.startswith(BULK):
                self._keep_reserve(len(body))
            with self._locked(key):
                present = _generation(path)
                if present != expected:
                    raise ConflictError(f"{key} is at generation {present}, not {expected}")
                # Greater than before even if the clock has gone back: a generation that comes again would let an
                # outdated write pass its precondition.
                generation = max(time.time_ns(), present + 1)
                try:
                    self._replace(path, body, generation)
                except OSError as error:
                    if error.errno not in FULL or key.startswith(BULK) or not self._reserve.give_up():
                        raise
                    self._replace(path, body, generation)
                return generation
        except OSError as error:
            _fail(error, f"write {key} in")

    def _keep_reserve(self, size: int) -> None:
        if not self._reserve.leaves_room(size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _replace(self, path: Path, body: bytes, generation: int) -> None:
        """Replace the file's content atomically and durably.

        The order of the steps gives both:
        1. Create the folders and sync their parents. A crash leaves empty folders, which nothing lists.
        2. Write and sync a temporary file. A crash leaves it behind; `_remove_stale` removes it later.
        3. Rename it over the path. Readers see the old content until here, and the new content from here on.
        4. Sync the folder. A power cut before this step may restore the old content, so `write` returns only after it.
        """
        self._make_folder(path.parent)
        try:
            self._rename_over(self._temporary / uuid4().hex, path, body, generation)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # This part of the store is a mount of its own. A rename cannot cross file systems.
            self._rename_over(path.parent / f".{uuid4().hex}", path, body, generation)
        _sync_folder(path.parent)

    def _rename_over(self, temporary: Path, path: Path, body: bytes, generation: int) -> None:
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(body)
                file.flush()
                # All before the rename. Then a reader never sees the new bytes with another generation, and a power
                # cut never leaves the new name without its bytes.
                os.utime(file.fileno(), ns=(generation, generation))
                os.fsync(file.fileno())
            try:
                temporary.replace(path)
            except IsADirectoryError:
                path.rmdir()  # Succeeds only if it is empty. One that holds anything stays: these may be objects.
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, key: str, *, expected: int) -> None:
        """Remove the object if its generation is still `expected`. `ObjectStore.delete` says why nothing is synced."""
        path = self._path(key)
        try:
            with self._locked(key):
                present = _generation(path)
                if present != expected or present == ABSENT:
                    raise ConflictError(f"{key} is at generation {present}, not {expected}")
                path.unlink()
        except OSError as error:
            _fail(error, f"remove {key} from")

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` and sorts after `after`, in order of key."""
        # From the folder of the prefix's last slash: the folders beside it can be thousands.
        above = prefix[: prefix.rfind("/") + 1]
        try:
            folder = self._name(above[:-1]) if above else str(self._root)
        except ValueError:
            return  # No key begins like this.
        try:
            yield from self._walk(folder, above, prefix, after)
        except OSError as error:
            _fail(error, f"list {prefix or 'the objects'} in")

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        """Every path of `depth` segments below `prefix` with an object below it, in order."""
        try:
            # With a slash after its name, a folder sorts as its keys do.
            for name in sorted(self._folders_in(self._name(prefix[:-1])), key=lambda name: f"{name}/"):
                below = f"{prefix}{name}/"
                if depth > 1:
                    yield from self.folders(below, depth - 1)
                elif next(self.list(below), None) is not None:
                    yield below[:-1]
        except OSError as error:
            _fail(error, f"list {prefix} in")

    def _folders_in(self, folder: str, lead: str = "") -> Iterator[str]:
        """The segments of the folders directly below."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not _is_folder(entry):
                    continue
                name = entry.name.removeprefix(lead)
                if name.endswith(CONTINUED):
                    start = name.removesuffix(CONTINUED)
                    yield from (start + rest for rest in self._folders_in(entry.path, LEAD))
                else:
                    yield name

    def _walk(self, folder: str, above: str, prefix: str, after: str, lead: str = "") -> Iterator[Entry]:
        """The objects below a folder; their keys begin with `above`."""
        members: list[tuple[str, os.DirEntry[str]]] = []
        continued: list[Iterator[Entry]] = []
        floor = after[len(above) :].partition("/")[0] if not lead and after.startswith(above) else ""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if f"{entry.name}/" < floor and not entry.name.endswith(CONTINUED):
                        continue  # All its keys sort before `after`.
                    name = entry.name.removeprefix(lead)
                    if name.endswith(CONTINUED):
                        start = above + name.removesuffix(CONTINUED)
                        if _may_hold(start, prefix, after):
                            continued.append(self._walk(entry.path, start, prefix, after, LEAD))
                        continue
                    # With the slash after its name, a folder sorts as its keys do.
                    key = f"{above}{name}/" if _is_folder(entry) else above + name
                    if _may_hold(key, prefix, after) if key.endswith("/") else key.startswith(prefix) and key > after:
                        members.append((key, entry))
        except (FileNotFoundError, NotADirectoryError):
            return
        members.sort(key=lambda pair: pair[0])
        plain = self._below(members, prefix, after)
        yield from heapq.merge(plain, *continued, key=lambda entry: entry.key) if continued else plain

    def _below(self, members: Sequence[tuple[str, os.DirEntry[str]]], prefix: str, after: str) -> Iterator[Entry]:
        for key, entry in members:
            if key.endswith("/"):
                yield from self._walk(entry.path, key, prefix, after)
                continue
            with suppress(FileNotFoundError):
                # The status is read now, not with the listing: the object may have been replaced or removed since.
                status = _status(entry.path)
                updated = datetime.fromtimestamp(status.st_mtime, UTC)
                yield Entry(key, status.st_mtime_ns, status.st_size, updated)

    def _path(self, key: str) -> Path:
        return Path(self._name(key))

    def _name(self, key: str) -> str:
        """The path of a key's file, as text: a path object for each of 500,000 keys takes seconds."""
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
        return "/".join((str(self._root), *parts))

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Exclude all other writers of the key. Threads too, because each call opens the lock file anew."""
        for folder in (self._locks, self._temporary):
            folder.mkdir(exist_ok=True, mode=0o700)  # Tools that copy a store may skip empty folders.
        lock = os.open(self._locks / f"{crc32(key.encode()) % LOCKS:02d}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # The kernel drops it when a process dies, so no lock can be left over.
            yield
        finally:
            os.close(lock)

    def _make_folder(self, folder: Path) -> None:
        """Create the folder and make each level durable in its parent.

        A folder that exists is synced too: its creator may have died before it synced the parent.
        """
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
            if not written.strip():  # No marker yet, or a power cut left it empty.
                self._make_root()
                self._temporary.mkdir(exist_ok=True, mode=0o700)
                body = json.dumps({"layout": LAYOUT}).encode() + b"\n"
                self._replace(marker, body, time.time_ns())
            elif (layout := _layout_of(written, marker)) > LAYOUT:
                raise LayoutError(f"{self._root} has layout {layout}; this version reads layouts up to {LAYOUT}")
            self._remove_stale()
        except OSError as error:
            _fail(error, f"open {self._root} as")

    def _make_root(self) -> None:
        """Create the store's folder and its missing parents, each durable in its own parent.

        Parents that exist are synced too, up to the mount: their creator may have died before it synced them.
        """
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        device = self._root.stat().st_dev
        for folder in self._root.parents:
            with suppress(PermissionError):  # This user may not be allowed to open the folder.
                if folder.stat().st_dev != device:
                    return
                _sync_folder(folder)

    def _check_existing(self) -> None:
        """Raise unless there is a store that this version reads; change nothing."""
        marker = self._root / ".layout"
        try:
            if not self._root.is_dir() or not any(self._root.iterdir()):
                raise NoStoreError(f"there is no store at {self._root}")
            written = marker.read_bytes() if marker.exists() else b""
            if written.strip() and (layout := _layout_of(written, marker)) > LAYOUT:
                raise LayoutError(f"{self._root} has layout {layout}; this version reads layouts up to {LAYOUT}")
        except OSError as error:
            _fail(error, f"open {self._root} as")

    def _remove_stale(self) -> None:
        now = time.time()
        for path in self._temporary.iterdir() if self._temporary.is_dir() else ():
            with suppress(OSError):  # Another process may remove it, or the store may be read-only.
                if now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def _may_hold(start: str, prefix: str, after: str) -> bool:
    """Whether a key that begins with `start` can begin with `prefix` and sort after `after`."""
    in_prefix = start.startswith(prefix) or prefix.startswith(start)
    return in_prefix and (start > after or after.startswith(start))


_REMEDIES = {
    errno.ENOSPC: "Free space on the store's disk. Delivery of stored events continues and frees space too.",
    errno.EDQUOT: "Raise the disk quota of the store's user, or free space.",
    errno.EROFS: "The store's disk is mounted read-only. Find the reason in the kernel log, then mount it read-write.",
    errno.EACCES: "Run the connector as the owner of the store's folder, or change the owner.",
    errno.EPERM: "Run the connector as the owner of the store's folder, or change the owner.",
}


def _layout_of(written: bytes, marker: Path) -> int:
    try:
        return int(json.loads(written)["layout"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LayoutError(
            f"{marker} is damaged",
            remedy=f'Restore it from a backup. This version writes {{"layout": {LAYOUT}}} into it.',
        ) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file. Opening a pipe would otherwise wait until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A symbolic link that leads back to itself.
        return False


def _status(path: str | Path) -> os.stat_result:
    """The status of a file; of a symbolic link that leads back to itself, the link's."""
    try:
        return os.stat(path)  # noqa: PTH116 - without a path object for each of 60,000 entries
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return os.lstat(path)


def _generation(path: Path) -> int:
    try:
        status = _status(path)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    # A folder holds other keys; it is not an object.
    return ABSENT if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fail(error: OSError, action: str) -> NoReturn:
    """Raise StoreError with the operating system's reason, without the path of a temporary file."""
    remedy = _REMEDIES.get(error.errno or 0)
    raise StoreError(f"cannot {action} the store: {error.strerror or error}", remedy=remedy) from error
