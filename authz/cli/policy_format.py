"""`authz fmt`: policy files written the one way, each replaced as a whole or not at all."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authz.cli.arguments import NO, YES
from authz.cli.output import add_output, output_of
from authz.errors import UsageError
from authz.policy.document import MAX_FILE_BYTES, SourceFile
from authz.policy.errors import printable
from authz.policy.formatting import formatted
from authz.policy.layout import LayoutError
from authz.policy_file import replace_policy_file
from authz.policy_folder import read_policy_folder

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import Subcommands


def add_commands(commands: Subcommands) -> None:
    """Add `fmt`."""
    parser = commands.add(
        "fmt",
        _fmt,
        summary="write policy files the one way that everybody writes them; exit status 1 with --check if some are not",
        example="authz fmt policies --check",
    )
    parser.add_argument("directory", metavar="DIR", help="the policy folder, or one file")
    parser.add_flag("--check", action="store_true", help="change nothing; name the files that are not formatted")
    add_output(parser, ("pretty", "json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """A file that is left as it is, and why."""

    path: str
    line: int
    message: str


def _fmt(given: argparse.Namespace) -> int:
    output = output_of(given)
    files = _files(given.directory)
    changed: list[str] = []
    left: list[_Left] = []
    for file in files:
        try:
            content = formatted(file)
        except LayoutError as error:
            left.append(_Left(path=file.path, line=error.line, message=str(error)))
            continue
        if content != file.content:
            changed.append(file.path)
            if not given.check:
                replace_policy_file(file, content)
    for each in left:
        print(printable(f"{each.path}:{each.line}: left as it is: {each.message}"), file=sys.stderr)
    if output == "json":
        print(json.dumps(_object(changed, left, len(files))))
    else:
        _print(changed, left, len(files), check=given.check)
    return NO if given.check and changed else YES


def _files(path: str) -> tuple[SourceFile, ...]:
    if not Path(path).is_file():
        return read_policy_folder(path)
    try:
        with Path(path).open("rb") as file:
            return (SourceFile(path=path, content=file.read(MAX_FILE_BYTES + 1)),)
    except OSError as error:
        raise UsageError(f"{printable(path)}: {(error.strerror or 'it cannot be read').lower()}") from error


def _print(changed: list[str], left: list[_Left], total: int, *, check: bool) -> None:
    for path in changed:
        print(printable(f"{'not formatted' if check else 'formatted'}: {path}"))
    counts = [f"{len(changed)} {'not formatted' if check else 'formatted'}"] if changed else []
    counts.append(f"{total - len(changed) - len(left)} as they should be")
    counts += [f"{len(left)} left as they are"] if left else []
    print(f"{total} file{'' if total == 1 else 's'}: {', '.join(counts)}")


def _object(changed: list[str], left: list[_Left], total: int) -> dict[str, object]:
    return {
        "files": total,
        "changed": changed,
        "left": [{"path": each.path, "line": each.line, "message": each.message} for each in left],
    }
