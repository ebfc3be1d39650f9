"""What comes from outside commands no terminal."""

import ast
import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lib.model.text import printable, several
from lib.telemetry import TerminalFormatter
from tests.site import ROOT

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


COUNTED = re.compile(r" ((?:more |late |dead )?[a-z]+?)(?:ies|es|s)\b")
PLACEHOLDER = re.compile(r"(?<!%d of )(?:%[ds]|\{\{[^{}]*\|number \}\}) ((?:more |late |dead )?[a-z]+?)(?:ies|es|s)\b")
NOUNS = {
    *("event", "stream", "gap", "batch", "receipt", "tenant", "integration", "call", "tr", "item", "page", "object"),
    *("day", "outage", "log", "rule", "reason", "problem", "repeat", "device", "field", "column", "header", "pack"),
    *("dead letter", "late event", "more integration", "more stream", "interval", "warning", "process", "restart"),
}
LIMITS = re.compile(r"[A-Z_]+|self\._in_a_row|overtaken\.calls|tried|days|result\.seed|self\.gate\.bounds\.streams")
"""A number that is never 1."""


def _unbent(path: Path) -> Iterator[str]:
    """Counts whose noun is always in the plural."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        yield from (found[0] for found in PLACEHOLDER.finditer(text) if found[1] in NOUNS)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (found[0] for found in PLACEHOLDER.finditer(node.value) if found[1] in NOUNS)
        for value, rest in zip(node.values, node.values[1:], strict=False) if isinstance(node, ast.JoinedStr) else ():
            if isinstance(value, ast.FormattedValue) and isinstance(rest, ast.Constant):
                found, counted = COUNTED.match(str(rest.value)), ast.unparse(value.value)
                if found and found[1] in NOUNS and not LIMITS.fullmatch(counted):
                    yield f"{{{counted}}}{found[0]}"


def test_a_count_of_one_has_a_noun_in_the_singular() -> None:
    assert (several(1, "event"), several(0, "event"), several(2, "try", "tries")) == ("1 event", "0 events", "2 tries")
    folders = [ROOT / name for name in ("lib", "functions", "emulator")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".html"}]
    shown = [path for path in files if "pb" not in path.parts and path.parent.name != "central"]
    assert len(shown) > 150
    assert {str(path.relative_to(ROOT)): found for path in shown if (found := sorted(set(_unbent(path))))} == {}
