"""A release made twice, under another path and another umask, and a later one made of the same sources."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from lib.version import VERSION
from tests.site import ROOT

LATER = f"{VERSION}.post1"
TOOLS = ROOT / "build/tools/bin/python"


@dataclass(frozen=True, slots=True)
class Release:
    """Where its artefacts lie, and which version they are of."""

    folder: Path
    version: str
    sources: Path

    def file(self, pattern: str) -> Path:
        """The one artefact of that name."""
        (found,) = self.folder.glob(pattern)
        return found

    def words(self, document: str, heading: str) -> list[str]:
        """The command blocks below a heading of a page of docs/, for this version."""
        text = (self.sources / "docs" / document).read_text().replace(VERSION, self.version)
        (section,) = re.findall(rf"(?ms)^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text)
        blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```$", section)
        assert blocks, heading
        return list(blocks)


def copied(target: Path) -> Path:
    """This tree as it is just now, without what is built in it; it may change meanwhile."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path, follow_symlinks=False)
    return target


def made(of: Path, folder: Path, version: str, *, strict: bool = False, image: bool = False) -> Release:
    """Make a release of a copy of the sources; `strict` as somebody whose files nobody else may read."""
    sources = folder / "sources"
    shutil.copytree(of, sources, symlinks=True)
    for path in sources.rglob("*") if strict else ():
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    (sources / "lib/version.py").write_text((of / "lib/version.py").read_text().replace(VERSION, version))
    (ROOT / "build/wheels").mkdir(parents=True, exist_ok=True)
    (sources / "build").mkdir()
    (sources / "build/wheels").symlink_to(ROOT / "build/wheels")
    out = folder / "dist"
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    for module in ("build", *(["image"] if image else [])):
        command: list[str | Path] = [TOOLS, "-m", f"package.{module}", "--out", out]
        subprocess.run(command, cwd=sources, env=env, umask=0o077 if strict else 0o022, check=True)
    return Release(out, version, sources)


def digests(release: Release) -> dict[str, str]:
    """Of each file the digest of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(release.folder.iterdir())}


def check_sources(release: Release, folder: Path) -> None:
    """The source distribution makes the same wheel."""
    with tarfile.open(release.file("*.tar.gz")) as packed:
        packed.extractall(folder, filter="data")
    (sources,) = folder.iterdir()
    out = folder / "out"
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    subprocess.run([TOOLS, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=sources, env=env, check=True)
    (wheel,) = out.iterdir()
    assert wheel.read_bytes() == release.file("*.whl").read_bytes(), "the source distribution makes another wheel"


def check_signature(release: Release, folder: Path) -> None:
    """The documented words accept what was signed, and refuse what was changed since."""
    names = sorted(path.name for path in release.folder.iterdir())
    shutil.copytree(release.folder, folder)
    make = ("make", "--no-print-directory", "-C", ROOT, f"DIST={folder}", f"KEY={folder}/release.pem")
    for target in ("sums", "release-key", "sign"):
        subprocess.run([*make, target], check=True)
    (folder / "release.pem").unlink()
    (verify,) = release.words("install.md", "Verify")
    said = subprocess.run(["bash", "-euc", verify], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "Signature Verified Successfully" in said
    assert {line.partition(": ")[0] for line in said.splitlines() if line.endswith(": OK")} == set(names)
    with release.file("*.whl").open("rb") as original, (folder / release.file("*.whl").name).open("wb") as changed:
        changed.write(original.read().replace(b"sophos", b"s0phos"))
    assert subprocess.run(["bash", "-euc", verify], cwd=folder, capture_output=True, check=False).returncode != 0
    shutil.copy(release.file("*.whl"), folder)
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("a", "b", 1))
    assert subprocess.run(["bash", "-euc", verify], cwd=folder, capture_output=True, check=False).returncode != 0
