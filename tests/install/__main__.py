"""A release is made, and installed by the words of docs/: `python -m tests.install here bookworm trixie image service`.

`here` needs no root: the same bytes twice, sources, signature, wheel, one file, the older version's store. The name
of a suite makes a fresh Debian of it, as root and with Debian's packages in reach, for package, pipx and one file.
`image` makes the container image twice and runs it with Podman. `service` boots fresh Debians with systemd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.version import VERSION
from tests.install.booted import serve
from tests.install.life import Installed, live
from tests.install.releases import LATER, TOOLS, Release, check_signature, check_sources, copied, digests, made
from tests.site import ROOT, Site

OLDER = "361c4a2"
"""A commit of 0.1.0, which had no artefacts: its tree is run as it is."""
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
# A namespace for each command: no mount is left to remove, and none leads from the folder of the run to this machine.
_ENTER = """
mount --bind "$1" "$0$1"
mount -t proc proc "$0/proc"
shift
exec chroot "$0" "$@"
"""
UNIT = "usr/lib/systemd/system/sophos-utmstack.service"


def main() -> int:
    """Everything that was asked for, one after the other; the first fault ends it."""
    asked = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="su-dist-") as name:
        work = Path(name)
        work.chmod(0o755)
        tempfile.tempdir = str(work / "t")  # The sites', which a fresh system sees too.
        (work / "t").mkdir()
        image = "image" in asked
        with _told("a release, twice the same bytes, from files that only their owner may read"):
            tree = copied(work / "tree")
            first = made(tree, work / "1", VERSION, image=image)
            second = made(tree, work / "2", VERSION, strict=True, image=image)
            assert digests(first) == digests(second), set(digests(first).items()) ^ set(digests(second).items())
        later = made(tree, work / "3", LATER, image=image)
        for each in asked:
            {"here": _here, "image": _image, "service": _service}.get(each, _debian(each))(work, first, later)
    print(f"{' '.join(asked)}: passed")
    return 0


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{what} …", flush=True)
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def _here(work: Path, first: Release, later: Release) -> None:
    with _told("sources and signature"):
        check_sources(first, work / "sdist")
        check_signature(first, work / "signed")
    wheelhouse = next((ROOT / "build/wheels").glob(f"*/*-3.{sys.version_info.minor}"))
    venv = work / "venv"

    def install(release: Release) -> None:
        _, *blocks = release.words("install.md", "pipx or uv")
        shutil.copy(release.sources / "requirements.lock", release.folder.parent)
        script = blocks[0].replace("./sophos", f"{release.folder}/sophos").replace("venv/", f"{venv}/")
        script = script.replace("-m venv venv", f"-m venv {venv}")
        env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse)}
        _bash(script, release.folder.parent, env)

    how = Installed(
        "the wheel in an environment", install, lambda: shutil.rmtree(venv), lambda _: [f"{venv}/bin/sophos-utmstack"]
    )
    _live(how, first, later)
    one_file = _one_file(work / "home", ".".join(map(str, sys.version_info[:2])), [])
    _refuses_another_python(first, work / "home")
    tree = work / "older"
    tree.mkdir()
    archive = subprocess.run(["git", "archive", OLDER], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    older = Installed(
        "0.1.0's sources", lambda _: None, lambda: None, lambda _: [sys.executable, "-m", "emulator"],
        env={"PYTHONPATH": str(tree)},
    )  # fmt: skip
    with _told(f"the store of {older.name} under {one_file.name}, and back"):
        live(one_file, first, later, before=older)


def _live(how: Installed, first: Release, later: Release) -> None:
    with _told(f"{how.name}: installed, used, upgraded, rolled back, removed"):
        live(how, first, later)


def _one_file(home: Path, python: str, prefix: Sequence[str]) -> Installed:
    program = home / "bin/sophos-utmstack"

    def install(release: Release) -> None:
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (words,) = release.words("install.md", "One file")
        words = words.replace("py3.11", f"py{python}").replace("/usr/local/bin/sophos-utmstack", str(program))
        words = words.replace("\nsophos-utmstack ", f"\n{program} ")
        _bash(words, release.folder, {"HOME": str(home)}, prefix)

    def remove() -> None:
        program.unlink()
        shutil.rmtree(home / ".shiv")

    env = {"HOME": str(home), "PYTHONPATH": ""}
    return Installed(f"one file for Python {python}", install, remove, lambda _: [*prefix, str(program)], env)


def _refuses_another_python(release: Release, home: Path) -> None:
    """Before a compiled package fails to load."""
    other = next(python for python in ("3.12", "3.11") if sys.version_info[:2] != tuple(map(int, python.split("."))))
    command = [sys.executable, str(release.file(f"*-py{other}-*.pyz")), "check", "--config", "/dev/null"]
    done = subprocess.run(command, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"This file needs Python {other}; {sys.executable} is Python 3."), done.stderr


def _debian(suite: str) -> Callable[[Path, Release, Release], None]:
    def run(work: Path, first: Release, later: Release) -> None:
        with _told(f"a fresh {suite}"):
            prefix = _fresh(suite, work)
            _misses_a_venv(prefix, work / "tree")
            _live(_package(prefix, work / suite, first), first, later)
            _live(_pipx(prefix, work / suite, PYTHONS[suite]), first, later)
            _live(_one_file(work / f"{suite}-home", PYTHONS[suite], prefix), first, later)

    return run


def _service(work: Path, first: Release, later: Release) -> None:
    for suite in PYTHONS:
        root = work / f"{suite}-service"
        with _told(f"the service under the systemd of {suite}"):
            _bootstrap(suite, root, "systemd-sysv")
            serve(root, first, later)


def _fresh(suite: str, work: Path) -> list[str]:
    """A Debian that nothing was installed in: what a command has to begin with to run there."""
    root = work / suite
    _bootstrap(suite, root)
    (root / work.relative_to("/")).mkdir(parents=True)
    return ["unshare", "--mount", "sh", "-euc", _ENTER, str(root), str(work)]


def _bootstrap(suite: str, root: Path, *packages: str) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--skip=cleanup/apt/lists"]
    include = [f"--include={','.join(packages)}"] if packages else []  # It refuses an empty list.
    subprocess.run([*command, *include, suite, root], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")


def _misses_a_venv(prefix: list[str], tree: Path) -> None:
    """Debian's Python cannot make an environment by itself: `make run` says what to install."""
    _bash("apt-get install -y -qq --no-install-recommends python3 make", Path("/"), {}, prefix)
    said = _bash("! make run", tree, {}, prefix)
    assert "sudo apt-get install -y python3-venv" in said, said


def _package(prefix: list[str], root: Path, first: Release) -> Installed:
    def install(release: Release) -> None:
        installed = (root / "usr/bin/sophos-utmstack").is_symlink()
        (words, *_) = release.words("install.md", "Debian package")
        if installed and release.version == VERSION:
            words = words.replace("install -y", "install -y --allow-downgrades")  # docs/upgrade.md
        _bash(words, release.folder, {}, prefix)
        unit = (root / UNIT).read_text()
        assert "ExecStart=/opt/sophos-utmstack/venv/bin/sophos-utmstack run --config" in unit
        _bash("test -x /opt/sophos-utmstack/venv/bin/sophos-utmstack", Path("/"), {}, prefix)
        for name in ("connector.yaml", "environment"):
            assert (root / "etc/sophos-utmstack" / name).stat().st_mode & 0o777 == 0o600
        for line in _bash("dpkg --verify sophos-utmstack; id -u sophos-utmstack", Path("/"), {}, prefix).splitlines():
            assert line.isdigit(), line

    def remove() -> None:
        store = root / "var/lib/sophos-utmstack"
        (store / "receipt").write_text("kept")
        settings = root / "etc/sophos-utmstack/connector.yaml"
        settings.write_text(settings.read_text() + "# mine\n")
        again, without, purge = first.words("install.md", "Debian package")
        _bash(without, Path("/"), {}, prefix)
        assert not (root / "opt/sophos-utmstack").exists()
        assert settings.read_text().endswith("# mine\n")
        _bash(purge.splitlines()[1], Path("/"), {}, prefix)
        assert not settings.parent.exists()
        assert (store / "receipt").read_text() == "kept"
        _bash(again, first.folder, {}, prefix)
        _bash(purge, Path("/"), {}, prefix)
        assert not store.exists()

    command = ["/opt/sophos-utmstack/venv/bin/sophos-utmstack"]
    return Installed("the Debian package", install, remove, lambda _: [*prefix, *command])


def _pipx(prefix: list[str], root: Path, python: str) -> Installed:
    wheelhouse = next((ROOT / "build/wheels").glob(f"*/*-{python}"))
    wheels = root.with_name(f"{root.name}-wheels")
    shutil.copytree(wheelhouse, wheels)
    # pipx has a pip of its own, which it renews at its first start.
    download = ("-m", "pip", "download", "-qq", "--no-deps", "--dest", wheels, "pip")
    subprocess.run([TOOLS, *download], check=True)
    env = {
        "PIPX_HOME": "/opt/pipx", "PIPX_BIN_DIR": "/usr/local/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)
    }  # fmt: skip

    def install(release: Release) -> None:
        if not (root / "usr/bin/pipx").exists():
            _bash("apt-get install -y -qq --no-install-recommends pipx python3-venv", Path("/"), {}, prefix)
        (words, *_) = release.words("install.md", "pipx or uv")
        if (root / "usr/local/bin/sophos-utmstack").is_symlink():
            words = words.replace("pipx install", "pipx install --force")  # docs/upgrade.md
        _bash(words, release.folder, env, prefix)

    def remove() -> None:
        _bash("pipx uninstall sophos-utmstack", Path("/"), env, prefix)
        assert not (root / "usr/local/bin/sophos-utmstack").is_symlink()

    return Installed("pipx", install, remove, lambda _: [*prefix, "/usr/local/bin/sophos-utmstack"])


def _image(work: Path, first: Release, later: Release) -> None:
    settings = work / "containers.conf"
    settings.write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\nnetns = "host"\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
    )
    storage = work / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{work}/images"\nrunroot = "{work}/images-run"\n')
    env = {"CONTAINERS_CONF": str(settings), "CONTAINERS_STORAGE_CONF": str(storage)}
    running: dict[str, str] = {}

    def install(release: Release) -> None:
        (words,) = release.words("install.md", "Container")
        assert _bash(words, release.folder, env).endswith(f"sophos-utmstack {release.version}\n")
        running["image"] = f"localhost/sophos-utmstack:{release.version}"

    def command(site: Site) -> list[str]:
        mounted = ["-v", f"{site.folder}:{site.folder}"]
        return ["podman", "run", "--rm", "--read-only", "--cap-drop=ALL", *mounted, running["image"]]

    def remove() -> None:
        _bash("podman rmi --all --force", Path("/"), env)

    _live(Installed("the image, by Podman", install, remove, command, env, user=10001), first, later)


def _bash(script: str, folder: Path, env: dict[str, str], prefix: Sequence[str] = ()) -> str:
    done = subprocess.run(
        [*prefix, "bash", "-euc", f"cd {folder}\n{script}"],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}"
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
