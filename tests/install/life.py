"""What an installed connector has to do, from its first event to a roll back, with a simulated Sophos and an engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.install.releases import Release
from tests.site import SECRET, Site, free_port, until


@dataclass(frozen=True, slots=True)
class Installed:
    """A way to install, and what is typed afterwards."""

    name: str
    install: Callable[[Release], None]
    remove: Callable[[], None]
    command: Callable[[Site], Sequence[str]]
    """What is typed in place of `sophos-utmstack`."""
    env: Mapping[str, str] = field(default_factory=dict)
    user: int = 0


def live(how: Installed, old: Release, new: Release, before: Installed | None = None) -> None:
    """Install, deliver, upgrade and roll back with events that wait, refuse a store that is too new, remove."""
    first = before or how
    with Site(listen=f"127.0.0.1:{free_port()}") as site:
        _prepare(site, how.user)
        first.install(old)
        with _running(first, site):
            deliver(site, 30)
            wait_with(site, 20)
        how.install(new)
        _look(how, site, new.version)
        with _running(how, site):
            deliver(site, 10)
            _reads_what_it_finds(site)
            _has_its_documents(site)
            wait_with(site, 20)
        _refuses_a_newer_store(how, site)
        first.install(old)
        with _running(first, site):
            deliver(site, 10)
            _reads_what_it_finds(site)
        _ask(first, site, "audit")
        every_event_once(site, 90)
        first.remove()


def _prepare(site: Site, user: int) -> None:
    secret = site.folder / "client_secret"
    secret.write_text(SECRET)
    (one,) = site.settings["integrations"]
    site.write_config(integrations=[one | {"client_secret": f"${{file:{secret}}}"}])
    (site.folder / "store").mkdir(mode=0o700)
    os.chown(site.folder / "store", user, user)
    site.folder.chmod(0o755)
    site.engine.socket.chmod(0o777)


@contextmanager
def _running(how: Installed, site: Site) -> Iterator[None]:
    """The connector as its service runs it; SIGTERM ends it, with status 0."""
    with (site.folder / "connector.log").open("ab") as log:
        command = [*how.command(site), "run", "--config", str(site.config)]
        process = subprocess.Popen(command, env={**os.environ, **how.env}, cwd="/", stdout=log, stderr=log)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    except BaseException:
        print((site.folder / "connector.log").read_text()[-4000:])
        process.kill()
        raise


def status(site: Site) -> dict[str, Any]:
    try:
        found: dict[str, Any] = requests.get(f"http://{site.settings['listen']}/status", timeout=10).json()
    except requests.RequestException:
        return {}
    return found


def deliver(site: Site, count: int) -> None:
    """The engine takes what waited and so many new events, and every batch has its receipt."""
    if site.engine.count:
        site.engine.stop()
        site.engine.start()
        site.engine.socket.chmod(0o777)
    site.central.emit(count)
    total = len(site.central.ids(site.central.default_tenant, "events"))
    until(lambda: status(site).get("acked") == total, f"{total} events acknowledged", 120)


def wait_with(site: Site, count: int) -> None:
    """The engine goes, and so many events come to wait."""
    site.engine.stop()
    site.central.emit(count)
    until(lambda: status(site).get("pending_batches", 0) > 0, "events that wait", 120)


def _ask(how: Installed, site: Site, *arguments: str, status: int = 0) -> str:
    command = [*how.command(site), *arguments, "--config", str(site.config)]
    done = subprocess.run(
        command, env={**os.environ, **how.env}, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _look(how: Installed, site: Site, version: str) -> None:
    """The commands of the install page, while nothing runs."""
    command = [*how.command(site), "--version"]
    told = subprocess.run(command, env={**os.environ, **how.env}, capture_output=True, text=True, check=True).stdout
    assert told == f"sophos-utmstack {version}\n"
    _ask(how, site, "check")
    site.engine.start()
    site.engine.socket.chmod(0o777)
    _ask(how, site, "test-connection")
    site.engine.stop()
    found = json.loads(subprocess.run(
        [*how.command(site), "status", "--json", "--config", str(site.config)],
        env={**os.environ, **how.env}, cwd="/", capture_output=True, text=True, check=False,
    ).stdout)  # fmt: skip
    assert (found["version"], found["acked"]) == (version, 30)


def _reads_what_it_finds(site: Site) -> None:
    """Nothing that the other version wrote counts as damaged: it would be made again, and hide a change of form."""
    found = status(site)
    assert (found.get("damaged", []), found["gaps"]) == ([], 0), found


def _has_its_documents(site: Site) -> None:
    """The page's links to the documents lead somewhere."""
    for name, title in (("README.md", "Sophos Central to UTMStack"), ("attest.md", "Attest")):
        answer = requests.get(f"http://{site.settings['listen']}/docs/{name}", timeout=10)
        assert (answer.status_code, answer.text.startswith(f"# {title}")) == (200, True), answer.text


def _refuses_a_newer_store(how: Installed, site: Site) -> None:
    marker = site.folder / "store/.layout"
    good = marker.read_bytes()
    marker.write_text('{"layout": 99}\n')
    said = _ask(how, site, "run", status=2)
    assert "has layout 99; this version reads layouts up to" in said, said
    assert "Install the newer version again" in said, said
    assert marker.read_text() == '{"layout": 99}\n'
    marker.write_bytes(good)


def every_event_once(site: Site, count: int) -> None:
    served = site.central.ids(site.central.default_tenant, "events")
    taken = [json.loads(log.raw)["id"] for log in site.engine.received]
    assert len(served) == count
    assert sorted(taken) == sorted(served), f"{len(taken)} of {len(served)} events"
