"""Completion of commands, options and their values, for bash, zsh and fish.

The script for a shell holds all words, so that no key press waits for Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

NAME = "sophos-utmstack"
"""The installed command, or a shell function that runs `python -m emulator`."""
FILES = ("FILE", "PATH", "FOLDER")
"""Parts of a metavar that stand for a file name."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option or argument of a command."""

    name: str
    """Empty for a positional argument."""
    text: str
    takes: bool
    """Whether a value follows."""
    choices: Sequence[str] = ()
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """A command's help text with its options and arguments."""

    text: str
    options: Sequence[Option]

    @property
    def words(self) -> list[str]:
        """The words that may come next if no option waits for its value."""
        return [word for option in self.options for word in ([option.name] if option.name else option.choices)]


def taken(parser: argparse.ArgumentParser) -> CommandOptions:
    """The options and arguments of a command's parser."""
    options = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list its actions
        name = next((option_string for option_string in action.option_strings if option_string.startswith("--")), "")
        meta = action.metavar if isinstance(action.metavar, str) else ""
        text = (action.help or "").replace("%(default)s", str(action.default)).replace("%(default)g", "")
        choices = tuple(map(str, action.choices or ()))
        options.append(Option(name, text, action.nargs != 0, choices, any(part in meta for part in FILES)))
    return CommandOptions(parser.description or "", options)


def script(shell: str, commands: Mapping[str, CommandOptions]) -> str:
    """The completion script of a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _bash(commands: Mapping[str, CommandOptions]) -> str:
    values = _cases(commands, 'words="{}"', "_sophos_utmstack_files")
    words = "\n".join(f'      {name}) words="{" ".join(command.words)}" ;;' for name, command in commands.items())
    return f"""\
_sophos_utmstack_files() {{
  local IFS=$'\\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
_sophos_utmstack() {{
  local IFS=$' \\t\\n' words="" cur="${{COMP_WORDS[COMP_CWORD]}}"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(commands)}"
  else case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    *) case "${{COMP_WORDS[1]}}" in
{words}
    esac ;;
  esac; fi
  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -F _sophos_utmstack {NAME}"""


def _zsh(commands: Mapping[str, CommandOptions]) -> str:
    values = _cases(commands, "compadd -- {}", "_files")
    words = "\n".join(f"      {name}) compadd -- {' '.join(command.words)} ;;" for name, command in commands.items())
    return f"""\
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -u; }}
_sophos_utmstack() {{
  if (( CURRENT == 2 )); then compadd -- {" ".join(commands)}
  else case "$words[2] $words[CURRENT-1]" in
{values}
    *) case "$words[2]" in
{words}
    esac ;;
  esac; fi
}}
compdef _sophos_utmstack {NAME}"""


def _cases(commands: Mapping[str, CommandOptions], words: str, files: str) -> str:
    """The shell's cases for the word after an option with a value; `words` is the template that offers choices."""
    lines = []
    for command, taken_by in commands.items():
        for option in taken_by.options:
            if option.name and option.takes:
                does = words.format(" ".join(option.choices)) if option.choices else files if option.is_file else ":"
                lines.append(f'    "{command} {option.name}") {does} ;;')
    return "\n".join(lines)


def _fish(commands: Mapping[str, CommandOptions]) -> str:
    lines = [f"complete -c {NAME} -f"]
    for command, taken_by in commands.items():
        lines.append(f"complete -c {NAME} -n __fish_use_subcommand -a {command} -d {quote(taken_by.text)}")
        seen = f"complete -c {NAME} -n '__fish_seen_subcommand_from {command}'"
        for option in taken_by.options:
            name = f" -l {option.name[2:]} -d {quote(option.text)}" if option.name else ""
            value = " -r -F" if option.is_file else " -x" if option.takes and option.name else ""
            value = f" -x -a {quote(' '.join(option.choices))}" if option.choices else value
            if name or option.choices:
                lines.append(seen + name + value)
    return "\n".join(lines)
