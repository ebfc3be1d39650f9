"""What is deployed: every file of Terraform can be read, refers to what there is, and agrees with the program."""

import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from infra import stage
from lib import telemetry
from lib.config import environment
from lib.config.schema import ConfigSchema
from lib.pipeline import delivery_result, read_result

INFRA = Path(__file__).resolve().parents[2] / "infra"
MODULES = (INFRA, INFRA / "connector")
FILES = sorted(INFRA.rglob("*.tf"))


def text_of(module: Path) -> str:
    """What a module says, without its comments."""
    return "\n".join(re.sub(r"(?m)^\s*#.*$", "", path.read_text()) for path in sorted(module.glob("*.tf")))


TEXT = "\n".join(map(text_of, MODULES))


@cache
def parsed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = hcl2.loads(path.read_text())
    return found


def blocks(kind: str, module: Path = INFRA) -> Iterator[tuple[str, Any]]:
    for path in sorted(module.glob("*.tf")):
        for block in parsed(path).get(kind, []):
            yield from ((name.strip('"'), body) for name, body in block.items() if not name.startswith("__"))


def addresses(kind: str) -> set[str]:
    return {
        f"{name}.{each.strip(chr(34))}" for name, body in blocks(kind) for each in body if not each.startswith("__")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_every_file_is_hcl(path: Path) -> None:
    assert any(not key.startswith("__") for key in parsed(path))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_every_variable_is_described_typed_and_used(module: Path) -> None:
    for name, body in blocks("variable", module):
        assert body["description"], name
        assert body["type"], name
        validations = body.get("validation", [])
        for each in validations:
            assert f"var.{name}" in each["condition"], name
            assert each["error_message"].strip('"').endswith("."), name
        assert len(re.findall(rf"\bvar\.{name}\b", text_of(module))) > len(validations), f"{name} is not used"


def test_what_a_person_writes_is_validated_here_or_in_the_module_that_takes_it() -> None:
    inner = dict(blocks("variable", INFRA / "connector"))
    for name, body in blocks("variable"):
        assert "validation" in body or "validation" in inner[name] or body["type"].strip('"') == "bool", name


def test_every_reference_has_its_declaration() -> None:
    for module in MODULES:
        text = text_of(module)
        assert set(re.findall(r"\bvar\.([a-z_]+)", text)) == {name for name, _ in blocks("variable", module)}
        locals_ = {name for path in module.glob("*.tf") for each in parsed(path).get("locals", []) for name in each}
        assert set(re.findall(r"\blocal\.([a-z_]+)", text)) <= locals_
    resources = addresses("resource")
    used = {f"{kind}.{name}" for kind, name in re.findall(r"(?<![.\w])(google_[a-z0-9_]+)\.([a-z_]+)", TEXT)}
    data = addresses("data")
    assert {f"{kind}.{name}" for kind, name in re.findall(r"\bdata\.(google_[a-z_]+)\.([a-z_]+)", TEXT)} == data
    assert used <= resources


def test_nobody_is_everybody() -> None:
    assert "allUsers" not in TEXT.replace("never allUsers", "")
    assert "allAuthenticatedUsers" not in TEXT
    assert not re.findall(r"roles/(?:owner|editor|viewer)\b|\.admin\"", TEXT)


def test_the_example_gives_what_has_no_default_and_nothing_unknown() -> None:
    example = hcl2.loads((INFRA / "terraform.tfvars.example").read_text())
    given = {key for key in example if not key.startswith("__")}
    variables = dict(blocks("variable"))
    assert given <= set(variables)
    assert {name for name, body in variables.items() if "default" not in body} <= given


def test_every_key_of_the_configuration_can_be_set_hosted_or_is_made_there() -> None:
    """A key that the program learns has to be given a place here."""
    (local,) = parsed(INFRA / "connector/main.tf")["locals"]
    schema = ConfigSchema().fields
    integration = schema["integrations"].inner.schema.fields  # type: ignore[attr-defined] # a list of nested ones
    credentials = {"client_id", "client_secret", "next_client_id", "next_client_secret"}
    assert set(local["keys"]) - {"next_credential"} == set(integration) - credentials
    made = {"store", "engine", "engine_access", "every", "access", "tasks", "integrations"}
    not_hosted = {"listen", "relay", "utmstack"}
    settable = {each.strip('"') for each in local["settings"]}
    assert settable | made | not_hosted == set(schema)


def test_an_archive_is_the_same_bytes_for_the_same_sources(tmp_path: Path) -> None:
    one, two = stage.stage(tmp_path / "one"), stage.stage(tmp_path / "two")
    assert sorted(one) == ["fetch_page", "forward_batch", "test_connection"]
    assert [path.read_bytes() for path in one.values()] == [path.read_bytes() for path in two.values()]


def test_the_manifest_starts_functions_that_there_are_and_confines_them() -> None:
    documents = list(yaml.safe_load_all((INFRA / "knative" / "services.yaml").read_text()))
    services = [each for each in documents if each["kind"] == "Service"]
    assert [each["metadata"]["name"] for each in services] == ["fetch-page", "forward-batch", "test-connection"]
    for service in services:
        (container,) = service["spec"]["template"]["spec"]["containers"]
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["FUNCTION_TARGET"] == service["metadata"]["name"].replace("-", "_")
        assert f"def {env['FUNCTION_TARGET']}(" in (INFRA.parent / env["FUNCTION_SOURCE"]).read_text()
        confines(container)


def test_each_job_of_the_manifest_makes_one_call_of_a_service_that_there_is() -> None:
    documents = list(yaml.safe_load_all((INFRA / "knative" / "services.yaml").read_text()))
    called = []
    for job in (each["spec"]["jobTemplate"]["spec"] for each in documents if each["kind"] == "CronJob"):
        (container,) = job["template"]["spec"]["containers"]
        (url,) = [each for each in container["args"] if each.startswith("http")]
        called.append(url)
        assert "--fail-with-body" in container["command"]
        assert job["backoffLimit"] == 0
        confines(container)
    names = [each["metadata"]["name"] for each in documents if each["kind"] == "Service"]
    assert called == [f"http://{name}.sophos.svc.cluster.local/" for name in names[:2]]


def confines(container: Mapping[str, Any]) -> None:
    """kubelet cannot tell of a user's name that it is not root."""
    rules = container["securityContext"]
    assert rules["runAsNonRoot"]
    assert rules["readOnlyRootFilesystem"]
    assert isinstance(rules["runAsUser"], int)
    assert rules["runAsUser"] > 0


def test_metrics_read_what_the_functions_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(telemetry.JsonFormatter("fetch-page"))
    logger = logging.getLogger(telemetry.__name__)
    line = {"integration": "acme", "tenant": "t", "stream": "events", "lag_seconds": 7.5, "batches": ["b"], "acked": 3}
    line |= {"set_aside": 1}
    failed = line | {"outcome": "failed", "problem": {"code": "x", "detail": "d"}}
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    # The emulator tells of an outage itself; on any other platform the log is the only one to tell.
    with monkeypatch.context() as behind:
        behind.setenv(environment.BEHIND_EMULATOR, "1")
        telemetry.report([failed])
    assert stream.getvalue() == ""
    telemetry.report([failed, line | {"outcome": "fetched"}])
    (entry,) = map(json.loads, stream.getvalue().splitlines())
    assert (entry["severity"], entry["message"]) == ("WARNING", "acme/t/events: failed: d")
    stream.truncate(stream.seek(0))
    monkeypatch.setenv("K_SERVICE", "sophos-fetch-page")
    telemetry.report([failed, line | {"outcome": "idle"}])
    (entry,) = map(json.loads, stream.getvalue().splitlines())
    used = set(re.findall(r"jsonPayload\.result\.(\w+)", TEXT))
    assert used == {"lag_seconds", "integration", "stream", "outcome", "code", "acked", "set_aside"}
    assert used <= set(entry["result"])
    assert "batches" not in entry["result"]
    assert 'log.error("%s: a gap: ' in (INFRA.parent / "lib/state/advance.py").read_text()
    (outcomes,) = re.findall(r"jsonPayload\.result\.outcome=\(([^)]*)\)", TEXT)
    assert set(re.findall(r"\w{4,}", outcomes)) == {
        read_result.FAILED,
        read_result.PAUSED,
        delivery_result.ENGINE_UNAVAILABLE,
    }
    assert read_result.FAILED == delivery_result.FAILED
