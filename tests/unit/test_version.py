"""One place says the version, and whatever names one agrees with it; every package is pinned by its hash."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from infra import stage
from lib.version import VERSION
from tests.site import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock", "package/requirements.lock")


def pins(lock: str, *, here: bool = False) -> dict[str, str]:
    """Of each pinned package, by its normal name, the version; with `here` of those alone that this system needs."""
    found = {}
    for line in (ROOT / lock).read_text().splitlines():
        if line[:1].isalnum():
            pinned = Requirement(line.rstrip(" \\"))
            if not here or pinned.marker is None or pinned.marker.evaluate():
                found[re.sub(r"[-_.]+", "-", pinned.name).lower()] = str(pinned.specifier).removeprefix("==")
    return found


def wanted(requirements: str) -> list[str]:
    """The names in a file of ranges."""
    lines = [line for line in (ROOT / requirements).read_text().splitlines() if line[:1] not in ("", "#", "-")]
    return [re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line)[0]).lower() for line in lines]


def test_the_command_line_tells_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emulator", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sophos-utmstack {VERSION}\n"


@pytest.mark.parametrize(
    "name",
    [
        "Dockerfile",
        "infra/utmstack/compose.override.yaml",
        "infra/knative/services.yaml",
        "infra/knative/README.md",
        "docs/utmstack.md",
    ],
)
def test_every_image_that_is_named_is_of_this_version(name: str) -> None:
    tags = re.findall(r"\bsophos-utmstack:(\d[\w.]*)", (ROOT / name).read_text())
    assert tags
    assert set(tags) == {VERSION}, name


def test_packaging_takes_version_and_requirements_from_their_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "lib/version.py"
    assert project["tool"]["hatch"]["metadata"]["hooks"]["requirements_txt"]["files"] == ["requirements.lock"]


def test_wheel_and_image_hold_the_documents_of_the_page() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "docs" in wheel["only-include"]
    assert wheel["sources"]["docs"] == "sophos_utmstack/docs"
    assert wheel["force-include"]["README.md"] == "sophos_utmstack/README.md"
    image = (ROOT / "Dockerfile").read_text()
    assert "COPY docs /app/docs\n" in image
    assert "COPY README.md /app/README.md\n" in image


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_hashes(lock: str) -> None:
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", (ROOT / lock).read_text())[1:]
    assert len(entries) == len(pins(lock)) > 0
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize(
    ("requirements", "lock"),
    [(lock.replace(".lock", ".txt"), lock) for lock in LOCKS],
)
def test_a_lock_pins_what_is_required_and_nothing_is_required_twice(requirements: str, lock: str) -> None:
    names = wanted(requirements)
    assert len(names) == len(set(names)), "named twice"
    assert set(names) <= pins(lock).keys()


def test_what_is_checked_is_what_runs() -> None:
    checked = pins("requirements-dev.lock")
    assert {name: checked.get(name) for name in pins("requirements.lock")} == pins("requirements.lock")


def test_the_tests_run_with_the_locked_packages() -> None:
    from importlib import metadata

    here = pins("requirements.lock", here=True)
    assert {name: metadata.version(name) for name in here} == here


def test_an_archive_of_a_function_installs_the_locked_packages() -> None:
    for function in stage.FUNCTIONS:
        assert stage.members(function)["requirements.txt"] == ROOT / "requirements.lock"


def test_generated_code_and_runtime_are_of_one_release() -> None:
    assert pins("requirements-dev.lock")["grpcio-tools"] == pins("requirements.lock")["grpcio"]


def test_the_shipped_configurations_are_valid() -> None:
    for name in ("infra/utmstack/connector.yaml",):
        lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        assert yaml.safe_load("\n".join(lines))["listen"] == "127.0.0.1:8085"
