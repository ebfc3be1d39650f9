"""What Sophos leaves out: families, a change while a run of pages is under way, and what each type costs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.central import CentralServer, Settings
from lib.model.families import FAMILIES, NEEDED, expanded, family_of
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.site import SECRET, Site, free_port, site

ROOT = Path(__file__).resolve().parents[2]
WEB = "family:web_control"


def integration(*excluded: str) -> dict[str, Any]:
    return {"name": "acme", "client_id": "demo-client", "client_secret": SECRET, "exclude_types": list(excluded)}


@pytest.fixture(scope="module")
def small() -> Iterator[Site]:
    """A site whose Sophos gives pages of 100 events."""
    with (
        CentralServer(settings=Settings(page_cap=100)) as central,
        site(central, integrations=[integration()], listen=f"127.0.0.1:{free_port()}") as found,
    ):
        central.fill(350)
        DirectoryStore(found.folder / "store")  # `types` makes none
        yield found


def test_a_changed_exclusion_holds_from_the_next_run_on_and_loses_nothing_else(small: Site) -> None:
    central = small.central
    small.write_config(integrations=[integration()])
    first = small.results("fetch-page", {"max_pages": 1, "integration": "acme"})[0]
    assert (first["pages"], first["has_more"]) == (1, True)
    small.write_config(integrations=[integration(WEB)])
    small.end("fetch-page")
    small.results("fetch-page")
    events = central.raws(central.default_tenant)
    mark = len(central.requests)
    central.emit(150)
    small.results("fetch-page")
    small.results("forward-batch")
    web = FAMILIES["web_control"]
    new = [raw for raw in central.raws(central.default_tenant)[350:] if json.loads(raw)["type"] not in web]
    assert sorted(small.raws()) == sorted([*events, *new])
    asked = [seen.query.get("exclude_types") for seen in central.requests if seen.path == "/siem/v1/events"]
    late = [seen.query.get("exclude_types") for seen in list(central.requests)[mark:] if "siem" in seen.path]
    assert set(asked[: len(asked) - len(late)]) == {None}
    assert set(late) == {",".join(expanded([WEB]))}
    assert audit(small.state)["ok"]


def test_types_are_counted_by_family_with_what_leaving_out_each_saves(small: Site) -> None:
    small.write_config(integrations=[integration(WEB)])
    central = small.central
    raws = central.raws(central.default_tenant)
    (found,) = small.command("types", "--hours", "24")["results"]
    assert (found["events"], found["bytes"]) == (len(raws), sum(map(len, raws)))
    by_family = {line["family"]: line for line in found["families"]}
    for family, line in by_family.items():
        names = [json.loads(raw)["type"] for raw in raws]
        own = [
            raw
            for raw, name in zip(raws, names, strict=True)
            if (family_of(name) or "other") == family and name not in NEEDED
        ]
        assert (line["events"], line["bytes"]) == (len(own), sum(map(len, own)))
        assert line["share_of_events"] == round(len(own) / len(raws), 4)
    assert all(each["excluded"] for each in by_family["web_control"]["types"])
    assert found["excluded_events"] == by_family["web_control"]["events"] > 0
    # Nothing was stored, and no cursor moved.
    assert audit(small.state)["ok"]


def test_types_of_the_others_are_counted_where_one_credential_is_refused(small: Site) -> None:
    small.write_config(integrations=[integration(), integration() | {"name": "other", "client_secret": "wrong"}])
    told = small.command("types", "--hours", "24", status=1)
    read, refused = told["results"]
    assert (told["ok"], read["complete"], refused["complete"]) == (False, True, False)
    assert read["events"] == len(small.central.raws(small.central.default_tenant))
    (problem,) = refused["problems"]
    assert (problem["tenant"], problem["code"], refused["events"]) == (None, "credentials_refused", 0)


def test_what_is_excluded_is_shown(small: Site) -> None:
    small.write_config(integrations=[integration(WEB)])
    assert small.command("check")["exclude_types"] == {"acme": list(expanded([WEB]))}
    assert small.command("status")["integrations"][0]["exclude_types"] == [WEB]
