"""What nobody expected of one stream is one line's failure: the other lines stand, and the log has the trace."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.central import CentralServer
from emulator.central.clock import Clock
from lib import answers
from lib.app import App
from lib.model.stream import Stream
from lib.parts import open_store
from lib.store.base import Entry, ObjectStore, Stored
from tests.pipeline.test_faults import ONE, PARTNER, T1, T2, T3, Connector, Line

BROKEN = f"/{T2.id}/"


class Broken:
    """A store that has a fault of its own at the keys that a test names."""

    def __init__(self, store: ObjectStore, breaks: Callable[[str, str], bool]) -> None:
        self._store = store
        self._breaks = breaks

    def _touch(self, what: str, key: str) -> None:
        if self._breaks(what, key):
            raise ZeroDivisionError(f"{what} {key}")

    def read(self, key: str) -> Stored | None:
        self._touch("read", key)
        return self._store.read(key)

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        self._touch("write", key)
        return self._store.write(key, body, expected=expected)

    def delete(self, key: str, *, expected: int) -> None:
        self._touch("delete", key)
        self._store.delete(key, expected=expected)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        self._touch("list", prefix)
        return self._store.list(prefix, after=after)

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        self._touch("folders", prefix)
        return self._store.folders(prefix, depth)


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Connector]:
    with CentralServer(tenants=[T1, T2, T3], credentials=PARTNER, clock=Clock()) as central:
        for tenant in (T1, T2, T3):
            central.emit(3, tenant=tenant.id)
        yield Connector(tmp_path, central, ONE, ONE | {"name": "other"})


def break_store(works: Connector, breaks: Callable[[str, str], bool]) -> None:
    parts = replace(works.app.parts, store=lambda location: Broken(open_store(location), breaks))
    works.app = App(lambda: works.config, parts)


def mend(works: Connector) -> None:
    break_store(works, lambda _, __: False)


def assert_told(line: Line, log: pytest.LogCaptureFixture) -> None:
    assert line["outcome"] == "failed"
    assert line["problem"]["code"] == "unexpected"
    assert line["problem"]["remedy"]
    assert line["problem"]["id"] in line["problem"]["detail"]
    assert line["problem"]["id"] in log.text
    assert "ZeroDivisionError" in log.text


@pytest.mark.parametrize(
    "place", ["read cursors/acme", "read batches/acme", "write batches/acme", "write cursors/acme"]
)
def test_a_stream_that_cannot_be_read_for_an_unknown_reason_is_one_line(
    works: Connector, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    break_store(works, lambda what, key: f"{what} {key}".startswith(place) and BROKEN in key)
    with caplog.at_level(logging.ERROR):
        lines = fetched(works)
    assert_told(lines.pop(("acme", T2.id)), caplog)
    assert len(lines) == 5
    assert {line["outcome"] for line in lines.values()} == {"fetched"}
    mend(works)
    assert fetched(works)["acme", T2.id]["outcome"] in ("fetched", "up_to_date")
    stream = Stream("acme", T2.id, "events")
    batches = [works.state.batches.read(stream, each.sequence) for each in works.state.batches.waiting(stream)]
    assert [len(batch.items) for batch in batches if batch] == [3]


def test_an_integration_whose_streams_cannot_be_told_for_an_unknown_reason_is_its_lines(
    works: Connector, caplog: pytest.LogCaptureFixture
) -> None:
    break_store(works, lambda what, key: (what, key) == ("write", "integrations/acme.json"))
    with caplog.at_level(logging.ERROR):
        lines = fetched(works)
    assert_told(lines.pop(("acme", None)), caplog)
    assert {line["outcome"] for line in lines.values()} == {"fetched"}
    assert len(lines) == 3


@pytest.mark.parametrize(
    "place", ["read batches/acme", "write ledger/acme", "delete batches/acme", "write leases/acme", "list ledger/acme"]
)
def test_a_stream_that_cannot_be_delivered_for_an_unknown_reason_is_one_line(
    works: Connector, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    works.tick()
    break_store(works, lambda what, key: f"{what} {key}".startswith(place) and BROKEN in key)
    with works.engine, caplog.at_level(logging.ERROR):
        lines = {(line["integration"], line["tenant"]): line for line in works.forward()}
        assert_told(lines.pop(("acme", T2.id)), caplog)
        assert [line["outcome"] for line in lines.values()] == ["delivered"] * 5
        mend(works)
        works.clock.advance(60)
        works.forward()
    assert not [*works.state.batches.waiting()]


def test_expiry_that_fails_for_an_unknown_reason_leaves_the_lines(
    works: Connector, caplog: pytest.LogCaptureFixture
) -> None:
    works.tick()
    break_store(works, lambda what, key: what == "list" and key.startswith("archive/"))
    with works.engine, caplog.at_level(logging.ERROR):
        assert [line["outcome"] for line in works.forward()] == ["delivered"] * 6
    assert "expiry: unexpected failure" in caplog.text


def fetched(works: Connector) -> dict[tuple[str, str | None], Line]:
    """The lines of a call, by integration and tenant."""
    works.clock.advance(60)
    lines = answers.fetched(works.app.fetch_page.run(deadline=works.monotonic() + 50))["results"]
    return {(line["integration"], line["tenant"]): line for line in lines}
