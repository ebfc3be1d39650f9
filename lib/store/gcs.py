"""Objects of a bucket in Google Cloud Storage.

Every write and every removal has a generation as its precondition, so that it can be sent again: where the same request
arrives twice, the second is refused. Such a refusal may be the echo of our own success, whose answer was lost. So each
upload carries a mark of its own in the object's metadata, and a refused one is looked up before it counts as lost
(https://cloud.google.com/storage/docs/retry-strategy).

Bytes are checked both ways by CRC32C: the service refuses an upload, and the client a download, that does not match.
`STORAGE_EMULATOR_HOST` (a URL) stands for the service in tests; the library reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed, Unauthorized
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Bucket, Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import RequestException
from requests.adapters import HTTPAdapter

from lib.errors import ConfigError, ConflictError, LayoutError, NoStoreError, StoreError
from lib.store.base import ABSENT, LAYOUT, Entry, Stored, segments_of

SCHEME = "gs://"
MARKER = ".layout"
MARK = "upload"
"""The metadata that tells an upload from every other."""
CONNECTIONS = 32
"""Kept open: as many as threads use a store at once."""
LONGEST = 1024
"""Bytes of an object's name (https://cloud.google.com/storage/docs/objects#naming)."""
TIMEOUT = (5.0, 20.0)
"""Seconds to connect, and to wait for the next bytes."""
PATIENCE = 20.0
"""Seconds for which a call is tried again."""
RETRY = DEFAULT_RETRY.with_delay(initial=0.2, maximum=3.0, multiplier=2.0)
"""For what may be sent again: here everything (see above)."""
PERMISSION = (
    "Give this service account the role Storage Object User (roles/storage.objectUser) on the bucket; "
    "nothing was half-written."
)


def place_of(location: str) -> tuple[str, str]:
    """Bucket and prefix (empty, or with a slash at its end) of `gs://bucket/prefix`."""
    bucket, _, prefix = location.removeprefix(SCHEME).partition("/")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def read_object(location: str) -> bytes:
    """The bytes of the object at `gs://bucket/name`; ConfigError where there is none."""
    bucket, _, name = location.removeprefix(SCHEME).partition("/")
    with _told(location, bucket):
        stored = _download(_client().bucket(bucket), name, RETRY.with_timeout(PATIENCE))
    if stored is None:
        raise ConfigError(f"{location} does not exist", remedy="Name an object that does.")
    return stored.body


class GcsStore:
    """A store in a bucket, below a prefix; safe between threads, processes and machines."""

    def __init__(self, location: str, *, patience: float = PATIENCE, create: bool = True) -> None:
        """Open the store at `gs://bucket/prefix`; LayoutError where a newer version wrote it, NoStoreError where there
        is none and none is to be made.
        """
        self._retry = RETRY.with_timeout(patience)
        self._name, self._prefix = place_of(location)
        with _told(location, self._name):
            self._client = _client()
            self._bucket = self._client.bucket(self._name)
            self._open(location, create=create)

    def read(self, key: str) -> Stored | None:
        """The object, or None where there is none."""
        name = self._object(key)
        with _told(key, self._name):
            return _download(self._bucket, name, self._retry)

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace the object if it is still at generation `expected`, durably; the new generation."""
        name = self._object(key)
        with _told(key, self._name):
            return self._upload(name, body, expected)

    def delete(self, key: str, *, expected: int) -> None:
        """Remove the object if it is still at generation `expected`."""
        blob = self._bucket.blob(self._object(key))
        if expected == ABSENT:
            raise ConflictError(f"{key}: what must not exist cannot be removed")
        sent = 0

        def remove() -> None:
            nonlocal sent
            sent += 1
            blob.delete(if_generation_match=expected, timeout=TIMEOUT, retry=None)

        with _told(key, self._name):
            try:
                self._retry(remove)()
            except PreconditionFailed:
                raise ConflictError(f"{key} is not at generation {expected}") from None
            except NotFound:
                # Sent more than once, it was the first that removed it, or another run: what was asked for is so.
                if sent == 1:
                    raise ConflictError(f"{key} is gone") from None

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` and sorts after `after`, in order of key."""
        with _told(prefix, self._name):
            found = self._client.list_blobs(
                self._bucket,
                prefix=self._prefix + prefix or None,
                start_offset=self._prefix + after if after else None,
                fields="items(name,generation,size,updated),nextPageToken",
                timeout=TIMEOUT,
                retry=self._retry,
            )
            for blob in found:
                key = blob.name.removeprefix(self._prefix)
                # Cloud Storage lists from `after` on, where that exists; what begins with a dot is no object of ours.
                if key > after and not key.startswith("."):
                    yield Entry(key, int(blob.generation), int(blob.size), blob.updated)

    def _object(self, key: str) -> str:
        segments_of(key)
        name = self._prefix + key
        if len(name.encode()) > LONGEST:
            raise ConfigError(
                f"{key}: Cloud Storage takes names of up to {LONGEST} bytes",
                remedy="Give the integration a shorter name, or the store a shorter prefix.",
            )
        return name

    def _upload(self, name: str, body: bytes, expected: int) -> int:
        mark = uuid4().hex

        def send() -> int:
            blob = self._bucket.blob(name)
            blob.metadata = {MARK: mark}
            blob.upload_from_string(
                body,
                content_type="application/octet-stream",
                if_generation_match=expected,
                checksum="crc32c",
                timeout=TIMEOUT,
                retry=None,
            )
            return int(blob.generation)

        try:
            generation: int = self._retry(send)()
        except (PreconditionFailed, NotFound) as refusal:
            # Where the object bears our mark an answer was lost, and the next try met its own success.
            present = self._bucket.get_blob(name, timeout=TIMEOUT, retry=self._retry)
            if present is not None and (present.metadata or {}).get(MARK) == mark:
                return int(present.generation)
            # An upload to an object that is gone is 412 as well; 404 is the bucket's.
            if isinstance(refusal, NotFound):
                raise
            found = ABSENT if present is None else present.generation
            key = name.removeprefix(self._prefix)
            raise ConflictError(f"{key} is at generation {found}, not {expected}") from None
        return generation

    def _open(self, location: str, *, create: bool = True) -> None:
        name = self._prefix + MARKER
        stored = _download(self._bucket, name, self._retry)
        if stored is None:
            if not create:
                raise NoStoreError(f"there is no store at {location}")
            try:
                self._upload(name, json.dumps({"layout": LAYOUT}).encode() + b"\n", ABSENT)
            except ConflictError:
                self._open(location)  # another process has just made it
            return
        try:
            layout = int(json.loads(stored.body)["layout"])
        except (ValueError, KeyError, TypeError):
            raise LayoutError(f"{location}/{MARKER} cannot be read") from None
        if layout > LAYOUT:
            raise LayoutError(f"{location} has layout {layout}; this version reads layouts up to {LAYOUT}")


def _client() -> Client:
    # Else the library asks for the bucket's own properties too: one call more for each object that is not found.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # Objects are named by their bucket; the library wants some project.
    client = Client(project="none")
    for scheme in ("https://", "http://"):
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        client._http.mount(scheme, adapter)  # noqa: SLF001 - the library has no other way
    return client


def _download(bucket: Bucket, name: str, retry: Retry) -> Stored | None:
    def fetch() -> Stored:
        # Made anew for each try: one that has seen a generation asks for that one only.
        blob = bucket.blob(name)
        try:
            body = blob.download_as_bytes(checksum="crc32c", timeout=TIMEOUT, retry=None)
        except DataCorruption:
            raise ConnectionError(f"{name} was damaged on its way") from None  # which is tried again
        return Stored(body, int(blob.generation))

    try:
        found: Stored = retry(fetch)()
    except NotFound:
        return None
    return found


@contextmanager
def _told(what: str, bucket: str) -> Iterator[None]:
    """The library's failures as the store's own, each with what to do."""
    try:
        yield
    except NotFound:
        raise StoreError(
            f"the bucket {bucket} does not exist ({what})",
            remedy="Make the bucket, or correct `store` in the configuration; nothing was written.",
        ) from None
    except (Forbidden, Unauthorized) as error:
        raise StoreError(f"the bucket {bucket} refuses {what}: {_reason(error)}", remedy=PERMISSION) from None
    except GoogleAuthError as error:
        raise StoreError(
            f"there are no usable credentials for the bucket {bucket}: {type(error).__name__}",
            remedy="Run with a service account attached, or name its key file in GOOGLE_APPLICATION_CREDENTIALS.",
        ) from None
    except (GoogleAPIError, InvalidResponse, RequestException, ConnectionError) as error:
        raise StoreError(
            f"Cloud Storage cannot do that with {what}: {_reason(error)}",
            remedy="Mostly passing, and tried again by itself. If it lasts, check this machine's way to Cloud Storage.",
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = cause
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"[:300]
