"""The functions with their store in a bucket, as hosted: what they do, and what it costs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lib.http.cloud_events import FINALIZED
from tests.fakes.gcs import FakeGcs
from tests.site import Site, site


@pytest.fixture
def hosted(gcs: FakeGcs) -> Iterator[Site]:
    with site(store=f"{gcs.bucket()}/connector") as found:
        found.central.fill(5)
        yield found


def event(resource: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The CloudEvent that Eventarc makes of a stored object."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(resource["generation"]),
        "ce-type": FINALIZED,
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{resource['bucket']}",
        "ce-subject": f"objects/{resource['name']}",
    }
    return json.dumps({"bucket": resource["bucket"], "name": resource["name"]}).encode(), headers


def deliver(gcs: FakeGcs, found: Site) -> tuple[list[str], list[str]]:
    """Fetch, and hand each stored object to forward-batch as its event; the objects' names, and what came of them."""
    stored: list[dict[str, Any]] = []
    gcs.finalized = stored.append
    found.results("fetch-page")
    outcomes = []
    for resource in stored:  # which grows, by what forwarding stores
        answer = found.function("forward-batch").call(*event(resource))
        assert answer.status == 200
        outcomes += [line["outcome"] for line in json.loads(answer.body)["results"]]
    gcs.finalized = None
    return [resource["name"] for resource in stored], outcomes


def test_a_storage_event_of_a_bucket_forwards_the_batch_below_the_stores_prefix(gcs: FakeGcs, hosted: Site) -> None:
    names, outcomes = deliver(gcs, hosted)
    assert all(name.startswith("connector/") for name in names)
    assert len(names) > 1
    assert outcomes == ["delivered"]
    assert hosted.raws() == list(hosted.central.raws(hosted.central.default_tenant))


def test_a_tick_costs_the_operations_that_the_documents_say(gcs: FakeGcs, hosted: Site) -> None:
    deliver(gcs, hosted)
    hosted.results("fetch-page")
    gcs.calls.clear()
    hosted.results("fetch-page")
    assert gcs.calls == {"get": 7}
    gcs.calls.clear()
    hosted.results("forward-batch")
    assert gcs.calls == {"list": 2 + 1 + 1}  # the day's first one looks for what is old
    gcs.calls.clear()
    hosted.results("forward-batch")
    assert gcs.calls == {"list": 2}
    hosted.central.emit(1)
    gcs.calls.clear()
    names, outcomes = deliver(gcs, hosted)
    assert (len(names), outcomes) == (5, ["delivered"])
    assert gcs.calls == {"get": 7 + 6, "upload": 2 + 3, "delete": 1}
    gcs.calls.clear()
    answer = hosted.function("forward-batch").call(*event({"name": names[0], "bucket": "again", "generation": 1}))
    assert (answer.status, gcs.calls) == (200, {"get": 1})
