"""The way to the engine: its Unix socket, or TLS to a relay in front of it, and what is shown to that."""

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
    "Check that the relay runs, that this host reaches it, and that `engine_access` is what the relay asks for "
    "(it hangs up on a missing or expired client certificate); waiting batches are kept and sent by themselves."
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a relay is shown, and whom its certificate has to come from; PEM."""

    ca: bytes | None = None
    """None: the authorities that everybody trusts."""
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


class Connection:
    """A connection that never waits, but in `wait`."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0)
        self._socket = connected
        self._poll = select.poll()

    def send(self, data: bytearray) -> int:
        """Send what can be sent now; how many bytes. OSError where nothing can be sent any more."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def receive(self) -> bytes | None:
        """What has come; None where nothing has, empty at the end. OSError where the connection is broken."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def wait(self, seconds: float, *, writes: bool) -> None:
        """Wait until something can be received or, where that is wanted, sent; no longer than so many seconds."""
        # TLS reads record by record, and none is longer than what `receive` takes: nothing is left where poll is blind.
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if writes else 0))
        self._poll.poll(math.ceil(max(0.0, seconds) * 1000))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class SocketChannel:
    """Connections to the engine's Unix socket."""

    authority, scheme = "localhost", "http"
    token: str | None = None
    remedy: str | None = None
    """What to do about an engine that is down, where it is not what EngineDownError says."""

    def __init__(self, path: str) -> None:
        self.place = self._path = path

    def connect(self, seconds: float) -> Connection:
        """A connection; EngineDownError says which of the ways to miss a socket it was."""
        return Connection(_connected(self._path, seconds))

    def reach(self) -> None:
        """EngineDownError where nobody takes connections: there, a retry in the same call is of no use."""
        reach(self._path)

    def renew(self) -> None:
        """Nothing is remembered from one connection to the next."""


class RelayChannel:
    """Connections to a relay, over TLS."""

    scheme = "https"
    remedy = RELAY_REMEDY

    def __init__(self, target: str, credentials: Callable[[], Credentials]) -> None:
        """`target` is `grpcs://host:port`; `credentials` are asked for at first, and again after `renew`."""
        self.place = target
        self.authority = target.removeprefix("grpcs://")
        self._credentials = credentials
        self._shown: tuple[ssl.SSLContext, str | None] | None = None

    @property
    def token(self) -> str | None:
        """The bearer token that calls show."""
        return self._known()[1]

    def connect(self, seconds: float) -> Connection:
        """A connection; EngineDownError says why there is none."""
        address = urlsplit(f"//{self.authority}")
        host = address.hostname or ""
        context, _ = self._known()
        try:
            plain = socket.create_connection((host, address.port or 443), timeout=seconds)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = context.wrap_socket(plain, server_hostname=host)  # which closes it where that fails
        except OSError as error:
            raise self._unreachable(_reason(error)) from None
        if secured.selected_alpn_protocol() != "h2":
            secured.close()
            raise self._unreachable("what answers there does not speak HTTP/2")
        return Connection(secured)

    def reach(self) -> None:
        """A relay may be missed for a moment: that is found out by connecting, and tried again."""

    def renew(self) -> None:
        """Ask anew for what is shown: it may have been replaced."""
        self._shown = None

    def _known(self) -> tuple[ssl.SSLContext, str | None]:
        if self._shown is None:
            shown = self._credentials()
            try:
                self._shown = _context(shown), shown.token
            except (OSError, ValueError) as error:
                raise self._unreachable(f"what `engine_access` names cannot be used: {_reason(error)}") from None
        return self._shown

    def _unreachable(self, reason: str) -> EngineDownError:
        return EngineDownError(f"the relay at {self.place} is not reached: {reason}", remedy=RELAY_REMEDY)


def _context(shown: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=None if shown.ca is None else shown.ca.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if shown.certificate is not None:
        # OpenSSL reads files alone, and a key belongs on no disk: this one is in memory.
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
    """The path of `unix:/path` or `unix:///path`; None for what is no socket."""
    return target.removeprefix("unix:").removeprefix("//") if target.startswith("unix:") else None


def reach(path: str) -> None:
    """Connect to the socket and hang up; EngineDownError says which of the ways to miss it it was."""
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
    """Which of the ways to miss a socket it was, and what to do about it."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return EngineDownError(
                f"the engine's socket {path} is missing",
                remedy="Start UTMStack's event processor, and mount its sockets folder (not the file) on this host.",
            )
        case errno.ECONNREFUSED:
            return EngineDownError(
                f"nobody listens on the engine's socket {path}: connection refused",
                remedy="The socket file is a leftover: start UTMStack's event processor again.",
            )
        case errno.EACCES | errno.EPERM:
            return EngineDownError(
                f"no permission to connect to the engine's socket {path}",
                remedy="Run as root or as the socket's owner, or give this user write permission on the socket.",
            )
    return EngineDownError(f"the engine's socket {path} cannot be used: {error.strerror or error}")
