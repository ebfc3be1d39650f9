"""The way to a host, station by station, just as the HTTP client goes it: name, connection, certificate."""

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

STATION_SECONDS = 5.0
"""How long a connection, and then a TLS handshake, may take."""
_TUNNEL = re.compile(r"Tunnel connection failed: \d{3}")
_CLOCK = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_OTHER_NAME = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a host; each method goes it up to one station, and says in a sentence how that was."""

    url: str
    proxy: str | None
    """The URL of the proxy that stands between."""
    verify: bool | str
    """As `requests` means it: certificates of its own, or a file or folder of them."""

    @property
    def host(self) -> str:
        """The host, with its port where that is a special one."""
        return urlsplit(self.url).netloc

    def check(self) -> None:
        """Look at what the way is made of here, without going it: the proxy's address, and whom to trust."""
        if self.proxy and self.proxy.startswith("socks"):
            if find_spec("socks") is None:
                raise ProxyDownError(
                    "the proxy is a SOCKS proxy, and the Python package PySocks is not installed",
                    remedy="Install PySocks, or name an HTTP proxy as `sophos.proxy` or HTTPS_PROXY.",
                )
        elif self.proxy and (fault := proxy_fault(self.proxy)):
            raise ProxyDownError(
                f"the proxy's address cannot be used: it {fault}",
                remedy="Correct `sophos.proxy` or HTTPS_PROXY: scheme, name, a port up to 65535, no blank at the end.",
            )
        if urlsplit(self.url).scheme == "https":
            self._context()

    def resolve(self) -> str:
        """Look up the name; NameUnknownError where there is none."""
        self.check()
        host, port = self._first()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameUnknownError(
                f"the name {host} cannot be resolved: {getattr(error, 'strerror', None) or 'no such name'}",
                remedy=f"Make DNS on this machine resolve {host} (`getent hosts {host}`; /etc/resolv.conf).",
            ) from None
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        return f"{host} is {', '.join(addresses[:3])}"

    def connect(self) -> str:
        """Open a connection, to the proxy where there is one; SophosDownError where nobody answers."""
        host, port = self._first()
        try:
            socket.create_connection((host, port), timeout=STATION_SECONDS).close()
        except OSError as error:
            raise self._unreached(error)(
                f"{host} port {port} cannot be reached: {_reason(error)}",
                remedy=f"Allow outbound TCP port {port} to {host}: firewall, routes, "
                f"{'the address in `sophos.proxy` or HTTPS_PROXY' if self.proxy else 'or `sophos.proxy` for a proxy'}.",
            ) from None
        return f"{host} takes connections on port {port}" + (" (the proxy)" if self.proxy else "")

    def secure(self) -> str | None:
        """Do a TLS handshake; None where the way needs none. TlsBrokenError names who broke it."""
        parts = urlsplit(self.url)
        if parts.scheme != "https":
            return None
        if self.proxy and urlsplit(self.proxy).scheme != "http":
            return f"{self.host} is behind a proxy that only the request itself can try"
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
                remedy="A proxy or firewall ends the connection. Check both for *.sophos.com.",
            ) from None
        return f"{self.host} has {version} and a certificate of {_organization(shown or {})}"

    def _unreached(self, error: Exception) -> type[SophosDownError]:
        if self.proxy:
            return ProxyDownError
        if isinstance(error, ConnectionRefusedError):
            return NotListeningError
        return NoAnswerError if isinstance(error, TimeoutError) else NetworkDownError

    def _first(self) -> tuple[str, int]:
        """Host and port that a connection goes to."""
        parts = urlsplit(self.proxy or self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def _context(self) -> ssl.SSLContext:
        place = DEFAULT_CA_BUNDLE_PATH if self.verify is True else str(self.verify)
        is_folder = Path(place).is_dir()
        try:
            return ssl.create_default_context(cafile=None if is_folder else place, capath=place if is_folder else None)
        except OSError as error:
            raise TlsBrokenError(
                f"the certificates to trust, {place}, cannot be read: {_reason(error)}",
                remedy="Put the file there, or correct `sophos.ca_bundle` (or REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE).",
            ) from None

    def _tunnelled(self, context: ssl.SSLContext) -> HTTPSConnection:
        host, port = self._first()
        connection = HTTPSConnection(host, port, timeout=STATION_SECONDS, context=context)
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
            remedy = "Another server answers under this name. Check DNS, /etc/hosts and the proxy."
        else:
            remedy = TlsBrokenError.remedy
        return TlsBrokenError(f"{text} {self._issuer()}", remedy=remedy)

    def _issuer(self) -> str:
        """Whose certificate it is, whether it is to be trusted or not; nothing is sent."""
        from cryptography import x509  # noqa: PLC0415 - heavy, and only who is refused waits for it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with closing(self._tunnelled(context)) as connection:
                connection.connect()
                shown = connection.sock.getpeercert(binary_form=True) or b""
            names = [str(each.value) for each in x509.load_der_x509_certificate(shown).issuer]
        except (OSError, HTTPException, ValueError):
            return "nobody who could be asked again"
        return repr(", ".join(names)[:200])


def _reason(error: Exception) -> str:
    """Why, in the system's words where there are any."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    # No more of a proxy's own words than its status: it was shown a password.
    told = _TUNNEL.match(str(error))
    return getattr(error, "strerror", None) or (told[0] if told else type(error).__name__)


def _organization(certificate: Mapping[str, Any]) -> str:
    """Who issued it."""
    names = dict(pair for each in certificate.get("issuer", ()) for pair in each)
    return repr(names.get("organizationName") or names.get("commonName") or "nobody")
