"""The token that a command shows a hub: from a file, or from the environment; never from the command line itself.

What stands on a command line is everybody's on the machine to read, and stays in the shell's history.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.errors import UsageError
from authz.policy.errors import printable

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import CommandParser

VARIABLE: Final = "AUTHZ_HUB_TOKEN"
#: a JWT with many claims has 2 KiB; servers take 8 KiB of a header field at least
MAX_TOKEN_BYTES: Final = 4096
# RFC 6750 2.1: b64token.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def add_token_file(parser: CommandParser) -> None:
    """Add `--token-file`."""
    parser.add_flag(
        "--token-file", metavar="FILE", help=f"the token to show the hub, in a file (default: what {VARIABLE} says)"
    )


def hub_token(given: argparse.Namespace) -> str | None:
    """Give the token that was named, None where none was; raises UsageError, which never shows it."""
    if given.token_file is None:
        said = os.environ.get(VARIABLE)
        return None if not said else _token(said, VARIABLE)
    shown = f"--token-file: {printable(given.token_file)}"
    try:
        with Path(given.token_file).open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                print(f"{shown}: others than its owner may use it", file=sys.stderr)
            content = file.read(MAX_TOKEN_BYTES + 2)
    except OSError as error:
        raise UsageError(f"{shown}: {(error.strerror or 'it cannot be read').lower()}") from error
    return _token(content.decode("latin-1").removesuffix("\n"), shown)


def _token(text: str, where: str) -> str:
    if len(text) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(text):
        raise UsageError(
            f"{where}: a token is one line of at most {MAX_TOKEN_BYTES} letters, digits and `-._~+/`, then `=`"
        )
    return text
