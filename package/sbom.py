"""What is in an artefact, as CycloneDX 1.6, made of the wheels that it bundles. The same input gives the same bytes."""

from __future__ import annotations

import json
import re
import uuid
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

OURS = "sophos-utmstack"


def write(target: Path, ours: Path, bundled: Iterable[Path], lock: Path, others: Iterable[dict[str, Any]] = ()) -> None:
    """Describe the artefact beside which `target` lies; `others` are components that are no Python packages."""
    product = _component(_metadata(ours), {})
    hashes = _hashes(lock)
    packages = [_metadata(path) for path in sorted(bundled)]
    parts = {part["bom-ref"]: part for part in [*(_component(package, hashes) for package in packages), *others]}
    refs = {_normal(package["Name"]): _ref(package) for package in [*packages, _metadata(ours)]}
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product | {"type": "application"}},
        "components": list(parts.values()),
        "dependencies": [
            {"ref": ref, "dependsOn": needs}
            for ref, needs in sorted(
                {_ref(package): _needs(package, refs) for package in [*packages, _metadata(ours)]}.items()
            )
        ],
    }
    digest = uuid.uuid5(uuid.NAMESPACE_URL, target.name + json.dumps(document, sort_keys=True))
    text = json.dumps({**document, "serialNumber": f"urn:uuid:{digest}"}, indent=1, sort_keys=True) + "\n"
    _validate(text)
    target.write_text(text)


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = [path for path in packed.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", path)]
        return message_from_bytes(packed.read(name))


def _component(metadata: Message, hashes: dict[str, list[str]]) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _ref(metadata),
        "name": metadata["Name"],
        "version": metadata["Version"],
        "purl": _ref(metadata),
    }
    if licence := metadata["License-Expression"]:
        component["licenses"] = [{"expression": licence}]
    elif (licence := metadata["License"]) and len(licence) < 100:
        component["licenses"] = [{"license": {"name": licence}}]
    if digests := hashes.get(_normal(metadata["Name"])):
        # Those of every file that the lock allows: wheels of other machines, and the sources.
        component["properties"] = [{"name": "sophos-utmstack:sha256", "value": digest} for digest in digests]
    return component


def _needs(metadata: Message, refs: dict[str, str]) -> list[str]:
    """What it needs of what is bundled; optional extras are not."""
    wanted = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    names = {_normal(match[0]) for need in wanted if (match := re.match(r"[A-Za-z0-9._-]+", need))}
    return sorted(refs[name] for name in names if name in refs)


def _ref(metadata: Message) -> str:
    return f"pkg:pypi/{_normal(metadata['Name'])}@{metadata['Version']}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _hashes(lock: Path) -> dict[str, list[str]]:
    packages: dict[str, list[str]] = {}
    name = ""
    for line in lock.read_text().splitlines():
        if pinned := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = _normal(pinned[1])
        packages.setdefault(name, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return packages


def _validate(text: str) -> None:
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415 - a tool of `make dist` only
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise SystemExit(f"the bill of materials is not valid: {fault}")
