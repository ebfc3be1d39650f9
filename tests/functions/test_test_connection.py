"""test-connection's checks, each against a real fault: names, sockets, certificates, stores, clocks, deadlines."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from emulator.central import CentralServer, Credential, Fault, Tenant
from emulator.engine import StandInEngine
from lib import answers
from lib.app import App
from lib.config.loading import parse
from lib.errors import HostRefusedError, SophosDownError, StoreError
from lib.pipeline.test_connection import check_store
from lib.sophos.client import Central
from lib.sophos.reach import SophosNetworkPath
from lib.store.directory import DirectoryStore
from tests.fakes.sophos import Sophos
from tests.site import Site, free_port, site

SECRET = "demo-secret"

Line = dict[str, Any]


class Bench:
    """All that test-connection needs, in this process."""

    def __init__(self, folder: Path, central: CentralServer) -> None:
        self.central = central
        self.folder = folder
        self.store = DirectoryStore(folder / "store")
        self.engine = StandInEngine(folder / "e.sock")

    def subject(self, secret: str = SECRET, *, url: str = "", **integration: Any) -> App:
        """The use cases over a configuration whose only integration is to be tested."""
        url = url or self.central.url
        settings = {
            "store": f"file:{self.folder}/store",
            "engine": f"unix:{self.folder}/e.sock",
            "sophos": {"auth_url": url, "api_url": url},
            "integrations": [{"name": "acme", "client_id": "demo-client", "client_secret": secret, **integration}],
        }
        config = parse(json.dumps(settings))
        return App(lambda: config)

    def run(self, subject: App, seconds: float = 30.0, told: list[Line] | None = None) -> Line:
        heard = told if told is not None else []
        report = subject.examine(
            "acme", deadline=time.monotonic() + seconds, on_progress=lambda check: heard.append(answers.check(check))
        )
        return answers.connection(report)

    def checks(self, subject: App, seconds: float = 30.0) -> dict[str, Line]:
        return {check["name"]: check for check in self.run(subject, seconds)["checks"]}


@pytest.fixture
def central() -> Iterator[CentralServer]:
    with CentralServer() as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path, central: CentralServer) -> Iterator[Bench]:
    found = Bench(tmp_path, central)
    with found.engine:
        yield found


def test_every_check_has_its_outcome_time_and_text_and_is_told_as_it_is_made(bench: Bench) -> None:
    bench.central.fill(20, hours=0.1)
    told: list[Line] = []
    answer = bench.run(bench.subject(streams=("events", "alerts", "endpoints")), told=told)
    assert answer["ok"], answer
    assert told == answer["checks"]
    for check in told:
        assert check["outcome"] in ("ok", "skipped")
        assert check["milliseconds"] >= 0
        assert check["detail"].endswith(".")
    checks = {check["name"]: check for check in told}
    assert {"siem_events", "siem_alerts", "endpoints"} <= set(checks)
    assert checks["page"]["detail"].startswith("Parsed ")
    assert (checks["tls"]["outcome"], checks["tls"]["ok"]) == ("skipped", True)
    assert "100 a minute are allowed" in checks["rate"]["detail"]
    assert answer["streams"]["events"]["newest_age_seconds"] < 600
    assert not list(bench.store.list("probes/"))


def test_where_nothing_happened_lately_the_newest_event_of_the_day_is_named(bench: Bench) -> None:
    when = datetime.now(UTC) - timedelta(hours=5)
    bench.central.append(
        bench.central.default_tenant,
        "events",
        [json.dumps({"id": "1", "type": "x", "created_at": f"{when:%Y-%m-%dT%H:%M:%S}.000Z"}).encode()],
    )
    checks = bench.checks(bench.subject())
    assert "5 h old" in checks["newest_event"]["detail"]
    assert "1 event of the last 23 h" in checks["siem_events"]["detail"]


def test_an_empty_tenant_is_told_and_no_failure(bench: Bench) -> None:
    answer = bench.run(bench.subject())
    assert answer["ok"]
    assert "no event of the last 23 h" in json.dumps(answer)


def test_at_the_deadline_it_answers_with_what_was_found_so_far(bench: Bench) -> None:
    bench.central.faults.add(Fault("slow", seconds=60, times=None, path="/whoami"))
    began = time.monotonic()
    checks = bench.checks(bench.subject(), seconds=3)
    assert time.monotonic() - began < 40
    assert checks["credentials"]["ok"]
    assert (checks["whoami"]["outcome"], checks["whoami"]["ok"]) == ("failed", False)
    assert (checks["engine"]["outcome"], checks["engine"]["ok"]) == ("skipped", False)
    assert "Not started" in checks["engine"]["detail"]


def test_what_failed_is_told_with_its_code_and_what_depends_on_it_with_the_cause(bench: Bench) -> None:
    checks = bench.checks(bench.subject("wrong"))
    assert (checks["credentials"]["outcome"], checks["credentials"]["code"]) == ("failed", "credentials_refused")
    assert checks["newest_event"]["detail"] == "Not tried, because credentials failed."
    assert checks["store"]["ok"]
    assert checks["engine"]["ok"]


def partner(*tenants: Tenant) -> CentralServer:
    return CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])


def test_one_tenant_of_many_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    shut, asleep = Tenant(id="t-2", name="Shut", forbidden=True), Tenant(id="t-5", api_host=None)
    with partner(shut, Tenant(id="t-1"), Tenant(id="t-3"), Tenant(id="t-4"), asleep) as central:
        central.fill(7, tenant="t-4", hours=0.1)
        bench = Bench(tmp_path, central)
        with bench.engine:
            answer = bench.run(bench.subject(streams=("events", "endpoints")))
    checks = {check["name"]: check for check in answer["checks"]}
    assert answer["ok"], answer
    assert "The credential can read 4 tenants. 1 without an API host yet." in checks["tenants"]["detail"]
    for name in ("siem_events", "endpoints"):
        assert (checks[name]["outcome"], checks[name]["code"]) == ("warning", "permission_missing")
        assert "3 of 4 tenants tried can be read; not Shut (t-2): Sophos answered 403" in checks[name]["detail"]
        assert "Service Principal" in checks[name]["remedy"]
    assert checks["siem_events"]["detail"].startswith("Read 7 events of the last 15 min.")
    assert checks["page"]["detail"].startswith("Parsed 7 items")
    assert checks["newest_event"]["detail"].startswith("The newest event is")


def test_the_newest_event_is_looked_for_at_every_tenant_that_can_be_read(tmp_path: Path) -> None:
    with partner(Tenant(id="t-1", forbidden=True), Tenant(id="t-2"), Tenant(id="t-3")) as central:
        when = datetime.now(UTC) - timedelta(hours=5)
        event = {"id": "1", "type": "x", "created_at": f"{when:%Y-%m-%dT%H:%M:%S}.000Z"}
        central.append("t-3", "events", [json.dumps(event).encode()])
        bench = Bench(tmp_path, central)
        with bench.engine:
            assert "5 h old" in bench.checks(bench.subject())["newest_event"]["detail"]


def test_tenants_none_of_which_can_be_read_are_named_and_a_failure(tmp_path: Path) -> None:
    shut = [Tenant(id=f"t-{number}", name=f"Shut {number}", forbidden=True) for number in (1, 2)]
    with partner(*shut) as central:
        bench = Bench(tmp_path, central)
        with bench.engine:
            checks = bench.checks(bench.subject())
    assert (checks["siem_events"]["ok"], checks["siem_events"]["code"]) == (False, "permission_missing")
    assert checks["siem_events"]["detail"].startswith("0 of 2 tenants tried can be read; not Shut 1 (t-1): ")
    assert "; Shut 2 (t-2): " in checks["siem_events"]["detail"]


def test_a_configured_tenant_that_is_not_read_is_a_warning_while_others_are(tmp_path: Path) -> None:
    with partner(Tenant(id="t-1", name="Open")) as central:
        bench = Bench(tmp_path, central)
        with bench.engine:
            answer = bench.run(bench.subject(tenants=("t-1", "t-nobody")))
    (warned,) = (check for check in answer["checks"] if check["outcome"] == "warning")
    assert (answer["ok"], warned["name"], warned["code"]) == (True, "tenants", "wrong_tenant")
    assert "does not read tenant t-nobody; it reads Open (t-1)" in warned["detail"]


def test_a_region_that_cannot_be_reached_is_a_warning_while_others_can(tmp_path: Path) -> None:
    away = [Tenant(id=f"t-{number}", api_host=f"http://127.0.0.1:{free_port()}") for number in range(5)]
    with partner(*away, Tenant(id="t-near", name="Near")) as central:
        central.fill(7, tenant="t-near", hours=0.1)
        bench = Bench(tmp_path, central)
        with bench.engine:
            answer = bench.run(bench.subject())
    checks = {check["name"]: check for check in answer["checks"]}
    assert answer["ok"], answer
    assert (checks["tenant_hosts"]["outcome"], checks["tenant_hosts"]["code"]) == ("warning", "connection_refused")
    assert "not Example Ltd (t-0): 127.0.0.1 port" in checks["tenant_hosts"]["detail"]
    assert checks["siem_events"]["detail"].startswith("Read 7 events")


def test_a_host_that_sophos_names_and_that_is_none_of_sophos_is_never_asked(tmp_path: Path) -> None:
    evil = "https://api-eu01.central.sophos.com.example.com"
    with CentralServer(credentials=[Credential(data_region=evil)]) as central:
        bench = Bench(tmp_path, central)
        with bench.engine:
            checks = bench.checks(bench.subject())
    assert (checks["tenant_hosts"]["code"], checks["siem_events"]["outcome"]) == ("host_refused", "skipped")


def test_a_region_that_cannot_be_compared_is_not_called_the_tenants_own(bench: Bench) -> None:
    for region, words in (("eu", "cannot be compared"), (bench.central.url, "matches the tenant"), ("auto", "is used")):
        lines = {line["name"]: line for line in bench.run(bench.subject(region=region))["checks"]}
        assert words in lines["region"]["detail"]


def test_a_region_that_there_cannot_be_is_a_bad_request() -> None:
    with site() as found:
        request = {"client_id": "demo-client", "client_secret": SECRET, "region": "narnia"}
        answer = found.post("test-connection", request)
        assert answer.status == 400
        (error,) = json.loads(answer.body)["errors"]
        assert (error["pointer"], "'narnia' is not a region" in error["detail"]) == ("/region", True)


def test_used_up_calls_are_told(bench: Bench) -> None:
    bench.central.faults.add(Fault("status", status=429, retry_after=30))
    checks = bench.checks(bench.subject())
    assert checks["siem_events"]["code"] == "rate_limited"
    assert not checks["rate"]["ok"]


class Careless(DirectoryStore):
    """A store that takes every write."""

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        found = self.read(key)
        return super().write(key, body, expected=found.generation if found else 0)


def test_a_store_without_compare_and_set_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not support compare-and-set"):
        check_store(Careless(tmp_path))


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        check_store(DirectoryStore(tmp_path / "file"))


def test_a_name_that_does_not_exist_is_told() -> None:
    with pytest.raises(SophosDownError, match=r"nowhere\.invalid cannot be resolved") as failed:
        SophosNetworkPath("https://nowhere.invalid", None, verify=True).resolve()
    assert "DNS" in failed.value.remedy


@pytest.mark.parametrize("proxy", [False, True])
def test_a_port_where_nobody_listens_is_told(proxy: bool) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    way = (
        SophosNetworkPath("https://api.central.sophos.com", nobody, verify=True)
        if proxy
        else SophosNetworkPath(nobody, None, verify=True)
    )
    with pytest.raises(SophosDownError, match="refused") as failed:
        way.connect()
    assert ("the address in `sophos.proxy`" in failed.value.remedy) == proxy


class Inspector:
    """A proxy that inspects TLS: its own CA stands for everybody."""

    def __init__(self, folder: Path, name: str = "127.0.0.1", age: timedelta = timedelta(0)) -> None:
        self.connects: list[str] = []
        self.ca = folder / "ca.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Inspection"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        now = datetime.now(UTC) - age
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        made = made.serial_number(7).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName("localhost")])
        made = made.add_extension(names, critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.ca.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.ca, folder / "key.pem")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                if connection.recv(1, socket.MSG_PEEK) == b"C":
                    self.connects.append(connection.recv(4096).decode().splitlines()[0])
                    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                try:
                    with self.context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    continue


@contextmanager
def inspecting(folder: Path, **options: Any) -> Iterator[Inspector]:
    found = Inspector(folder, **options)
    thread = threading.Thread(target=found.serve, daemon=True)
    thread.start()
    yield found
    found.listener.shutdown(socket.SHUT_RDWR)
    found.listener.close()
    thread.join()


def test_a_proxy_that_inspects_tls_is_named_by_its_issuer(tmp_path: Path) -> None:
    with inspecting(tmp_path, name="api.central.sophos.com") as inspector:
        way = SophosNetworkPath("https://api.central.sophos.com", inspector.url, verify=True)
        assert "the proxy" in way.connect()
        with pytest.raises(SophosDownError, match=r"not accepted: self.signed.*'Example Inspection") as failed:
            way.secure()
        assert "inspect" in failed.value.remedy
        trusting = SophosNetworkPath("https://api.central.sophos.com", inspector.url, verify=str(inspector.ca))
        told = trusting.secure()
    assert "'Example Inspection'" in str(told)
    assert set(inspector.connects) == {"CONNECT api.central.sophos.com:443 HTTP/1.1"} or set(inspector.connects) == {
        "CONNECT api.central.sophos.com:443 HTTP/1.0"
    }


def test_a_certificate_that_is_over_and_one_of_another_name_are_told_apart(tmp_path: Path) -> None:
    with inspecting(tmp_path, age=timedelta(days=9)) as inspector:
        with pytest.raises(SophosDownError, match="expired") as failed:
            SophosNetworkPath(
                inspector.url.replace("http:", "https:").replace("127.0.0.1", "localhost"), None, str(inspector.ca)
            ).secure()
        assert "clock" in failed.value.remedy
    with inspecting(tmp_path, name="other.example.com") as inspector:
        with pytest.raises(SophosDownError, match="not valid for") as failed:
            SophosNetworkPath(inspector.url.replace("http:", "https:"), None, str(inspector.ca)).secure()
        assert "for this name" in failed.value.remedy


def test_what_speaks_no_tls_is_told(central: CentralServer) -> None:
    with pytest.raises(SophosDownError, match="no TLS connection"):
        SophosNetworkPath(central.url.replace("http:", "https:"), None, verify=True).secure()


def test_no_way_leads_to_a_host_that_credentials_must_not_go_to(bench: Bench) -> None:
    sophos = bench.subject().integrations["acme"].source
    assert isinstance(sophos, Central)
    for url in ("https://api.example.com", "http://api.central.sophos.com", "https://a@sophos.com", "file:///etc"):
        with pytest.raises(HostRefusedError):
            sophos.path_to(url)


def test_over_tls_the_issuer_is_named_whether_it_is_trusted_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = tmp_path / "ca.pem"
    with CentralServer(tls_ca=ca) as central:
        bench = Bench(tmp_path, central)
        with bench.engine:
            checks = bench.checks(bench.subject())
            assert (checks["tls"]["outcome"], checks["credentials"]["outcome"]) == ("failed", "skipped")
            assert "sophos.ca_bundle" in checks["tls"]["remedy"]
            # Nothing was sent to whom is not trusted, the credential least of all.
            assert not central.requests
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
            trusted = bench.checks(bench.subject())
    assert all(check["ok"] for check in trusted.values()), trusted
    for told in (checks, trusted):
        assert "'Simulated Sophos Central CA'" in told["tls"]["detail"]
    assert "TLSv1" in trusted["tls"]["detail"]


def test_nothing_that_a_caller_writes_is_a_host_that_is_asked(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        foreign.setblocking(False)
        url = f"http://127.0.0.1:{foreign.getsockname()[1]}"
        checks = bench.checks(bench.subject(region=url, tenants=(url,)))
        with pytest.raises(BlockingIOError):
            foreign.accept()
    assert bench.central.url in checks["region"]["remedy"]
    assert not checks["tenants"]["ok"]


def test_the_function_answers_within_its_deadline() -> None:
    with site(limits={"deadline": "3s"}) as found:
        found.central.faults.add(Fault("slow", seconds=60, times=None, path="/whoami"))
        found.function("test-connection").is_up(30)
        began = time.monotonic()
        answer = json.loads(found.post("test-connection", {"integration": "acme"}).body)
        assert time.monotonic() - began < 40
    outcomes = {check["name"]: check["outcome"] for check in answer["checks"]}
    assert not answer["ok"]
    assert (outcomes["credentials"], outcomes["whoami"], outcomes["engine"]) == ("ok", "failed", "skipped")


def test_a_tenant_whose_record_is_odd_is_told() -> None:
    with Sophos() as sophos, Site(sophos={"auth_url": sophos.url, "api_url": sophos.url}) as found:
        who = {"id": "p", "idType": "partner", "apiHosts": {"global": sophos.url}}
        tenants = [{"id": "t-1", "apiHost": sophos.url}, {"id": "t-2", "apiHost": 5}]
        sophos.says["/whoami/v1"] = lambda *_: (200, who)
        sophos.says["/partner/v1/tenants"] = lambda *_: (200, {"items": tenants, "pages": {"total": 1}})
        told = json.loads(found.post("test-connection", {"integration": "acme"}).body)
        (check,) = [each for each in told["checks"] if "1 tenant" in each["detail"]]
        assert (told["ok"], check["outcome"]) == (True, "warning")
        assert "t-2 (unusable fields in Sophos's list: apiHost)" in check["detail"]
