"""Who may call the functions: keys, Google-signed ID tokens, loopback; on real sockets where headers matter."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from emulator.central import DEFAULT_TENANT_ID
from lib.config import environment
from lib.config.secrets import Reference
from lib.http.access import (
    RARE_CALLS,
    Access,
    AccessError,
    AccessUnknownError,
    ForbiddenError,
    Rules,
    TooManyCallsError,
    UnauthenticatedError,
    is_local,
)
from tests.fakes.proxies import UPSTREAM, caddy, example, nginx, traefik
from tests.site import SECRET, Emulator, Site, free_port, site, until

KEY, NEXT_KEY = "k" * 16, "n" * 24
AUDIENCE, EMAIL = "https://fetch-page.example.com", "scheduler@example.iam.gserviceaccount.com"
ELSEWHERE = "192.0.2.7"


Proxy = Callable[[str, str, Path], AbstractContextManager[str]]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Host": "fetch-page.example.com"}


@dataclass
class Clock:
    """A monotonic clock that is set."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def encoded(value: bytes | Mapping[str, Any]) -> str:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


@dataclass
class Issuer:
    """Signs ID tokens, and publishes its certificates as Google does."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    url: str = ""
    fetched: int = 0
    status: int = 200

    def certificate(self) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer.example.com")])
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
        made = made.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def token(
        self, sign: Callable[[bytes], bytes] | None = None, kid: str = "one", alg: str = "RS256", **claims: Any
    ) -> str:
        now = int(time.time())
        good = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": EMAIL, "email_verified": True}
        body = f"{encoded({'alg': alg, 'kid': kid})}.{encoded(good | {'iat': now, 'exp': now + 3600} | claims)}"
        return f"{body}.{encoded((sign or self.sign)(body.encode()))}"

    def sign(self, body: bytes) -> bytes:
        return self.key.sign(body, padding.PKCS1v15(), hashes.SHA256())


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    found = Issuer()
    certificates = json.dumps({"one": found.certificate()}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.fetched += 1
            self.send_response(found.status)
            self.send_header("Content-Length", str(len(certificates)))
            self.end_headers()
            self.wfile.write(certificates)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}/certs"
        yield found
        server.shutdown()
        thread.join()


def google(issuer: Issuer, clock: Clock | None = None) -> Access:
    return Access(Rules(audiences=(AUDIENCE,), emails=(EMAIL,), certs_url=issuer.url), clock or Clock())


def keyed(*keys: str, clock: Clock | None = None) -> Access:
    return Access(Rules(keys=lambda: keys), clock or Clock())


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:80"])
def test_who_calls_on_this_machine_needs_nothing(address: str, host: str) -> None:
    Access(Rules()).authorize(address, {"Host": host, "Origin": f"http://{host}"}, rare=True)


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        (ELSEWHERE, {"Host": "localhost"}),
        (None, {"Host": "localhost"}),
        ("nonsense", {"Host": "localhost"}),
        ("127.0.0.1", {}),
        ("127.0.0.1", {"Host": "functions.example.com"}),
        ("127.0.0.1", {"Host": "localhost.example.com"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-For": "192.0.2.7"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-Proto": "https"}),
        ("127.0.0.1", {"Host": "localhost", "Forwarded": "for=192.0.2.7"}),
        ("127.0.0.1", {"Host": "localhost", "Via": "1.1 proxy"}),
        ("127.0.0.1", {"Host": "localhost", "X-Envoy-External-Address": "192.0.2.7"}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "https://elsewhere.example.com"}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "null"}),
    ],
)
def test_nothing_that_may_come_from_elsewhere_counts_as_local(address: str | None, headers: dict[str, str]) -> None:
    assert not is_local(address, headers)
    with pytest.raises(ForbiddenError, match="no key and no audience is configured") as refused:
        Access(Rules()).authorize(address, headers)
    assert "access.keys" in refused.value.remedy


def test_each_of_several_keys_lets_in_and_no_other_text_does() -> None:
    access = keyed(KEY, NEXT_KEY)
    for key in (KEY, NEXT_KEY):
        access.authorize(ELSEWHERE, bearer(key))
        access.authorize(ELSEWHERE, {"Authorization": f"bearer  {key} "})
    for header in (
        "",
        f"Basic {KEY}",
        KEY,
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}{KEY}",
        "Bearer é",
    ):
        with pytest.raises(UnauthenticatedError):
            access.authorize(ELSEWHERE, {"Authorization": header})


def test_a_key_that_could_be_guessed_lets_nobody_in() -> None:
    with pytest.raises(ForbiddenError):
        keyed("k" * 15).authorize(ELSEWHERE, bearer("k" * 15))


def test_a_key_is_rotated_without_a_restart(tmp_path: Path) -> None:
    file, clock = tmp_path / "key", Clock()
    file.write_text(f"{KEY}\n")
    reference = Reference(f"${{file:{file}}}", "access.keys[0]")
    access = Access(Rules(keys=lambda: [reference.resolve()]), clock)
    access.authorize(ELSEWHERE, bearer(KEY))
    file.write_text(f"{NEXT_KEY}\n")
    clock.now += 61
    access.authorize(ELSEWHERE, bearer(NEXT_KEY))
    with pytest.raises(UnauthenticatedError):
        access.authorize(ELSEWHERE, bearer(KEY))


def test_with_a_key_that_cannot_be_read_nobody_is_told_where_it_is(tmp_path: Path) -> None:
    reference = Reference(f"${{file:{tmp_path}/missing}}", "access.keys[0]")
    with pytest.raises(AccessUnknownError) as unknown:
        Access(Rules(keys=lambda: [reference.resolve()])).authorize(ELSEWHERE, bearer(KEY))
    assert unknown.value.status == 503
    assert str(tmp_path) not in f"{unknown.value} {unknown.value.remedy}"


def test_a_good_id_token_lets_in_and_the_certificates_are_fetched_once(issuer: Issuer) -> None:
    access, before = google(issuer), issuer.fetched
    for _ in range(3):
        access.authorize(ELSEWHERE, bearer(issuer.token()))
    access.authorize(ELSEWHERE, bearer(issuer.token(iss="accounts.google.com")))
    assert issuer.fetched == before + 1


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"aud": "https://somebody-else.example.com"}, UnauthenticatedError),
        ({"aud": [AUDIENCE, "x"]}, UnauthenticatedError),
        ({"aud": None}, UnauthenticatedError),
        ({"iss": "https://elsewhere.example.com"}, UnauthenticatedError),
        ({"exp": 1_700_000_000}, UnauthenticatedError),
        ({"iat": 99_999_999_999, "exp": 99_999_999_999}, UnauthenticatedError),
        ({"exp": "soon"}, UnauthenticatedError),
        ({"kid": "two"}, UnauthenticatedError),
        ({"email": "somebody@example.iam.gserviceaccount.com"}, ForbiddenError),
        ({"email": None}, ForbiddenError),
        ({"email": [EMAIL]}, ForbiddenError),
        ({"email_verified": False}, ForbiddenError),
        ({"email_verified": "true"}, ForbiddenError),
    ],
)
def test_an_id_token_has_to_be_for_us_now_and_of_a_named_account(
    issuer: Issuer, claims: dict[str, Any], error: type[AccessError]
) -> None:
    with pytest.raises(error) as refused:
        google(issuer).authorize(ELSEWHERE, bearer(issuer.token(**claims)))
    assert "access." in refused.value.remedy


def test_a_token_that_is_not_valid_yet_is_refused(issuer: Issuer) -> None:
    google(issuer).authorize(ELSEWHERE, bearer(issuer.token(nbf=int(time.time()) - 60)))
    with pytest.raises(UnauthenticatedError):
        google(issuer).authorize(ELSEWHERE, bearer(issuer.token(nbf=int(time.time()) + 3600)))


@pytest.mark.parametrize("depth", [1500, 100_000])
def test_a_token_nested_without_end_is_refused_and_breaks_nothing(issuer: Issuer, depth: int) -> None:
    with pytest.raises(UnauthenticatedError):
        google(issuer).authorize(ELSEWHERE, bearer(f"{encoded({'alg': 'RS256'})}.{encoded(b'[' * depth)}.x"))


def test_knative_is_not_taken_for_cloud_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K_SERVICE", "fetch-page")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert environment.on_cloud_run()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    assert not environment.on_cloud_run()
    assert environment.is_hosted()


def test_a_signature_of_anybody_else_is_not_accepted(issuer: Issuer) -> None:
    access = google(issuer)

    def shared(body: bytes) -> bytes:
        # The public certificate taken for a shared secret.
        mac = hmac.HMAC(issuer.certificate().encode(), hashes.SHA256())
        mac.update(body)
        return mac.finalize()

    good = issuer.token()
    forged = [
        issuer.token(Issuer().sign),
        issuer.token(lambda _: b"", alg="none"),
        issuer.token(shared, alg="HS256"),
        issuer.token(lambda _: b"SIGNATURE_REMOVED_BY_GOOGLE"),
        good[:-4],
        f"{good.rpartition('.')[0]}.SIGNATURE_REMOVED_BY_GOOGLE",
        "a.b.c",
        "..",
        f"{encoded(b'[]')}.{encoded(b'[]')}.",
        f"{encoded(b'7')}.{encoded(b'7')}.x",
        good.replace(".", "..", 1),
        good.partition(".")[0] + ".é.x",
    ]
    for token in forged:
        with pytest.raises(UnauthenticatedError):
            access.authorize(ELSEWHERE, bearer(token))


def test_unknown_keys_do_not_make_us_fetch_certificates_at_each_call(issuer: Issuer) -> None:
    clock = Clock()
    access, before = google(issuer, clock), issuer.fetched
    for number in range(5):
        with pytest.raises(UnauthenticatedError):
            access.authorize(ELSEWHERE, bearer(issuer.token(kid=f"k{number}")))
    assert issuer.fetched == before + 1
    clock.now += 61
    with pytest.raises(UnauthenticatedError):
        access.authorize(ELSEWHERE, bearer(issuer.token(kid="k9")))
    assert issuer.fetched == before + 2


def test_without_certificates_nobody_is_let_in_and_a_platform_calls_again(issuer: Issuer) -> None:
    issuer.status = 500
    try:
        with pytest.raises(AccessUnknownError) as unknown:
            google(issuer).authorize(ELSEWHERE, bearer(issuer.token()))
    finally:
        issuer.status = 200
    assert unknown.value.retry_after
    gone = Access(Rules(audiences=(AUDIENCE,), emails=(EMAIL,), certs_url=f"http://127.0.0.1:{free_port()}/"))
    with pytest.raises(AccessUnknownError):
        gone.authorize(ELSEWHERE, bearer(issuer.token()))


def test_a_platform_that_has_checked_the_caller_is_believed_but_not_without_a_token() -> None:
    access = Access(Rules(checked_by_platform=True))
    access.authorize(ELSEWHERE, bearer("eyJhbGciOiJSUzI1NiJ9.e30.SIGNATURE_REMOVED_BY_GOOGLE"))
    with pytest.raises(UnauthenticatedError) as refused:
        access.authorize(ELSEWHERE, {"Host": "x.run.app"})
    assert "allUsers" in refused.value.remedy


def test_a_rare_call_may_be_made_a_few_times_a_minute() -> None:
    clock = Clock()
    access = keyed(KEY, clock=clock)
    for _ in range(RARE_CALLS):
        access.authorize(ELSEWHERE, bearer(KEY), rare=True)
    with pytest.raises(TooManyCallsError) as refused:
        access.authorize(ELSEWHERE, bearer(KEY), rare=True)
    assert (refused.value.status, refused.value.retry_after) == (429, 60)
    access.authorize(ELSEWHERE, bearer(KEY))
    clock.now += 60
    access.authorize(ELSEWHERE, bearer(KEY), rare=True)


def test_calls_that_are_not_let_in_use_up_nobodys_turn() -> None:
    access = keyed(KEY)
    for _ in range(RARE_CALLS * 2):
        with pytest.raises(UnauthenticatedError):
            access.authorize(ELSEWHERE, bearer("w" * 16), rare=True)
    access.authorize(ELSEWHERE, bearer(KEY), rare=True)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Site]:
    """A site whose functions take calls with a key."""
    with site(access={"keys": ["${env:ACCESS_KEY}"]}) as found:
        found.env["ACCESS_KEY"] = KEY
        yield found


PROXIED = {"X-Forwarded-For": ELSEWHERE}
KEYED = {"Authorization": f"Bearer {KEY}"}


def test_a_function_that_a_proxy_leads_to_asks_for_the_key(guarded: Site) -> None:
    body = {"integration": "acme"}
    assert guarded.post("test-connection", body).status == 200
    answer = guarded.post("test-connection", body, PROXIED)
    told = json.loads(answer.body)
    assert (answer.status, told["code"], answer.headers["WWW-Authenticate"]) == (401, "unauthenticated", "Bearer")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "access.keys" in told["remedy"]
    assert guarded.post("test-connection", body, PROXIED | {"Authorization": f"Bearer {KEY}"}).status == 200
    # Whoever is not let in is told nothing of the request, either.
    assert guarded.post("test-connection", {"nope": 1}, PROXIED).status == 401


def test_with_a_configuration_that_cannot_be_read_nobody_from_elsewhere_is_let_in() -> None:
    with site() as found:
        found.config.write_text("store: s3://x\n")
        answer = found.post("fetch-page", {}, PROXIED)
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "access_unknown")
    assert b"s3" not in answer.body


def asked(url: str, headers: dict[str, str]) -> int:
    """The status; a tail would have no end."""
    with requests.get(url, headers=headers, timeout=30, stream=True) as answer:
        return answer.status_code


@pytest.fixture
def emulator(guarded: Site) -> Iterator[str]:
    """The emulator's own web, in front of test-connection."""
    with Emulator(guarded) as found:
        until(lambda: bool((found.status() or {}).get("streams")), "the emulator")
        yield found.url("/test-connection")


def test_the_emulators_web_asks_whom_the_functions_would_ask(emulator: str) -> None:
    body = {"client_id": "demo-client", "client_secret": SECRET}
    statuses: dict[str, int] = {}
    for name, headers in {
        "local": {},
        "proxied": PROXIED,
        "wrong key": PROXIED | {"Authorization": "Bearer wrong"},
        "key": PROXIED | {"Authorization": f"Bearer {KEY}"},
        "another site's page": {"Origin": "https://elsewhere.example.com"},
        "a name made to lead here": {"Host": "elsewhere.example.com"},
    }.items():
        answer = requests.post(emulator, json=body, headers=headers, timeout=30)
        statuses[name] = answer.status_code
        assert (answer.headers.get("WWW-Authenticate") == "Bearer") == (answer.status_code == 401)
    assert statuses == {
        "local": 200,
        "proxied": 401,
        "wrong key": 401,
        "key": 200,
        "another site's page": 401,
        "a name made to lead here": 401,
    }


def test_the_emulators_web_limits_test_connection_from_elsewhere(emulator: str) -> None:
    headers = PROXIED | {"Authorization": f"Bearer {KEY}"}
    answers = [requests.post(emulator, data=b"{", headers=headers, timeout=30) for _ in range(RARE_CALLS + 1)]
    assert (answers[-1].status_code, answers[-1].json()["code"]) == (429, "too_many_calls")
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60


REBOUND = {"Host": "elsewhere.example.com"}
STREAM = f"acme/{DEFAULT_TENANT_ID}/events"
OF_STREAM = f"/stream?integration=acme&tenant={DEFAULT_TENANT_ID}&stream=events"


@pytest.mark.parametrize(
    "path", ["/", "/status", OF_STREAM, "/test?integration=acme", f"/events?stream={STREAM}", "/tail"]
)
def test_a_page_of_another_site_whose_name_was_made_to_lead_here_reads_nothing(emulator: str, path: str) -> None:
    url = emulator.removesuffix("/test-connection") + path
    # Such a page can send every header of a proxy's too; what it cannot have is a key.
    statuses = [asked(url, headers) for headers in (REBOUND, REBOUND | PROXIED, REBOUND | KEYED, {})]
    assert statuses == [401, 401, 200, 200]


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/status", 200), (f"/events?stream={STREAM}", 401), ("/tail", 401)]
)
def test_from_elsewhere_one_looks_at_how_things_stand_and_reads_events_with_a_key(
    emulator: str, path: str, status: int
) -> None:
    url = emulator.removesuffix("/test-connection") + path
    assert [asked(url, headers) for headers in (PROXIED, PROXIED | KEYED)] == [status, 200]


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
def test_what_tells_nothing_of_a_status_is_answered_under_any_name(emulator: str, path: str) -> None:
    assert asked(emulator.removesuffix("/test-connection") + path, REBOUND) != 401


def test_a_key_that_is_taken_out_of_the_configuration_counts_no_more() -> None:
    headers = {key: PROXIED | {"Authorization": f"Bearer {key}"} for key in (KEY, NEXT_KEY)}
    with site(access={"keys": [KEY]}) as found:
        assert found.post("forward-batch", {}, headers[KEY]).status == 200
        found.write_config(access={"keys": [NEXT_KEY]})
        assert found.post("forward-batch", {}, headers[NEXT_KEY]).status == 200
        assert found.post("forward-batch", {}, headers[KEY]).status == 401


@pytest.mark.parametrize(("local", "without_key"), [("open", 200), ("key", 401)])
def test_behind_an_nginx_with_its_defaults_local_key_asks_everybody(
    local: str, without_key: int, tmp_path: Path
) -> None:
    with site(access={"keys": ["${env:ACCESS_KEY}"], "local": local}) as found:
        found.env["ACCESS_KEY"] = KEY
        found.central.fill(3)
        with (
            Emulator(found) as running,
            nginx(f"location / {{ proxy_pass http://{UPSTREAM}; }}", f"127.0.0.1:{running.port}", tmp_path) as proxied,
        ):
            until(lambda: bool((running.status() or {}).get("streams")), "the emulator")
            # The platform's own calls go on: events are fetched and delivered whoever has to show a key.
            until(lambda: len(found.engine.received) >= 3, "delivery")
            events = f"{proxied}/events?stream={STREAM}"
            assert (asked(events, {}), asked(events, KEYED)) == (without_key, 200)
            body = {"client_id": "demo-client", "client_secret": SECRET}
            for headers, status in (({}, without_key), (KEYED, 200)):
                answer = requests.post(f"{proxied}/test-connection", json=body, headers=headers, timeout=30)
                assert answer.status_code == status
            assert asked(f"{proxied}/status", {}) == 200


@pytest.mark.parametrize(("language", "proxy"), [("nginx", nginx), ("caddy", caddy), ("yaml", traefik)])
def test_behind_a_proxy_as_documented_nobody_is_local(language: str, proxy: Proxy, tmp_path: Path) -> None:
    with site(access={"keys": ["${env:ACCESS_KEY}"]}) as found:
        found.env["ACCESS_KEY"] = KEY
        found.central.fill(3)
        with Emulator(found) as running, proxy(example(language), f"127.0.0.1:{running.port}", tmp_path) as proxied:
            until(lambda: bool((running.status() or {}).get("streams")), "the emulator")
            for path, without_key in ((f"/events?stream={STREAM}", 401), ("/status", 200), ("/healthz", 200)):
                assert (asked(f"{proxied}{path}", {}), asked(f"{proxied}{path}", KEYED)) == (without_key, 200)
            # Under its public name, which no page of another site may have lead here.
            assert asked(f"{proxied}/status", {"Host": "connector.example.com"}) == 401
            body = {"client_id": "demo-client", "client_secret": SECRET}
            for name in ("test-connection", "fetch-page", "forward-batch"):
                answer = requests.post(f"{proxied}/{name}", json=body, timeout=30)
                assert answer.status_code == 401
            assert asked(running.url(f"/events?stream={STREAM}"), {}) == 200, "on this machine itself"
