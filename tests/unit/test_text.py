"""What comes from outside commands no terminal."""

import json
import logging
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lib.model.text import printable
from lib.telemetry import TerminalFormatter

TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(st.text(st.characters(codec=None)))
def test_nothing_is_left_that_a_terminal_obeys_and_json_says_what_it_said(text: str) -> None:
    shown = printable(text)
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") or each in TURNS]
    assert json.loads(printable(json.dumps([text], ensure_ascii=False))) == [text]


def test_every_character_that_turns_the_direction_is_replaced_and_writing_stays() -> None:
    assert printable(f"{TURNS}\x7f\x9b") == "".join(f"\\u{ord(each):04x}" for each in f"{TURNS}\x7f\x9b")
    assert printable("Łódź 東京 עברית 🦊 → \\n") == "Łódź 東京 עברית 🦊 → \\n"


def test_a_log_line_on_a_terminal_is_one_line_and_no_command() -> None:
    trace = (ValueError, ValueError("bad\x1b[2J"), None)
    said = ("Evil\x1b[31m\n12:00:00 relay all is well",)
    line = TerminalFormatter("fetch-page").format(logging.LogRecord("x", logging.INFO, "f", 1, "%s", said, trace))
    assert "\x1b" not in line
    assert "Evil\\u001b[31m\\u000a12:00:00 relay all is well" in line.splitlines()[0]
    assert line.splitlines()[-1] == "ValueError: bad\\u001b[2J"
