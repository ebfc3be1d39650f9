"""Completion of the commands and their options, for bash and zsh."""

from __future__ import annotations

import argparse

NAME = "sophos-utmstack"
"""What a person calls `python -m emulator`, by an alias or a script of that name."""
_SCRIPT = """\
_sophos_utmstack() {{
  local words
  case "$COMP_CWORD:${{COMP_WORDS[1]}}" in
    1:*) words="{commands}" ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
  [ "${{#COMPREPLY[@]}}" -gt 0 ] || COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -F _sophos_utmstack {name}"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What the shell has to source; zsh uses bash's through its own emulation."""
    commands = _commands(parser)
    cases = [f'    *:{name}) words="{" ".join(_words(each))}" ;;' for name, each in commands.items()]
    text = _SCRIPT.format(name=NAME, commands=" ".join(commands), cases="\n".join(cases))
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001 - argparse tells what it parses in no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    words: list[str] = []
    for action in parser._actions:  # noqa: SLF001
        words += [each for each in action.option_strings if each.startswith("--")] or map(str, action.choices or ())
    return words
