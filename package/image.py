"""Makes the container image of a release from the Dockerfile, without a container engine: `python -m package.image`.

The base comes from Debian by mmdebstrap in place of a registry, and packages from what `make dist` has downloaded.
Needs root, buildah and mmdebstrap. The result is an OCI archive: the same bytes for the same commit and the same
packages of Debian.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lib.version import VERSION
from package import build, sbom

SUITE, PYTHON = "trixie", "3.13"
TAG = f"localhost/{build.NAME}:{VERSION}"
WORK = build.ROOT / "build" / "image"
BUILDAH = ("buildah", "--root", str(WORK / "storage"), "--runroot", str(WORK / "run"), "--storage-driver", "vfs")


def main() -> None:
    """Make the image for one machine type."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--arch", choices=build.MACHINES, default=build.own_arch())
    options.add_argument("--out", type=Path, default=build.ROOT / "build" / "dist")
    args = options.parse_args()
    os.umask(0o022)
    args.out.mkdir(parents=True, exist_ok=True)
    epoch = os.environ["SOURCE_DATE_EPOCH"] = build.epoch()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    base = _base(args.arch, epoch)
    wheels = build.downloaded(PYTHON, args.arch)
    _bud(
        *(TAG, epoch, args.arch, "--volume", f"{wheels[0].parent}:/wheels:ro", f"--build-arg=BASE={base}"),
        *("--build-arg=PIP=--no-index --find-links /wheels", "--file", build.ROOT / "Dockerfile", build.ROOT),
    )
    build.run(*BUILDAH, "push", "--quiet", TAG, f"oci:{WORK}/oci:{build.NAME}:{VERSION}")
    target = args.out.absolute() / f"{build.NAME}-{VERSION}-{args.arch}.oci.tar"
    _archived(WORK / "oci", target, int(epoch))
    ours = args.out.absolute() / f"sophos_utmstack-{VERSION}-py3-none-any.whl"
    if ours.exists():
        sbom.write(target.with_name(f"{target.name}.cdx.json"), ours, wheels, build.LOCK, _debian_packages(args.arch))
    shutil.rmtree(WORK)


def _base(arch: str, epoch: str) -> str:
    """A minimal Debian as an image."""
    build.run("mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={arch}", SUITE, WORK / "base.tar")
    (WORK / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
    name = f"localhost/debian:{SUITE}"
    _bud(name, epoch, arch, "--file", WORK / "Containerfile", WORK)
    return name


def _bud(tag: str, epoch: str, arch: str, *options: str | Path) -> None:
    build.run(
        *(
            *BUILDAH,
            "bud",
            "--quiet",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--format",
            "oci",
            "--layers=false",
        ),
        *("--arch", arch, "--timestamp", epoch, "--tag", tag, *options),
    )


def _archived(folder: Path, target: Path, epoch: int) -> None:
    """The layout as one file that `docker load` and `podman load` take."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = epoch
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=plain)


def _debian_packages(arch: str) -> list[dict[str, Any]]:
    """Those that are in the image, by its own list of them."""
    name = build.run(*BUILDAH, "from", "--pull-never", TAG).strip()
    listed = ("run", "--isolation", "chroot", name, "--", "dpkg-query", "-W", "-f", "${Package} ${Version}\n")
    packages = []
    for line in build.run(*BUILDAH, *listed).splitlines():
        if match := re.fullmatch(r"(\S+) (\S+)", line):
            ref = f"pkg:deb/debian/{quote(match[1])}@{quote(match[2])}?arch={arch}&distro={SUITE}"
            packages.append({"type": "library", "bom-ref": ref, "purl": ref, "name": match[1], "version": match[2]})
    return packages


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error.cmd[0]} ended with {error.returncode}") from None
