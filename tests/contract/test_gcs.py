"""What the store in a bucket does beside what every store does: lost answers, damaged bytes, refusals."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from lib.config import loading as configuration
from lib.errors import ConfigError, ConflictError, LayoutError, StoreError
from lib.store.base import ABSENT
from lib.store.gcs import GcsStore, place_of
from tests.fakes.gcs import ENDPOINT, Call, FakeGcs, Reply, answered, corrupted, dropped, garbled, lost
from tests.site import free_port


@pytest.fixture
def store(bucket: str) -> GcsStore:
    return GcsStore(f"{bucket}/a", patience=5.0)


def raw(gcs: FakeGcs, bucket: str, name: str, body: bytes) -> None:
    """Store an object past the store."""
    url = f"{gcs.url}/upload/storage/v1/b/{bucket.removeprefix('gs://')}/o?uploadType=media&name={name}"
    requests.post(url, data=body, timeout=10).raise_for_status()


@pytest.mark.parametrize("expected", ["absent", "present"])
def test_an_upload_whose_answer_is_lost_is_not_taken_for_anothers(gcs: FakeGcs, store: GcsStore, expected: str) -> None:
    before = ABSENT if expected == "absent" else store.write("k", b"0", expected=ABSENT)
    gcs.fail("upload", dropped)
    generation = store.write("k", b"1", expected=before)
    stored = store.read("k")
    assert stored is not None
    assert (stored.body, stored.generation) == (b"1", generation)


def test_the_same_bytes_of_another_are_not_taken_for_our_own(gcs: FakeGcs, bucket: str, store: GcsStore) -> None:
    other = GcsStore(f"{bucket}/a")

    def overtaken(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
        other.write("k", b"1", expected=ABSENT)
        return None

    gcs.fail("upload", overtaken)
    with pytest.raises(ConflictError):
        store.write("k", b"1", expected=ABSENT)


def test_a_removal_whose_answer_is_lost_is_one(gcs: FakeGcs, store: GcsStore) -> None:
    generation = store.write("k", b"1", expected=ABSENT)
    gcs.fail("delete", dropped)
    store.delete("k", expected=generation)
    assert store.read("k") is None
    with pytest.raises(ConflictError):
        store.delete("k", expected=generation)


def test_a_removal_that_is_sent_again_spares_what_was_made_meanwhile(
    gcs: FakeGcs, bucket: str, store: GcsStore
) -> None:
    generation = store.write("k", b"1", expected=ABSENT)
    other = GcsStore(f"{bucket}/a")

    def overtaken(call: Call, go: Callable[[Call], Reply]) -> Reply | None:
        other.write("k", b"2", expected=generation)
        return None

    gcs.fail("delete", overtaken)
    with pytest.raises(ConflictError):
        store.delete("k", expected=generation)
    assert store.read("k") is not None


def test_bytes_damaged_on_their_way_back_are_asked_for_again(gcs: FakeGcs, store: GcsStore) -> None:
    store.write("k", b"body", expected=ABSENT)
    gcs.fail("get", corrupted)
    stored = store.read("k")
    assert stored is not None
    assert stored.body == b"body"


def test_what_comes_back_damaged_again_and_again_is_never_returned(gcs: FakeGcs, bucket: str) -> None:
    store = GcsStore(bucket, patience=0.5)
    store.write("k", b"body", expected=ABSENT)
    with gcs.failing("get", corrupted), pytest.raises(StoreError, match="damaged"):
        store.read("k")


def test_bytes_damaged_on_their_way_there_are_not_stored(gcs: FakeGcs, store: GcsStore) -> None:
    gcs.fail("upload", garbled)
    with pytest.raises(StoreError):
        store.write("k", b"body", expected=ABSENT)
    assert store.read("k") is None


@pytest.mark.parametrize("kind", ["get", "list", "upload", "delete"])
@pytest.mark.parametrize("fault", [answered(503), answered(429), lost], ids=["503", "429", "no-answer"])
def test_what_passes_is_tried_again(gcs: FakeGcs, store: GcsStore, kind: str, fault: Callable[..., Reply]) -> None:
    generation = store.write("k", b"1", expected=ABSENT)
    gcs.fail(kind, fault)
    assert store.read("k") is not None
    assert [entry.key for entry in store.list("")] == ["k"]
    generation = store.write("k", b"2", expected=generation)
    store.delete("k", expected=generation)
    assert store.read("k") is None
    assert not gcs.planned


@pytest.mark.parametrize("kind", ["get", "list", "upload", "delete"])
def test_a_missing_permission_is_told_with_the_role_to_give(gcs: FakeGcs, store: GcsStore, kind: str) -> None:
    generation = store.write("k", b"1", expected=ABSENT)
    gcs.fail(kind, answered(403, "somebody does not have storage.objects access"))
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: store.read("k"),
        "list": lambda: list(store.list("")),
        "upload": lambda: store.write("n", b"", expected=ABSENT),
        "delete": lambda: store.delete("k", expected=generation),
    }
    with pytest.raises(StoreError, match="does not have") as refused:
        calls[kind]()
    assert "roles/storage.objectUser" in refused.value.remedy


def test_a_missing_bucket_is_told(gcs: FakeGcs) -> None:
    with pytest.raises(StoreError, match="the bucket nowhere does not exist") as refused:
        GcsStore("gs://nowhere/a")
    assert "Create the bucket" in refused.value.remedy


def test_a_service_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match="Connection refused") as refused:
        GcsStore("gs://somewhere", patience=0.2)
    assert refused.value.code == "store_unavailable"


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(StoreError, match="no usable credentials") as refused:
        GcsStore("gs://somewhere")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in refused.value.remedy


def test_a_newer_layout_is_refused_and_a_damaged_one_too(gcs: FakeGcs, bucket: str) -> None:
    for prefix, marker, told in (("new", b'{"layout": 99}', "layout 99"), ("bad", b"{", "is damaged")):
        raw(gcs, bucket, f"{prefix}/.layout", marker)
        with pytest.raises(LayoutError, match=told):
            GcsStore(f"{bucket}/{prefix}")


def test_several_may_open_a_new_store_at_once(bucket: str) -> None:
    gate = threading.Barrier(8)

    def opened(_: int) -> list[str]:
        gate.wait(30)
        return [entry.key for entry in GcsStore(bucket).list("")]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(opened, range(8))) == [[]] * 8


def test_stores_of_one_bucket_see_nothing_of_each_other(bucket: str) -> None:
    stores = [GcsStore(f"{bucket}{prefix}") for prefix in ("/a", "/a/b", "/ab/")]
    for number, each in enumerate(stores):
        each.write(f"k/{number}", b"", expected=ABSENT)
    assert [[entry.key for entry in each.list("k")] for each in stores] == [["k/0"], ["k/1"], ["k/2"]]
    root = GcsStore(bucket)
    assert root.write("k/3", b"", expected=ABSENT) > ABSENT
    assert [entry.key for entry in root.list("k")] == ["k/3"]


def test_clients_that_count_together_lose_no_count(bucket: str) -> None:
    GcsStore(bucket).write("counter", b"0", expected=ABSENT)

    def count(store: GcsStore) -> None:
        left = 20
        while left:
            stored = store.read("counter")
            assert stored is not None
            try:
                store.write("counter", b"%d" % (int(stored.body) + 1), expected=stored.generation)
                left -= 1
            except ConflictError:
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, [GcsStore(bucket) for _ in range(4)]))
    stored = GcsStore(bucket).read("counter")
    assert stored is not None
    assert stored.body == b"80"


def test_a_name_longer_than_the_service_takes_is_refused_with_what_to_do(store: GcsStore) -> None:
    store.write("x" * 1022, b"", expected=ABSENT)
    with pytest.raises(ConfigError, match="limit of 1024 bytes"):
        store.write("x" * 1023, b"", expected=ABSENT)


def test_what_is_not_there_costs_one_call(gcs: FakeGcs, store: GcsStore) -> None:
    store.write("k", b"1", expected=ABSENT)
    gcs.calls.clear()
    assert store.read("none") is None
    assert store.read("k") is not None
    assert list(store.list("none/")) == []
    assert gcs.calls == {"get": 2, "list": 1}


@pytest.mark.parametrize(
    ("location", "place"),
    [("gs://b", ("b", "")), ("gs://b/", ("b", "")), ("gs://b/a/b", ("b", "a/b/")), ("gs://b/a/", ("b", "a/"))],
)
def test_a_location_is_a_bucket_and_a_prefix(location: str, place: tuple[str, str]) -> None:
    assert place_of(location) == place


def test_the_configuration_may_be_an_object(gcs: FakeGcs, bucket: str) -> None:
    text = {"store": bucket, "integrations": [{"name": "acme", "client_id": "a", "client_secret": "${env:B}"}]}
    raw(gcs, bucket, "connector.yaml", json.dumps(text).encode())
    assert configuration.load(f"{bucket}/connector.yaml").store == bucket
    with pytest.raises(ConfigError, match="does not exist"):
        configuration.load(f"{bucket}/none.yaml")
