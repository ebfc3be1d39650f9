"""Seams between two answers, two clocks and two processes, which no other test would miss."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.central import CentralServer, Credential, Fault, Settings, Tenant
from emulator.central.clock import Clock
from lib.app import App
from tests.fakes import secret_manager
from tests.fakes.picky import PickyEngine
from tests.pipeline.test_faults import ONE, SECRET, Connector


def test_two_clocks_that_differ_by_seconds_make_no_gap(tmp_path: Path) -> None:
    with CentralServer(clock=Clock()) as central:
        works = Connector(tmp_path, central)
        central.fill(20)
        works.tick()
        (stream,) = works.state.checkpoints.streams()
        read_up_to = works.state.checkpoints.read(stream).checkpoint.as_of
        assert read_up_to is not None
        edge = read_up_to + timedelta(hours=24, seconds=20)
        works.tick(minutes=(edge - works.now()).total_seconds() / 60)
        assert not list(works.state.gaps.all())
        works.tick(minutes=24 * 60 + 5)
        assert len(list(works.state.gaps.all())) == 1


def test_a_reconciliation_ends_at_a_cursor_that_stands(tmp_path: Path) -> None:
    with CentralServer(clock=Clock(), settings=Settings(page_cap=10)) as central:
        works = Connector(tmp_path, central)
        central.fill(40)
        works.tick()
        central.faults.add(Fault("same_cursor", skip=1, times=30))
        before = works.asked("/siem/v1/events")
        works.app.reconcile_all()
        assert works.asked("/siem/v1/events") - before < 10


def test_a_process_that_starts_tries_refused_credentials_at_once(tmp_path: Path) -> None:
    with CentralServer(clock=Clock()) as central:
        works = Connector(tmp_path, central, ONE | {"client_secret": "wrong"})
        token = "/api/v2/oauth2/token"
        works.tick()
        asked = works.asked(token)
        assert asked
        works.tick(minutes=0)
        assert works.asked(token) == asked, "this process waits"
        works.app = App(lambda: works.config, works.app.parts)
        works.tick(minutes=0)
        assert works.asked(token) > asked


@pytest.mark.parametrize("path", ["/api/v2/oauth2/token", "/whoami", "/siem/v1/events"])
def test_a_refusal_is_over_as_soon_as_a_changed_secret_works(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("another")
    central = CentralServer(clock=Clock())
    secret, token = central.credentials["demo-client"].secret, path.endswith("token")
    with central:
        if not token:
            central.put_credential(replace(central.credentials["demo-client"], secret="another"))
            central.faults.add(Fault("status", status=403, path=path, times=None))
        works = Connector(tmp_path, central, ONE | {"client_secret": f"${{file:{tmp_path}/secret}}"})
        code = works.problem()["code"]
        assert code == ("credentials_refused" if token else "permission_missing")
        central.faults.clear()
        central.put_credential(replace(central.credentials["demo-client"], secret=secret))
        assert works.problem(minutes=0)["code"] == code, "the same secret waits"
        (tmp_path / "secret").write_text(secret)
        (line,) = works.tick(minutes=0).values()
        assert "problem" not in line
        told = works.status()
        assert (told["health"], told["reasons"]) == ("ok", [])


def test_a_next_credential_that_is_not_in_use_any_more_may_change(tmp_path: Path) -> None:
    keys = [Credential(), Credential("second-client", "second", id=Tenant().id)]
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("expired")
    second.write_text("second")
    one = ONE | {"client_secret": f"${{file:{first}}}"}
    one |= {"next_client_id": "second-client", "next_client_secret": f"${{file:{second}}}"}
    with CentralServer(credentials=keys, clock=Clock()) as central:
        works = Connector(tmp_path, central, one)
        works.tick()
        first.write_text(SECRET)
        second.write_text("third")
        works.tick()
        asked = works.asked("/api/v2/oauth2/token")
        works.tick()
        assert works.asked("/api/v2/oauth2/token") == asked == 3


class Versions(dict[str, str]):
    """The versions of secrets; `read` are those that were asked for."""

    read = 0

    def __getitem__(self, name: str) -> str:
        self.read += 1
        return super().__getitem__(name)


def test_a_quiet_call_reads_a_secret_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "projects/p/secrets/s/versions/latest"
    versions = Versions({name: SECRET})
    with secret_manager.serving(versions) as address, CentralServer(clock=Clock()) as central:
        monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", address)
        works = Connector(tmp_path, central, ONE | {"client_secret": f"${{secret:{name}}}"})
        works.tick()
        before = versions.read
        works.tick()
        assert versions.read == before + 1


def test_a_replay_whose_events_are_all_refused_again_leaves_the_object_as_it_is(tmp_path: Path) -> None:
    with CentralServer(clock=Clock()) as central:
        works = Connector(tmp_path, central)
        central.append(central.default_tenant, "events", [b'{"id": "1"}', b'{"id": "2"}'])
        works.tick()
        works.engine = PickyEngine(tmp_path / "e", lambda _: "INVALID_ARGUMENT")
        with works.engine:
            works.forward()
            (path,) = (tmp_path / "store/dead").rglob("*.ndjson")
            before = path.read_bytes(), path.stat().st_mtime_ns
            report = works.app.replay.named(str(path.relative_to(tmp_path / "store")))
            assert (report.acked, report.refused, report.ok) == (0, 2, False)
            assert (path.read_bytes(), path.stat().st_mtime_ns) == before
