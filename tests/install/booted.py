"""The service of the Debian package, under a systemd that boots a fresh Debian.

That Debian has its own processes, mounts and control groups, and this machine's network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.install.life import deliver, every_event_once, status, wait_with
from tests.install.releases import Release
from tests.site import ROOT, SECRET, Site, free_port, until

UNIT = "sophos-utmstack.service"
AUDIT = "sophos-utmstack audit --config /etc/sophos-utmstack/connector.yaml"

SHARED = Path("/srv")
"""Where the booted system sees the folder that is shared with it."""

# Devices of its own: systemd clears and changes what it finds there, as it does with /tmp.
# Without the powers over this machine's kernel: trixie's systemd loads modules where it may.
_BOOT = """
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind "$shared" "$root/srv"
cd "$root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts old
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
pivot_root . old
umount -l /old
rmdir /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  setpriv --bounding-set=-sys_module,-sys_time,-sys_boot /lib/systemd/systemd
"""
_NAMESPACES = ("--pid", "--mount", "--cgroup", "--uts", "--ipc")


@contextmanager
def booted(root: Path, shared: Path) -> Iterator[list[str]]:
    """Boot the Debian below `root`; what a command has to begin with to run in it."""
    script = f"set -e\nroot={root} shared={shared}\n{_BOOT}"
    unshare = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "bash", "-c", script]
    with subprocess.Popen(unshare, stdin=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: bool(children.read_text().split()), "the first process of the booted system")
        enter = ["nsenter", "--target", children.read_text().split()[0], *_NAMESPACES, "--root", "env", "--chdir=/"]
        try:
            until(
                lambda: process.poll() is not None or _state(enter) in {"running", "degraded"}, "systemd's start", 180
            )
            assert _state(enter) == "running", subprocess.run([*enter, "systemctl", "--failed"], check=False)
            yield enter
        finally:
            process.kill()


def _state(enter: list[str]) -> str:
    asked = [*enter, "systemctl", "is-system-running"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


class Host:
    """A booted Debian with a shared folder, in which the site lies: simulated Sophos, engine, packages."""

    def __init__(self, root: Path, enter: list[str], site: Site) -> None:
        self._enter = enter
        self._settings = root / "etc/sophos-utmstack"
        self._site = site

    def run(self, script: str, *, status: int = 0) -> str:
        """What the script prints there."""
        done = subprocess.run(
            [*self._enter, "bash", "-euc", f"cd {SHARED}\n{script}"],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{script}\n{done.stdout[-3000:]}\n{self.journal()[-3000:]}"
        return done.stdout

    def shown(self, name: str) -> str:
        """A property of the service."""
        return self.run(f"systemctl show --value --property={name} {UNIT}").strip()

    def journal(self, *options: str) -> str:
        """The service's lines."""
        command = [*self._enter, "journalctl", "--no-pager", "--output=cat", "--quiet", f"--unit={UNIT}", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def configure(self, name: str = "acme", **settings: object) -> None:
        """Write the configuration; its secret is where docs/install.md puts it."""
        (one,) = self._site.settings["integrations"]
        one |= {"name": name, "client_secret": "${file:/etc/sophos-utmstack/client_secret}"}
        self._site.write_config(integrations=[one], **settings)
        shutil.copy(self._site.config, self._settings / "connector.yaml")


def serve(root: Path, old: Release, new: Release) -> None:
    """Install the package by the words of docs/, and let systemd run, kill, upgrade and refuse the service."""
    listen = f"127.0.0.1:{free_port()}"
    store = "file:/var/lib/sophos-utmstack/store"
    with Site(listen=listen, store=store, engine=f"unix:{SHARED}/engine.sock") as site:
        site.engine.socket.chmod(0o600)
        for release in (old, new):
            shutil.copy(release.file("*_amd64.deb"), site.folder)
        with booted(root, site.folder) as enter:
            host = Host(root, enter, site)
            host.run(old.words("install.md", "Debian package")[0])
            assert host.shown("ActiveState") == "inactive", "the package starts nothing by itself"
            host.configure()
            secret, check, start, look = old.words("install.md", "Configure")
            host.run(f"{secret.strip()} <<< {SECRET}\n{check}{start}")
            _runs(host, site)
            host.run(look)
            _is_upgraded(host, site, old, new)
            _refuses_a_broken_configuration(host, site)
            _has_a_user_of_its_own(host, site, root)
            _is_restored(host, site, new)
            host.run(AUDIT)
            every_event_once(site, 80)
            _forgets_a_customer(host, new)
            _is_removed(host, new)


def _runs(host: Host, site: Site) -> None:
    deliver(site, 10)
    assert (host.shown("ActiveState"), host.shown("SubState")) == ("active", "running")
    killed = host.shown("MainPID")
    host.run(f"systemctl kill --kill-whom=main --signal=KILL {UNIT}")
    until(lambda: host.shown("MainPID") not in {killed, "0"}, "the service starts again")
    deliver(site, 10)
    host.run(f"systemctl restart {UNIT}")
    deliver(site, 10)
    assert host.shown("NRestarts") == "0", "a restart by hand counts anew"
    assert "Traceback" not in host.journal()
    assert not host.journal("--priority=err")


def _is_upgraded(host: Host, site: Site, old: Release, new: Release) -> None:
    wait_with(site, 10)
    host.run(new.words("install.md", "Debian package")[0])
    deliver(site, 10)
    assert status(site)["version"] == new.version
    host.run(old.words("install.md", "Debian package")[0].replace("install -y", "install -y --allow-downgrades"))
    deliver(site, 10)
    assert status(site)["version"] == old.version


def _refuses_a_broken_configuration(host: Host, site: Site) -> None:
    host.configure(every="soon")
    host.run(f"systemctl restart {UNIT}", status=1)
    assert (host.shown("ActiveState"), host.shown("ExecMainStatus")) == ("failed", "2"), host.journal()
    assert "every" in host.journal("--priority=err"), host.journal("--output=verbose")[-6000:]
    host.configure(every="1s")
    host.run(f"systemctl start {UNIT}")


def _has_a_user_of_its_own(host: Host, site: Site, root: Path) -> None:
    """The words at the head of own-user.conf."""
    drop_in = root / f"etc/systemd/system/{UNIT}.d"
    drop_in.mkdir(parents=True)
    shutil.copy(ROOT / "infra/utmstack/own-user.conf", drop_in)
    host.run(
        "apt-get install -y -qq acl\n"
        f"setfacl -m u:sophos-utmstack:rx -d -m u:sophos-utmstack:rwx {SHARED}\n"
        f"chown -R sophos-utmstack: /etc/sophos-utmstack; systemctl daemon-reload; systemctl restart {UNIT}"
    )
    site.engine.stop()
    site.engine.start()
    deliver(site, 10)
    assert host.run(f"stat -c %U /proc/{host.shown('MainPID')}").strip() == "sophos-utmstack"


def _is_restored(host: Host, site: Site, release: Release) -> None:
    host.run(release.words("move.md", "Back up")[0])
    host.run(
        f"systemctl stop {UNIT}; rm -r /var/lib/sophos-utmstack /etc/sophos-utmstack\n"
        f"tar -C / -xzf sophos-utmstack.tar.gz; {AUDIT}; systemctl start {UNIT}"
    )
    deliver(site, 10)


def _forgets_a_customer(host: Host, release: Release) -> None:
    host.configure(name="beta")
    kept = "grep -rl acme /var/lib/sophos-utmstack/store; find /var/lib/sophos-utmstack/store -path '*acme*'"
    assert host.run(f"{kept} | grep -c .")
    host.run(release.words("offboard.md", "Delete the customer's data")[0])
    assert host.run(f"{{ {kept}; }} || true") == ""


def _is_removed(host: Host, new: Release) -> None:
    _, without, purge = new.words("install.md", "Debian package")
    host.run(f"systemctl stop {UNIT}")
    assert (host.shown("Result"), host.shown("ExecMainStatus")) == ("success", "0")
    host.run(without)
    assert host.shown("LoadState") == "not-found"
    host.run(purge)
