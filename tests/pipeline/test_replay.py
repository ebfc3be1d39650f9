"""Delivered batches can be kept, and sent again under the same ids; so can what was set aside."""

import gzip
import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from lib.model.log import Log
from lib.pipeline.replay import Replay
from lib.sophos.pages import event_fields
from tests.site import Site, free_port, site

ROOT = Path(__file__).resolve().parents[2]


def kept(found: Site) -> list[Path]:
    return sorted((found.folder / "store/archive").rglob("*.gz"))


def read(found: Site) -> None:
    while found.results("fetch-page")[0]["has_more"]:
        continue
    found.results("forward-batch")


def test_delivered_batches_are_kept_only_where_that_is_wanted() -> None:
    with site() as found:
        found.central.fill(10)
        read(found)
        assert kept(found) == []
        assert found.command("replay", "--since", "1d")["acked"] == 0


def test_kept_batches_are_sent_again_as_they_were() -> None:
    with site(archive="7d", listen=f"127.0.0.1:{free_port()}") as found:
        found.central.fill(1500)
        read(found)
        assert len(kept(found)) == 2
        assert sum(path.stat().st_size for path in kept(found)) < 300_000
        first = [(log.id, log.raw, log.timestamp) for log in found.engine.received]
        told = {"ok": True, "batches": 2, "acked": 1500, "refused": 0, "damaged": []}
        assert found.command("replay", "--since", "1h") == told
        assert [(log.id, log.raw, log.timestamp) for log in found.engine.received] == first * 2
        name = str(kept(found)[1].relative_to(found.folder / "store"))
        assert found.command("replay", "--batch", name)["acked"] == 500
        assert len(found.engine.received) == 3500
        assert [line["outcome"] for line in found.results("forward-batch")] == ["idle"]


def test_what_was_fetched_since_then_is_sent_again_though_it_is_filed_a_day_earlier() -> None:
    """Batches are filed by Sophos's clock, and are chosen by this machine's, which may have passed midnight."""
    with site(archive="7d") as found:
        found.central.emit(3)
        read(found)
        (path,) = kept(found)
        before = path.parent.with_name(str(date.fromisoformat(path.parent.name) - timedelta(days=1)))
        path.parent.rename(before)
        assert found.command("replay", "--since", "5m")["acked"] == 3


@pytest.mark.parametrize("body", [b"x", gzip.compress(b"{}\n", mtime=0)])
def test_a_damaged_kept_batch_is_named_and_keeps_no_other_from_being_sent(body: bytes) -> None:
    with site(archive="7d", every="1h") as found:
        for _ in range(3):
            found.central.emit(20)
            read(found)
        paths = kept(found)
        paths[1].write_bytes(body)
        found.engine.received.clear()
        name = str(paths[1].relative_to(found.folder / "store"))
        told = {"ok": False, "batches": 2, "acked": 40, "refused": 0, "damaged": [name]}
        assert found.command("replay", "--since", "1h", status=1) == told
        assert len(found.raws()) == 40
        problem = found.command("replay", "--batch", name, status=2)["problem"]
        assert (problem["code"], name in problem["detail"]) == ("object_damaged", True)
        assert paths[1].read_bytes() == body
        assert "dead/" not in problem["remedy"]


def kept_long_ago(found: Site) -> tuple[Path, Path]:
    """The one batch that is kept, and the folder of an old day beside its own."""
    (path,) = kept(found)
    old = path.parent.with_name("2026-01-01")
    old.mkdir()
    return path, old


def test_whole_days_expire() -> None:
    with site(archive="1d") as found:
        found.central.fill(10)
        read(found)
        path, old = kept_long_ago(found)
        path.rename(old / path.name)
        found.central.emit(5)
        found.results("fetch-page")
        found.end("forward-batch")
        found.results("forward-batch")
        assert [each.parent.name == "2026-01-01" for each in kept(found)] == [False]


@pytest.mark.parametrize("later", ["1d", "off"])
def test_whole_days_of_a_stream_that_nothing_comes_in_expire_too(later: str) -> None:
    with site(archive="1d") as found:
        found.central.fill(10)
        read(found)
        path, old = kept_long_ago(found)
        for number in range(150):
            (old / f"{number:020d}.ndjson.gz").write_bytes(path.read_bytes())
        found.write_config(archive=later)
        found.end("forward-batch")
        left = []
        for _ in range(3):
            found.results("forward-batch")
            left.append(len(kept(found)))
        assert left == [51, 1, 1]


def test_what_was_set_aside_is_sent_once_the_engine_takes_it() -> None:
    with site() as found:
        found.central.append(found.central.default_tenant, "events", [b'{"id": "ok"}', b"7"])
        found.engine.stop()
        found.engine.faults["max_bytes"] = "300000"
        found.engine.start()
        large = b'{"id": "large", "name": "%s"}' % (b"x" * 400_000)
        found.central.append(found.central.default_tenant, "events", [large])
        read(found)
        assert sorted(found.raws()) == [b'{"id": "ok"}']
        (dead,) = (found.folder / "store/dead").rglob("*.ndjson")
        name = str(dead.relative_to(found.folder / "store"))
        assert found.command("replay", "--batch", name, status=1)["refused"] == 2
        found.engine.stop()
        del found.engine.faults["max_bytes"]
        found.engine.start()
        assert found.command("replay", "--batch", name, status=1) == {
            "ok": False,
            "batches": 1,
            "acked": 1,
            "refused": 1,
            "damaged": [],
        }
        assert large in found.raws()
        assert [json.loads(line)["raw"] for line in dead.read_text().splitlines()] == ["7"]


def test_all_that_was_set_aside_in_a_time_is_sent_again_and_once() -> None:
    with site(archive="7d", listen=f"127.0.0.1:{free_port()}") as found:
        found.engine.stop()
        found.engine.faults["max_bytes"] = "300000"
        found.engine.start()
        for number in range(3):
            large = b'{"id": "large-%d", "name": "%s"}' % (number, b"x" * 400_000)
            found.central.append(found.central.default_tenant, "events", [b'{"id": "ok-%d"}' % number, large])
            read(found)
        letters = sorted((found.folder / "store/dead").rglob("*.ndjson"))
        assert len(letters) == 3
        os.utime(letters[0], (0, 0))
        body = letters[1].read_bytes()
        letters[1].write_bytes(b"{}\n")
        found.engine.stop()
        del found.engine.faults["max_bytes"]
        found.engine.start()

        def replayed(*arguments: str, status: int = 0) -> tuple[int, int, int]:
            found.engine.received.clear()
            told = found.command("replay", "--since", "1h", *arguments, status=status)
            return told["batches"], told["acked"], len(told["damaged"])

        assert replayed("--dead-letters", status=1) == (1, 1, 1), "the first one is older, the second damaged"
        letters[1].write_bytes(body)
        assert replayed() == (4, 6, 0)
        sent = [json.loads(raw)["id"] for raw in found.raws()]
        assert sorted(sent) == sorted(set(sent)), "what is kept and set aside goes once"
        assert sorted((found.folder / "store/dead").rglob("*.ndjson")) == letters[:1]
        assert replayed("--dead-letters") == (0, 0, 0)
        assert "no dead letters" in found.command("replay", "--since", "1h", "--dead-letters")["hint"]
        refused = found.command("replay", "--batch", "dead/x", "--dead-letters", status=2)
        assert "`--since`" in refused["problem"]["detail"]


def test_dead_letters_that_another_replay_sends_meanwhile_end_none() -> None:
    with site() as found:
        found.central.append(found.central.default_tenant, "events", [b'{"id": "1"}'])
        read(found)
        store, log = found.state.store, found.engine.received[0]
        line = {"id": log.id, "data_type": log.dataType, "data_source": log.dataSource, "tenant_id": log.tenantId}
        line |= {"timestamp": log.timestamp, "raw": log.raw, "reason": "for a test"}
        keys = [f"dead/acme/t/events/{number:020d}.ndjson" for number in (1, 2, 3)]
        for key in keys:
            store.write(key, json.dumps(line).encode() + b"\n", expected=0)

        def another(_: int) -> None:
            """It has sent the second one, and sends the third one at the same time as this one."""
            stored = store.read(keys[1])
            if stored is not None:
                store.delete(keys[1], expected=stored.generation)

        class Meanwhile:
            def deliver(self, logs: Iterator[Log], **_: object) -> Iterator[int]:
                yield len([*logs])
                for key in keys[2:] if not store.read(keys[1]) else ():
                    stored = store.read(key)
                    assert stored is not None
                    store.delete(key, expected=stored.generation)

        replay = Replay(found.state, Meanwhile(), event_fields)
        report = replay.since(None, another)
        assert (report.ok, report.batches, report.acked) == (True, 2, 2)
        assert [entry.key for entry in store.list("dead/")] == []


def test_a_name_that_is_nothing_is_told() -> None:
    with site() as found:
        found.central.fill(1)
        for name in ("dead/nothing.ndjson", "archive/nothing.gz", "cursors/acme.json", "archive/", "dead/../x"):
            answer = found.command("replay", "--batch", name, status=2)
            assert answer["problem"]["code"] == "not_found"
