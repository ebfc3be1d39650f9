"""UTMStack's own configuration is followed, in its three forms: real files, a real gRPC server, a real HTTP server."""

import base64
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
import requests
import yaml
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from emulator.central import CentralServer, Clock, Credential, Fault, Tenant
from emulator.utmstack import settings
from emulator.utmstack.watcher import SettingsWatcher
from lib.config import loading as configuration
from lib.config.reloading import read_followed, with_followed
from lib.store.directory import DirectoryStore
from lib.utmstack.pb import modules_config_pb2 as pb
from lib.utmstack.pb import modules_config_pb2_grpc as pb_grpc
from tests.site import SECRET, Emulator, free_port, site, until

KEY = "demo-internal-key"


def encrypted(text: str, key: str = KEY) -> str:
    """As UTMStack's backend does it."""
    salt = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
    derived = hashlib.pbkdf2_hmac("sha1", key.encode(), salt, 65536, 16)
    padding = 16 - len(text.encode()) % 16
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(salt[:16])).encryptor()
    return base64.b64encode(
        encryptor.update(text.encode() + bytes([padding]) * padding) + encryptor.finalize()
    ).decode()


class Workdir:
    """UTMStack's work folder, written as its backend does."""

    def __init__(self, path: Path, **base: str) -> None:
        self.path = path
        self.pipeline = path / "pipeline"
        self.pipeline.mkdir()
        plugins = {"plugins": {"com.utmstack": {"internalKey": KEY, "pipelineDir": "/workdir/pipeline", **base}}}
        (self.pipeline / "utmstack_plugins.yaml").write_text(yaml.safe_dump(plugins))

    def save(self, *groups: tuple[str, str], key: str = KEY) -> None:
        self.save_of({"t-1": groups}, key)

    def save_of(self, tenants: Mapping[str, Sequence[tuple[str, str]]], key: str = KEY) -> None:
        def entry(name: str, secret: str) -> dict[str, object]:
            return {
                "name": name,
                "config": {"sophos_client_id": "demo-client", "sophos_x_api_key": encrypted(secret, key)},
            }

        found = [{"id": tenant, "groups": [entry(*group) for group in groups]} for tenant, groups in tenants.items()]
        self.put(yaml.safe_dump({"plugins": {"sophos": {"tenants": found}}}))

    def put(self, text: str) -> None:
        file = self.pipeline / settings.FILE
        file.with_suffix(".yaml.tmp").write_text(text)
        (self.pipeline / (settings.FILE + ".lock")).touch()
        file.with_suffix(".yaml.tmp").replace(file)


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir(tmp_path)


@contextlib.contextmanager
def following(workdir: Workdir, keepalive: float = settings.KEEPALIVE_SECONDS) -> Iterator[SettingsWatcher]:
    watcher = SettingsWatcher(str(workdir.path), look=0.1, again=0.3, keepalive=keepalive)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()
        watcher.close()


def handed(watcher: SettingsWatcher) -> dict[str, tuple[str, str, str]]:
    return {
        each.name: (each.client_id.resolve(), each.client_secret.resolve(), each.utmstack_tenant_id)
        for each in read_followed(Path(watcher.path))
    }


def has(watcher: SettingsWatcher, *names: str) -> None:
    until(lambda: set(handed(watcher)) == set(names), f"groups {names}")


def test_the_backends_encryption_is_understood() -> None:
    assert settings.decrypted("urdb0BaDZQ0gAew6bLXShn3p8FFNjMlTHB2r9IVeTkY=", ["other", KEY]) == "client-secret-value"


@pytest.mark.parametrize("value", ["", "plain secret", "abcd", "0123456789abcdef" * 6 + "0123"])
def test_a_value_that_is_not_encrypted_stands_for_itself(value: str) -> None:
    assert settings.decrypted(value, [KEY]) == value


def test_each_saved_file_is_followed_until_the_module_is_off(workdir: Workdir) -> None:
    with following(workdir) as watcher:
        workdir.save(("acme", "s-1"))
        has(watcher, "acme")
        assert handed(watcher)["acme"] == ("demo-client", "s-1", "t-1")
        workdir.save(("acme", "s-2"), ("Bäcker & Söhne", "s-3"))
        has(watcher, "acme", "Bäcker & Söhne")
        assert handed(watcher)["acme"][1] == "s-2"
        (workdir.pipeline / settings.FILE).unlink()
        has(watcher)
        assert not watcher.problems


def test_a_file_that_cannot_be_parsed_leaves_the_last_good_one(workdir: Workdir) -> None:
    workdir.save(("acme", "s-1"))
    with following(workdir) as watcher:
        has(watcher, "acme")
        workdir.put("plugins: [sophos: hush-hush")
        until(lambda: bool(watcher.problems), "a problem")
        assert "is not YAML" in str(watcher.problems[0])
        assert "hush" not in str(watcher.problems[0])
        assert set(handed(watcher)) == {"acme"}
        workdir.save(("other", "s-1"))
        has(watcher, "other")
        until(lambda: not watcher.problems, "no problem")


def test_a_wrong_encryption_key_is_told_in_words_and_keeps_the_group_as_it_was(
    workdir: Workdir, caplog: pytest.LogCaptureFixture
) -> None:
    workdir.save(("acme", "secret-one"))
    with following(workdir) as watcher:
        has(watcher, "acme")
        sealed = encrypted("secret-two", "another key")
        workdir.save(("acme", "secret-two"), key="another key")
        until(lambda: bool(watcher.problems), "a problem")
        problem = watcher.problems[0]
        assert "group 'acme'" in str(problem)
        assert "another key than" in str(problem)
        assert "encryptionKey" in problem.remedy
        assert handed(watcher)["acme"][1] == "secret-one"
        told = caplog.text + json.dumps(watcher.status()) + repr(watcher.base)
        assert not any(each in told for each in ("secret-one", "secret-two", sealed, KEY))


def test_a_group_without_a_secret_is_named_and_the_others_go_on(workdir: Workdir) -> None:
    group = {"name": "empty", "config": {"sophos_client_id": "x"}}
    good = {"name": "good", "config": {"Sophos_Client_ID": "x", "sophos_x_api_key": "plain secret"}}
    workdir.put(yaml.safe_dump({"plugins": {"sophos": {"tenants": [{"id": "", "groups": [group, good]}]}}}))
    with following(workdir) as watcher:
        has(watcher, "good")
        assert handed(watcher)["good"][2] == settings.DEFAULT_TENANT
        assert [str(each) for each in watcher.problems] == ["UTMStack's group 'empty': client secret not filled in"]


def test_groups_of_one_name_in_two_tenants_are_both_followed_under_names_that_stay(workdir: Workdir) -> None:
    shared = {"t-1": [("default", "s-1"), ("acme", "s-3")]}
    shared["t-2"] = [("default", "s-2")]
    names = {"default (t-1)": ("s-1", "t-1"), "default (t-2)": ("s-2", "t-2"), "acme": ("s-3", "t-1")}
    with following(workdir) as watcher:

        def secrets() -> dict[str, tuple[str, str]]:
            return {name: (secret, tenant) for name, (_, secret, tenant) in handed(watcher).items()}

        workdir.save_of(shared)
        until(lambda: secrets() == names, "both, and the one whose name is its own")
        workdir.save_of(dict(reversed(shared.items())) | {"t-3": [("new", "s-4")]})
        until(lambda: secrets() == names | {"new": ("s-4", "t-3")}, "the same names in another order")
        workdir.save_of({settings.DEFAULT_TENANT: [("default", "s-1")], "t-2": [("default", "s-2")]})
        has(watcher, "default", "default (t-2)")
        assert not watcher.problems
        workdir.save_of({"t-2": [("default", "s-2"), ("default", "s-5")]})
        until(lambda: "two groups named" in " ".join(map(str, watcher.problems)), "one name twice in one tenant")


def test_a_work_folder_that_is_none_is_named_until_it_is_there(tmp_path: Path) -> None:
    elsewhere = Workdir.__new__(Workdir)
    elsewhere.path = tmp_path / "later"
    with following(elsewhere) as watcher:

        def told() -> str:
            return " ".join(map(str, watcher.problems))

        until(lambda: "later/pipeline cannot be read: No such file" in told(), "the folder is named")
        assert "utmstack.workdir" in watcher.problems[0].remedy
        (elsewhere.path / "pipeline").mkdir(parents=True)
        until(lambda: "later/pipeline holds no settings" in told(), "the settings are named")
        base = elsewhere.path / "pipeline/utmstack_plugins.yaml"
        base.write_text("plugins: {com.utmstack: {internalKey: x, pipelineDir: /workdir/other}}")
        until(lambda: "later/other cannot be read" in told(), "the moved folder is named")
        base.write_text("plugins: {com.utmstack: {internalKey: x, pipelineDir: /workdir/pipeline}}")
        until(lambda: not told(), "no problem")
        assert "no Sophos group yet" in watcher.status()["note"]


def test_commands_name_a_wrong_work_folder_and_that_there_is_nothing_to_test() -> None:
    with site(utmstack={"workdir": "/no-such-folder"}, integrations=[], listen=f"127.0.0.1:{free_port()}") as here:
        DirectoryStore(here.folder / "store")
        for command in ("check", "status"):
            answer = here.command(command, status=1)
            assert not answer["ok"]
            assert "/no-such-folder" in answer["utmstack"]["problems"][0]["detail"]
        assert "/no-such-folder" in here.command("test-connection", status=2)["problem"]["detail"]
        workdir = Workdir(here.folder)
        here.write_config(utmstack={"workdir": str(here.folder)})
        for command in ("check", "status"):
            assert "no Sophos group yet" in here.command(command)["utmstack"]["note"]
        assert "no integration to test" in here.command("test-connection", status=2)["problem"]["detail"]
        here.central.fill(1)
        workdir.save(("acme", SECRET))
        assert [each["name"] for each in here.command("status")["integrations"]] == ["acme"]
        assert here.command("test-connection")["acme"]["ok"]
        workdir.put("plugins: {sophos: {tenants: [{groups: [{name: bob, config: {}}]}]}}")
        here.write_config(integrations=[{"name": "own", "client_id": "demo-client", "client_secret": SECRET}])
        assert here.command("test-connection", status=1)["own"]["ok"], "a group that cannot be used needs a look"


class ModulesConfig(pb_grpc.ConfigServiceServicer):
    """Sends each section to everybody who has the key."""

    def __init__(self) -> None:
        self.sections: Queue[pb.ConfigurationSection | None] = Queue()

    def StreamConfig(  # noqa: N802 - the contract's name
        self, requests: Iterator[pb.BiDirectionalMessage], context: grpc.ServicerContext
    ) -> Any:
        if dict(context.invocation_metadata()).get("internal-key") != KEY:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        assert next(requests).plugin_init.type == 7
        while (section := self.sections.get()) is not None:
            yield pb.BiDirectionalMessage(config=section)

    def send(self, *names: str, active: bool = True) -> None:
        self.sections.put(
            pb.ConfigurationSection(
                moduleName="SOPHOS",
                moduleActive=active,
                moduleGroups=[
                    pb.ModuleGroup(
                        groupName=name,
                        moduleGroupConfigurations=[
                            pb.Configuration(confKey="sophos_client_id", confValue="id"),
                            pb.Configuration(confKey="sophos_x_api_key", confValue=f"{name} secret"),
                        ],
                    )
                    for name in names
                ],
            )
        )


@contextlib.contextmanager
def modules_config() -> Iterator[tuple[ModulesConfig, str]]:
    service, server = ModulesConfig(), grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_ConfigServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        service.sections.put(None)
        server.stop(0).wait()


def test_the_stream_of_version_11_is_followed(tmp_path: Path) -> None:
    with modules_config() as (service, address), following(Workdir(tmp_path, modulesConfig=address)) as watcher:
        service.send("acme")
        has(watcher, "acme")
        assert handed(watcher)["acme"] == ("id", "acme secret", settings.DEFAULT_TENANT)
        service.send("acme", "other")
        has(watcher, "acme", "other")
        service.sections.put(None)
        until(lambda: bool(watcher.problems), "the stream's end is told")
        assert set(handed(watcher)) == {"acme", "other"}, "an end of the stream changes nothing"
        service.send("acme", active=False)
        has(watcher)


class Wire:
    """A connection's way to a server, that can be cut without a word to either end."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._cut = threading.Event()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()

    def close(self) -> None:
        self._listener.close()
        for each in self._ends:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._host, self._port))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._cut.is_set():
                    sink.sendall(data)


def test_a_stream_whose_server_is_gone_without_a_word_is_noticed(tmp_path: Path) -> None:
    assert settings.KEEPALIVE_SECONDS > 300, "grpc-go refuses to be asked more often"
    with (
        modules_config() as (service, address),
        contextlib.closing(Wire(address)) as wire,
        following(Workdir(tmp_path, modulesConfig=wire.address), keepalive=4.0) as watcher,
    ):
        service.send("acme")
        has(watcher, "acme")
        wire.cut()
        until(lambda: bool(watcher.problems), "the silence is told")
        assert "cannot be followed: UNAVAILABLE" in str(watcher.problems[0])
        assert set(handed(watcher)) == {"acme"}


@pytest.mark.parametrize("source", [{"modulesConfig": "nowhere.invalid:9003"}, {"backend": "http://nowhere.invalid"}])
def test_a_name_that_only_utmstacks_network_knows_is_told_with_what_to_do(
    tmp_path: Path, source: dict[str, str]
) -> None:
    with following(Workdir(tmp_path, **source)) as watcher:
        until(lambda: bool(watcher.problems), "a problem")
        assert "this machine cannot resolve the name nowhere.invalid" in str(watcher.problems[0])
        assert "in a container on that network" in watcher.problems[0].remedy


def test_a_refused_internal_key_is_told(tmp_path: Path) -> None:
    with modules_config() as (_, address):
        workdir = Workdir(tmp_path, modulesConfig=address, internalKey="wrong")
        with following(workdir) as watcher:
            until(lambda: bool(watcher.problems), "a problem")
            assert "refuses the internal key" in str(watcher.problems[0])
            workdir.save(("acme", "s-1"), key="wrong")
            has(watcher, "acme")


@contextlib.contextmanager
def backend(answers: Callable[[str], tuple[int, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.headers.get("Utm-Internal-Key", ""))
            assert self.path == "/api/utm-modules/module-details-decrypted?nameShort=SOPHOS&serverId=1"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_the_internal_key_goes_to_no_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        backend(lambda _: (200, json.dumps({"moduleActive": False}))) as url,
        socket.create_server(("127.0.0.1", 0)) as proxy,
    ):
        proxy.setblocking(False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert settings.polled(settings.base_of(str(Workdir(tmp_path, backend=url).path))) == settings.Found()
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_the_older_backend_is_asked_again_while_it_starts(tmp_path: Path) -> None:
    pair = [
        {"confKey": None, "confName": "Client Id", "confValue": "id"},
        {"confKey": "x", "confName": "Client Secret", "confValue": "s"},
    ]
    section = {"moduleActive": True, "moduleGroups": [{"groupName": "old", "moduleGroupConfigurations": pair}]}
    replies = iter([(200, "<html>starting</html>")])

    def answers(key: str) -> tuple[int, str]:
        return next(replies, (200, json.dumps(section))) if key == KEY else (400, "{}")

    with backend(answers) as url, following(Workdir(tmp_path, backend=url)) as watcher:
        until(lambda: bool(watcher.problems), "not ready")
        assert "is not ready" in str(watcher.problems[0])
        has(watcher, "old")
        assert handed(watcher)["old"][:2] == ("id", "s")


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_told_by_its_key_goes_before_what_is_told_by_its_name(order: int) -> None:
    def told(word: str) -> list[dict[str, str]]:
        by_key = [("sophos_client_id", "", f"{word} id"), ("sophos_x_api_key", "", f"{word} secret")]
        by_name = [("other", "Client Id", "another id"), ("other", "CLIENT SECRET", "another secret")]
        found = [*by_key, *by_name] if word else by_name
        return [{"confKey": key, "confName": name, "confValue": value} for key, name, value in found[::order]]

    assert settings.credential_of_form(told("right"), [KEY]) == ("right id", "right secret")
    assert settings.credential_of_form(told(""), [KEY]) == ("another id", "another secret")


def test_an_integration_of_the_connectors_own_file_goes_before_a_group_of_that_name(workdir: Workdir) -> None:
    workdir.save(("acme", "not this one"), ("bob", SECRET))
    with site(utmstack={"workdir": str(workdir.path)}) as here, following(workdir) as watcher:
        has(watcher, "acme", "bob")
        found = with_followed(configuration.load(str(here.config)), read_followed(Path(watcher.path)))
        assert [each.name for each in found.integrations] == ["acme", "bob"]
        assert here.command("test-connection")["acme"]["ok"], "with its own secret"


def test_the_product_follows_utmstack_and_serves_its_test_connection(workdir: Workdir) -> None:
    workdir.save(("acme", SECRET))
    central = CentralServer()
    central.fill(20)
    settings_ = {"utmstack": {"workdir": str(workdir.path)}, "integrations": []}
    with central, site(central, **settings_) as here, Emulator(here) as emulator:

        def acked(name: str) -> int:
            found = (emulator.status() or {"streams": []})["streams"]
            return sum(each["acked"] for each in found if each["integration"] == name)

        until(lambda: acked("acme") > 0, "events of acme")

        def tokens() -> int:
            return sum(1 for seen in list(central.requests) if seen.path.endswith("/token"))

        before = tokens()
        workdir.save(("acme", SECRET), ("bob", SECRET))
        until(lambda: acked("bob") > 0, "events of bob")
        assert tokens() == before + 1, "a group that did not change keeps its token"
        workdir.save(("bob", SECRET), key="another key")
        until(lambda: "another key than" in requests.get(emulator.url("/"), timeout=10).text, "the page tells it")
        workdir.save(("bob", SECRET))
        until(lambda: (emulator.status() or {})["utmstack"]["groups"] == ["bob"], "acme has gone")
        assert {log.dataSource for log in here.engine.received} == {"acme", "bob"}
        cursors = {path.parts[-3] for path in (here.folder / "store/cursors").rglob("*.json")}
        assert cursors == {"acme", "bob"}, "a removed group's cursor stays"

        assert validate(emulator, SECRET).status_code == 404
        assert validate(emulator, SECRET, **{"internal-key": "wrong"}).status_code == 403
        for secret in (SECRET, encrypted(SECRET)):
            good = validate(emulator, secret, **{"internal-key": KEY})
            assert good.status_code == 200, good.text
            assert set(good.json()) == {"status"}
        bad = validate(emulator, "no such secret", **{"internal-key": KEY})
        assert bad.status_code == 400
        assert set(bad.json()) == {"error"}
        assert "secret" in bad.json()["error"]
        for file in here.folder.rglob("*"):
            if file.is_file() and not file.name.startswith("connector"):
                assert SECRET.encode() not in file.read_bytes(), file


def validate(emulator: Emulator, secret: str, module: str = "SOPHOS", **headers: str) -> requests.Response:
    """UTMStack's Test Connection."""
    values = [("sophos_client_id", "demo-client"), ("sophos_x_api_key", secret)]
    form = {"moduleGroupConfigurations": [{"confKey": key, "confValue": value} for key, value in values]}
    url = emulator.url(f"/api/v1/modules-config/validate?nameShort={module}")
    return requests.post(url, json=form, headers=headers, timeout=30)


def test_a_form_is_refused_for_what_it_holds_and_for_nothing_else(workdir: Workdir) -> None:
    tenants = [Tenant(id='{"meta"}'), Tenant(id="t-2", forbidden=True)]
    central = CentralServer(
        tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")], clock=Clock(offset_seconds=3600)
    )
    nobody = f"unix:{workdir.path}/nobody.sock"
    settings_ = {"utmstack": {"workdir": str(workdir.path)}, "integrations": [], "engine": nobody}
    with central, site(central, **settings_) as here, Emulator(here) as emulator:
        until(lambda: emulator.status() is not None, "the emulator answers")
        assert "no Sophos group yet" in requests.get(emulator.url("/"), timeout=10).text

        def answered(secret: str = SECRET, module: str = "SOPHOS") -> tuple[int, str]:
            answer = validate(emulator, secret, module, **{"internal-key": KEY})
            ((_, text),) = answer.json().items()
            return answer.status_code, text

        checks = requests.post(
            emulator.url("/test-connection"),
            json={"client_id": "demo-client", "client_secret": SECRET},
            timeout=60,
        ).json()["checks"]
        assert {each["name"] for each in checks if each["outcome"] == "failed"} == {"clock", "engine"}
        # And one tenant of two is forbidden.
        status, text = answered()
        assert status == 200, text
        assert "Sophos issued a token. The credential belongs to partner p-1." in text
        central.faults.add(Fault("status", status=429, retry_after=600, times=None))
        assert answered()[0] == 200, "a credential whose calls are used up is a good one"
        central.faults.clear()
        central.faults.add(Fault("status", status=403, times=None))
        status, text = answered()
        assert (status, '{"meta"' in text, '{ "meta"' in text) == (400, False, True), text
        central.faults.clear()
        status, text = answered("wrong")
        assert (status, ". Check the client id and secret" in text, "15 minutes" in text) == (400, True, False), text
        central.faults.add(Fault("status", status=429, retry_after=600, times=None, path="/api/v2/oauth2/token"))
        assert answered()[0] == 400, "nothing is known of it"
        status, text = answered(module="AWS_IAM_USER")
        assert (status, "SOPHOS only" in text) == (400, True)
        health = requests.get(emulator.url("/api/v1/health"), timeout=10)
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
