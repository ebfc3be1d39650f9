"""Tests the network path to a host step by step, as the HTTP client uses it: name, connection, certificate."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from lib.errors import (
    NameUnknownError,
    NetworkDownError,
    NoAnswerError,
    NotListeningError,
    ProxyDownError,
    SophosDownError,
    TlsBrokenError,
)
from lib.model.host import proxy_fault

STEP_SECONDS = 5.0
"""The timeout of a connection, and of a TLS handshake."""
_TUNNEL = re.compile(r"Tunnel connection failed: \d{3}")
_SET_PROXY = "If this machine needs a proxy, set `sophos.proxy`."
_CLOCK = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_OTHER_NAME = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class SophosNetworkPath:
    """The network path to a host. Each method tests one step and returns its result in a sentence."""

    url: str
    proxy: str | None
    """The URL of the proxy; None: no proxy."""
    verify: bool | str
    """The option of `requests`: True for its own certificates, or the path of a file or folder of certificates."""

    @property
    def host(self) -> str:
        """The host, with its port if the URL names one."""
        return urlsplit(self.url).netloc

    def check(self) -> None:
        """Check the proxy's address and the certificates, without a connection; ProxyDownError, TlsBrokenError."""
        if self.proxy and self.proxy.startswith("socks"):
            if find_spec("socks") is None:
                raise ProxyDownError(
                    "the proxy is a SOCKS proxy, but the Python package PySocks is not installed",
                    remedy="Install PySocks, or set `sophos.proxy` or HTTPS_PROXY to an HTTP proxy.",
                )
        elif self.proxy and (fault := proxy_fault(self.proxy)):
            raise ProxyDownError(
                f"the proxy's address cannot be used: it {fault}",
                remedy="Correct `sophos.proxy` or HTTPS_PROXY: scheme, host, a port up to 65535, no space at the end.",
            )
        if urlsplit(self.url).scheme == "https":
            self._context()

    def resolve(self) -> str:
        """Resolve the name; NameUnknownError if it cannot be resolved."""
        self.check()
        host, port = self._first()
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameUnknownError(
                f"the name {host} cannot be resolved: {getattr(error, 'strerror', None) or 'no such name'}",
                remedy=f"Make DNS on this machine resolve {host} (`getent hosts {host}`; /etc/resolv.conf).",
            ) from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        return f"{host} has the address {', '.join(addresses[:3])}"

    def connect(self) -> str:
        """Open a connection, to the proxy if there is one; SophosDownError if that fails."""
        host, port = self._first()
        try:
            socket.create_connection((host, port), timeout=STEP_SECONDS).close()
        except OSError as error:
            raise self._unreached(error)(
                f"{host} port {port} cannot be reached: {_reason(error)}",
                remedy=f"Allow outbound TCP port {port} to {host} (firewall, routes). "
                f"{'Check the address in `sophos.proxy` or HTTPS_PROXY.' if self.proxy else _SET_PROXY}",
            ) from None
        return f"{host} accepts connections on port {port}" + (" (the proxy)" if self.proxy else "")

    def secure(self) -> str | None:
        """Do a TLS handshake; None without TLS. TlsBrokenError names the certificate's issuer."""
        parts = urlsplit(self.url)
        if parts.scheme != "https":
            return None
        if self.proxy and urlsplit(self.proxy).scheme != "http":
            return f"{self.host} is behind a proxy of another kind than HTTP; only a request can test TLS"
        try:
            with closing(self._tunnelled(self._context())) as connection:
                connection.connect()
                version, shown = connection.sock.version(), connection.sock.getpeercert()
        except ssl.SSLCertVerificationError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException) as error:
            kind = TlsBrokenError if isinstance(error, ssl.SSLError) else self._unreached(error)
            raise kind(
                f"no TLS connection to {self.host}: {_reason(error)}",
                remedy="A proxy or firewall ends the connection. Allow *.sophos.com in both.",
            ) from None
        return f"{self.host} uses {version} and a certificate issued by {_organization(shown or {})}"

    def _unreached(self, error: Exception) -> type[SophosDownError]:
        if self.proxy:
            return ProxyDownError
        if isinstance(error, ConnectionRefusedError):
            return NotListeningError
        return NoAnswerError if isinstance(error, TimeoutError) else NetworkDownError

    def _first(self) -> tuple[str, int]:
        """Host and port of the first connection: the proxy's, or the host's own."""
        parts = urlsplit(self.proxy or self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def _context(self) -> ssl.SSLContext:
        place = DEFAULT_CA_BUNDLE_PATH if self.verify is True else str(self.verify)
        is_folder = Path(place).is_dir()
        try:
            return ssl.create_default_context(cafile=None if is_folder else place, capath=place if is_folder else None)
        except OSError as error:
            raise TlsBrokenError(
                f"the trusted certificates in {place} cannot be read: {_reason(error)}",
                remedy="Correct `sophos.ca_bundle` (or REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE), or create that file.",
            ) from None

    def _tunnelled(self, context: ssl.SSLContext) -> HTTPSConnection:
        host, port = self._first()
        connection = HTTPSConnection(host, port, timeout=STEP_SECONDS, context=context)
        if self.proxy:
            parts = urlsplit(self.url)
            headers = {key: str(value) for key, value in HTTPAdapter().proxy_headers(self.proxy).items()}
            connection.set_tunnel(parts.hostname or "", parts.port or 443, headers)
        return connection

    def _refused(self, error: ssl.SSLCertVerificationError) -> TlsBrokenError:
        text = f"the certificate of {self.host} is not accepted: {error.verify_message}; it was issued by"
        if error.verify_code in _CLOCK:
            remedy = f"Check this machine's clock; it shows {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC."
        elif error.verify_code in _OTHER_NAME:
            remedy = "Another server answers for this name. Check DNS, /etc/hosts and the proxy."
        else:
            remedy = TlsBrokenError.remedy
        return TlsBrokenError(f"{text} {self._issuer()}", remedy=remedy)

    def _issuer(self) -> str:
        """The issuer of the refused certificate. This connects again without verification, and sends nothing."""
        from cryptography import x509  # noqa: PLC0415 - a heavy import that only this error needs

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with closing(self._tunnelled(context)) as connection:
                connection.connect()
                shown = connection.sock.getpeercert(binary_form=True) or b""
            names = [str(attribute.value) for attribute in x509.load_der_x509_certificate(shown).issuer]
        except (OSError, HTTPException, ValueError):
            return "unknown"
        return repr(", ".join(names)[:200])


def _reason(error: Exception) -> str:
    """The reason of an error, in the operating system's words if there are any."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    # Only the status of a proxy's answer is repeated: its text could hold the password that it was sent.
    status = _TUNNEL.match(str(error))
    return getattr(error, "strerror", None) or (status[0] if status else type(error).__name__)


def _organization(certificate: Mapping[str, Any]) -> str:
    """The name of the certificate's issuer."""
    names = dict(pair for part in certificate.get("issuer", ()) for pair in part)
    return repr(names.get("organizationName") or names.get("commonName") or "unknown")
