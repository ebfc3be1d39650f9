"""The client of Sophos Central against the simulated one, over real connections."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from emulator.central import CentralServer, Credential, Fault, Tenant
from lib.errors import (
    ConnectorError,
    CredentialsError,
    CursorRefusedError,
    HostRefusedError,
    NoAnswerError,
    PermissionMissingError,
    ProtocolError,
    SophosDownError,
    ThrottledError,
)
from lib.model.page import Page
from lib.parts import ClientCredential as Keys
from lib.sophos.client import Central
from lib.version import VERSION
from tests.fakes.sophos import Sophos

SECRET = "demo-secret"


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer() as server:
        server.fill(2500, hours=2)
        yield server


class Clocks:
    """Time that the client is given: it passes by sleeping only, where it is not real."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ahead += seconds


UNTOLD = 30.0
"""How long to wait after a 429 that does not say; the budget decides."""


class Generous:
    """A budget without an end."""

    def acquire(self, stream: str, deadline: float) -> None:
        """A call's turn."""

    def refused(self, retry_after: float | None) -> float:
        return UNTOLD if retry_after is None else retry_after


def client(url: str, clocks: Clocks | None = None, secret: str = SECRET, client_id: str = "demo-client") -> Central:
    clocks = clocks or Clocks()
    return Central(
        Keys(lambda: client_id, lambda: secret),
        auth_url=url,
        api_url=url,
        now=lambda: datetime.now(UTC),
        monotonic=clocks.monotonic,
        sleep=clocks.sleep,
        random=lambda: 0.5,
        rate_limiter=Generous(),
    )


def first_page(central: CentralServer, source: Central) -> Page:
    return source.page(central.url, central.default_tenant, "events", cursor=None, from_date=None)


def next_page(central: CentralServer, source: Central, page: Page) -> Page:
    return source.page(central.url, central.default_tenant, "events", cursor=page.next_cursor, from_date=None)


def paths(central: CentralServer) -> list[tuple[str, int]]:
    return [(seen.path, seen.status) for seen in central.requests]


def test_every_event_is_read_page_by_page_and_unchanged(central: CentralServer) -> None:
    source = client(central.url)
    pages = [first_page(central, source)]
    while pages[-1].has_more:
        pages.append(next_page(central, source, pages[-1]))
    assert [len(page.items) for page in pages] == [1000, 1000, 500]
    assert [item for page in pages for item in page.items] == central.raws(central.default_tenant)
    assert all(seen.query["limit"] == "1000" for seen in central.requests if "siem" in seen.path)
    assert pages[-1].served_at is not None
    assert abs(pages[-1].served_at - datetime.now(UTC)) < timedelta(seconds=60)


def test_from_date_and_filters_are_passed_on(central: CentralServer) -> None:
    source = client(central.url)
    start = datetime.now(UTC) - timedelta(hours=1)
    kinds = ["Event::Endpoint::UpdateSuccess", "Event::Endpoint::Registered"]
    source.page(
        central.url,
        central.default_tenant,
        "events",
        cursor=None,
        from_date=start,
        exclude_types=kinds,
        offset_minutes=5,
    )
    query = central.requests[-1].query
    assert query["from_date"] == str(int(start.timestamp()))
    assert query["exclude_types"] == ",".join(kinds)
    assert query["from_date_offset_minutes"] == "5"
    assert "cursor" not in query


def test_one_token_serves_many_calls_and_threads(central: CentralServer) -> None:
    source = client(central.url)
    threads = [threading.Thread(target=partial(first_page, central, source)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path for path, _ in paths(central)].count("/api/v2/oauth2/token") == 1


def test_a_token_is_renewed_before_it_ends(central: CentralServer) -> None:
    clocks = Clocks()
    source = client(central.url, clocks)
    source.whoami()
    clocks.ahead += 3600 - 121
    source.whoami()
    assert [path for path, _ in paths(central)].count("/api/v2/oauth2/token") == 1
    clocks.ahead += 2
    source.whoami()
    assert [path for path, _ in paths(central)].count("/api/v2/oauth2/token") == 2


def test_a_refused_token_is_renewed_once(central: CentralServer) -> None:
    source = client(central.url)
    page = first_page(central, source)
    central.revoke_tokens()
    assert len(next_page(central, source, page).items) == 1000
    assert [status for path, status in paths(central) if "siem" in path] == [200, 401, 200]


def test_a_token_that_is_always_refused_ends_in_a_clear_error(central: CentralServer) -> None:
    source = client(central.url)
    central.faults.add(Fault("status", status=401, times=None))
    with pytest.raises(CredentialsError, match="401"):
        first_page(central, source)
    assert [status for path, status in paths(central) if "siem" in path] == [401, 401]


@pytest.mark.parametrize(("client_id", "secret"), [("demo-client", "wrong-secret"), ("nobody", SECRET)])
def test_a_wrong_credential_is_tried_once(central: CentralServer, client_id: str, secret: str) -> None:
    with pytest.raises(CredentialsError) as refusal:
        client(central.url, secret=secret, client_id=client_id).whoami()
    assert secret not in str(refusal.value)
    assert paths(central) == [("/api/v2/oauth2/token", 401)]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=500),
        Fault("status", status=502, body="html"),
        Fault("status", status=503, body="empty", retry_after=1),
        Fault("not_json"),
        Fault("close"),
        Fault("cut"),
    ],
    ids=lambda fault: f"{fault.fault}-{fault.status}",
)
def test_a_passing_fault_is_survived(central: CentralServer, fault: Fault) -> None:
    clocks = Clocks()
    fault.times = 3
    source = client(central.url, clocks)
    source.whoami()
    central.faults.add(fault)
    assert len(first_page(central, source).items) == 1000
    assert len(clocks.slept) == 3
    assert all(pause <= 8 for pause in clocks.slept)


@pytest.mark.parametrize(
    ("fault", "error", "tries"),
    [
        (Fault("status", status=500, times=None), SophosDownError, 4),
        (Fault("not_json", times=None), ProtocolError, 4),
        (Fault("cut", times=None), SophosDownError, 4),
        (Fault("redirect", times=None), ProtocolError, 1),
        (Fault("status", status=418, times=None), ProtocolError, 1),
    ],
    ids=lambda value: getattr(value, "fault", "") or str(value),
)
def test_a_lasting_fault_ends_after_a_few_tries(
    central: CentralServer, fault: Fault, error: type[ConnectorError], tries: int
) -> None:
    source = client(central.url)
    source.whoami()
    before = len(central.requests)
    central.faults.add(fault)
    with pytest.raises(error):
        first_page(central, source)
    assert len(central.requests) - before == tries


def test_no_try_is_made_past_the_deadline(central: CentralServer) -> None:
    clocks = Clocks()
    source = client(central.url, clocks)
    source.whoami()
    central.faults.add(Fault("status", status=500, times=None))
    with pytest.raises(SophosDownError):
        source.page(
            central.url,
            central.default_tenant,
            "events",
            cursor=None,
            from_date=None,
            deadline=clocks.monotonic() + 0.6,
        )
    assert sum(clocks.slept) < 0.6


def test_a_silent_server_costs_the_time_that_is_left(central: CentralServer) -> None:
    source = client(central.url)
    source.whoami()
    central.faults.add(Fault("slow", seconds=30, times=None))
    began = time.monotonic()
    with pytest.raises(SophosDownError, match="no answer in time"):
        source.page(
            central.url, central.default_tenant, "events", cursor=None, from_date=None, deadline=time.monotonic() + 2
        )
    assert time.monotonic() - began < 25


def test_who_waits_for_somebody_elses_token_waits_no_longer_than_its_own_deadline(central: CentralServer) -> None:
    source = client(central.url)
    central.faults.add(Fault("slow", seconds=30, times=None, path="/api"))
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(source.authenticate, deadline=began + 2) for _ in range(8)]
    assert {type(each.exception()) for each in asking} == {NoAnswerError}
    assert time.monotonic() - began < 25


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends a byte now and then, for ever."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not over.wait(0.1):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


def test_a_body_that_drips_is_given_up() -> None:
    with dripping() as url, pytest.raises(SophosDownError, match=r"took longer|no connection|no answer"):
        client(url).authenticate(deadline=time.monotonic() + 1)


def test_a_huge_answer_is_refused_without_being_kept(central: CentralServer) -> None:
    source = client(central.url)
    source.whoami()
    central.faults.add(Fault("huge", size=193 << 20, times=None))
    with pytest.raises(ProtocolError, match="192 MiB"):
        first_page(central, source)
    assert [seen.query["limit"] for seen in central.requests if "siem" in seen.path] == ["1000", "200"]


def test_a_page_that_is_too_large_is_asked_for_with_fewer_items(central: CentralServer) -> None:
    source = client(central.url)
    central.faults.add(Fault("huge", size=65 << 20, times=1))
    page = first_page(central, source)
    assert (len(page.items), page.has_more) == (200, True)
    assert len(next_page(central, source, page).items) == 1000
    assert [seen.query["limit"] for seen in central.requests if "siem" in seen.path] == ["1000", "200", "1000"]


@pytest.mark.parametrize(("header", "seconds"), [(17, 17.0), ("soon", UNTOLD), (None, UNTOLD)])
def test_429_is_told_with_its_time_and_not_tried_again(
    central: CentralServer, header: int | str | None, seconds: float
) -> None:
    source = client(central.url)
    source.whoami()
    central.faults.add(Fault("status", status=429, retry_after=header))
    with pytest.raises(ThrottledError) as throttled:
        first_page(central, source)
    assert throttled.value.retry_after == seconds
    assert paths(central)[-1][1] == 429


@pytest.mark.parametrize("status", [400, 410])
def test_a_refused_cursor_is_told_apart(central: CentralServer, status: int) -> None:
    source = client(central.url)
    page = first_page(central, source)
    central.faults.add(Fault("status", status=status, times=2))
    with pytest.raises(CursorRefusedError):
        next_page(central, source, page)
    with pytest.raises(ProtocolError):
        first_page(central, source)


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_permission_is_told(central: CentralServer, status: int) -> None:
    source = client(central.url)
    central.faults.add(Fault("status", status=status))
    with pytest.raises(PermissionMissingError, match=str(status)):
        first_page(central, source)


def test_a_token_goes_to_no_other_host(central: CentralServer) -> None:
    source = client(central.url)
    with pytest.raises(HostRefusedError):
        source.page("https://elsewhere.example.com", central.default_tenant, "events", cursor=None, from_date=None)


def test_neither_netrc_nor_a_proxy_of_the_environment_is_used_on_loopback(
    central: CentralServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(first_page(central, client(central.url)).items) == 1000


def test_sophos_is_told_who_asks_and_in_which_version() -> None:
    with Sophos() as fake:
        client(fake.url).whoami()
    assert fake.agents == {f"sophos-utmstack/{VERSION}"}


def test_whoami_of_a_tenant(central: CentralServer) -> None:
    source = client(central.url)
    who = source.whoami()
    assert (who.id, who.id_type, who.data_region) == (central.default_tenant, "tenant", central.url)
    assert [(tenant.id, tenant.api_host) for tenant in source.tenants(who)] == [(central.default_tenant, central.url)]


@pytest.mark.parametrize("role", ["partner", "organization"])
def test_all_tenants_of_a_partner_are_listed(role: str) -> None:
    tenants = [Tenant(id=f"t-{number}", name=f"Kundin {number} ü") for number in range(230)]
    tenants[7] = Tenant(id="t-7", name="asleep", api_host=None)
    keys = Credential("p", "s", id_type=role, id="p-1")
    with CentralServer(tenants=tenants, credentials=[keys]) as central:
        source = client(central.url, client_id="p", secret="s")
        who = source.whoami()
        found = list(source.tenants(who))
    assert (who.id_type, who.data_region) == (role, None)
    assert [tenant.id for tenant in found] == [tenant.id for tenant in tenants]
    assert [tenant.id for tenant in found if tenant.api_host is None] == ["t-7"]


def everything(calls: int, call: Callable[[], object]) -> list[str]:
    """The texts of all errors of so many calls."""
    texts = []
    for _ in range(calls):
        try:
            call()
        except ConnectorError as error:
            texts += [str(error), repr(error), error.remedy, *(repr(arg) for arg in error.args)]
    return texts


def test_no_error_holds_a_secret_or_a_token(central: CentralServer) -> None:
    source = client(central.url)
    source.whoami()
    kinds = [
        Fault("status", status=status, times=4 if status >= 500 else 1)
        for status in (400, 403, 404, 410, 429, 500, 503)
    ]
    kinds += [Fault(name, times=4) for name in ("not_json", "close", "cut", "redirect")]
    central.faults.add(*kinds)
    texts = everything(len(kinds), partial(first_page, central, source))
    texts += everything(1, client("http://127.0.0.1:9").whoami)
    assert len(texts) >= 3 * len(kinds)
    token = source._tokens.current()
    for text, secret in itertools.product(texts, (SECRET, token, token.split(".")[1])):
        assert secret not in text
