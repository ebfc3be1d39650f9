"""HTTP/1.1 on a socket: requests in, answers out, some of them deliberately broken."""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

_MAX_BODY = 256 << 20
_FILLER = b" " * (1 << 20)


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names are case-insensitive."""
    body: bytes
    region: str = ""
    """The host's region, or `global`; empty if one host serves everything."""

    def param(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return self.query.get(name, [None])[0]


@dataclass(slots=True)
class SimulatedAnswer:
    """An answer, with the fault of its transfer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0
    filler: int = 0
    """Bytes of white space before the body."""
    cut: bool = False
    """Whether the connection closes after half the body."""
    dropped: bool = False
    """Whether the connection closes without an answer."""


class Listener(ThreadingHTTPServer):
    """Serves `app` at `address` with one thread for each connection. `now` (Unix milliseconds) gives the Date header.

    With `tls` it serves HTTPS. Each request carries `region`.
    """

    request_queue_size = 512

    def __init__(
        self,
        address: tuple[str, int],
        app: Callable[[Request], SimulatedAnswer],
        now: Callable[[], int],
        *,
        region: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.app = app
        self.now = now
        self.region = region
        self._tls = tls
        self.closing = threading.Event()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)
        self._accepting = threading.Thread(target=self.serve_forever, args=(0.05,), name="central", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._accepting.start()

    def server_bind(self) -> None:
        """Bind without the standard library's lookup of the host name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self.server_name}:{self.server_port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection. Its TLS handshake happens in its own thread, so that a slow client delays no other."""
        connection, client = super().get_request()
        if self._tls is None:
            return connection, client
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), client

    def opened(self, connection: socket.socket) -> None:
        """Register a connection, so that it ends with the server."""
        with self._lock:
            self._open[threading.current_thread()] = connection

    def ended(self) -> None:
        """Unregister the connection of this thread."""
        with self._lock:
            self._open.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection. Any other error is a fault of the simulator and is shown."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """End every connection and every thread."""
        self.closing.set()
        self.shutdown()
        self._accepting.join()
        self.server_close()
        with self._lock:
            connections = dict(self._open)
        for connection in connections.values():
            _hang_up(connection)
        for thread in connections:
            thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 16

    def setup(self) -> None:
        super().setup()
        self._listener.opened(self.connection)

    def finish(self) -> None:
        self._listener.ended()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Print nothing: requests are counted."""

    @property
    def _listener(self) -> Listener:
        return cast("Listener", self.server)

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= _MAX_BODY:
            self.close_connection = True
            return
        body = self.rfile.read(length) if length else b""
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        headers = cast("Mapping[str, str]", self.headers)
        listener = self._listener
        self._send(listener.app(Request(self.command, url.path, query, headers, body, listener.region)))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 - names of the standard library

    def _send(self, answer: SimulatedAnswer) -> None:
        if answer.delay_seconds:
            self._listener.closing.wait(answer.delay_seconds)
        if answer.dropped:
            self.close_connection = True
            _hang_up(self.connection)
            return
        head = self._head(answer)
        for sent in range(0, answer.filler, len(_FILLER)):
            self.wfile.write(head + _FILLER[: answer.filler - sent])
            head = b""
        if answer.cut:
            self.close_connection = True
            self.wfile.write(head + answer.body[: len(answer.body) // 2])
        else:
            self.wfile.write(head + answer.body)

    def _head(self, answer: SimulatedAnswer) -> bytes:
        headers = {
            "Date": formatdate(self._listener.now() / 1000, usegmt=True),
            "Content-Type": answer.content_type,
            "Content-Length": str(answer.filler + len(answer.body)),
            **answer.headers,
        }
        reason = HTTPStatus(answer.status).phrase if answer.status in HTTPStatus._value2member_map_ else "Unknown"
        lines = (f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {answer.status} {reason}\r\n{''.join(lines)}\r\n".encode("latin-1")


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # The other side has closed it already.
