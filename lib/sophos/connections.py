"""HTTP connections with two guarantees: an answer belongs to its request, and its head arrives within one timeout."""

from __future__ import annotations

import http.client
import io
import socket
import time
from contextlib import suppress
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

MAX_INTERIM = 20
"""How many interim answers (1xx) may come before the final answer."""


class _Timed(io.RawIOBase):
    """A socket's bytes. Until `begun`, all reads together have the time of a single timeout."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._seconds = sock.gettimeout()
        self._end = None if self._seconds is None else time.monotonic() + self._seconds

    def begun(self) -> None:
        """Give each further read the whole timeout: the answer's head is complete."""
        self._end = None
        self._sock.settimeout(self._seconds)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._end is not None:
            # 0 would make the socket non-blocking.
            self._sock.settimeout(max(0.001, self._end - time.monotonic()))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that skips 1xx answers and leaves no byte for the next request."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._sock = sock
        self._timed = _Timed(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        super().begin()
        self._timed.begun()

    def _read_status(self) -> tuple[str, int, str]:
        """The first final status. http.client itself skips only 100, and takes 103 for the final answer."""
        for _ in range(MAX_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == http.client.SWITCHING_PROTOCOLS:
                break  # The request asked for no other protocol.
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("no final answer after interim answers (1xx)")

    def _close_conn(self) -> None:
        """End the answer. A byte after it belongs to no request, so the connection must not be used again."""
        with suppress(OSError, ValueError):
            self._sock.settimeout(0)
            if self.fp.peek(1):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._timed.begun()
        super()._close_conn()  # type: ignore[misc]


class _Plain(HTTPConnection):
    response_class = _Response


class _Secure(HTTPSConnection):
    response_class = _Response


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


_POOLS = {"http": _PlainPool, "https": _SecurePool}


class Adapter(HTTPAdapter):
    """The adapter of `requests`, with these connections."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools with these connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """The pools through a proxy, with these connections."""
        manager = super().proxy_manager_for(*args, **kwargs)
        if "http" in str(manager.proxy.scheme if manager.proxy else ""):  # SOCKS proxies have their own connections.
            manager.pool_classes_by_scheme = _POOLS
        return manager
