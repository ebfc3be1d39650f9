"""An object store in a bucket of Google Cloud Storage.

Every write and every removal has a generation as its precondition. So it can be repeated: if the same request arrives
twice, the service refuses the second one (https://cloud.google.com/storage/docs/retry-strategy). Such a refusal may
follow our own success, if the answer to the first request was lost. Therefore each upload puts a unique mark into the
object's metadata. After a refusal, the mark shows if the object is our own.

CRC32C protects the bytes in both directions: the service refuses a damaged upload, and the client a damaged download.
In tests, `STORAGE_EMULATOR_HOST` (a URL) replaces the service; the library reads it.
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
"""The metadata field with the unique mark of an upload."""
CONNECTIONS = 32
"""Open connections: one for each thread that uses a store at once."""
LONGEST = 1024
"""The limit of an object's name in bytes (https://cloud.google.com/storage/docs/objects#naming)."""
TIMEOUT = (5.0, 20.0)
"""Seconds to connect, and seconds to wait for the next bytes."""
PATIENCE = 20.0
"""Seconds for which a failed call is repeated."""
RETRY = DEFAULT_RETRY.with_delay(initial=0.2, maximum=3.0, multiplier=2.0)
"""The delays between repeats. Every request of this module can be repeated (see above)."""
PERMISSION = (
    "Give this service account the role Storage Object User (roles/storage.objectUser) on the bucket. "
    "No object is half-written."
)


def place_of(location: str) -> tuple[str, str]:
    """Bucket and prefix of `gs://bucket/prefix`; the prefix is empty or ends with a slash."""
    bucket, _, prefix = location.removeprefix(SCHEME).partition("/")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def read_object(location: str) -> bytes:
    """The bytes of the object at `gs://bucket/name`; ConfigError if it does not exist."""
    bucket, _, name = location.removeprefix(SCHEME).partition("/")
    with _as_store_errors(location, bucket):
        stored = _download(_client().bucket(bucket), name, RETRY.with_timeout(PATIENCE))
    if stored is None:
        raise ConfigError(f"{location} does not exist", remedy="Correct the bucket and the object's name.")
    return stored.body


class GcsStore:
    """A store in a bucket, below a prefix; safe between threads, processes and machines."""

    def __init__(self, location: str, *, patience: float = PATIENCE, create: bool = True) -> None:
        """Open the store at `gs://bucket/prefix`. Without `create`, a missing store raises NoStoreError.

        Raises LayoutError if a newer version wrote the store. `patience` is in seconds.
        """
        self._retry = RETRY.with_timeout(patience)
        self._name, self._prefix = place_of(location)
        with _as_store_errors(location, self._name):
            self._client = _client()
            self._bucket = self._client.bucket(self._name)
            self._open(location, create=create)

    def read(self, key: str) -> Stored | None:
        """The object; None if there is none."""
        name = self._object(key)
        with _as_store_errors(key, self._name):
            return _download(self._bucket, name, self._retry)

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """Replace the object if its generation is still `expected`, durably; return the new generation."""
        name = self._object(key)
        with _as_store_errors(key, self._name):
            return self._upload(name, body, expected)

    def delete(self, key: str, *, expected: int) -> None:
        """Remove the object if its generation is still `expected`."""
        blob = self._bucket.blob(self._object(key))
        if expected == ABSENT:
            raise ConflictError(f"{key}: an object without a generation cannot be removed")
        attempts = 0

        def remove() -> None:
            nonlocal attempts
            attempts += 1
            # Repeated by `self._retry`, not by the library: only then the attempts are counted.
            blob.delete(if_generation_match=expected, timeout=TIMEOUT, retry=None)

        with _as_store_errors(key, self._name):
            try:
                self._retry(remove)()
            except PreconditionFailed:
                raise ConflictError(f"{key} is not at generation {expected}") from None
            except NotFound:
                # After a repeat, the first attempt or another run removed the object: the goal is reached.
                if attempts == 1:
                    raise ConflictError(f"{key} is gone") from None

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Objects whose key begins with `prefix` and sorts after `after`, in order of key."""
        with _as_store_errors(prefix, self._name):
            blobs = self._client.list_blobs(
                self._bucket,
                prefix=self._prefix + prefix or None,
                start_offset=self._prefix + after if after else None,
                fields="items(name,generation,size,updated),nextPageToken",
                timeout=TIMEOUT,
                retry=self._retry,
            )
            for blob in blobs:
                key = blob.name.removeprefix(self._prefix)
                # Cloud Storage lists `after` itself too. A name with a leading dot is the marker, not an object.
                if key > after and not key.startswith("."):
                    yield Entry(key, int(blob.generation), int(blob.size), blob.updated)

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        """Every path of `depth` segments below `prefix` with an object below it, in order."""
        with _as_store_errors(prefix, self._name):
            listing = self._client.list_blobs(
                self._bucket,
                prefix=self._prefix + prefix,
                delimiter="/",
                fields="prefixes,nextPageToken",
                timeout=TIMEOUT,
                retry=self._retry,
            )
            for _ in listing.pages:  # Reading a page adds to the listing's prefixes.
                pass
        for below in sorted(name.removeprefix(self._prefix) for name in listing.prefixes):
            if depth > 1:
                yield from self.folders(below, depth - 1)
            else:
                yield below[:-1]

    def _object(self, key: str) -> str:
        segments_of(key)
        name = self._prefix + key
        if len(name.encode()) > LONGEST:
            raise ConfigError(
                f"{key}: the name is longer than Cloud Storage's limit of {LONGEST} bytes",
                remedy="Give the integration a shorter name, or the store a shorter prefix.",
            )
        return name

    def _upload(self, name: str, body: bytes, expected: int) -> int:
        mark = uuid4().hex

        def send() -> int:
            # A new blob for each attempt, but one mark: after a lost answer it identifies any attempt of this call.
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
            # If the object carries our mark, an attempt succeeded but its answer was lost.
            present = self._bucket.get_blob(name, timeout=TIMEOUT, retry=self._retry)
            if present is not None and (present.metadata or {}).get(MARK) == mark:
                return int(present.generation)
            # An upload to an object that is gone gives 412 too. 404 means that the bucket does not exist.
            if isinstance(refusal, NotFound):
                raise
            generation_now = ABSENT if present is None else present.generation
            key = name.removeprefix(self._prefix)
            raise ConflictError(f"{key} is at generation {generation_now}, not {expected}") from None
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
                self._open(location)  # Another process created it just now.
            return
        try:
            layout = int(json.loads(stored.body)["layout"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LayoutError(
                f"{location}/{MARKER} is damaged",
                remedy=f'Restore it from a backup. This version writes {{"layout": {LAYOUT}}} into it.',
            ) from None
        if layout > LAYOUT:
            raise LayoutError(f"{location} has layout {layout}; this version reads layouts up to {LAYOUT}")


def _client() -> Client:
    # Otherwise the library reads the bucket's properties too: one more call for each object that does not exist.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # The library demands a project, but a bucket's name is enough to address objects.
    client = Client(project="none")
    for scheme in ("https://", "http://"):
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        client._http.mount(scheme, adapter)  # noqa: SLF001 - the library has no public way
    return client


def _download(bucket: Bucket, name: str, retry: Retry) -> Stored | None:
    def fetch() -> Stored:
        # Each attempt needs a new blob: a used one asks only for the generation that it saw.
        blob = bucket.blob(name)
        try:
            body = blob.download_as_bytes(checksum="crc32c", timeout=TIMEOUT, retry=None)
        except DataCorruption:
            raise ConnectionError(f"{name} was damaged in transit") from None  # This error is retried.
        return Stored(body, int(blob.generation))

    try:
        stored: Stored = retry(fetch)()
    except NotFound:
        return None
    return stored


@contextmanager
def _as_store_errors(name: str, bucket: str) -> Iterator[None]:
    """Turn the library's errors into StoreError with a remedy; `name` is the object or prefix in use."""
    try:
        yield
    except NotFound:
        raise StoreError(
            f"the bucket {bucket} does not exist ({name})",
            remedy="Create the bucket, or correct `store` in the configuration. Nothing was written.",
        ) from None
    except (Forbidden, Unauthorized) as error:
        raise StoreError(f"the bucket {bucket} denies access to {name}: {_reason(error)}", remedy=PERMISSION) from None
    except GoogleAuthError as error:
        raise StoreError(
            f"there are no usable credentials for the bucket {bucket}: {type(error).__name__}",
            remedy="Attach a service account, or set GOOGLE_APPLICATION_CREDENTIALS to its key file.",
        ) from None
    except (GoogleAPIError, InvalidResponse, RequestException, ConnectionError) as error:
        raise StoreError(
            f"Cloud Storage failed at {name}: {_reason(error)}",
            remedy="Nothing to do: the connector tries again. If it lasts, check the network to Cloud Storage.",
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = cause
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"[:300]
