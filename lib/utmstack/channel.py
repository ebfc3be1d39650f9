"""The way to the engine: its Unix socket, and what is shown to a relay in front of it."""

from __future__ import annotations

import errno
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lib.errors import EngineDownError

CONNECT_SECONDS = 5.0
RECONNECTION = (
    # An engine that comes back is found soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
OPTIONS = (
    # A Unix socket's path would be sent as :authority; stricter servers than grpc-go reset that (grpc/grpc #38142).
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    # Keepalive stays off: grpc-go takes pings for abuse.
    *RECONNECTION,
)
"""Of a channel to the engine's socket."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a relay is shown, and whom its certificate has to come from; PEM."""

    ca: bytes | None = None
    """None: the authorities that everybody trusts."""
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def socket_path(target: str) -> str | None:
    """The path of `unix:/path` or `unix:///path`; None for what is no socket."""
    return target.removeprefix("unix:").removeprefix("//") if target.startswith("unix:") else None


def reach(path: str) -> None:
    """Connect to the socket and hang up: the system tells apart what gRPC does not. EngineDownError says what it is."""
    with suppress(OSError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise EngineDownError(
                f"{path} is not a socket",
                remedy="Set `engine` to the engine's socket: sockets/engine_server.sock in UTMStack's work folder.",
            )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(path)
    except OSError as error:
        raise _unreachable(error, path) from None


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
