"""What is deployed: every file of Terraform can be read, refers to what there is, and agrees with the program."""

import io
import json
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from infra import stage
from lib import telemetry
from lib.config.loading import ConfigSchema

INFRA = Path(__file__).resolve().parents[2] / "infra"
FILES = sorted(INFRA.glob("*.tf"))
TEXT = "\n".join(re.sub(r"(?m)^\s*#.*$", "", path.read_text()) for path in FILES)


@cache
def parsed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = hcl2.loads(path.read_text())
    return found


def blocks(kind: str) -> Iterator[tuple[str, Any]]:
    for path in FILES:
        for block in parsed(path).get(kind, []):
            yield from ((name.strip('"'), body) for name, body in block.items() if not name.startswith("__"))


def addresses(kind: str) -> set[str]:
    return {
        f"{name}.{each.strip(chr(34))}" for name, body in blocks(kind) for each in body if not each.startswith("__")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_hcl(path: Path) -> None:
    assert any(not key.startswith("__") for key in parsed(path))


def test_every_variable_is_described_typed_validated_and_used() -> None:
    for name, body in blocks("variable"):
        assert body["description"], name
        assert body["type"], name
        for each in body["validation"]:
            assert f"var.{name}" in each["condition"], name
            assert each["error_message"].strip('"').endswith("."), name
        assert len(re.findall(rf"\bvar\.{name}\b", TEXT)) > len(body["validation"]), f"{name} is not used"


def test_every_reference_has_its_declaration() -> None:
    variables = {name for name, _ in blocks("variable")}
    assert set(re.findall(r"\bvar\.([a-z_]+)", TEXT)) == variables
    locals_ = {name for block in map(parsed, FILES) for each in block.get("locals", []) for name in each}
    assert set(re.findall(r"\blocal\.([a-z_]+)", TEXT)) <= locals_
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


def test_the_configuration_is_made_of_keys_that_the_program_knows() -> None:
    text = (INFRA / "config.tf").read_text()
    known = ConfigSchema().fields
    nested = {"tasks": known["tasks"], "access": known["access"], "limits": known["limits"]}
    for key in re.findall(r"(?m)^      (\w+)\s+=", text):
        assert key in known, key
    for name, field in nested.items():
        inner = re.search(rf"(?ms)^      {name}\s+= \{{(.*?)\}}\s*$", text)
        assert inner, name
        for key in re.findall(r"(\w+)\s+=(?!=)", inner[1]):
            assert key in field.schema.fields, f"{name}.{key}"  # type: ignore[attr-defined] # a Nested has it


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
        assert container["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]


def test_metrics_read_what_the_functions_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(telemetry.JsonFormatter("fetch-page"))
    logger = logging.getLogger(telemetry.__name__)
    line = {"integration": "acme", "tenant": "t", "stream": "events", "lag_seconds": 7.5, "batches": ["b"], "acked": 3}
    failed = line | {"outcome": "failed", "problem": {"code": "x", "detail": "d"}}
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    telemetry.report([failed])
    assert stream.getvalue() == ""
    monkeypatch.setenv("K_SERVICE", "sophos-fetch-page")
    telemetry.report([failed, line | {"outcome": "idle"}])
    (entry,) = map(json.loads, stream.getvalue().splitlines())
    used = set(re.findall(r"jsonPayload\.result\.(\w+)", TEXT))
    assert used == {"lag_seconds", "integration", "stream", "outcome", "code", "acked"}
    assert used <= set(entry["result"])
    assert "batches" not in entry["result"]
    assert "a gap: " in (INFRA.parent / "lib/state/advance.py").read_text()
