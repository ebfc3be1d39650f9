"""A day's attestation says what became of every event, and openssl verifies it without any of our code."""

import json
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Clock
from lib.errors import NotFoundError
from lib.model.batch import Cursors
from lib.model.clock import day_of
from lib.model.receipt import LastReceipt, NotAcknowledged
from lib.model.stream import Stream
from lib.pipeline import attest, signature
from lib.pipeline.accounts import streams_read
from lib.state.accounts import StoredAccounts, account_key
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.looks import day_counts
from lib.state.state import State
from lib.version import VERSION
from tests.fakes import forks
from tests.fakes.headers import header_at
from tests.fakes.memory_store import MemoryStore
from tests.site import SECRET, Site, free_port, site

DAY = timedelta(days=1)


def today() -> str:
    return day_of(datetime.now(UTC))


def emulator(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return forks.run(["-m", "emulator", *map(str, arguments), "--json"], {"SITE_SECRET": SECRET})


def openssl(*arguments: str | Path) -> int:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, timeout=60, check=False).returncode


def openssl_verifies(public: Path, statement: Path) -> bool:
    ending = ("-sigfile", f"{statement}.sig")
    return openssl("pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", statement, *ending) == 0


@pytest.fixture
def key(tmp_path: Path) -> Path:
    made = emulator("attest", "--new-key", tmp_path / "site.key")
    assert made.returncode == 0, made.stderr
    return tmp_path / "site.key"


@pytest.fixture
def delivered() -> Iterator[Site]:
    """A hundred events that are delivered, seven of them late, and one dead letter."""
    listen = f"127.0.0.1:{free_port()}"
    with site(every="1h", listen=listen) as found:
        found.central.emit(93)
        found.central.append(found.central.default_tenant, "events", [b'["no object"]'])
        found.results("fetch-page")
        found.central.insert_late(found.central.default_tenant, "events", 7, seconds=1)
        found.command("reconcile")
        yield found


def attested(found: Site, key: Path, day: str, status: int) -> dict[str, Any]:
    out = key.with_name("statement.json")
    answer = found.command("attest", "--day", day, "--key", str(key), "--out", str(out), status=status)
    told: dict[str, Any] = json.loads(out.read_bytes())
    assert {name: answer[name] for name in told} == told
    return told


def test_openssl_checks_what_was_signed_and_a_changed_byte_is_found(delivered: Site, key: Path) -> None:
    attested(delivered, key, today(), status=1)
    statement, public = key.with_name("statement.json"), key.with_name("site.key.pub")
    assert len(statement.with_name("statement.json.sig").read_bytes()) == 64
    assert openssl_verifies(public, statement)
    verify = ("attest", "--verify", statement, "--public-key", public)
    told = emulator(*verify)
    assert (told.returncode, json.loads(told.stdout)["day"]) == (0, today())
    whole = statement.read_bytes()
    statement.write_bytes(whole.replace(b'"waiting": 0', b'"waiting": 1', 1))
    assert statement.read_bytes() != whole
    assert not openssl_verifies(public, statement)
    refused = emulator(*verify)
    assert (refused.returncode, json.loads(refused.stdout)["ok"]) == (1, False)
    statement.unlink()
    assert emulator(*verify).returncode == 2


def test_a_statement_that_openssl_signed_is_verified(tmp_path: Path) -> None:
    private, public, statement = tmp_path / "key", tmp_path / "key.pub", tmp_path / "text"
    statement.write_bytes(b"any bytes at all")
    assert openssl("genpkey", "-algorithm", "ed25519", "-out", private) == 0
    assert openssl("pkey", "-in", private, "-pubout", "-out", public) == 0
    signing = ("-inkey", private, "-rawin", "-in", statement, "-out", tmp_path / "text.sig")
    assert openssl("pkeyutl", "-sign", *signing) == 0
    assert signature.is_signed(public.read_bytes(), statement.read_bytes(), (tmp_path / "text.sig").read_bytes())


def test_a_key_is_for_its_owner_alone_and_is_never_overwritten(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes(), key.with_name("site.key.pub").read_bytes()
    assert emulator("attest", "--new-key", key).returncode == 2
    assert (key.read_bytes(), key.with_name("site.key.pub").read_bytes()) == before
    other = key.with_name("other.key")
    other.with_name("other.key.pub").write_bytes(b"somebody's")
    assert emulator("attest", "--new-key", other).returncode == 2
    assert not other.exists()
    assert other.with_name("other.key.pub").read_bytes() == b"somebody's"
    as_signature = key.with_name("day.sig")
    as_signature.write_bytes(before[0])
    for private, out in ((key, key), (as_signature, key.with_name("day"))):
        told = emulator("attest", "--day", "yesterday", "--key", private, "--out", out)
        assert (told.returncode, "would overwrite the private key" in told.stderr) == (2, True), told.stderr
        assert private.read_bytes() == before[0]


def test_a_folder_is_no_file(key: Path) -> None:
    for arguments in (("--new-key", "."), ("--day", "yesterday", "--key", key, "--out", "/")):
        told = emulator("attest", *arguments)
        assert (told.returncode, "is a folder" in told.stderr) == (2, True), told.stderr


def test_it_says_what_became_of_every_event(delivered: Site, key: Path) -> None:
    told = attested(delivered, key, today(), status=1)
    (line,) = told["streams"]
    assert (line["received"], line["delivered"], line["waiting"]) == (101, 100, 0)
    assert line["dead_letters"] == {"events": 1, "reasons": {"not a JSON object, or nested too deep": 1}}
    assert line["late"]["recovered"] == 7
    # Seconds before midnight the late ones are of two days.
    days = {today(), day_of(datetime.now(UTC) - DAY)}
    stream = Stream.of(line)
    assert sum(sum(day_counts(delivered.state.store, stream, day).late.values()) for day in days) == 7
    assert line["completeness"] == 100 / 101
    assert (told["ok"], told["is_over"]) == (False, False)
    assert told["versions"]["connector"] == VERSION
    assert not any("over" in remark for remark in told["remarks"])
    assert any("1 event is a dead letter" in remark for remark in told["remarks"])
    receipts = [digest for _, _, digest in delivered.state.ledger.receipts(stream)]
    assert line["ledger"]["head"] == receipts[-1]
    assert (line["ledger"]["previous"], line["ledger"]["receipts"]) == ("", len(receipts))
    assert {each["setting"] for each in told["proposals"]} == {"settle", "reconcile"}


def test_a_day_on_which_all_is_well_so_far_is_well(key: Path) -> None:
    with site(every="1h") as found:
        found.central.emit(5)
        found.results("fetch-page")
        found.results("forward-batch")
        told = attested(found, key, today(), status=0)
        assert (told["ok"], told["completeness"], told["totals"]["delivered"]) == (True, 1.0, 5)


def test_what_waits_or_was_altered_is_told(delivered: Site, key: Path) -> None:
    delivered.central.emit(4)
    delivered.results("fetch-page")
    told = attested(delivered, key, today(), status=1)
    assert (told["totals"]["received"], told["totals"]["waiting"]) == (105, 4)
    receipts = sorted((delivered.folder / "store/ledger").rglob("*.json"))
    first = json.loads(receipts[0].read_bytes())
    receipts[0].write_text(json.dumps(first | {"repeats": 9}) + "\n")
    line = attested(delivered, key, today(), status=1)["streams"][0]
    assert line["ledger"]["whole"] is False


def test_the_statements_of_two_days_are_one_chain_and_a_day_that_is_over_is_well(tmp_path: Path, key: Path) -> None:
    began = datetime.now(UTC).replace(hour=12, minute=0) - 2 * DAY
    with CentralServer(clock=Clock(start=began.timestamp())) as central, site(central, every="1h") as found:
        for number in range(4):
            if number == 3:  # Nobody has read the second half of yesterday yet, so nobody can say that all is there.
                told = attested(found, key, day_of(began + DAY), status=1)
                assert ["read only up to" in remark for remark in told["remarks"]] == [True]
                assert (told["completeness"], told["totals"]["unread"]) == (None, 1)
            central.emit(10)
            found.results("fetch-page")
            found.results("forward-batch")
            central.clock.advance(DAY.total_seconds() / 2)
        early = ("attest", "--day", day_of(began - DAY), "--key", str(key), "--out", str(tmp_path / "early"))
        assert "the ledger begins on" in found.command(*early, status=2)["problem"]["detail"]
        days = [day for day in (day_of(began + number * DAY) for number in range(3)) if day < today()]
        lines = [
            line for day in days for line in attested(found, key, day, status=0)["streams"] if line["ledger"]["first"]
        ]
        assert sum(line["delivered"] for line in lines) >= 20
        assert len(lines) == 2
        assert lines[1]["ledger"]["previous"] == lines[0]["ledger"]["head"]
        streams = attest.streams_of(found.state)
        alone = {day: attest.counted(found.state, [day], streams)[day] for day in days}
        assert attest.counted(found.state, days[::-1], streams) == alone, "many at once are what each is alone"


def test_a_gap_takes_its_share_from_each_day_that_it_touches() -> None:
    with site(every="1h") as found:
        stream = Stream("acme", found.central.default_tenant, "events")
        noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
        found.central.emit(1)
        found.results("fetch-page")
        found.state.gaps.record(Gap(stream, 1, CURSOR_EXPIRED, noon, noon + DAY / 4 * 3, noon + DAY, 90))
        days = ("2026-03-09", "2026-03-10", "2026-03-11")
        counted = attest.counted(found.state, days, attest.streams_of(found.state))
        lost = {day: counted[day][0].lost for day in days}
        assert lost == {"2026-03-09": 0, "2026-03-10": 60, "2026-03-11": 30}
        assert attest.completeness(counted["2026-03-10"]) == 0.0
        found.state.gaps.record(Gap(stream, 2, CURSOR_EXPIRED, noon + DAY, noon + DAY, noon + DAY, None))
        counted = attest.counted(found.state, days, attest.streams_of(found.state))
        assert attest.completeness(counted["2026-03-11"]) is None


def test_the_first_day_is_that_of_the_first_receipt_also_after_old_ones_were_removed() -> None:
    state, stream, tail = State.of(MemoryStore()), Stream("acme", "t", "events"), LastReceipt()
    for number, day in enumerate(("2026-01-01", "2026-04-01", "2026-04-02"), 1):
        at = datetime.fromisoformat(f"{day}T12:00:00Z")
        header = header_at(at, stream, number, cursors=Cursors(next="c"), count=1)
        tail = state.ledger.write(
            header, ["k"], tail, acked_at=at, set_aside=0, not_acknowledged=NotAcknowledged(), outcome="delivered"
        )
    state.ledger.tidy(stream, closed="2026-04-02", oldest="2026-02-01", goes_on=lambda: True)
    assert attest.first_day(state, [stream]) == "2026-04-01"
    with pytest.raises(NotFoundError, match="removed because of their age"):
        attest.statement(state, "2026-01-01", now=datetime.now(UTC), measured=[], versions={}, key="")


@pytest.mark.parametrize("name", ["gaps/{}/20260310T000000000000Z-cursor.json", f"batches/{{}}/{99:020d}.ndjson"])
def test_a_gap_or_batch_that_cannot_be_read_leaves_no_day_complete(delivered: Site, key: Path, name: str) -> None:
    damaged = delivered.folder / "store" / name.format(attest.streams_of(delivered.state)[0].path)
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("rubbish")
    told = attested(delivered, key, today(), status=1)
    (line,) = told["streams"]
    assert (told["completeness"], line["completeness"], line["ledger"]["whole"]) == (None, None, False)
    assert any(f"{damaged.name} cannot be read" in remark for remark in told["remarks"])


def test_an_account_of_a_newer_version_does_not_hinder_a_statement() -> None:
    with site(every="1h") as found:
        found.results("fetch-page")
        (stream,) = streams = attest.streams_of(found.state)
        accounts, integrations = StoredAccounts(found.state.store), found.app.config().integrations
        assert streams_read(integrations, accounts, streams) == {stream}
        stored = found.state.store.read(account_key("acme"))
        assert stored is not None
        found.state.store.write(account_key("acme"), b'{"layout": 99}', expected=stored.generation)
        assert streams_read(integrations, accounts, streams) == {stream}


def test_what_cannot_be_attested_is_refused(tmp_path: Path, key: Path) -> None:
    with site(every="1h", store=f"file:{tmp_path}/none") as found:
        told = found.command("attest", "--day", today(), "--key", str(key), "--out", str(tmp_path / "s"), status=2)
        assert "there is no store" in told["problem"]["detail"]
        assert not (tmp_path / "none").exists()
    with site(every="1h") as found:
        found.results("fetch-page")
        tomorrow = day_of(datetime.now(UTC) + DAY)
        for day, why in ((tomorrow, "has not begun"), ("2026-02-30", "is not a day")):
            told = found.command("attest", "--day", day, "--key", str(key), "--out", str(tmp_path / "s"), status=2)
            assert why in told["problem"]["detail"]
        public = str(key.with_name("site.key.pub"))
        told = found.command("attest", "--day", today(), "--key", public, "--out", str(tmp_path / "s"), status=2)
        assert "not an Ed25519 private key" in told["problem"]["detail"]
        with pytest.raises(NotFoundError):
            attest.statement(found.state, tomorrow, now=datetime.now(UTC), measured=(), versions={}, key="")
    assert not (tmp_path / "s").exists()


def test_an_hour_counts_as_held_once_it_was_read_as_a_whole() -> None:
    with site(every="1h", listen=f"127.0.0.1:{free_port()}") as found:
        found.central.fill(500, hours=20)
        found.results("fetch-page")
        found.command("reconcile")
        found.command("backfill", "--since", "3h")  # reads less, and takes nothing back
        (stream,) = attest.streams_of(found.state)
        now = datetime.now(UTC)
        seen = {day: day_counts(found.state.store, stream, day) for day in (day_of(now - DAY), today())}
        hours = sum(len(each.hours) for each in seen.values())
        assert 21 <= hours <= 23
        assert all(each.held is None for each in seen.values())
        created: dict[tuple[str, str], int] = {}
        for raw in found.central.raws(found.central.default_tenant):
            at = json.loads(raw)["created_at"]
            created[at[:10], at[11:13]] = created.get((at[:10], at[11:13]), 0) + 1
        for day, each in seen.items():
            assert dict(each.hours) == {hour: created.get((day, hour), 0) for hour in each.hours}
