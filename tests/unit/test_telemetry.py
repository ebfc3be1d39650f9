"""Where the log goes decides its form; the level is the configuration's, and changes with it."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib import telemetry
from lib.config.loading import InvalidConfigError, parse
from lib.config.reloading import ReloadingConfig
from lib.model.stream import Stream

ONE = "integrations: [{name: acme, client_id: id-1, client_secret: s}]\n"
STREAM = Stream("acme", "t-1", "events")
CODE = """
import logging
from lib import telemetry
telemetry.start("x")
telemetry.set_level("debug")
log = logging.getLogger("lib.x")
logging.getLogger("hpack").debug("authorization: a header")
for level in ("debug", "info", "warning", "error"):
    getattr(log, level)("a %s\\nnot a second entry", level)
try:
    raise ValueError("client_secret=abc")
except ValueError:
    log.exception("failed")
"""


def written(*command: str, is_journal: bool) -> list[str]:
    """What a Python process writes to a pipe that systemd names as its journal, or names another one."""
    read, write = os.pipe()
    found = os.fstat(write)
    stream = f"{found.st_dev}:{found.st_ino if is_journal else found.st_ino + 1}"
    with os.fdopen(read) as lines:
        env = {**os.environ, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, *command], stderr=write, env=env, check=False)
        os.close(write)
        return lines.read().splitlines()


def test_in_the_journal_each_line_has_its_priority_and_no_secret() -> None:
    found = written("-c", CODE, is_journal=True)
    assert [line[:5] for line in found[:4]] == ["<7>x:", "<6>x:", "<4>x:", "<3>x:"]
    assert "a debug" in found[0]
    assert "not a second entry" in found[0]
    assert len(found) > 5
    assert all(line.startswith("<3>x: ") for line in found[4:])
    assert not [line for line in found if "abc" in line or "authorization" in line]


def test_what_is_no_journal_gets_json() -> None:
    entries = [json.loads(line) for line in written("-c", CODE, is_journal=False)]
    assert [each["severity"] for each in entries] == ["DEBUG", "INFO", "WARNING", "ERROR", "ERROR"]


@pytest.mark.parametrize("command", ["run", "relay"])
def test_in_the_journal_a_service_that_cannot_start_says_why_as_an_error(command: str, tmp_path: Path) -> None:
    config = tmp_path / "connector.yaml"
    config.write_text(ONE + "every: soon\n")
    found = written("-m", "emulator", command, "--config", str(config), is_journal=True)
    assert len(found) == 3
    assert all(line.startswith("<3>") for line in found)
    assert "every: 'soon'" in found[1]


@pytest.fixture
def levels() -> Iterator[None]:
    names = (None, "lib", "emulator", "functions", telemetry.__name__)
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("levels")
def test_the_level_changes_with_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "connector.yaml"
    file.write_text(ONE)
    live = ReloadingConfig(str(file), None, lambda read: telemetry.set_level(read.log.level))
    ours = logging.getLogger("lib.pipeline.read_stream")
    expected = (
        ("info", logging.INFO),
        ("debug", logging.DEBUG),
        ("warning", logging.WARNING),
        ("error", logging.ERROR),
    )
    for level, least in expected:
        file.write_text(f"{ONE}log: {{level: {level}}}\n")
        assert live.current().log.level == level
        assert ours.getEffectiveLevel() == least
    # A platform's metrics are made of these lines.
    assert not logging.getLogger(telemetry.__name__).isEnabledFor(logging.INFO)
    monkeypatch.setenv("K_SERVICE", "fetch-page")
    telemetry.set_level("error")
    assert logging.getLogger(telemetry.__name__).isEnabledFor(logging.INFO)


def test_an_unknown_level_is_a_fault() -> None:
    with pytest.raises(InvalidConfigError, match=r"log\.level.*must be one of: debug, info, warning, error"):
        parse(f"{ONE}log: {{level: verbose}}\n")


def test_an_entry_names_a_stream_s_tenant_and_reads_its_name_rarely() -> None:
    asked: list[str] = []

    def names(integration: str) -> dict[str, str]:
        asked.append(integration)
        logging.getLogger("lib.x").warning("%s: while it is read", STREAM)
        return {"t-1": "Customer 1", "t-2": ""}

    texts = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(telemetry.TenantNames(names))
    logger = logging.getLogger("lib.x")
    logger.addHandler(handler)
    try:
        for tenant in ("t-1", "t-2", "t-3"):
            logger.warning("%s: %d batches are missing", Stream("acme", tenant, "events"), 2)
        logger.warning("no stream")
        logger.warning("%(a)s", {"a": 1})
    finally:
        logger.removeHandler(handler)
    assert texts == [
        "acme/t-1/events: while it is read",
        "acme/Customer 1 (t-1)/events: 2 batches are missing",
        "acme/t-2/events: 2 batches are missing",
        "acme/t-3/events: 2 batches are missing",
        "no stream",
        "1",
    ]
    assert asked == ["acme"]
