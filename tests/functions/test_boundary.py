"""What no platform shows on request: unexpected failures, retryable ones, logs, Sentry, Secret Manager."""

import gzip
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Request, Response, request
from marshmallow import Schema, fields

from lib.config import loading as configuration
from lib.config.secrets import Reference
from lib.errors import ConfigError, ConnectorError, CredentialsError, StoreError
from lib.http.access import Access, Rules
from lib.http.handler import answer
from lib.telemetry import JsonFormatter, TerminalFormatter, redact
from lib.version import VERSION
from tests.fakes.secret_manager import serving
from tests.site import until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


class Nothing(Schema):
    """No fields."""

    name = fields.String()


def answered(error: Exception) -> Response:
    def call(**_: object) -> dict[str, Any]:
        raise error

    app = Flask("test")
    with app.test_request_context("/", method="POST", data=b"{}", environ_base={"REMOTE_ADDR": "127.0.0.1"}):
        asked: Request = request
        return answer(asked, Nothing(), call, service="test", access=lambda: Access(Rules()))


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    """The first call of a process takes the log over; what listens to it in a test has to come after."""
    answered(StoreError("the first call"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreError("the disk is full"), 503, "store_unavailable"),
        (CredentialsError("refused"), 422, "credentials_refused"),
        (ConfigError("wrong"), 500, "config_invalid"),
    ],
)
def test_an_expected_failure_is_a_problem_with_a_remedy(error: ConnectorError, status: int, code: str) -> None:
    response = answered(error)
    told = json.loads(response.data)
    assert (response.status_code, told["code"], told["detail"]) == (status, code, str(error))
    assert told["remedy"]
    assert ("Retry-After" in response.headers) == (status == 503)


def test_an_unexpected_failure_has_an_id_that_is_in_the_log_and_tells_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "lib.http.handler"):
        response = answered(ZeroDivisionError("something private"))
    told = json.loads(response.data)
    assert response.status_code == 500
    assert told["id"] in caplog.text
    assert b"private" not in response.data


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        f"token was {TOKEN}.",
        "client_secret=hunter2&x=1",
        '{"client_secret": "hunter2"}',
        "'access_token': 'hunter2'",
    ],
)
def test_what_looks_like_a_secret_is_written_by_no_formatter(text: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s", (text,), None)
    for line in (redact(text), JsonFormatter("s").format(record), TerminalFormatter("s").format(record)):
        assert "[redacted]" in line
        assert "hunter2" not in line
        assert TOKEN.split(".")[1] not in line


def test_a_log_line_has_cloud_loggings_fields() -> None:
    try:
        int("inner")
    except ValueError:
        record = logging.LogRecord("x", logging.WARNING, "f", 1, "two\nlines", (), sys.exc_info())
    line = JsonFormatter("fetch-page").format(record)
    told = json.loads(line)
    assert "\n" not in line
    assert (told["severity"], told["serviceContext"]) == ("WARNING", {"service": "fetch-page", "version": VERSION})
    assert "ValueError: invalid literal" in told["message"]


@contextmanager
def receiver() -> Iterator[tuple[str, list[bytes]]]:
    """A Sentry that keeps what it is sent."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://public@127.0.0.1:{server.server_port}/1", received
        server.shutdown()
        thread.join()


REPORTING = """
import sys
from flask import Flask, request
from marshmallow import Schema, fields
from lib.http.access import Access, Rules
from lib.http.handler import answer

class Body(Schema):
    client_secret = fields.String()

def failing(client_secret):
    event = {"id": "an-event-payload"}
    raise RuntimeError(f"boom with client_secret={client_secret} and {event['id'][:0]}")

app = Flask("x")
@app.post("/")
def main():
    return answer(request, Body(), failing, service="test", access=lambda: Access(Rules()))

print(app.test_client().post("/?token=hunter2", json={"client_secret": "hunter2"}).status_code)
"""


def test_sentry_is_told_of_a_failure_and_of_no_secret() -> None:
    with receiver() as (dsn, received):
        done = subprocess.run(
            [sys.executable, "-c", REPORTING],
            cwd=ROOT,
            env={**os.environ, "SENTRY_DSN": dsn},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        until(lambda: bool(received), "a report")
    assert done.stdout.strip() == "500"
    told = b"".join(received)
    assert b"RuntimeError" in told
    for secret in (b"hunter2", b"an-event-payload"):
        assert secret not in told
        assert secret not in done.stderr.encode()


def test_without_a_dsn_sentry_is_not_even_loaded() -> None:
    code = "import sys; from lib import telemetry; telemetry.start('x'); print('sentry_sdk' in sys.modules)"
    env = {key: value for key, value in os.environ.items() if key != "SENTRY_DSN"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture
def secret_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Secret Manager on loopback that holds what is put into the mapping."""
    held: dict[str, str] = {}
    with serving(held) as address:
        monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", address)
        yield held


def test_a_secret_managers_secret_is_read_when_it_is_used(secret_manager: dict[str, str]) -> None:
    name = "projects/p/secrets/s/versions/latest"
    reference = Reference(f"${{secret:{name}}}", "client_secret of integration 'acme'")
    with pytest.raises(ConfigError, match=r"client_secret of integration 'acme'.*NotFound"):
        reference.resolve()
    secret_manager[name] = "first\n"
    assert reference.resolve() == "first"
    secret_manager[name] = "rotated"
    assert reference.resolve() == "rotated"


def test_the_configuration_may_be_a_secret(secret_manager: dict[str, str]) -> None:
    name = "projects/p/secrets/connector/versions/latest"
    with pytest.raises(ConfigError, match=r"the configuration.*NotFound"):
        configuration.load(f"secret:{name}")
    secret_manager[name] = "integrations: [{name: acme, client_id: a, client_secret: b}]"
    assert [each.name for each in configuration.load(f"secret:{name}").integrations] == ["acme"]


def test_a_terminal_gets_readable_lines() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TerminalFormatter("fetch-page"))
    handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "5 events", (), None))
    assert "fetch-page" in stream.getvalue()
    assert "{" not in stream.getvalue()
