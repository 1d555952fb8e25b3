"""How every command of the line takes its arguments: the same help, the same environment, the same exit status.

Each flag can be set by an environment variable `AUTHZ_<FLAG>`; what is typed wins over it. A command's help ends
in an example that runs.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Never

from authz.errors import UsageError
from authz.policy.errors import nearest, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Run = Callable[[argparse.Namespace], int]

YES, NO, USAGE = 0, 1, 2

#: What sets a switch, in any case. Nothing else does: a typing error must turn nothing on, nor leave it off.
_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class _UnreadableDefault:
    """Stands where the environment gave a value that the flag cannot have, until a typed one takes its place."""

    message: str


class _Typed(argparse.Action):
    """Collects the values of a flag that may come often; the first one that is typed replaces the environment's."""

    def __call__(
        self, _parser: argparse.ArgumentParser, given: argparse.Namespace, value: Any, _option: str | None = None
    ) -> None:
        before = getattr(given, self.dest)
        setattr(given, self.dest, [*([] if isinstance(before, tuple) else before), value])


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises :class:`UsageError` instead of leaving, and reads `AUTHZ_<FLAG>`."""

    def __init__(self, *args: Any, example: str = "", default: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        if example:
            kwargs["epilog"] = f"example:\n  {example}"
        super().__init__(*args, **kwargs)
        self._default = default

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; a group without one of its commands in first place runs its `default`, where it has one."""
        if self._default is not None and args is not None and _names_no_command(args):
            args = [self._default, *args]
        given, unknown = super().parse_known_args(args, namespace)
        for value in vars(given).values():
            if isinstance(value, _UnreadableDefault):
                raise UsageError(value.message)
        return given, unknown

    def add_flag(self, name: str, *, required: bool = False, **kwargs: Any) -> None:
        """Add `--name`, whose default is the environment's `AUTHZ_NAME` where that is set.

        A flag with `action="append"` takes one value from the environment; a switch (`store_true`) is set by the words
        of `_ON` and `_OFF`, and left as it is by an empty value. What the flag cannot have is a UsageError of its own
        command, and of no other of the group.
        """
        variable = "AUTHZ_" + name.removeprefix("--").replace("-", "_").upper()
        value = os.environ.get(variable)
        choices = kwargs.get("choices")
        if value is not None:
            if choices is not None and value not in choices:
                kwargs["default"] = _unreadable(variable, value, map(str, choices))
            elif kwargs.get("action") == "store_true":
                kwargs["default"] = _switch(variable, value)
            elif kwargs.get("action") == "append":
                kwargs["default"] = (value,)
                kwargs["action"] = _Typed
            else:
                kwargs["default"] = value
        required = required and value is None
        kwargs["help"] = f"{kwargs.get('help', '')} [{variable}]".replace("%", "%%")
        self.add_argument(name, required=required, **kwargs)

    def error(self, message: str) -> Never:
        """Raise what is wrong with the command line, and how to see what is right."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def _switch(variable: str, value: str) -> bool | _UnreadableDefault:
    word = value.lower()
    if word in _ON:
        return True
    if not word or word in _OFF:
        return False
    pairs = (f"{on} or {off}" for on, off in zip(_ON, _OFF, strict=True))
    return _unreadable(variable, value, pairs)


def _unreadable(variable: str, value: str, choices: Iterable[str]) -> _UnreadableDefault:
    return _UnreadableDefault(f"{variable}={quoted(value)}: choose from {', '.join(choices)}")


def _names_no_command(words: Sequence[str]) -> bool:
    return not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"})


class Subcommands:
    """The commands of one group, each with its own parser and the function that runs it."""

    def __init__(self, parser: argparse.ArgumentParser, *, dest: str = "command") -> None:
        self._actions = parser.add_subparsers(dest=dest, metavar="COMMAND", required=True, parser_class=CommandParser)

    def add(self, name: str, run: Run, *, summary: str, example: str) -> CommandParser:
        """Add a command; `run` gets the parsed arguments and gives the exit status."""
        parser = self._parser(name, summary, example)
        parser.set_defaults(run=run, parser=parser)
        return parser

    def add_group(self, name: str, *, summary: str, example: str, default: str | None = None) -> Subcommands:
        """Add a command that has commands of its own; alone, or with flags only, it runs its `default`."""
        return Subcommands(self._parser(name, summary, example, default), dest=f"{name}_command")

    def _parser(self, name: str, summary: str, example: str, default: str | None = None) -> CommandParser:
        parser: CommandParser = self._actions.add_parser(
            name, help=summary, description=summary, example=example, default=default
        )
        return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; raises UsageError where it cannot be understood."""
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        command: argparse.ArgumentParser = getattr(given, "parser", parser)
        word = unknown[0].partition("=")[0]
        flags = [flag for action in command._actions for flag in action.option_strings if flag.startswith("--")]  # noqa: SLF001 argparse tells its flags no other way
        hint = nearest(word, flags) if word.startswith("--") else "; quote what has spaces in it"
        raise UsageError(f"{command.prog}: unknown argument {quoted(word)}{hint} (see `{command.prog} --help`)")
    return given
