"""Who may call the relay: certificates and tokens. They are read again when their files change."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from lib.config.reloading import Signature, signature_of
from lib.errors import ConfigError
from lib.http.access import SHORTEST_KEY, bearer, digest_of, is_among

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Files(Generic[T]):
    """A value that `read` makes from files, and makes again after a change; safe between threads."""

    def __init__(self, files: Sequence[str], read: Callable[[], T]) -> None:
        """Raises ConfigError if the files cannot be used."""
        self._files = [Path(file) for file in files]
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._signature()
        self.value = read()

    def changed(self) -> bool:
        """Read changed files again; return whether they changed. On ConfigError the old `value` stays."""
        with self._lock:
            now = self._signature()
            if now == self._seen:
                return False
            self._seen = now
            self.value = self._read()
            return True

    def _signature(self) -> tuple[Signature, ...]:
        return tuple(map(signature_of, self._files))


class RelayTokens:
    """The tokens of a file, one a line. Empty lines and lines that begin with # are ignored."""

    def __init__(self, file: str) -> None:
        """Raises ConfigError if the file holds no usable token."""
        self._file = file
        self._files = _Files([file], self._read)

    def accepts(self, authorization: str) -> bool:
        """Whether the header is `Bearer` with one of the file's current tokens.

        The time of the comparison reveals nothing about the tokens. If the file cannot be used any more, no token is
        accepted: a removed token must not stay valid.
        """
        try:
            if self._files.changed():
                log.info("read the token file again; accepted tokens: %d", len(self._files.value))
        except ConfigError as error:
            self._files.value = ()
            log.error("%s; no caller is accepted. %s", error, error.remedy)  # noqa: TRY400 - needs no trace
        return is_among(bearer(authorization), self._files.value)

    def _read(self) -> tuple[bytes, ...]:
        text = _content(self._file).decode("utf-8", "replace")
        tokens = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        if not tokens or any(len(token) < SHORTEST_KEY for token in tokens):
            raise ConfigError(
                f"relay.tokens: {self._file} holds no token, or one shorter than {SHORTEST_KEY} characters",
                remedy="Write one token a line. `openssl rand -base64 32` makes a good one.",
            )
        return tuple(digest_of(token) for token in tokens)


class Certificates:
    """The relay's certificate and key, and the CA of the callers' certificates."""

    def __init__(self, certificate: str, key: str, client_ca: str | None) -> None:
        """Raises ConfigError if the files cannot be used."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._files = _Files([certificate, key, *filter(None, [client_ca])], self._read)

    def context(self) -> ssl.SSLContext:
        """The TLS context for the next connection. If the current files cannot be used, the last good ones stay.

        A renewal replaces two files, one after the other. Between the two, key and certificate do not fit.
        """
        try:
            if self._files.changed():
                log.info("read the certificates again")
        except ConfigError as error:
            log.error("%s; the last good certificates stay in use. %s", error, error.remedy)  # noqa: TRY400
        return self._files.value

    def _read(self) -> ssl.SSLContext:
        for file in filter(None, [self._certificate, self._key, self._client_ca]):
            _content(file)  # Its error names the file; that of `ssl` does not.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        # With a session ticket, a caller could return after its certificate has expired.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        try:
            context.load_cert_chain(self._certificate, self._key, password="")
            if self._client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self._client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the relay's certificates cannot be used: {error}",
                remedy="Check that relay.certificate, key and client_ca are PEM files, that the key belongs to the "
                "certificate, and that it has no passphrase.",
            ) from None
        return context


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", remedy="Correct the path or its permissions."
        ) from None
