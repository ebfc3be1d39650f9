"""What the page, the exports and the metrics make of odd names, odd objects of the store and odd arguments."""

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from emulator.web.context import RecentLog
from emulator.web.server import Web
from emulator.web.status import site_status
from lib.app import App
from lib.config import loading as configuration
from lib.model.checkpoint import Checkpoint, Counts, NewestEvent
from lib.model.page import SophosTenant, Whoami
from lib.model.stream import Stream
from lib.state.accounts import ACCOUNT, Account, account_key
from lib.state.checkpoints import checkpoint_key, to_body
from lib.state.gaps import BATCH_MISSING, GAP, Gap
from lib.store.base import ABSENT
from lib.store.directory import DirectoryStore
from tests.bench import page as many
from tests.site import ROOT, platform_for

NAMES = (
    "<script>alert(1)</script>",
    "\"quoted\" 'twice'",
    "a%2Fb/../..",
    "\u202eback\u202c",
    "lines\r\nand more\x00",
    "=1+1",
    "\n=1+1",
    "{{7*7}} `x",
    "😀 日本語の名前",
    "x" * 10_000,
)
HOST = "https://api-us01.central.sophos.com"
ARGUMENTS = (
    *("page", "sort", "health", "q", "integration", "tenant", "stream", "kind"),
    *("reason", "range", "day", "id", "view", "all", "back", "key"),
)
VIEWS = ("/", "/streams", "/gaps", "/dead-letters", "/completeness", "/settings", "/preview")


def stream_of(number: int) -> Stream:
    """The stream of that name; the id of its tenant holds the beginning of the name."""
    return Stream("partner", f"{NAMES[number][:30]}{number:012d}", "events")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a partner whose tenants have these names, each with an event, a gap and a dead letter."""
    folder: Path = tmp_path_factory.mktemp("odd")
    config = many.fill(folder, 0)
    store, now = DirectoryStore(folder / "store"), datetime.now(UTC)
    streams = [stream_of(number) for number in range(len(NAMES))]
    tenants = [SophosTenant(each.tenant, name, HOST) for each, name in zip(streams, NAMES, strict=True)]
    account = Account(who=Whoami("p-1", "partner", HOST, None), tenants=tuple(tenants))
    (folder / "store" / account_key("partner")).write_bytes(ACCOUNT.encode(account))
    for stream in streams:
        checkpoint = Checkpoint(sequence=2, as_of=now, newest=NewestEvent(now), counts=Counts(events=5))
        store.write(checkpoint_key(stream), to_body(stream, checkpoint), expected=ABSENT)
        gap = Gap(stream, 1, BATCH_MISSING, now, now, now, 1)
        store.write(gap.key, GAP.encode(gap), expected=ABSENT)
        letter = {"reason": f"{NAMES[0]} cut \ud83d", "raw": "x"}
        store.write(f"dead/{stream.path}/{1:020d}.ndjson", json.dumps(letter).encode(), expected=ABSENT)
    with many.served(config) as found:
        yield found


def get(url: str) -> str:
    answer = requests.get(url, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.content.decode()


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_shows_odd_names_as_text(url: str, path: str) -> None:
    assert "<script>alert" not in get(url + path)
    live = json.loads(get(f"{url}/live?{urlencode({'view': path})}"))["parts"]
    assert "<script>alert" not in "".join(live.values())


def test_every_name_is_listed_and_leads_to_its_stream(url: str) -> None:
    shown = get(f"{url}/streams")
    assert {html.unescape(name) for name in re.findall(r'<a href="/tenant[^>]*>(.*?)</a>', shown, re.DOTALL)} == {
        *NAMES
    }
    for link in re.findall(r'href="(/(?:stream|tenant)\?[^"]*)"', shown):
        assert "cut" in get(url + html.unescape(link)) or "tenant?" in link


def test_exports_hold_every_name_and_no_formula(url: str) -> None:
    for kind in ("gaps", "dead-letters"):
        told = json.loads(get(f"{url}/{kind}.json"))
        assert {line["tenant_name"] for line in told} == {*NAMES}
        assert kind == "gaps" or "cut \ud83d" in next(iter(told[0]["reasons"]))
        lines = list(csv.DictReader(io.StringIO(get(f"{url}/{kind}.csv"), newline="")))
        assert {line["tenant_name"].removeprefix("'") for line in lines} == {*NAMES}
        assert not [cell for line in lines for cell in line.values() if re.match(r"\s*[=+@＝＋－＠-]", cell)]
    assert {line["tenant_name"] for line in json.loads(get(f"{url}/status"))["streams"]} == {*NAMES}


def test_metrics_are_read_by_prometheus_whatever_a_tenant_is_called(url: str) -> None:
    text = get(f"{url}/metrics")
    tenants = {each.tenant.encode("utf-8", "replace").decode() for each in map(stream_of, range(len(NAMES)))}
    for family in text_string_to_metric_families(text):
        labelled = {sample.labels["tenant"] for sample in family.samples if "tenant" in sample.labels}
        assert labelled in (set(), tenants), family.name
    packed = requests.get(f"{url}/metrics", timeout=30, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < len(text) / 4
    whole = requests.get(f"{url}/metrics", timeout=30, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in whole.headers
    assert whole.text.count("\n") == packed.text.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "value", ["-1", "0", "1e99", "٣", "²", "9" * 5000, "", "[]", "9999-12-31", "\x00", "//x.example"]
)
def test_no_argument_is_an_error_of_the_server(url: str, value: str) -> None:
    for path in (
        *VIEWS,
        "/stream",
        "/tenant",
        "/day",
        "/job",
        "/test",
        "/events",
        "/live",
        "/confirm/pause",
        "/docs/x",
    ):
        query = urlencode([(name, value) for name in ARGUMENTS for _ in range(2)])
        answer = requests.get(f"{url}{path}?{query}", timeout=30, allow_redirects=False)
        assert answer.status_code in {200, 400, 404}, (path, answer.text)
        assert not re.search(r'(href|action|name="back" value)="//', answer.text)


OLD_STREAM = urlencode({"integration": "acme", "tenant": "894af375-a52f-4d5a-a92d-9d9c279b1489", "stream": "events"})
ODD = (None, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00")


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, Web]:
    """A store with an object of each kind, and its page."""
    shutil.copytree(ROOT / "tests/fixtures/store-0.1", tmp_path / "store")
    integration = {"name": "acme", "client_id": "x", "client_secret": "x", "streams": ["events", "alerts", "endpoints"]}
    settings = {"store": f"file:{tmp_path}/store", "engine": f"unix:{tmp_path}/x.sock", "integrations": [integration]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    config = configuration.load(str(tmp_path / "c.yaml"))
    app = App(lambda: config)
    web = Web(
        platform_for(config, str(tmp_path / "c.yaml")),
        lambda store, record: site_status(app, store=store, record=record),
        app,
        RecentLog(),
    )
    return tmp_path / "store", web


@pytest.mark.parametrize("kind", ["cursors", "leases", "gaps", "dead", "integrations", "reconciliations", "devices"])
def test_whatever_stands_in_one_field_of_an_object_the_page_shows_the_other_streams(
    old: tuple[Path, Web], kind: str
) -> None:
    store, web = old
    client = web.app.test_client()
    place = max(path for path in (store / kind).rglob("*") if path.is_file() and path.name != "alerts.json")
    whole = place.read_bytes()
    first, _, rest = whole.partition(b"\n")
    fields = json.loads(first)
    bodies = [json.dumps(fields | {name: odd}).encode() + b"\n" + rest for name in fields for odd in ODD]
    for body in [*bodies, b"[" * 5000, b"\xff", b"null"]:
        place.write_bytes(body)
        web.snapshot.expire()
        for path in ("/status", "/", f"/stream?{OLD_STREAM}", *(["/gaps", "/chart.json"] if kind == "gaps" else ())):
            assert client.get(path).status_code == 200, (body[:300], path)
        assert {line["stream"] for line in client.get("/status").get_json()["streams"]} >= {"alerts", "endpoints"}
