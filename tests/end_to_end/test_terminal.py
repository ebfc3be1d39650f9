"""The commands as a person sees them: in terminals of 80 and of 200 columns, with 1 and with 300 streams."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Credential, Fault, Tenant
from emulator.web.health_changes import HEALTH, HEALTH_KEY, STREAMS, WHOLE, HealthChange, HealthRecord, Why
from lib.model.checkpoint import Checkpoint, Counts, NewestEvent, Problem
from lib.model.clock import to_text
from lib.model.page import SophosTenant, Whoami
from lib.model.stream import Stream
from lib.state.accounts import Account, StoredAccounts
from lib.state.gaps import BATCH_MISSING, Gap
from lib.store.base import ABSENT
from tests.fakes.terminal import ROOT, Terminal, shown
from tests.site import SECRET, Site, free_port, site

WIDE = "株式会社テスト"
FAILING = 7
NOW = datetime(2026, 3, 11, tzinfo=UTC)


@contextmanager
def standing(count: int, failing: int = 0) -> Iterator[Site]:
    """A site with a partner of so many customers, the last ones without permission, that rests."""
    partner = {"name": "acme", "client_id": "p", "client_secret": SECRET, "reconcile": "off"}
    with site(listen=f"127.0.0.1:{free_port()}", integrations=[partner], every="1h") as found:
        now = datetime.now(UTC)
        tenants = tuple(SophosTenant(f"t-{at:03}", f"{WIDE} {at}", found.central.url) for at in range(count))
        who = Whoami("p-1", "partner", found.central.url, None)
        assert StoredAccounts(found.state.store).write("acme", Account(who=who, tenants=tenants, checked_at=now), 0)
        refused = Problem(
            "permission_missing", "Sophos answered 403", "Give it the role.", now - timedelta(hours=1), 3, None
        )
        for at, tenant in enumerate(tenants):
            problem = refused if at >= count - failing else None
            checkpoint = Checkpoint(
                sequence=2, as_of=now, newest=NewestEvent(now), counts=Counts(events=1000), problem=problem
            )
            found.state.checkpoints.write(Stream("acme", tenant.id, "events"), checkpoint, expected=0)
        yield found


def fits(terminal: Terminal, columns: int) -> bool:
    table = terminal.text[terminal.text.index("STREAM") :].partition("\n\n")[0]
    return all(cell_len(line) <= columns for line in table.split("\n") if not line.startswith(("gap ", "FINDING")))


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("count", [1, 300])
def test_status_fits_the_window_verdict_first(count: int, columns: int) -> None:
    with standing(count) as found:
        status, terminal = shown("status", "--config", str(found.config), columns=columns)
    lines = terminal.text.split("\n")
    assert status == 0, terminal.text
    assert lines[0] == f"OK  no problems; {count} stream{'s' * (count > 1)} of 1 integration: {count} ok"
    assert lines[1].startswith(f"{count * 1000:,} events fetched")
    assert fits(terminal, columns)
    assert sum(-(-cell_len(line) // columns) for line in lines) <= 40
    header = next(line for line in lines if line.startswith("STREAM"))
    assert ("WAITING" in header, "TENANT" in header) == (True, columns == 200)
    assert sum(WIDE[:2] in line for line in lines) >= min(count, 20)
    assert ("more: use `--integration`" in terminal.text) == (count == 300)
    # What stands below HEALTH begins in its column, wide as the names are.
    at = cell_len(header[: header.index("HEALTH")])
    row = next(line for line in lines if WIDE[:2] in line)
    assert cell_len(row[: row.index(" ok ") + 1]) == at
    assert "\x1b[" in terminal.raw


@pytest.mark.parametrize("columns", [80, 200])
def test_problems_are_told_by_kind_with_their_remedy_and_the_streams(columns: int) -> None:
    with standing(300, FAILING) as found:
        status, terminal = shown("status", "--config", str(found.config), columns=columns)
        alone, problems = shown("status", "--problems", "--config", str(found.config), columns=columns)
    assert (status, alone) == (1, 1)
    text = terminal.text
    assert text.startswith("FAILING  1 kind of problem; 300 streams of 1 integration: 7 failing, 293 ok")
    assert "The credential lacks a permission (7 streams, since " in text
    assert text.count("Sophos answered 403") == 5
    assert "… and 2 more: `status --problems` lists all" in text
    assert text.index("→ ") < text.index("STREAM")
    assert problems.text.count("Sophos answered 403") == FAILING
    assert "STREAM" not in problems.text
    first = text[text.index("STREAM") :].split("\n")[1]
    assert " failing " in first


def test_words_stay_whole_and_names_are_told_apart_in_a_narrow_window() -> None:
    with standing(300, FAILING) as found:
        gap = Gap(Stream("acme", "t-000", "events"), 7, BATCH_MISSING, None, NOW, NOW, 3456)
        assert found.state.gaps.record(gap)
        _, terminal = shown("status", "--config", str(found.config), columns=80)
    lines = [line.rstrip() for line in terminal.text.split("\n")]
    at = next(at for at, line in enumerate(lines) if line.startswith("  → The connector itself recovers"))
    assert f"{lines[at]} {lines[at + 1].strip()}".endswith("Then run `gaps --acknowledge ID`.")
    assert cell_len(lines[at]) <= 80
    assert lines[at + 1].startswith("  ")
    names = [line.split("  ")[0] for line in lines if line.startswith("acme/") and "Sophos answered" not in line]
    assert len(names) >= 5
    assert len({*names}) == len(names)


@pytest.mark.parametrize("columns", [80, 200])
def test_the_history_of_health_fits_the_window_and_names_whom_it_concerns(columns: int) -> None:
    noon, names = datetime(2026, 3, 10, 12, tzinfo=UTC), ["acme/t-000/events"]
    change = HealthChange(noon, STREAMS, "ok", "failing", [Why("gap", "Lost")], names)
    whole = HealthChange(noon - timedelta(hours=1), WHOLE, "unknown", "ok", [])
    with standing(1) as found:
        _, none = shown("status", "--history", "--config", str(found.config), columns=columns)
        body = HEALTH.encode(HealthRecord([whole, change], "failing"))
        found.state.store.write(HEALTH_KEY, body, expected=ABSENT)
        status, terminal = shown("status", "--history", "--config", str(found.config), columns=columns)
        told = json.loads(run(found, "status", "--json"))["health_changes"]
    assert "No change of health is known" in none.text
    assert status == 0
    assert all(cell_len(line.rstrip()) <= columns for line in terminal.text.split("\n"))
    text = " ".join(terminal.text.split())
    assert re.search(
        r"2026-03-10 12:00Z ok → failing acme/.*/events: Lost 2026-03-10 11:00Z unknown → ok the whole", text
    )
    assert [each["to"] for each in told] == ["failing", "ok"]


def run(found: Site, *arguments: str, status: int = 0, **env: str) -> str:
    """What a command prints into a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "emulator", *arguments, "--config", str(found.config)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_a_pipe_gets_plain_text_of_every_stream_and_no_color_is_heard() -> None:
    with standing(300, FAILING) as found:
        piped = run(found, "status", status=1)
        _, plain = shown("status", "--config", str(found.config), columns=120, env={"NO_COLOR": "1"})
    assert "\x1b" not in piped
    rows = piped[piped.index("STREAM") :].split("\n")
    assert sum(row.startswith("acme/t-") for row in rows) == 300
    starts = {cell_len(row[: row.index(WIDE)]) for row in rows if WIDE in row}
    assert len(starts) == 1
    assert not [code for code in ("\x1b[31", "\x1b[32", "\x1b[1;31") if code in plain.raw]


def test_a_tenant_or_an_integration_can_be_looked_at_alone() -> None:
    with standing(30, FAILING) as found:
        good = json.loads(run(found, "status", "--tenant", f"{WIDE} 3", "--json"))
        bad = json.loads(run(found, "status", "--tenant", "t-029", "--json", status=1))
        both = json.loads(run(found, "status", "--integration", "acme", "--json", status=1))
        run(found, "status", "--integration", "other", status=2)
        run(found, "status", "--tenant", "other", status=2)
    assert ([line["tenant"] for line in good["streams"]], good["health"], good["events"]) == (["t-003"], "ok", 1000)
    assert ([reason["count"] for reason in bad["reasons"]], bad["health"]) == ([1], "failing")
    assert (len(both["streams"]), both["ok"]) == (30, False)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_list_that_does_not_fit_loses_nothing(columns: int) -> None:
    with standing(1) as found:
        gap = Gap(
            Stream("acme", "t-000", "events"), 7, BATCH_MISSING, None, datetime(2026, 3, 10, tzinfo=UTC), NOW, 3456
        )
        assert found.state.gaps.record(gap)
        status, terminal = shown("gaps", "--config", str(found.config), columns=columns)
        _, audited = shown("audit", "--config", str(found.config), columns=columns)
    assert status == 1
    whole = "".join(terminal.text.split())
    assert all(word in whole for word in ("ACKNOWLEDGED", "batch_missing", "2026-03-10", "00:00:00", "3456"))
    # A name wraps at words, and nothing but zeros needs no column.
    assert WIDE in terminal.text
    assert f"acme · {WIDE} 0 · events: batch_missing, until 2026-03-10" in audited.text
    assert "DUPLICATES" not in audited.text
    assert fits(terminal, columns)
    assert fits(audited, columns)


@pytest.mark.parametrize("columns", [80, 200])
def test_every_command_names_tenants_and_breaks_no_word_at_the_edge(tmp_path: Path, columns: int) -> None:
    names = ["Gesellschaft für sehr lange Namen und Beteiligungen mbH & Co. KG", WIDE * 4, "N" * 60]
    tenants = [Tenant(id=f"894af375-{at}", name=name, forbidden=at == 2) for at, name in enumerate(names)]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    with site(central, listen=f"127.0.0.1:{free_port()}", every="1h") as found:
        for tenant in tenants:
            central.append(tenant.id, "events", [b'"no object"'])
        for name in ("fetch-page", "forward-batch"):
            found.results(name)
        assert found.state.gaps.record(Gap(Stream("acme", tenants[0].id, "events"), 7, BATCH_MISSING, None, NOW, NOW))
        found.state.store.write("gaps/damaged.json", b"[]", expected=ABSENT)
        run(found, "attest", "--new-key", str(tmp_path / "key"))
        day = ("attest", "--day", f"{datetime.now(UTC):%Y-%m-%d}", "--key", str(tmp_path / "key"))
        for command in (
            *(("status",), ("gaps",), ("dead-letters",), ("audit",), ("types",), ("reconcile",), ("test-connection",)),
            (*day, "--out", str(tmp_path / "day.json")),
        ):
            _, terminal = shown(*command, "--config", str(found.config), columns=columns, env=found.env)
            lines = terminal.text.split("\n")
            assert [line for line in lines if cell_len(line) > columns] == [], command
            whole = "".join(terminal.text.split())
            assert command == ("types",) or re.search(r"Gesellschaft|N{30}", whole), terminal.text
            assert not re.search(r"acme( · |/)894af375", terminal.text), "an id in place of a name"
            if command == ("status",):
                assert terminal.text.count("a gap cannot be read") == 1


def test_watch_shows_it_again_until_ctrl_c() -> None:
    with (
        standing(1) as found,
        Terminal(sys.executable, "-m", "emulator", "status", "--watch", "--config", str(found.config)) as terminal,
    ):
        terminal.until(lambda text: text.count("no problems") >= 2, "the second look")
        terminal.press("\x03")
        assert terminal.end() == 0


def test_progress_is_told_where_it_takes_more_than_two_seconds_and_goes_away() -> None:
    acme = {
        "name": "acme",
        "client_id": "demo-client",
        "client_secret": "${env:SITE_SECRET}",
        "exclude_types": ["family:web_control"],
    }
    with site(listen=f"127.0.0.1:{free_port()}", every="1h", integrations=[acme]) as found:
        found.central.fill(3000, hours=20)
        long = {"id": "long", "type": f"Event::Endpoint::{'VeryLong' * 5}{WIDE}", "when": to_text(datetime.now(UTC))}
        found.central.append(DEFAULT_TENANT_ID, "events", [json.dumps(long | {"created_at": long["when"]}).encode()])
        found.results("fetch-page")
        found.central.faults.add(Fault("slow", seconds=1.5, times=None))
        for arguments in (("types",), ("reconcile",)):
            status, terminal = shown(*arguments, "--config", str(found.config), columns=80, env=found.env)
            assert status == 0, terminal.text
            if arguments == ("types",):
                names = {json.loads(raw)["type"] for raw in found.central.raws(DEFAULT_TENANT_ID)}
                assert [name for name in names if name not in terminal.text] == []
            assert " left" in terminal.text
            assert "events, " in terminal.text
            assert "/s" in terminal.text
