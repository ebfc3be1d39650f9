"""The published description of the functions, and the functions held to it by schemathesis."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, openapi

from emulator.runtime.functions import TARGETS
from emulator.runtime.platform import Platform
from emulator.web import server as web
from emulator.web.context import RecentLog
from emulator.web.status import SiteStatus
from functions.fetch_page import main as fetch_page
from functions.forward_batch import main as forward_batch
from functions.test_connection import main as connection
from lib.config import loading as configuration
from lib.model.stream import KINDS
from tests.site import Site, platform_for, site, until

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text())
SCHEMA = openapi.from_dict(DESCRIPTION)
FEW = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def called() -> Iterator[Site]:
    with site() as found:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: until(found.function(name).is_up, name), TARGETS))
        yield found


def url(called: Site, name: str) -> str:
    return f"http://127.0.0.1:{called.function(name).port}"


def cases(name: str) -> st.SearchStrategy[Case[Any]]:
    operation = SCHEMA[f"/{name}"]["post"]
    return st.one_of(operation.as_strategy(GenerationMode.POSITIVE), operation.as_strategy(GenerationMode.NEGATIVE))


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_a_500_and_every_answer_is_as_described(called: Site, name: str) -> None:
    statuses: set[int] = set()

    @FEW
    @given(case=cases(name))
    def answers_as_described(case: Case[Any]) -> None:
        response = case.call(base_url=url(called, name), timeout=60)
        statuses.add(response.status_code)
        assert response.status_code < 500, response.content
        SCHEMA[f"/{name}"]["post"].validate_response(response)

    answers_as_described()
    # Both kinds of requests were among them.
    assert {200, 400} <= statuses or {404, 400} <= statuses


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_and_no_headers_make_a_500(called: Site, name: str) -> None:
    kinds = ["application/json", "application/cloudevents+json", "text/plain", "application/json; charset=utf-16", ""]
    pieces = st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"name"', b'"type"', b'"integration"', b'"client_id"', b'"client_secret"', b":", b",",
         b'"\\ud800"', b"\xff", b"1e999", b"NaN", b"null", b"[" * 5000, b'"a\\u0000"', b'"x"', b"\xef\xbb\xbf"]
    )  # fmt: skip

    @FEW
    @given(
        body=st.one_of(st.binary(max_size=50), st.lists(pieces, max_size=9).map(b"".join)),
        kind=st.sampled_from(kinds),
        event=st.sampled_from(["", "google.cloud.storage.object.v1.finalized", "x" * 3000, "é"]),
        method=st.sampled_from(["POST", "PUT", "GET", "DELETE", "PATCH"]),
    )
    def stays_up(body: bytes, kind: str, event: str, method: str) -> None:
        headers = {"Content-Type": kind} | ({"ce-type": event.encode()} if event else {})
        answer = requests.request(method, url(called, name), data=body, headers=headers, timeout=60)
        assert answer.status_code < 500, answer.content
        json.loads(answer.content)

    stays_up()


@pytest.mark.parametrize(
    "fields",
    [
        {"integration": "\ud800"},
        {"\ud800": "x"},
        {"client_id": "\ud800", "client_secret": "x"},
        {"client_id": "a\r\nX-Evil: 1", "client_secret": "x"},
        {"client_id": "x", "client_secret": "x", "region": "https://\ud800"},
        {"client_id": "x", "client_secret": "x", "region": "https://[", "tenant": "\r\n"},
    ],
)
def test_odd_text_is_answered_and_leads_nowhere(called: Site, fields: dict[str, str]) -> None:
    body = json.dumps(fields).encode()
    answer = requests.post(url(called, "test-connection"), data=body, timeout=60)
    assert answer.status_code in (200, 400, 404)
    json.loads(answer.content.decode())


@pytest.mark.parametrize("name", TARGETS)
def test_each_function_serves_the_description(called: Site, name: str) -> None:
    answer = requests.get(f"{url(called, name)}/openapi.json", headers={"X-Forwarded-For": "192.0.2.7"}, timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json() == DESCRIPTION


NOTHING = SiteStatus({}, datetime.now(UTC))


def platform_of(called: Site) -> Platform:
    config = configuration.load(str(called.config))
    return platform_for(config, str(called.config))


def test_the_emulator_serves_the_description(called: Site) -> None:
    platform = platform_of(called)
    answer = web.Web(platform, lambda _, __: NOTHING, called.app, RecentLog()).app.test_client().get("/openapi.json")
    assert answer.json == DESCRIPTION


@pytest.mark.parametrize(
    ("path", "status", "code"), [("/none", 404, "not_found"), ("/status", 405, "method_not_allowed")]
)
def test_what_the_emulator_does_not_have_is_a_problem_too(called: Site, path: str, status: int, code: str) -> None:
    platform = platform_of(called)
    client = web.Web(platform, lambda _, __: NOTHING, called.app, RecentLog()).app.test_client()
    answer = client.delete(path)
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert answer.json is not None
    assert answer.json["code"] == code
    assert ("GET" in answer.headers.get("Allow", "")) == (status == 405)
    assert client.delete(path, headers={"Accept": "text/html"}).content_type.startswith("text/html")


def test_the_description_names_every_field_of_every_request() -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    described = {
        "FetchPageRequest": set(schemas["FetchPageRequest"]["properties"]),
        "ForwardBatchRequest": set(schemas["ForwardBatchRequest"]["properties"]),
        "TestConnectionRequest": {
            name for each in schemas["TestConnectionRequest"]["oneOf"] for name in each["properties"]
        },
    }
    assert described == {
        "FetchPageRequest": set(fetch_page.FetchPageRequest().fields),
        "ForwardBatchRequest": set(forward_batch.ForwardBatchRequest().fields),
        "TestConnectionRequest": set(connection.TestConnectionRequest().fields),
    }
    assert schemas["Kind"]["enum"] == list(KINDS)
