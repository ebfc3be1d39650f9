"""A recording of a partner with forty tenants, served again: the same pages, and nobody's name."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import IO, Any

import pytest
import requests

from emulator.central import CentralServer, Clock, Credential, Fault, Settings, Tenant
from emulator.central.clock import from_iso
from emulator.central.recording import load_recording
from emulator.recording.pseudonyms import Pseudonyms
from tests.fakes import forks
from tests.site import ROOT, SECRET, Site, site, until

TENANTS = [Tenant(f"894af375-a52f-4d5a-a92d-9d9c279b{number:04d}", f"Kunde {number} GmbH") for number in range(40)]
PARTNER = Credential(id_type="partner", id="0b5a1f0e-51e5-4f0c-9d5c-1f2f3a4b5c6d")
INTEGRATION = {"name": "msp", "client_id": "demo-client", "client_secret": SECRET, "streams": ["events", "alerts"]}
EVENTS = 30
NAMES = ("amelie.martin", "jürgen.müller", "olivia.example", "p.o'brien", "k.kowalska", "yamada.taro")


@pytest.fixture(scope="module")
def partner() -> Iterator[CentralServer]:
    with CentralServer(tenants=TENANTS, credentials=[PARTNER], settings=Settings(page_cap=25)) as central:
        for tenant in TENANTS:
            central.fill(EVENTS, tenant=tenant.id)
        odd = [b'{"id": "odd-1", "x": NaN, "name": "user EXAMPLE\\\\amelie.martin"}', b'["no object", "WS-FIN-007"]']
        # A simulator takes JSON alone; json.loads takes NaN too.
        central.append(TENANTS[0].id, "events", odd)
        yield central


@pytest.fixture(scope="module")
def msp(partner: CentralServer) -> Iterator[Site]:
    with Site(partner, keep_central=True, integrations=[INTEGRATION | {"calls_per_minute": 100_000}]) as found:
        yield found


@pytest.fixture(scope="module")
def recorded(msp: Site) -> tuple[Path, dict[str, Any]]:
    out = msp.folder / "partner.recording"
    return out, msp.command("record", "--out", str(out))


def pages(central: CentralServer, tenant: str, kind: str) -> list[dict[str, Any]]:
    """Every page of a stream as a client reads it."""
    token = requests.post(
        f"{central.url}/api/v2/oauth2/token",
        data={"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": SECRET},
        timeout=30,
    ).json()["access_token"]
    found: list[dict[str, Any]] = []
    while not found or found[-1]["has_more"]:
        answer = requests.get(
            f"{central.url}/siem/v1/{kind}",
            params={"limit": "1000"} | ({"cursor": found[-1]["next_cursor"]} if found else {}),
            headers={"Authorization": f"Bearer {token}", "X-Tenant-ID": tenant},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        found.append(json.loads(answer.content))
    return found


def originals(partner: CentralServer) -> set[str]:
    """Ids, names and addresses of all that there is."""
    found = {TENANTS[0].id, *(tenant.name for tenant in TENANTS), *NAMES, PARTNER.id}
    for tenant in TENANTS:
        for kind in ("events", "alerts"):
            for raw in partner.raws(tenant.id, kind):
                event = json.loads(raw)
                if isinstance(event, dict):
                    names = ("id", "customer_id", "endpoint_id", "user_id", "location", "javaUUID")
                    found |= {event[name].strip() for name in names if name in event}
                    found |= {each for each in (event.get("source", "n/a"),) if each != "n/a"}
                    found |= {event["source_info"]["ip"]} if "source_info" in event else set()
                    found |= {event["data"]["event_service_id"]["data"]} if "data" in event else set()
    return found


def test_no_original_name_address_or_id_is_in_the_file(
    partner: CentralServer, recorded: tuple[Path, dict[str, Any]]
) -> None:
    body = recorded[0].read_text().lower().encode()
    looked_for = originals(partner)
    assert len(looked_for) > 40 * EVENTS
    for original in looked_for:
        for form in (original, json.dumps(original)[1:-1], json.dumps(original, ensure_ascii=False)[1:-1]):
            assert form.lower().encode() not in body, form


def test_the_report_says_what_was_replaced(recorded: tuple[Path, dict[str, Any]]) -> None:
    report = recorded[1]
    assert (report["ok"], report["leaks"], report["problems"]) == (True, [], [])
    assert report["streams"] == 80
    assert {"id", "user", "host", "address", "domain", "tenant"} <= set(report["replaced"])
    assert report["replaced"]["tenant"]["originals"] == 40
    assert recorded[0].stat().st_mode & 0o777 == 0o600
    assert not list(recorded[0].parent.glob("*.half"))


def test_it_is_served_again_with_the_same_pages_counts_and_order(
    partner: CentralServer, recorded: tuple[Path, dict[str, Any]]
) -> None:
    recording = load_recording(recorded[0])
    with CentralServer(tenants=recording.tenants, credentials=[recording.credential]) as again:
        again.replay(recording, speed=0)
        assert len(again.tenants) == 40
        for before, after in zip(TENANTS, again.tenants, strict=True):
            for kind in ("events", "alerts"):
                one, other = pages(partner, before.id, kind), pages(again, after, kind)
                assert [len(page["items"]) for page in one] == [len(page["items"]) for page in other]
                assert [page["has_more"] for page in one] == [page["has_more"] for page in other]
                shapes = [[_shape(item) for page in each for item in page["items"]] for each in (one, other)]
                assert shapes[0] == shapes[1]
                assert _gaps(one) == _gaps(other)


def _shape(item: Any) -> Any:
    """What is no name of the item: it has to be the same in both."""
    if not isinstance(item, dict):
        return type(item).__name__
    return {name: item.get(name) for name in ("type", "severity", "group", "endpoint_type", "category")} | {
        "keys": list(item)
    }


def _gaps(found: list[dict[str, Any]]) -> list[int]:
    """Milliseconds between one item and the next."""
    times = [from_iso(item["created_at"]) for page in found for item in page["items"] if "created_at" in item]
    return [later - earlier for earlier, later in pairwise(times)]


def test_a_connector_reads_all_of_it_from_the_simulator_as_a_process(
    msp: Site, recorded: tuple[Path, dict[str, Any]]
) -> None:
    announced = msp.folder / "where.json"
    command = [
        *(sys.executable, "-m", "emulator", "central", "--listen", "127.0.0.1:0", "--announce", str(announced)),
        *("--recording", str(recorded[0]), "--speed", "0"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        url = _announced(process, announced)
        hosts = {"auth_url": url, "api_url": url}
        with Site(msp.central, keep_central=True, sophos=hosts, integrations=msp.settings["integrations"]) as reader:
            while any(line["has_more"] for line in reader.results("fetch-page")):
                continue
            reader.results("forward-batch")
            dead = [path.read_bytes().splitlines() for path in (reader.folder / "store").glob("dead/**/*.ndjson")]
            assert len(reader.engine.received) + sum(map(len, dead)) == recorded[1]["events"]
        process.terminate()


def _announced(process: subprocess.Popen[bytes], file: Path) -> str:
    until(lambda: file.exists() or process.poll() is not None, "the simulator's address")
    return str(json.loads(file.read_text())["url"])


def test_pages_come_when_they_were_recorded(tmp_path: Path) -> None:
    line = {"tenant": "t-1", "kind": "events", "has_more": False}
    event = {"id": "1", "created_at": "2026-03-10T00:00:01.000Z"}
    lines = [
        {
            "recording": 1,
            "began_at": "2026-03-10T00:00:00Z",
            "id_type": "tenant",
            "tenants": [{"id": "t-1", "name": ""}],
        },
        line | {"at": 10, "cursor": None, "next_cursor": "QQ==", "items": [event]},
        line | {"at": 20, "cursor": "QQ==", "next_cursor": "Qg==", "items": []},
        line | {"at": 40, "cursor": "Qg==", "next_cursor": "Qw==", "items": [event | {"id": "2"}]},
    ]
    file = tmp_path / "a.recording"
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    recording = load_recording(file)
    clock = Clock(start=1_800_000_000)
    credential = recording.credential
    with CentralServer(
        clock=clock, tenants=recording.tenants, credentials=[credential], settings=Settings(token_seconds=9999)
    ) as central:
        central.replay(recording, speed=2)

        def counts() -> list[int]:
            return [len(page["items"]) for page in pages(central, "t-1", "events")]

        def after(cursor: str) -> int:
            central.faults.clear()
            token = requests.post(
                f"{central.url}/api/v2/oauth2/token",
                data={"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": SECRET},
                timeout=30,
            ).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}", "X-Tenant-ID": "t-1"}
            answer = requests.get(
                f"{central.url}/siem/v1/events", params={"cursor": cursor}, headers=headers, timeout=30
            )
            return len(answer.json()["items"]) if answer.status_code == 200 else -answer.status_code

        assert counts() == [0]
        clock.advance(4.9)
        assert counts() == [0]
        clock.advance(0.2)
        assert counts() == [1]
        (page,) = pages(central, "t-1", "events")
        assert page["items"][0]["created_at"] == "2027-01-15T08:00:01.000Z"
        assert (after("QQ=="), after("Qg=="), after("Wg==")) == (0, 0, -400)
        clock.advance(15)
        assert (after("QQ=="), after("Qg==")) == (0, 1)


def test_it_leaves_the_connector_alone(partner: CentralServer, msp: Site) -> None:
    store = msp.folder / "store"

    def objects() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in store.rglob("*")
            if path.is_file() and path.suffix != ".lock" and "/." not in str(path) and "/budgets/" not in str(path)
        }

    msp.results("fetch-page")
    before = objects()
    assert before
    out = msp.folder / "short.recording"
    report = msp.command("record", "--out", str(out), "--pages", "85")
    assert report["pages"] == 85
    assert objects() == before


def test_the_same_key_gives_the_same_pseudonyms(msp: Site) -> None:
    files = [msp.folder / name for name in ("one.recording", "two.recording", "three.recording")]
    key = msp.folder / "names.key"
    for file, keep in zip(files, (["--keep-key", str(key)], ["--keep-key", str(key)], []), strict=True):
        msp.command("record", "--out", str(file), "--pages", "10", *keep)
    tenants = [[each["id"] for each in json.loads(file.read_bytes().splitlines()[0])["tenants"]] for file in files]
    assert tenants[0] == tenants[1]
    assert not {*tenants[0]} & {*tenants[2]}
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_pseudonym_that_is_another_original_by_chance_is_no_leak(msp: Site) -> None:
    # The simulator's events name these two. Under this key the first would get the second as its pseudonym.
    local, remote = "00-00-5E-00-53-11", "00-00-5E-00-53-66"
    number = next(each for each in count() if Pseudonyms(each.to_bytes(32)).mac(local) == remote)
    key = msp.folder / "chance.key"
    key.write_text(number.to_bytes(32).hex())
    out = msp.folder / "chance.recording"
    report = msp.command("record", "--out", str(out), "--pages", "85", "--keep-key", str(key))
    assert report["leaks"] == []
    text = out.read_text()
    assert "00-00-5E-00-53-" in text
    assert local not in text
    assert remote not in text


def test_ids_of_few_digits_of_which_no_other_is_free_are_no_leak() -> None:
    events = [
        {"id": f"e-{number:05}", "user_id": str(100 + number), "device_id": 100_000 + 3 * number}
        for number in range(900)
    ]
    with site(every="1h") as found:
        raws = [json.dumps(event).encode() for event in events]
        found.central.append(found.central.default_tenant, "events", raws)
        found.central.insert_late(found.central.default_tenant, "events", raws, seconds=1)
        out = found.folder / "digits.recording"
        report = found.command("record", "--out", str(out))
        assert (report["leaks"], report["events"]) == ([], 1800)
        digits = {int(each) for each in re.findall(rb'"device_id": (\d+)', out.read_bytes())}
        assert len(digits) > 800
        assert not digits & {event["device_id"] for event in events}


def test_a_stream_that_fails_is_named_and_the_rest_is_recorded(partner: CentralServer, msp: Site) -> None:
    partner.faults.add(Fault("status", status=403, tenant=TENANTS[3].id, path="/siem/v1/alerts", times=None))
    out = msp.folder / "most.recording"
    report = msp.command("record", "--out", str(out), status=1)
    partner.faults.clear()
    assert [each["code"] for each in report["problems"]] == ["permission_missing"]
    assert report["streams"] == 79
    assert len(load_recording(out).tenants) == 40


def test_what_leaks_is_told_and_the_file_is_not_left() -> None:
    with site(every="1h") as found:
        # A word of the protocol is kept, and this one is somebody's address: the second pass alone can see it.
        event = {"id": "1", "type": "10.20.30.40", "created_at": "2026-03-10T00:00:01.000Z", "name": "at 10.20.30.40"}
        found.central.append(found.central.default_tenant, "events", [json.dumps(event).encode()])
        found.central.insert_late(found.central.default_tenant, "events", [json.dumps(event).encode()], seconds=1)
        out = found.folder / "leaky.recording"
        report = found.command("record", "--out", str(out), status=1)
        assert {leak["kind"] for leak in report["leaks"]} == {"address"}
        assert report["out"] is None
        assert not list(found.folder.glob("leaky*"))


def test_sigterm_keeps_the_pages_that_were_read_and_nothing_half_written() -> None:
    with site(every="1s") as found:
        found.central.emit(3)
        out = found.folder / "early.recording"

        def requests_of_pages() -> int:
            return sum(found.central.stats["requests"].get("/siem/v1/events", {}).values())

        with (found.folder / "report").open("w+") as report:
            process = record(found, report, "--out", str(out), "--minutes", "5")
            until(lambda: requests_of_pages() > 1 or process.poll() is not None, "the first page")
            process.terminate()
            assert process.wait(60) == 0
            told = json.loads(out_of(report))
        assert (told["interrupted"], told["events"], told["leaks"]) == (True, 3, [])
        assert out.stat().st_size == told["bytes"]
        out.unlink()
        half = out.with_name(f"{out.name}.half")
        os.mkfifo(half)
        read = os.open(half, os.O_RDONLY | os.O_NONBLOCK)

        def is_written() -> bool:
            with suppress(BlockingIOError):
                return bool(os.read(read, 100)) or process.poll() is not None
            return False

        with (found.folder / "report").open("w+") as report:
            process = record(found, report, "--out", str(out))
            until(is_written, "the first bytes")  # Now the search waits: nobody writes to the pipe any more.
            process.terminate()
            os.close(read)
            assert process.wait(60) == 2
            assert "no file is left" in json.loads(out_of(report))["problem"]["detail"]
        assert not [*found.folder.glob("early*")]


def record(found: Site, report: IO[str], *arguments: str) -> forks.Forked:
    command = ["-m", "emulator", "record", *arguments, "--config", str(found.config), "--json"]
    return forks.start(command, found.env, cwd=ROOT, out=report.fileno())


def out_of(report: IO[str]) -> str:
    return os.pread(report.fileno(), 1 << 20, 0).decode()


def test_what_cannot_be_recorded_is_refused(msp: Site, tmp_path: Path) -> None:
    report = msp.command("record", "--out", str(tmp_path / "none" / "x"), "--pages", "1", status=2)
    assert "cannot be used" in report["problem"]["detail"]
    msp.command("record", "--out", str(tmp_path / "x"), "--integration", "nobody", status=2)
    for folder in ("/", ".", str(tmp_path)):
        report = msp.command("record", "--out", folder, "--pages", "1", status=2)
        assert "is a folder" in report["problem"]["detail"]
    (tmp_path / "key").write_text("rubbish")
    msp.command("record", "--out", str(tmp_path / "x"), "--keep-key", str(tmp_path / "key"), status=2)
    assert not (tmp_path / "x").exists()
    for text in ("", "{}", '{"recording": 2}', '{"recording": 1, "tenants": []}'):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(ValueError, match="record"):
            load_recording(tmp_path / "bad")
