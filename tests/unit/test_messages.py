"""Messages cut anywhere are found, whole, and only what was released goes on."""

from hypothesis import given
from hypothesis import strategies as st

from emulator.relay.messages import PREFIX, MessageBuffer

MESSAGES = st.lists(st.binary(max_size=300), max_size=20)
CUTS = st.lists(st.integers(1, 200), min_size=1, max_size=30)


def framed(message: bytes) -> bytes:
    return bytes(1) + len(message).to_bytes(PREFIX - 1, "big") + message


def parts(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, over and over."""
    found, at = list[bytes](), 0
    while at < len(data):
        size = cuts[len(found) % len(cuts)]
        found.append(data[at : at + size])
        at += size
    return found


@given(MESSAGES, CUTS, CUTS, st.integers(1, 5))
def test_what_is_released_goes_on_unchanged_and_is_counted_once(
    messages: list[bytes], cuts: list[int], takes: list[int], at_once: int
) -> None:
    buffer, gone, sizes, finished = MessageBuffer(), bytearray(), list[int](), 0
    whole = b"".join(map(framed, messages))
    for number, part in enumerate(parts(whole, cuts)):
        buffer.add(part)
        for _ in range(min(at_once, len(buffer.held))):
            sizes.append(buffer.held[0])
            buffer.release()
        gone += buffer.take(min(buffer.ready, takes[number % len(takes)]))
        finished += buffer.finished()
        # Nothing of a message that is held has gone on.
        assert len(gone) <= sum(PREFIX + size for size in sizes)
        assert finished <= len(sizes)
    while buffer.held or buffer.ready:
        if buffer.held:
            sizes.append(buffer.held[0])
            buffer.release()
        gone += buffer.take(buffer.ready)
        finished += buffer.finished()
    assert bytes(gone) == whole
    assert sizes == [len(each) for each in messages]
    assert finished == len(messages)
    assert not buffer.waiting


@given(MESSAGES, st.binary(min_size=1, max_size=50), st.integers(0, 60), st.data())
def test_at_the_end_a_message_that_is_not_whole_is_dropped_or_known_to_be_cut(
    messages: list[bytes], last: bytes, missing: int, data: st.DataObject
) -> None:
    whole = b"".join(map(framed, messages))
    rest = framed(last)[: -min(missing, PREFIX + len(last)) or None]
    buffer = MessageBuffer()
    buffer.add(whole + rest)
    while buffer.held:
        buffer.release()
    gone = buffer.take(data.draw(st.integers(0, buffer.ready)))
    is_cut = len(gone) > len(whole) and rest != framed(last)
    assert buffer.close() != is_cut
    if not is_cut:
        assert gone + buffer.take(buffer.ready) == whole + (rest if rest == framed(last) else b"")
        assert not buffer.waiting
