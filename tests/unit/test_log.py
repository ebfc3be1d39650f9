"""A log is written exactly as protobuf writes it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.model.log import Log
from lib.utmstack.call import acknowledged_id
from lib.utmstack.pb import plugins_pb2

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.integers(120, 300).map(lambda n: "é" * n)
RAWS = st.one_of(TEXTS, st.sampled_from([127, 128, 16383, 16384, 2097151, 2097152]).map(lambda n: "x" * n))


LOGS = st.builds(Log, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, RAWS.map(str.encode))


@given(LOGS)
@example(Log("", "", "", "", "", b""))
@example(Log("i", "t", "s", "2026", "u", b"{}"))
def test_a_log_is_what_protobuf_writes_and_as_long_as_it_says(log: Log) -> None:
    fields = {"id": log.id, "dataType": log.data_type, "dataSource": log.data_source, "timestamp": log.timestamp}
    expected = plugins_pb2.Log(**fields, tenantId=log.tenant_id, raw=log.raw.decode()).SerializeToString()
    assert log.to_wire() == expected
    assert log.wire_size() == len(expected)


def test_half_a_character_in_the_name_of_a_source_holds_up_no_log() -> None:
    log = Log("i", "t", "acme/\ud83d", "2026", "u", b"{}")
    assert plugins_pb2.Log.FromString(log.to_wire()).dataSource == "acme/?"
    assert log.wire_size() == len(log.to_wire())


@given(TEXTS | st.integers(100, 300).map(lambda n: "x" * n))
def test_an_acknowledgement_names_what_protobuf_reads(log_id: str) -> None:
    message = plugins_pb2.Ack(lastId=log_id).SerializeToString()
    assert acknowledged_id(message) == log_id.encode()
    # A field that nobody knows, before and after.
    assert acknowledged_id(b"\x10\x05" + message) == log_id.encode()
    assert acknowledged_id(message + b"\x10\x05") == log_id.encode()


@pytest.mark.parametrize("message", [b"\x0a", b"\x0a\x05ab", b"\xff\xff", b"\x0a\x00\x0a"])
def test_what_is_no_acknowledgement_is_told(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        acknowledged_id(message)
