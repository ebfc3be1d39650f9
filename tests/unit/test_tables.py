"""Columns keep their place, however wide their characters are."""

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from emulator.cli import standing
from emulator.cli.progress import progress_text
from emulator.cli.terminal import show, width

WORDS = st.text(st.sampled_from("aé日本한ｶ ß😀\u0301\u0308"), max_size=8)


def test_wide_characters_take_two_columns_and_marks_none() -> None:
    assert [width(each) for each in ("abc", "日本", "e\u0301", "ｶ", "😀")] == [3, 4, 1, 1, 2]


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_in_a_pipe_every_column_begins_in_the_same_place(rows: list[tuple[str, str]]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        show([(name, f"|{text}") for name, text in rows])
    begins = {width(line[: line.index("|")]) for line in printed.getvalue().splitlines()}
    assert begins == {max(width(name) for name, _ in rows) + 2}


def test_the_names_of_customers_move_no_column() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        show([("NAME", "EVENTS"), ("株式会社テスト", "1"), ("Northwind", "2")])
    # By another's measure than ours.
    assert {cell_len(line.rstrip("ENTVS12")) for line in printed.getvalue().splitlines()} == {16}


def test_a_reason_that_concerns_the_whole_names_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    reason = {
        "health": "failing",
        "title": "The engine takes no events",
        "detail": "nobody listens",
        "remedy": "Start it.",
        "since": "2026-03-10T01:02:03.000000Z",
        "count": 1,
        "streams": [],
        "integrations": [],
    }
    standing._print_reason(reason, {}, None)
    assert "FAILING  The engine takes no events (since 2026-03-10T01:02Z)\n" in capsys.readouterr().out


def test_of_a_moment_no_rate_is_told() -> None:
    assert progress_text("events", 30, 0.001, 1.0) == "30 events"
    assert progress_text("events", 30, 3.0, 0.5) == "30 events, 10/s, 3 s left"
    assert progress_text("events", 30, 3.0, None) == "30 events, 10/s"
