"""Completion in the shells themselves, set up as `completion --help` teaches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.terminal import ROOT, Terminal

PYTHON = sys.executable
FUNCTION = f'sophos-utmstack() {{ "{PYTHON}" -m emulator "$@"; }}'


def script(shell: str) -> str:
    done = subprocess.run(
        [PYTHON, "-m", "emulator", "completion", shell],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def in_bash(typed: str, folder: Path) -> list[str]:
    """What bash offers, by its own machinery: the words, and where the cursor is."""
    words = " ".join(f"'{word}'" for word in typed.split(" "))
    place = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    ask = f'{place}; _sophos_utmstack; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", f"{script('bash')}\n{ask}"], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def in_fish(typed: str, folder: Path) -> list[str]:
    file = folder / "completion.fish"
    file.write_text(script("fish"))
    env = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / ".config")}
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {file}; complete -C '{typed}'"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration in it."""
    (tmp_path / "connector one.yaml").touch()
    (tmp_path / "other.yaml").touch()
    return tmp_path


@pytest.mark.parametrize("complete", [in_bash, in_fish])
def test_commands_options_values_and_files_are_completed(complete: object, folder: Path) -> None:
    assert callable(complete)
    assert {"status", "audit", "run", "drill"} <= set(complete("sophos-utmstack ", folder))
    assert complete("sophos-utmstack recon", folder) == ["reconcile"]
    assert complete("sophos-utmstack audit --s", folder) == ["--since"]
    assert complete("sophos-utmstack run --only f", folder)[-2:] == ["fetch-page", "forward-batch"]
    assert set(complete("sophos-utmstack completion ", folder)) >= {"bash", "zsh", "fish"}
    assert [name.replace("\\", "") for name in complete("sophos-utmstack audit --config conn", folder)] == [
        "connector one.yaml"
    ]
    assert "--json" in complete("sophos-utmstack audit --config x --", folder)
    assert not [each for each in complete("sophos-utmstack types --hours ", folder) if each.startswith("-")]


@pytest.mark.parametrize(("name", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_what_is_typed_is_completed(name: str, file: str, folder: Path) -> None:
    """Typed, since nothing but a terminal makes zsh complete."""
    shell = shutil.which(name)
    assert shell, "the Makefile installs it"
    taught = f"source <(cd '{ROOT}' && sophos-utmstack completion {name})"
    (folder / file).write_text(f"PS1='> '\n{FUNCTION}\n{taught}\ncd '{folder}'\necho ready\n")
    env = {"ZDOTDIR": str(folder), "HOME": str(folder), "TERM": "dumb"}
    with Terminal(shell, "-i", columns=200, env=env) as terminal:
        terminal.until(lambda text: "ready" in text, "the prompt")
        for typed, completed in (
            ("recon", "sophos-utmstack reconcile"),
            ("audit --si", "sophos-utmstack audit --since"),
            ("run --only fe", "sophos-utmstack run --only fetch-page"),
            ("audit --config conn", "sophos-utmstack audit --config connector\\ one.yaml"),
        ):
            terminal.press(f"sophos-utmstack {typed}\t")
            terminal.until(partial(contains, completed), completed)
            terminal.press("\x15")


def contains(completed: str, text: str) -> bool:
    return completed in text
