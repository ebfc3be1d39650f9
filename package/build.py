"""Makes the artefacts of a release, in build/dist: `python -m package.build`, by `make dist`.

The same commit gives the same bytes: times come from SOURCE_DATE_EPOCH (default: the commit's), modes are set here,
and every package comes by its hash from requirements.lock. Tools: package/requirements.lock, and Debian's dpkg-deb.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lib.version import VERSION
from package import sbom

ROOT = Path(__file__).resolve().parents[1]
NAME = "sophos-utmstack"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Each has a `.pyz` of its own; the Debian package serves all of them."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
LOCK = ROOT / "requirements.lock"
OTHER_PYTHON = """import sys
if sys.version_info[:2] != tuple(map(int, "{0}".split("."))):
    told = "This file needs Python {0}; %s is Python %d.%d. Take the file for that version, or install python{0}."
    sys.exit(told % (sys.executable, sys.version_info[0], sys.version_info[1]))
"""
"""What a one-file program runs first, by any Python: packages compiled for another one fail somewhere later."""
DOCUMENTS = ("README.md", "CHANGELOG.md", "ARCHITECTURE.md", "connector.example.yaml", "openapi.yaml", "docs")


def main() -> None:
    """Make everything for one machine type."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--arch", choices=MACHINES, default=own_arch())
    options.add_argument("--out", type=Path, default=ROOT / "build" / "dist")
    args = options.parse_args()
    os.umask(0o022)
    os.environ["SOURCE_DATE_EPOCH"] = epoch()
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    work = ROOT / "build" / "work"
    shutil.rmtree(work, ignore_errors=True)
    wheel = _python_package(out)
    wheels = {python: downloaded(python, args.arch) for python in PYTHONS}
    for python, files in wheels.items():
        _one_file(out, work / python, [*files, wheel], python, args.arch)
    bundled = sorted(
        {path.name: path for files in wheels.values() for path in files}.values(), key=lambda path: path.name
    )
    _debian(out, work / "debian", [*bundled, wheel], args.arch)
    sbom.write(wheel.with_name(f"{wheel.name}.cdx.json"), wheel, bundled, LOCK)


def own_arch() -> str:
    """This machine's type, by Debian's name."""
    return next((arch for arch, machine in MACHINES.items() if machine == platform.machine()), "amd64")


def epoch() -> str:
    """The time of everything that is made, in seconds of Unix time."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return given or run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What the command prints; CalledProcessError where it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not installed; on Debian: apt-get install {command[0]}") from None
    return done.stdout


def _python_package(out: Path) -> Path:
    """The wheel, and the source distribution beside it."""
    run(sys.executable, "-m", "hatchling", "build", "-d", out)
    return out / f"sophos_utmstack-{VERSION}-py3-none-any.whl"


def downloaded(python: str, arch: str) -> list[Path]:
    """The locked packages for that Python, kept under the lock's digest."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    folder = ROOT / "build" / "wheels" / digest / f"{arch}-{python}"
    if not (folder / ".done").exists():
        platforms = [f"--platform={glibc}_{MACHINES[arch]}" for glibc in GLIBC]
        run(
            *(sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--dest", folder),
            *("--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version", python, *platforms),
            *("-r", LOCK),
        )
        (folder / ".done").touch()
    return sorted(folder.glob("*.whl"))


def _one_file(out: Path, site: Path, wheels: Iterable[Path], python: str, arch: str) -> None:
    """A file that needs only that Python: shiv unpacks it at its first start."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(site)
    target = out / f"{NAME}-{VERSION}-py{python}-linux-{MACHINES[arch]}.pyz"
    when = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in (site, *site.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (when, when))
    preamble = site.with_name(f"needs-{python}.py")
    _write(preamble, OTHER_PYTHON.format(python))
    # Its children are Python processes too, and find the packages by PYTHONPATH (-E).
    run(
        *(sys.executable, "-m", "shiv", "--site-packages", site, "--entry-point", "sophos_utmstack:main", "-E"),
        *("--preamble", preamble),
        *("--reproducible", "--compressed", "--python", f"/usr/bin/env python{python}", "--output-file", target),
    )
    sbom.write(target.with_name(f"{target.name}.cdx.json"), *_ours_last(wheels), LOCK)


def _ours_last(wheels: Iterable[Path]) -> tuple[Path, list[Path]]:
    *bundled, ours = wheels
    return ours, bundled


def _debian(out: Path, root: Path, wheels: list[Path], arch: str) -> None:
    """The package of the host's service: wheels for every Python, made into an environment where it is installed."""
    home = root / "opt" / NAME
    for wheel in wheels:
        _copy(wheel, home / "wheels" / wheel.name)
    ours, _ = _ours_last(wheels)
    digest = hashlib.sha256(ours.read_bytes()).hexdigest()
    lock = f"{LOCK.read_text()}{NAME}=={VERSION} --hash=sha256:{digest}\n"
    _write(home / "requirements.lock", lock)
    _copy(ROOT / "infra/utmstack/sophos-utmstack.service", root / "usr/lib/systemd/system/sophos-utmstack.service")
    _copy(ROOT / "infra/utmstack/connector.yaml", root / "etc" / NAME / "connector.yaml", 0o600)
    _copy(ROOT / "package/debian/environment", root / "etc" / NAME / "environment", 0o600)
    (root / "etc" / NAME).chmod(0o700)
    documents = root / "usr/share/doc" / NAME
    for name in (*DOCUMENTS, "infra/utmstack"):
        _copy(ROOT / name, documents / Path(name).name)
    _copy(ROOT / "package/debian/copyright", documents / "copyright")
    changes = (ROOT / "package/debian/changelog").read_text().replace("@VERSION@", VERSION).encode()
    (documents / "changelog.gz").write_bytes(gzip.compress(changes, mtime=0))
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin" / NAME).symlink_to(f"/opt/{NAME}/venv/bin/{NAME}")
    _control(root, arch)
    target = out / f"{NAME}_{VERSION}_{arch}.deb"
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", root, target)
    sbom.write(target.with_name(f"{target.name}.cdx.json"), *_ours_last(wheels), LOCK)


def _control(root: Path, arch: str) -> None:
    kilobytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    fields = {"@VERSION@": VERSION, "@ARCH@": arch, "@SIZE@": str(kilobytes), "@PYTHON@": PYTHONS[0]}
    fields["@NEXT@"] = f"3.{int(PYTHONS[-1].partition('.')[2]) + 1}"
    for name in ("control", "conffiles", "triggers", "postinst", "prerm", "postrm"):
        text = (ROOT / "package/debian" / name).read_text()
        for mark, value in fields.items():
            text = text.replace(mark, value)
        _write(root / "DEBIAN" / name, text, 0o755 if name in ("postinst", "prerm", "postrm") else 0o644)
    when = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in root.rglob("*"):
        os.utime(path, (when, when), follow_symlinks=False)


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    if source.is_dir():
        for path in sorted(source.iterdir()):
            _copy(path, target / path.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        target.chmod(mode)


def _write(target: Path, text: str, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error.cmd[0]} ended with {error.returncode}") from None
