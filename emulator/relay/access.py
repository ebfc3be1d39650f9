"""Who may call the relay: certificates and tokens, read anew when their files change."""

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
    """What `read` makes of some files, made again when one of them has changed; safe between threads."""

    def __init__(self, files: Sequence[str], read: Callable[[], T]) -> None:
        """ConfigError where they cannot be used at the start."""
        self._files = [Path(file) for file in files]
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._signature()
        self.value = read()

    def changed(self) -> bool:
        """Read them again where they have changed; ConfigError where they cannot be used: `value` stays."""
        with self._lock:
            now = self._signature()
            if now == self._seen:
                return False
            self._seen = now
            self.value = self._read()
            return True

    def _signature(self) -> tuple[Signature, ...]:
        return tuple(map(signature_of, self._files))


class Tokens:
    """The tokens that a file holds, one a line; empty lines, and those that begin with #, count for nothing."""

    def __init__(self, file: str) -> None:
        """ConfigError where the file holds none that can be used."""
        self._file = file
        self._files = _Files([file], self._read)

    def accepts(self, authorization: str) -> bool:
        """Whether the header is `Bearer`, and one of the tokens that the file holds now.

        The time that it takes tells nothing of the tokens. Where the file can no longer be used, nobody is let in.
        """
        try:
            if self._files.changed():
                log.info("tokens read again: %d are accepted", len(self._files.value))
        except ConfigError as error:
            self._files.value = ()
            log.error("%s; nobody is let in. %s", error, error.remedy)  # noqa: TRY400 - the text says it all
        return is_among(bearer(authorization), self._files.value)

    def _read(self) -> tuple[bytes, ...]:
        text = _content(self._file).decode("utf-8", "replace")
        tokens = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        if not tokens or any(len(token) < SHORTEST_KEY for token in tokens):
            raise ConfigError(
                f"relay.tokens: {self._file} holds no token, or one of under {SHORTEST_KEY} characters",
                remedy="Write one token a line, such as `openssl rand -base64 32` makes.",
            )
        return tuple(digest_of(each) for each in tokens)


class Certificates:
    """The relay's certificate and key, and whose certificates callers show."""

    def __init__(self, certificate: str, key: str, client_ca: str | None) -> None:
        """ConfigError where they cannot be used."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._files = _Files([certificate, key, *filter(None, [client_ca])], self._read)

    def context(self) -> ssl.SSLContext:
        """For the next connection: what the files hold now, or, where that cannot be used (yet), what they held."""
        try:
            if self._files.changed():
                log.info("certificates read again")
        except ConfigError as error:
            log.error("%s; the former certificates are used on. %s", error, error.remedy)  # noqa: TRY400
        return self._files.value

    def _read(self) -> ssl.SSLContext:
        for each in filter(None, [self._certificate, self._key, self._client_ca]):
            _content(each)  # says which one cannot be read
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        # A ticket would let a caller in whose certificate has ended meanwhile.
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
                remedy="relay.certificate, key and client_ca are PEM files; the key belongs to the certificate, "
                "and has no passphrase.",
            ) from None
        return context


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", remedy="Correct the path or its permissions."
        ) from None
