"""What is no YAML is told at the place to mend, in a sentence that says what to write; no secret is shown of it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config.loading import InvalidConfigError, parse
from lib.config.yaml_lines import ConfigFault, Document

TABS, INDENT, COLON = "spaces, not tabs", "indented wrongly", "colon"


def first(text: str) -> ConfigFault:
    with pytest.raises(InvalidConfigError) as refusal:
        parse(text)
    assert "hunter2" not in str([(each.message, each.text) for each in refusal.value.faults])
    return refusal.value.faults[0]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("store: x\n\tevery: 60s\n", 2, 1, TABS),
        ("integrations:\n\t- name: acme\n", 2, 1, TABS),
        ("store: 'x\nevery: 60s\nlisten: y\n", 1, 8, "quote is not closed"),
        ('store: x\nlisten: "y\nevery: 60s\n', 2, 9, "quote is not closed"),
        ('a:\n  client_id: "x\n  client_secret: "hunter2"\n', 2, 14, "quote is not closed"),
        ("integrations:\n  - name: acme\n   client_id: x\n", 3, 4, INDENT),
        ("sophos:\n  auth_url: x\n proxy: y\n", 3, 2, INDENT),
        ("store: x\n  every: 60s\n", 2, 3, INDENT),
        ("store: x\nevery 60s\nlisten: y\n", 2, 1, COLON),
        ("store\nevery: 60s\n", 1, 1, COLON),
        ("store:x\nevery: 60s\n", 1, 1, "space is missing"),
        ("store: file: x\n", 1, 12, "in quotes"),
        ("store: x\nlisten: [a, b\nevery: 60s\n", 2, 9, "is not closed"),
        ("store: x\nstore: y\n", 2, 1, "used twice"),
        ("listen: @x\n", 1, 9, "in quotes"),
        ("listen: *x\n", 1, 9, "in quotes"),
        ("listen: %x\n", 1, 9, "in quotes"),
        ("every: */5 * * * *\n", 1, 8, "in quotes"),
        ("every: * * * * *\n", 1, 8, "in quotes"),
        ("store: x\n---\nstore: y\n", 2, 1, "one"),
        ("store: a\x07b\n", 1, 9, "U+0007"),
        ("limits: {max_pending_bytes: 0100}\n", 1, 29, "octal"),
        ("listen: 10:30\n", 1, 9, "decimal"),
        ("every: 2026-13-45\n", 1, 8, "in quotes"),
        ("every: " + "9" * 6000, 1, 8, "too large"),
        ("every: " + "[" * 5000, 1, None, "nested over"),
        ("every: " + "{a: " * 5000, 1, None, "nested over"),
    ],
)
def test_a_fault_of_the_form_is_a_sentence_at_its_place(text: str, line: int, column: int | None, words: str) -> None:
    found = first(text)
    assert found.line == line
    assert words in found.message
    assert found.text == text.split("\n")[line - 1][:240]
    assert column is None or found.column == column


def test_an_alias_that_expands_without_end_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for before, after in pairwise(range(9)):
        lines.append(f"a{after}: &a{after} [{', '.join([f'*a{before}'] * 10)}]")
    assert "expands to over" in first("\n".join(lines)).message


@pytest.mark.parametrize(
    "text",
    [
        "client_secret: hunter2: y\n",
        "client_secret:hunter2\nx: y\n",
        "x: y\nclient_secret hunter2\nz: a\n",
        "- {client_id: x, client_secret: hunter2, y: z: a}\n",
        "client_secret: |\n  @hunter2\n @hunter2: x\n",
        "client_secret: @hunter2\n",
        "client_secret: *hunter2\n",
        "access:\n  keys:\n  - @hunter2\n",
        'client_secret: "hunter2" x\n',
    ],
)
def test_a_secret_is_not_shown_with_its_fault(text: str) -> None:
    first(text)


@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_stands_there_the_place_is_in_the_text(before: str, after: str) -> None:
    for fault in Document(f"{before}\nstore: x\n{after}").faults:
        assert fault.line is None or 1 <= fault.line <= f"{before}\n{after}".count("\n") + 5
        assert "\n" not in fault.text
