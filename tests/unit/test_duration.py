"""Durations as people write them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model.backoff import LONGEST, full_jitter, retry_after
from lib.model.clock import from_text
from lib.model.duration import duration_text, parse_duration

NOW = from_text("2026-03-10T00:00:00Z")


@given(st.integers(0, 10**8))
def test_a_duration_reads_back(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert parse_duration(duration_text(duration)) == duration


@pytest.mark.parametrize("text", ["", "60", "s", "1.5h", "-1m", "1h30m", "1 h", "１m", "5w", "99999999999s"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"5m|too long"):
        parse_duration(text)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_full_jitter_stays_below_its_bounds(tries: int, jitter: float) -> None:
    pause = full_jitter(tries, jitter, base=0.5, cap=8)
    assert 0 <= pause <= min(8, 0.5 * 2 ** min(max(tries - 1, 0), 20))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        (" 120 ", 120.0),
        ("9" * 400, LONGEST),
        ("Tue, 10 Mar 2026 00:01:00 GMT", 60.0),
        ("Mon, 09 Mar 2026 00:01:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds
