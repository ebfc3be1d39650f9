"""Connections to the engine: to its Unix socket, or over TLS to a relay in front of it."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lib.errors import EngineDownError

CONNECT_SECONDS = 5.0
RECEIVE_BYTES = 64 << 10
RELAY_REMEDY = (
    "Check that the relay runs, that this machine can reach it, and that `engine_access` holds the credentials that it "
    "needs (it closes the connection if a client certificate is missing or expired). Waiting batches are sent later."
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials for a relay, as PEM, and the CA of the relay's certificate."""

    ca: bytes | None = None
    """None: the public CAs."""
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


class Connection:
    """A non-blocking connection; only `wait` waits."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0)
        self._socket = connected
        self._poll = select.poll()

    def send(self, data: bytearray) -> int:
        """Send as many bytes as possible now and return their number; OSError if the connection is closed."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def receive(self) -> bytes | None:
        """Received bytes; None if there are none now, empty at the end. OSError if the connection is broken."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def wait(self, seconds: float, *, writes: bool) -> None:
        """Wait at most so many seconds until bytes can be received or, with `writes`, sent."""
        # TLS reads whole records, and no record is longer than RECEIVE_BYTES. So no bytes stay in OpenSSL's buffer,
        # where poll would not see them.
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if writes else 0))
        self._poll.poll(math.ceil(max(0.0, seconds) * 1000))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class SocketChannel:
    """Connections to the engine's Unix socket."""

    authority, scheme = "localhost", "http"
    token: str | None = None
    remedy: str | None = None
    """The remedy for an unreachable engine; None: that of EngineDownError."""

    def __init__(self, path: str) -> None:
        self.place = self._path = path

    def connect(self, seconds: float) -> Connection:
        """A connection; EngineDownError names the reason if the socket cannot be used."""
        return Connection(_connected(self._path, seconds))

    def reach(self) -> None:
        """Raise EngineDownError if the socket refuses connections: a retry within the same call would not help."""
        reach(self._path)

    def renew(self) -> None:
        """Do nothing: no credentials are kept."""


class RelayChannel:
    """Connections to a relay, over TLS."""

    scheme = "https"
    remedy = RELAY_REMEDY

    def __init__(self, target: str, credentials: Callable[[], Credentials]) -> None:
        """`target` is `grpcs://host:port`. `credentials` is called at the first use, and again after `renew`."""
        self.place = target
        self.authority = target.removeprefix("grpcs://")
        self._credentials = credentials
        self._shown: tuple[ssl.SSLContext, str | None] | None = None

    @property
    def token(self) -> str | None:
        """The bearer token of calls; None: no token."""
        return self._resolved()[1]

    def connect(self, seconds: float) -> Connection:
        """A connection; EngineDownError names the reason if that fails."""
        address = urlsplit(f"//{self.authority}")
        host = address.hostname or ""
        context, _ = self._resolved()
        try:
            plain = socket.create_connection((host, address.port or 443), timeout=seconds)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = context.wrap_socket(plain, server_hostname=host)  # closes `plain` if it fails
        except OSError as error:
            raise self._unreachable(_reason(error)) from None
        if secured.selected_alpn_protocol() != "h2":
            secured.close()
            raise self._unreachable("the server there does not speak HTTP/2")
        return Connection(secured)

    def reach(self) -> None:
        """Do nothing: an unreachable relay may return within seconds, so connecting is retried."""

    def renew(self) -> None:
        """Resolve the credentials again at the next use: they may have been replaced."""
        self._shown = None

    def _resolved(self) -> tuple[ssl.SSLContext, str | None]:
        if self._shown is None:
            shown = self._credentials()
            try:
                self._shown = _context(shown), shown.token
            except (OSError, ValueError) as error:
                raise self._unreachable(
                    f"the credentials in `engine_access` cannot be used: {_reason(error)}"
                ) from None
        return self._shown

    def _unreachable(self, reason: str) -> EngineDownError:
        return EngineDownError(f"the relay at {self.place} cannot be reached: {reason}", remedy=RELAY_REMEDY)


def _context(shown: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=None if shown.ca is None else shown.ca.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if shown.certificate is not None:
        # Python loads a key from a file only. This file is in memory, because the key must not be on a disk.
        file = os.memfd_create("engine_access", os.MFD_CLOEXEC)
        try:
            os.write(file, shown.certificate + b"\n" + (shown.key or b""))
            context.load_cert_chain(f"/proc/self/fd/{file}", password="")
        finally:
            os.close(file)
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def socket_path(target: str) -> str | None:
    """The path of `unix:/path` or `unix:///path`; None for any other target."""
    return target.removeprefix("unix:").removeprefix("//") if target.startswith("unix:") else None


def reach(path: str) -> None:
    """Connect to the socket and close; EngineDownError names the reason if that fails."""
    _connected(path, CONNECT_SECONDS).close()


def _connected(path: str, seconds: float) -> socket.socket:
    with suppress(OSError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise EngineDownError(
                f"{path} is not a socket",
                remedy="Set `engine` to the engine's socket: sockets/engine_server.sock in UTMStack's work folder.",
            )
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(seconds)
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise _unreachable(error, path) from None
    return connection


def _unreachable(error: OSError, path: str) -> EngineDownError:
    """The error for a socket that cannot be used, with the remedy of each reason."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return EngineDownError(
                f"the engine's socket {path} is missing",
                remedy="Start UTMStack's event processor, and mount its sockets folder (not the file) on this machine.",
            )
        case errno.ECONNREFUSED:
            return EngineDownError(
                f"no process listens on the engine's socket {path}: connection refused",
                remedy="Start UTMStack's event processor. The socket file is left from its last run.",
            )
        case errno.EACCES | errno.EPERM:
            return EngineDownError(
                f"no permission to connect to the engine's socket {path}",
                remedy="Run as root or as the socket's owner, or give this user write permission on the socket.",
            )
    return EngineDownError(f"the engine's socket {path} cannot be used: {error.strerror or error}")
