"""Every command's help has examples, and each of them can be typed."""

import argparse
import contextlib
import io
import shlex

import pytest

from emulator.__main__ import main
from emulator.cli.arguments import EXAMPLES, GROUPS, commands_of, parsed, parser


def test_every_command_has_examples_and_there_are_none_of_others() -> None:
    assert set(EXAMPLES) == set(commands_of(parser()))
    assert all(1 <= len(each) <= 2 for each in EXAMPLES.values())


@pytest.mark.parametrize("name", ["", *EXAMPLES])
def test_help_shows_examples_that_can_be_typed(name: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit):
        main([*filter(None, [name]), "--help"])
    assert "positional" not in told.getvalue()
    _, _, shown = told.getvalue().partition("examples:\n")
    lines = shown.splitlines()
    assert len(lines) >= 1
    for line in lines:
        begin, _, _ = line.partition(" |")
        words = shlex.split(begin)
        assert words[:3] == ["python", "-m", "emulator"]
        assert isinstance(parsed(words[3:]), argparse.Namespace)
        assert words[3] == (name or words[3])


def test_every_command_stands_in_one_group_of_the_help() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(commands_of(parser()))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["statsu"], "unknown command 'statsu'; did you mean 'status'?"),
        (["test-conection", "--json"], "did you mean 'test-connection'?"),
        (["xyzzy"], "unknown command 'xyzzy'; `--help` lists them all"),
        (["audit", "--sinse", "7d"], "audit does not accept '--sinse'; did you mean '--since'?"),
        (["audit", "--sinse=7d"], "did you mean '--since'?"),
        (["types", "--hours", "abc"], "argument --hours: 'abc' is not a number of hours: write 6, or 0.5"),
        (
            ["types", "--hours", "48"],
            "argument --hours: must be between 0 and 24, not 48: Sophos serves the last 24 hours",
        ),
        (["types", "--hours", "nan"], "must be between 0 and 24, not nan"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_what_is_mistyped_ends_with_two_and_what_was_meant(typed: list[str], told: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as heard, pytest.raises(SystemExit) as ended:
        main(typed)
    assert ended.value.code == 2
    assert told in heard.getvalue()
