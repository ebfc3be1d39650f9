"""Cloud Tasks as far as the connector speaks to it: REST v2, `tasks.create`, names that are taken for good."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

QUEUE = "projects/p/locations/europe-west1/queues/fetch"


class CloudTasks:
    """A server on loopback; nothing is called until `deliver`."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        """What waits."""
        self.refused: list[str] = []
        """Names that were there already."""
        self.statuses: deque[int] = deque()
        """What the next calls are answered instead."""
        self.connections = 0
        """How often somebody connected."""
        self._names: set[str] = set()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = fake._create(self.path, body)
                encoded = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            def get_request(self) -> Any:
                fake.connections += 1
                return super().get_request()

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.settings = {
            "queue": QUEUE,
            "url": "https://fetch-page.example.com",
            "service_account": "tasks@p.iam.gserviceaccount.com",
            "api_url": self.url,
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def requests(self) -> list[dict[str, str]]:
        """What the waiting tasks ask for."""
        return [json.loads(_body(task)) for task in self.tasks]

    def deliver(self, call: Callable[[bytes], int], *, times: int = 1) -> list[int]:
        """Make the call of each task that is due, `times` times at once; the statuses. One that fails waits on."""
        now = datetime.now(UTC)
        with self._lock:
            due = [task for task in self.tasks if _due(task) <= now]
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda task: call(_body(task)), due * times))
        with self._lock:
            for task, status in zip(due, statuses, strict=False):
                if status == 200:
                    self.tasks.remove(task)
        return statuses

    def _create(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if self.statuses:
                return self.statuses.popleft(), {}
            if path != f"/v2/{QUEUE}/tasks":
                return 404, {"error": {"status": "NOT_FOUND"}}
            task = body["task"]
            call = task["httpRequest"]
            if (
                not re.fullmatch(QUEUE + r"/tasks/[A-Za-z0-9_-]{1,500}", task["name"])
                or not 15 <= int(task["dispatchDeadline"].removesuffix("s")) <= 1800
                or call["httpMethod"] != "POST"
                or call["oidcToken"]
                != {"serviceAccountEmail": self.settings["service_account"], "audience": self.settings["url"]}
            ):
                return 400, {"error": {"status": "INVALID_ARGUMENT"}}
            _due(task), _body(task)
            if task["name"] in self._names:
                self.refused.append(task["name"])
                return 409, {"error": {"status": "ALREADY_EXISTS"}}
            self._names.add(task["name"])
            self.tasks.append(task)
            return 200, task


def _due(task: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(task["scheduleTime"]) if "scheduleTime" in task else datetime.min.replace(tzinfo=UTC)


def _body(task: dict[str, Any]) -> bytes:
    return base64.b64decode(task["httpRequest"]["body"], validate=True)
