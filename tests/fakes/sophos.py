"""A Sophos Central that answers what a test says, for answers that the simulator would never give."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

TOKEN_PATH = "/api/v2/oauth2/token"
PAGE_PATH = "/siem/v1/events"
TENANT = "11111111-2222-4333-8444-555555555555"
EMPTY = {"has_more": False, "next_cursor": "c", "items": []}

Say = Callable[[Mapping[str, str], str], tuple[int, Any]]
"""Status and answer (JSON, or bytes as they are) to the request's fields, of its form or query, and its token."""


class Sophos:
    """A server on loopback; `says` holds, by path, what it answers in place of what is usual."""

    def __init__(self) -> None:
        self.says: dict[str, Say] = {}
        self.tokens: list[str] = []
        """Those that it has issued."""
        self.agents: set[str | None] = set()
        """What those who asked call themselves."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(parse_qsl(urlsplit(self.path).query))

            def do_POST(self) -> None:
                self._answer(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))

            def _answer(self, fields: list[tuple[str, str]]) -> None:
                path = urlsplit(self.path).path
                fake.agents.add(self.headers["User-Agent"])
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                say = fake.says.get(path)
                status, answer = say(dict(fields), token) if say else fake._usual(path)
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _usual(self, path: str) -> tuple[int, Any]:
        if path == TOKEN_PATH:
            self.tokens.append(f"token-{len(self.tokens)}-of-the-fake")
            return 200, {"access_token": self.tokens[-1], "expires_in": 3600}
        if path == "/whoami/v1":
            return 200, {"id": TENANT, "idType": "tenant", "apiHosts": {"global": self.url, "dataRegion": self.url}}
        return 200, EMPTY

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
