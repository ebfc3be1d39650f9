"""Every command's help has examples, and each of them can be typed."""

import argparse
import contextlib
import io
import shlex

import pytest

from emulator.__main__ import EXAMPLES, _parser, main
from emulator.cli.completion import _commands


def test_every_command_has_examples_and_there_are_none_of_others() -> None:
    assert set(EXAMPLES) == set(_commands(_parser()))
    assert all(1 <= len(each) <= 2 for each in EXAMPLES.values())


@pytest.mark.parametrize("name", ["", *EXAMPLES])
def test_help_shows_examples_that_can_be_typed(name: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit):
        main([*filter(None, [name]), "--help"])
    _, _, shown = told.getvalue().partition("examples:\n")
    lines = shown.splitlines()
    assert len(lines) >= 1
    for line in lines:
        begin, _, _ = line.partition(" |")
        words = shlex.split(begin)
        assert words[:3] == ["python", "-m", "emulator"]
        assert isinstance(_parser().parse_args(words[3:]), argparse.Namespace)
        assert words[3] == (name or words[3])
