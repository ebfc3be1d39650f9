"""The client of Sophos Central against every error, in every shape, that the real one is known to answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.central import CentralServer, Credential, Fault, Tenant
from lib.errors import (
    ConnectorError,
    CredentialsError,
    CursorRefusedError,
    PermanentError,
    ProtocolError,
    ProxyDownError,
    RetryableError,
    SophosDownError,
    ThrottledError,
    TlsBrokenError,
)
from lib.model.page import Page
from lib.sophos.client import Central
from lib.sophos.pages import event_fields
from tests.contract.test_central import client

SAMPLES = Path(__file__).parents[1] / "data"
TOKEN = "/api/v2/oauth2/token"
REGIONS = ("us03", "eu02")


@pytest.fixture(scope="module")
def account() -> Iterator[CentralServer]:
    """Two regions, a partner, and tenants' credentials with more and less permissions."""
    tenants = [
        Tenant(id="t-us", region="us03"),
        Tenant(id="t-eu", region="eu02"),
        Tenant(id="t-no", forbidden=True),
    ]
    keys = [
        Credential("demo-client", "s", id_type="partner", id="p-1", tenants=("t-us", "t-eu", "t-no")),
        Credential("eu", "s", id="t-eu", permissions=frozenset({"endpoints"})),
    ]
    with CentralServer(tenants=tenants, credentials=keys, regions=REGIONS) as central:
        yield central


@pytest.fixture
def central(account: CentralServer) -> Iterator[CentralServer]:
    yield account
    account.faults.clear()


def source(central: CentralServer, client_id: str = "demo-client") -> Central:
    found = client(central.url, secret="s", client_id=client_id)
    found.authenticate()
    return found


def page(found: Central, central: CentralServer, tenant: str = "t-us", *, host: str = "us03", kind: str = "events",
         cursor: str | None = None) -> Page:  # fmt: skip
    return found.page(central.regions[host], tenant, kind, cursor=cursor, from_date=None)


def refused(central: CentralServer, call: Callable[[], object]) -> tuple[ConnectorError, int]:
    """The error, and how many requests were made for it; it says what happened and what to do, and no secret."""
    before = central.stats["requests"]
    with pytest.raises(ConnectorError) as error:
        call()
    assert str(error.value)
    assert error.value.remedy
    assert "Bearer" not in repr(error.value)
    return error.value, total(central.stats["requests"]) - total(before)


def total(requests: dict[str, dict[str, int]]) -> int:
    return sum(sum(each.values()) for each in requests.values())


@pytest.mark.parametrize("body", ["json", "bare", "gateway", "html", "empty"])
@pytest.mark.parametrize(
    ("status", "family", "tries"),
    [
        (400, ProtocolError, 1),
        (403, PermanentError, 1),
        (404, PermanentError, 1),
        (409, ProtocolError, 1),
        (429, ThrottledError, 1),
        (451, PermanentError, 1),
        (500, SophosDownError, 4),
        (502, SophosDownError, 4),
        (503, SophosDownError, 4),
        (504, SophosDownError, 4),
    ],
)
def test_each_status_is_told_by_its_number_whatever_its_body(
    central: CentralServer, status: int, family: type[ConnectorError], tries: int, body: str
) -> None:
    found = source(central)
    central.faults.add(Fault("status", status=status, body=body, times=None))
    error, asked = refused(central, lambda: page(found, central))
    # What does not come in Sophos's JSON is of something on the way, and tells nothing of the credential.
    is_sophos = body not in ("html", "empty") or status in (429, 500, 502, 503, 504)
    assert isinstance(error, family if is_sophos else ProtocolError)
    assert (asked, str(status) in str(error)) == (tries, True)


@pytest.mark.parametrize("body", ["json", "bare", "gateway", "html", "empty"])
def test_401_costs_one_new_token_and_ends_as_a_refused_credential(central: CentralServer, body: str) -> None:
    found = source(central)
    central.faults.add(Fault("status", status=401, body=body, times=None))
    error, asked = refused(central, lambda: page(found, central))
    assert isinstance(error, ProtocolError if body in ("html", "empty") else CredentialsError)
    assert asked == 3


@pytest.mark.parametrize("path", [TOKEN, "/whoami/v1", "/partner/v1/tenants"])
@pytest.mark.parametrize(
    ("status", "family"), [(403, PermanentError), (429, ThrottledError), (500, SophosDownError), (504, RetryableError)]
)
def test_the_other_apis_errors_are_of_the_same_families(
    central: CentralServer, path: str, status: int, family: type[ConnectorError]
) -> None:
    found = client(central.url, secret="s")
    who = found.whoami()
    fresh = client(central.url, secret="s")
    central.faults.add(Fault("status", path=path, status=status, times=None))
    calls: dict[str, Callable[[], object]] = {
        TOKEN: fresh.authenticate,
        "/whoami/v1": found.whoami,
        "/partner/v1/tenants": lambda: list(found.tenants(who)),
    }
    error, asked = refused(central, calls[path])
    assert isinstance(error, family)
    assert asked == (4 if status >= 500 else 1)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_the_token_hosts_refusals_are_final(central: CentralServer, status: int) -> None:
    central.faults.add(Fault("status", path=TOKEN, status=status, times=None))
    error, asked = refused(central, client(central.url, secret="s").authenticate)
    assert isinstance(error, CredentialsError)
    assert asked == 1


@pytest.mark.parametrize("body", ["html", "empty"])
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_gateway_answers_in_place_of_sophos(central: CentralServer, status: int, body: str) -> None:
    central.faults.add(Fault("status", path=TOKEN, status=status, body=body, times=None))
    error, asked = refused(central, client(central.url, secret="s").authenticate)
    assert isinstance(error, ProtocolError)
    assert (asked, "a proxy or filter answered" in str(error), "web filter" in error.remedy) == (1, True, True)


@pytest.mark.parametrize(("status", "body"), [(400, "html"), (410, "empty")])
def test_a_gateway_does_not_refuse_a_cursor(central: CentralServer, status: int, body: str) -> None:
    found = source(central)
    cursor = page(found, central).next_cursor
    central.faults.add(Fault("status", status=status, body=body))
    error, _ = refused(central, lambda: page(found, central, cursor=cursor))
    assert isinstance(error, ProtocolError)
    assert page(found, central, cursor=cursor).items == ()


@pytest.mark.parametrize(
    ("client_id", "secret", "told"), [("nobody", "s", "the client id:"), ("demo-client", "x", "the client secret:")]
)
def test_which_of_id_and_secret_is_wrong_is_told(
    central: CentralServer, client_id: str, secret: str, told: str
) -> None:
    error, _ = refused(central, client(central.url, secret=secret, client_id=client_id).authenticate)
    assert told in str(error)


@pytest.mark.parametrize("cursor", ["x" * 100_000, "\ud800", "=" * 700])
def test_a_cursor_that_no_url_can_carry_is_not_sent(central: CentralServer, cursor: str) -> None:
    error, asked = refused(central, lambda: page(source(central), central, cursor=cursor))
    assert isinstance(error, CursorRefusedError)
    assert asked == 1


@pytest.mark.parametrize(
    ("case", "status"), [("wrong region", 403), ("global host", 404), ("unknown", 404), ("forbidden", 403)]
)
def test_a_tenant_that_is_not_to_be_had_stops_that_tenant(central: CentralServer, case: str, status: int) -> None:
    found = source(central)
    calls: dict[str, Callable[[], object]] = {
        "wrong region": lambda: page(found, central, "t-eu", host="us03"),
        "global host": lambda: found.page(central.url, "t-us", "events", cursor=None, from_date=None),
        "unknown": lambda: page(found, central, "t-gone"),
        "forbidden": lambda: page(found, central, "t-no"),
    }
    error, asked = refused(central, calls[case])
    assert isinstance(error, PermanentError)
    assert (asked, str(status) in str(error)) == (1, True)
    assert page(found, central, "t-eu", host="eu02").items == ()


@pytest.mark.parametrize("kind", ["events", "alerts"])
def test_a_permission_that_is_missing_is_told_with_its_path(central: CentralServer, kind: str) -> None:
    found = source(central, "eu")
    error, _ = refused(central, lambda: page(found, central, "t-eu", host="eu02", kind=kind))
    assert isinstance(error, PermanentError)
    assert kind in str(error)


@pytest.mark.parametrize("cursor", ["nonsense", "MHwyMDIzLTAyLTI4VDE1OjMzOjI2LjMxMlo="])
def test_a_cursor_that_is_malformed_or_of_the_other_stream_is_refused(central: CentralServer, cursor: str) -> None:
    error, asked = refused(central, lambda: page(source(central), central, cursor=cursor))
    assert isinstance(error, CursorRefusedError)
    assert asked == 2


def test_a_quota_that_is_used_up_is_told_with_its_time(central: CentralServer) -> None:
    found = source(central)
    central.limiter.set([(2, 60)], retry_after=True)
    try:
        page(found, central)
        page(found, central, "t-eu", host="eu02")
        error, asked = refused(central, lambda: page(found, central))
    finally:
        central.limiter.set([])
    assert isinstance(error, ThrottledError)
    assert (asked, 0 < (error.retry_after or 0) <= 60) == (1, True)


@pytest.mark.parametrize("fault", ["not_json", "close", "cut"])
def test_what_is_no_answer_is_tried_four_times_and_passes(central: CentralServer, fault: str) -> None:
    found = source(central)
    central.faults.add(Fault(fault, times=None))
    error, asked = refused(central, lambda: page(found, central))
    assert isinstance(error, RetryableError)
    assert asked == 4


def test_a_host_that_nobody_vouches_for_gets_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with CentralServer(tls_ca=tmp_path / "ca.pem") as central:
        _, asked = refused(central, client(central.url).whoami)
    assert asked == 0


def test_a_host_whose_authority_is_trusted_is_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CentralServer(tls_ca=tmp_path / "ca.pem") as central:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert client(central.url).whoami().data_region == central.url


@pytest.mark.parametrize("kind", ["events", "alerts"])
def test_the_recorded_shapes_are_read_whole_and_byte_for_byte(kind: str) -> None:
    with CentralServer() as central:
        central.load_samples(SAMPLES / "sample-events.jsonl", SAMPLES / "sample-alerts.jsonl")
        read = client(central.url).page(central.url, central.default_tenant, kind, cursor=None, from_date=None)
        assert read.items == tuple(central.raws(central.default_tenant, kind))
    lines = (SAMPLES / f"sample-{kind}.jsonl").read_bytes().splitlines()
    assert len(read.items) == len(lines)
    for raw in read.items:
        found = event_fields(raw)
        assert found.is_object
        assert found.id
        assert found.type
        assert found.created_at


@pytest.mark.parametrize(
    ("variable", "family", "told", "remedy"),
    [
        (("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem"), TlsBrokenError, "/nowhere/ca.pem cannot be read", "ca_bundle"),
        (("REQUESTS_CA_BUNDLE", __file__), TlsBrokenError, "test_central_errors.py cannot be read", "ca_bundle"),
        (("HTTPS_PROXY", "http://127.0.0.1:9 "), ProxyDownError, "the proxy's address", "no space at the end"),
        (("HTTPS_PROXY", "http://127.0.0.1:99999"), ProxyDownError, "the proxy's address", "a port up to 65535"),
        (("HTTPS_PROXY", "http://[::1"), ProxyDownError, "the proxy's address", "HTTPS_PROXY"),
        (("HTTPS_PROXY", "socks5://127.0.0.1:9"), ProxyDownError, "PySocks is not installed", "Install PySocks"),
    ],
)
def test_a_way_that_is_broken_on_this_machine_is_named(
    monkeypatch: pytest.MonkeyPatch,
    variable: tuple[str, str],
    family: type[ConnectorError],
    told: str,
    remedy: str,
) -> None:
    for each in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(each, raising=False)
    # Where only the certificates are at fault, nothing goes out: nobody listens there.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(*variable)
    with pytest.raises(ConnectorError) as error:
        client("https://id.sophos.com").authenticate()
    assert isinstance(error.value, family)
    assert told in str(error.value)
    assert remedy in error.value.remedy
    with pytest.raises(family):
        client("https://id.sophos.com").path_to("https://id.sophos.com").resolve()


def test_certificates_that_are_taken_away_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CentralServer(tls_ca=tmp_path / "ca.pem") as central:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        found = client(central.url)
        found.authenticate()
        (tmp_path / "ca.pem").rename(tmp_path / "gone.pem")
        with pytest.raises(TlsBrokenError, match="cannot be read"):
            found.whoami()
        (tmp_path / "gone.pem").rename(tmp_path / "ca.pem")
        assert found.whoami().data_region == central.url
