"""The documents can be followed: their commands run, their output is real, and every name and link in them exists."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
import requests
import yaml

from emulator.central import CentralServer, Clock, Credential, Fault
from emulator.cli.arguments import commands_of, parser
from emulator.cli.completion import taken
from lib.config import loading as configuration
from lib.config.schema import ConfigSchema
from lib.version import VERSION
from tests.site import ROOT, Site, free_port, until

DOCUMENTS = sorted(
    Path(ROOT, name) for name in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()
)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CASE = re.compile(r"<!-- case: ([\w-]+) -->\s*\Z")
COMMAND = re.compile(r"(?:python -m emulator|(?<![\w/.])sophos-utmstack) ([a-z][a-z-]+)([^`|\n#>]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences."""

    line: int
    language: str
    text: str
    case: str | None
    """The comment right before it: which fault the reader of this block has."""


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    found = []
    for match in BLOCK.finditer(text):
        indent, language, body = match.groups()
        case = CASE.search(text, 0, match.start())
        lines = body.replace(f"\n{indent}", "\n").removeprefix(indent)
        found.append(Block(text.count("\n", 0, match.start()) + 1, language, lines, case and case[1]))
    return found


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def spoken(line: str) -> str:
    """A line of output without what differs from run to run."""
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "#", line)
    line = re.sub(r"https?://[\w.:-]+", "URL", line)
    line = re.sub(r"\d{4}-\d\d-\d\d(T[\d:.]+Z)?", "#", line)
    return " ".join(re.sub(r"\d+", "#", line).split())


def fits(documented: str, line: str) -> bool:
    """Whether the line is as the document says; `…` stands for anything."""
    parts = [re.escape(spoken(part)) for part in documented.split("…")]
    return re.fullmatch(r"\s*.*?\s*".join(parts), spoken(line)) is not None


def assert_shown(documented: str, output: str) -> None:
    """Every documented line is in the output, in order."""
    rest = iter(output.splitlines())
    for line in filter(str.strip, documented.splitlines()):
        assert any(fits(line, each) for each in rest), f"not in the output: {line}\n--- the output is:\n{output}"


@contextmanager
def shell(folder: Path, **env: str) -> Iterator[Callable[[str], tuple[int, str]]]:
    """A shell in an empty folder, as a reader has it, with the command `sophos-utmstack`."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "sophos-utmstack"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m emulator "$@"\n')
    command.chmod(0o755)
    bash = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env={**os.environ, **env, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert bash.stdin is not None
    assert bash.stdout is not None
    said, stdin = bash.stdout, bash.stdin

    def run(text: str) -> tuple[int, str]:
        stdin.write(f'{text}\necho "\n<<done $?>>"\n')
        stdin.flush()
        lines: list[str] = []
        for line in said:
            if line.startswith("<<done "):
                return int(line.split()[1].rstrip(">")), "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell ended: {lines}")

    try:
        yield run
    finally:
        os.killpg(bash.pid, signal.SIGKILL)
        bash.communicate()


# Commands run


@pytest.mark.parametrize("page", ["docs/first-run.md"])
def test_a_page_is_followed_word_for_word(page: str, tmp_path: Path) -> None:
    ports = {number: str(free_port()) for number in ("8181", "8085")}

    def here(text: str) -> str:
        return re.sub("|".join(ports), lambda match: ports[match[0]], text)

    with shell(tmp_path) as run:
        output = ""
        for block in blocks(ROOT / page):
            if block.case == "checkout":
                continue  # The command is there; see the next test.
            if block.language == "sh":
                status, output = run(here(block.text))
                assert status == 0, f"{page}:{block.line}\n{output}"
            elif block.language == "text":
                assert_shown(block.text, output)


def test_the_command_of_a_checkout_works_in_another_folder(tmp_path: Path) -> None:
    (define,) = [block.text for block in blocks(ROOT / "docs/first-run.md") if block.case == "checkout"]
    tree, other = tmp_path / "tree", tmp_path / "other"
    (tree / ".venv/bin").mkdir(parents=True)
    other.mkdir()
    (tree / ".venv/bin/python").symlink_to(sys.executable)
    for name in ("emulator", "lib"):
        (tree / name).symlink_to(ROOT / name)
    with shell(tmp_path) as run:
        status, output = run(
            f"hash -d sophos-utmstack; rm bin/sophos-utmstack; shopt -s expand_aliases; cd {tree}\n{define}\n"
            f"cd {other}\nsophos-utmstack --version"
        )
    assert (status, output.split()[-2:]) == (0, ["sophos-utmstack", VERSION]), output


def test_the_readme_is_followed_word_for_word(tmp_path: Path) -> None:
    """`make run` for real, in a copy with packages installed; `make test` would be this test again: it is planned."""
    tree, port = tmp_path / "tree", free_port()
    for name in filter(None, subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    (tree / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (tree / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for stamp in (".run", ".done"):
        (tree / ".venv" / stamp).touch()
    lines = [line for block in blocks(ROOT / "README.md") if block.language == "sh" for line in block.text.splitlines()]
    assert [line.split("#")[0].strip() for line in lines] == ["make run", "make test"]
    subprocess.run(["make", "-n", "test"], cwd=tree, check=True, capture_output=True)
    demo = subprocess.Popen(["make", "run", f"LISTEN=127.0.0.1:{port}"], cwd=tree, start_new_session=True)
    try:

        def delivered() -> bool:
            assert demo.poll() is None, "the demo ended"
            try:
                streams = requests.get(f"http://127.0.0.1:{port}/status", timeout=5).json()["streams"]
            except (requests.RequestException, ValueError):
                return False
            return any(stream["acked"] for stream in streams)

        until(delivered, "an acknowledged event of the demo")
    finally:
        os.killpg(demo.pid, signal.SIGTERM)
        demo.wait()


def test_the_relay_page_is_followed_word_for_word_and_an_event_arrives(tmp_path: Path) -> None:
    """Its certificates, configurations and unit, with the paths, names and ports of this test."""
    page = {block.case: block.text for block in blocks(ROOT / "docs/relay.md") if block.case is not None}
    relay_port, metrics_port = free_port(), free_port()
    with Site() as site, shell(tmp_path, **site.env) as run:
        here = {
            "/utmstack/events-engine-workdir/sockets": str(site.folder),
            "engine_server.sock": "engine.sock",
            "/opt/sophos-utmstack/venv/bin/": "",
            "/etc/sophos-utmstack": str(tmp_path),
            "relay.example.com": "localhost",
            "192.0.2.10": "127.0.0.1",
            "0.0.0.0:7443": f"127.0.0.1:{relay_port}\n  metrics: 127.0.0.1:{metrics_port}",
            ":7443": f":{relay_port}",
        }
        for case, text in page.items():
            page[case] = re.sub("|".join(map(re.escape, here)), lambda match: here[match[0]], text)

        def follow(case: str) -> tuple[int, str]:
            return run(page[case])

        def passed() -> int:
            text = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5).text
            return int(float(re.findall(r"^relay_messages_total (\S+)$", text, re.MULTILINE)[0]))

        site.config = tmp_path / "connector.yaml"
        site.write_config(**yaml.safe_load(page["caller"]))
        (tmp_path / "relay.yaml").write_text(page["relay"])
        status, output = follow("certificates")
        assert status == 0, output
        assert "relay.pem: OK" in output, output
        assert "caller.pem: OK" in output, output
        assert [each.name for each in tmp_path.glob("*.key") if each.stat().st_mode & 0o077] == []
        status, output = follow("check")
        assert status == 0, output
        assert follow("test")[0] == 1, "the relay does not run yet"
        (command,) = re.findall(r"^ExecStart=(.+)$", page["unit"], re.MULTILINE)
        assert run(f"{command} > relay.log 2>&1 &")[0] == 0
        log = tmp_path / "relay.log"
        until(lambda: log.exists() and "the relay listens" in log.read_text(), "a relay that listens")
        status, output = follow("test")
        assert status == 0, output
        assert passed() == 0
        site.central.emit()
        os.environ.update(site.env)
        site.app.fetch()
        site.app.forward()
        assert len(site.raws()) == 1
        assert passed() == 1
        site.write_config(engine_access={"ca": f"${{file:{tmp_path}/ca.pem}}"})
        assert follow("test")[0] == 1, "a caller without a certificate is let in"


def test_a_day_is_attested_and_verified_by_the_words_of_the_page(tmp_path: Path) -> None:
    (block,) = [each for each in blocks(ROOT / "docs/attest.md") if each.language == "sh"]
    day = timedelta(days=1)
    clock = Clock(start=(datetime.now(UTC) - day).timestamp())
    with CentralServer(clock=clock) as central, Site(central) as site, shell(tmp_path, **site.env) as run:
        central.emit(3)
        _tick(site)
        clock.advance(day.total_seconds())
        _tick(site)
        for line in block.text.replace("--config C", f"--config {site.config}").splitlines():
            status, output = run(line)
            assert status == 0, output
    assert "Signature Verified Successfully" in output


# Faults and what one sees of them


def _tick(site: Site) -> None:
    """One tick of the clock and one delivery, in this process; what fails is stored as `status` shows it."""
    os.environ.update(site.env)
    app = site.app
    app.fetch()
    app.forward()


def _integration(site: Site, **settings: object) -> None:
    (one,) = site.settings["integrations"]
    site.write_config(integrations=[one | settings])


def _wrong_secret(site: Site) -> None:
    site.env["SITE_SECRET"] = "wrong"
    site.central.fill(30)


def _no_alerts(site: Site) -> None:
    site.central.put_credential(Credential(permissions=frozenset({"events"})))
    _integration(site, streams=["events", "alerts"])
    site.central.emit()


def _wrong_region(site: Site) -> None:
    _integration(site, region="https://api-eu01.central.sophos.com")


def _rate_limited(site: Site) -> None:
    # The next try has to be ahead however slow this machine is.
    site.central.faults.add(Fault("status", status=429, times=None, retry_after=600))


def _engine_down(site: Site) -> None:
    site.central.fill(30)
    site.engine.close()


def _repeats(site: Site) -> None:
    site.central.fill(30)
    _tick(site)
    site.central.faults.add(Fault("repeat"))
    site.central.append(site.central.default_tenant, "events", [_event(number) for number in range(5)])


def _event(number: int) -> bytes:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f'{{"id": "x-{number}", "type": "Event::Other", "created_at": "{at}"}}'.encode()


def _late(site: Site) -> None:
    site.central.fill(30)
    _tick(site)
    site.central.insert_late(site.central.default_tenant, "events", 3, seconds=600)


def _gap(site: Site) -> None:
    site.central.fill(30)
    _tick(site)
    site.central.clock.advance(30 * 3600)
    site.central.expire_cursors()


def _no_route(site: Site) -> None:
    port = free_port()
    site.write_config(sophos={"auth_url": f"http://127.0.0.1:{port}", "api_url": f"http://127.0.0.1:{port}"})


def _broken_file(site: Site) -> None:
    site.config.write_text("stor: x\n" + site.config.read_text())


CASES: dict[str, Callable[[Site], None]] = {
    "healthy": lambda site: site.central.fill(30),
    "wrong-secret": _wrong_secret,
    "no-alerts": _no_alerts,
    "no-events": lambda _: None,
    "wrong-region": _wrong_region,
    "rate-limited": _rate_limited,
    "engine-down": _engine_down,
    "repeats": _repeats,
    "late": _late,
    "gap": _gap,
    "no-route": _no_route,
    "broken-file": _broken_file,
}
TROUBLE = ROOT / "docs/troubleshooting.md"


def _chapters() -> dict[str, list[Block]]:
    """The blocks of each case, with the outputs that follow."""
    found: dict[str, list[Block]] = {}
    for block in blocks(TROUBLE):
        if block.case is not None:
            found[block.case] = []
        if found:
            found[list(found)[-1]].append(block)
    return found


def test_every_case_of_the_page_is_provoked() -> None:
    assert list(_chapters()) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_symptom_is_what_the_page_says(case: str, tmp_path: Path) -> None:
    with Site(listen=f"127.0.0.1:{free_port()}", every="60s") as site:
        CASES[case](site)
        if case != "broken-file":
            _tick(site)
        env = site.env | {"SOPHOS_UTMSTACK_CONFIG": str(site.config)}
        with shell(tmp_path, **env) as run:
            output = ""
            for block in _chapters()[case]:
                if block.language == "sh":
                    status, output = run(block.text)
                    assert status in (0, 1), output
                    assert case != "healthy" or status == 0, output
                else:
                    assert_shown(block.text, output)


def test_the_command_for_one_test_selects_a_test() -> None:
    (command,) = re.findall(r"`\.venv/bin/python -m (pytest [^`]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--collect-only"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


# Names and links exist


def _slug(heading: str) -> str:
    text = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).lower())
    return text.replace(" ", "-")


@cache
def _anchors(document: Path) -> frozenset[str]:
    text = BLOCK.sub("", document.read_text())
    return frozenset(_slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{named(document)}: {link}"
        assert not anchor or anchor in _anchors(target), f"{named(document)}: {link}"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [named(each) for each in sorted((ROOT / "docs").glob("*.md")) if f"({named(each)})" not in readme] == []


@cache
def _options() -> dict[str, set[str]]:
    """Every command with its options."""
    return {name: set(taken(each).words) for name, each in commands_of(parser()).items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_and_option_exists(document: Path) -> None:
    text = document.read_text()
    used = [(name, rest) for name, rest in COMMAND.findall(text.replace("\\\n", " "))]
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    used += [
        (first, " ".join(rest)) for first, *rest in map(str.split, filter(str.strip, spans)) if first in _options()
    ]
    for name, rest in used:
        assert name in _options(), f"{named(document)}: no command {name!r}"
        for option in OPTION.findall(rest):
            assert option in _options()[name] | {"--help"}, f"{named(document)}: {name} has no {option}"


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if "decisions" not in each.parts], ids=named)
def test_every_path_of_the_sources_exists(document: Path) -> None:
    """With what is named behind a file in the same cell or sentence: `lib/a.py` `name`."""
    text = BLOCK.sub("", document.read_text())
    for path in re.findall(r"`((?:lib|emulator|functions|infra|tests|proto|docs|package)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{named(document)}: {path}"
    for path, name in re.findall(r"`([\w/]+\.py)` `(\w+)`", text):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{named(document)}: {path} has no {name}"


@cache
def _words() -> frozenset[str]:
    """Every word of the sources: keys, codes, fields and metrics are words there."""
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    sources = (name for name in files if not name.endswith((".md", ".lock", ".png")) and "/pb/" not in name)
    return frozenset(
        word
        for name in sources
        if not name.startswith("tests/") or "fakes" in name
        for word in re.findall(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+", (ROOT / name).read_text(errors="ignore"))
    )


def _known_key(path: str) -> bool:
    fields = ConfigSchema().fields
    for part in path.replace("[]", "").split("."):
        names = {field.data_key or name: field for name, field in fields.items()}
        if part not in names:
            return False
        field = names[part]
        inner = getattr(field, "inner", field)
        fields = inner.schema.fields if hasattr(inner, "schema") else {}
    return True


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if "decisions" not in each.parts], ids=named)
def test_every_metric_key_and_code_exists(document: Path) -> None:
    sections = {name for name, field in ConfigSchema().fields.items() if hasattr(field, "schema")} | {"integrations"}
    sections -= {"log"}  # UTMStack's names of fields begin so too.
    counters = (ROOT / "emulator/web/metrics.py").read_text()
    for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", document.read_text())):
        if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", span):
            name = span.removeprefix("sophos_utmstack_")
            assert name in _words() or re.search(rf'["}}]{name.removesuffix("_total")}"', counters), (
                f"{named(document)}: {span}"
            )
        head = span.split(".")[0].replace("[]", "")
        if re.fullmatch(r"[a-z_]+(\[\])?(\.[a-z_]+)+", span) and head in sections and not span.endswith(".tf"):
            assert _known_key(span), f"{named(document)}: no key {span}"


def test_every_metric_of_alerts_and_dashboard_is_explained() -> None:
    table = (ROOT / "docs/operations.md").read_text().partition("## Metrics and alerts")[2].partition("\n## ")[0]
    prefix = "sophos_utmstack"
    told = {prefix + span.removeprefix(prefix) for span in re.findall(r"`((?:sophos_utmstack)?_\w+)`", table)}
    files = ("infra/prometheus/alerts.yml", "infra/grafana/sophos-utmstack.json")
    used = {name for file in files for name in re.findall(rf"{prefix}_\w+", (ROOT / file).read_text())}
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert len(used) > 20
    assert used <= told, used - told


def test_the_store_page_names_who_uses_an_object() -> None:
    section = (ROOT / "docs/store.md").read_text().partition("## Who uses them\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for key, file, *users, _ in rows:
        module = Path(file.strip(" `")).stem
        assert (ROOT / file.strip(" `")).exists(), key
        for name in re.findall(r"`(\w+)`", " ".join(users)):
            elsewhere = {"advance": "lib/state/advance.py", "status": "emulator/web/status.py"}
            text = (ROOT / elsewhere.get(name, f"lib/pipeline/{name}.py")).read_text()
            assert re.search(rf"lib\.state\.{module}\b|\.{module}\b", text), f"{name} does not use {key}"


def test_the_store_page_names_every_kind_of_object() -> None:
    page = (ROOT / "docs/store.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "lib/state").glob("*.py"))
    kinds = set(re.findall(r'"([a-z]+)/["{]', sources))
    assert {"batches", "ledger", "cursors", "leases"} <= kinds
    assert [kind for kind in sorted(kinds) if f"`{kind}/" not in page] == []


def _configurations() -> list[tuple[Path, Block]]:
    keys = {"store", "engine", "engine_access", "integrations", "relay", "utmstack", "sophos", "access", "listen"}
    found = []
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.language == "yaml":
                told = yaml.safe_load(block.text)
                if isinstance(told, dict) and told.keys() & keys:
                    found.append((document, block))
    return found


@pytest.mark.parametrize(
    ("document", "block"), _configurations(), ids=[f"{named(each)}:{block.line}" for each, block in _configurations()]
)
def test_every_configuration_can_be_used(document: Path, block: Block) -> None:
    """As `check` judges it; a part of one is completed with an integration."""
    told = yaml.safe_load(block.text)
    if not told.keys() & {"integrations", "relay", "utmstack"}:
        told["integrations"] = [{"name": "acme", "client_id": "x", "client_secret": "${env:SITE_SECRET}"}]
    configuration.parse(yaml.safe_dump(told), f"{named(document)}:{block.line}")
