"""`-o`: the form in which a command gives what it found."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from authz.errors import UsageError
from authz.policy.errors import nearest, quoted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from authz.cli.arguments import CommandParser


def add_output(parser: CommandParser, formats: Sequence[str]) -> None:
    """Add `-o` with the formats that a command has."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FORMAT",
        default=os.environ.get("AUTHZ_OUTPUT"),
        help=f"{', '.join(formats)}; default: pretty on a terminal, else json [AUTHZ_OUTPUT]",
    )
    parser.set_defaults(formats=tuple(formats))


def output_of(given: argparse.Namespace) -> str:
    """Give the format that was asked for, or the one that suits where the output goes."""
    if not given.output:
        return "pretty" if sys.stdout.isatty() else "json"
    if given.output not in given.formats:
        known = ", ".join(f"`{each}`" for each in given.formats)
        raise UsageError(f"-o: {quoted(given.output)} is none of {known}{nearest(given.output, given.formats)}")
    return str(given.output)
