"""What the identity package raises, and how it shows the hostile text that made it do so."""

from __future__ import annotations

from authz.errors import AuthzError

#: A message names its input; more of it than this helps nobody and floods a log.
MAX_SHOWN_CHARACTERS = 120


class IdentityError(AuthzError):
    """An identity, or what should prove or make one, is not as the SPIFFE specifications demand."""


class AuthorityError(IdentityError):
    """An authority cannot be read, or cannot issue what was asked of it."""


def quoted(text: str) -> str:
    """Give `text` in backticks, on one line: escaped to printable ASCII, and shortened where it is long.

    What a peer sent ends in messages and logs, where a raw line break would forge a line.
    """
    shown = text[:MAX_SHOWN_CHARACTERS].encode("unicode_escape").decode("ascii").replace("`", "\\x60")
    return f"`{shown}`" if len(text) <= MAX_SHOWN_CHARACTERS else f"`{shown}`... ({len(text)} characters)"
