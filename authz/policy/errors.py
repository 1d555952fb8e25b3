"""What can be wrong with a policy set, and where it stands. A set with one fault is no set."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING

from authz.errors import AuthzError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A message names its input; more of it than this helps nobody and floods a log.
MAX_SHOWN_CHARACTERS = 120
#: Faults beyond so many are counted, not listed: a wrong file given as policies has one in each line.
MAX_LISTED_FAULTS = 1000
#: What one document, or the form of one file, has beyond so many faults is not looked for.
MAX_FAULTS_AT_ONCE = 1000
#: A set with so many faults is not looked at further.
MAX_FAULTS = 10_000


class PolicyError(AuthzError):
    """A policy, or a question put to policies, is not as the policy language demands."""


class FaultCode(StrEnum):
    """The kinds of fault, as `authz lint` names them."""

    SYNTAX = "syntax"
    SCHEMA = "schema"
    REFERENCE = "reference"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One reason why a set cannot be used; `line` and `column` count from 1, in characters."""

    path: str
    line: int
    column: int
    message: str
    code: FaultCode = FaultCode.SCHEMA

    def __str__(self) -> str:
        return f"{printable(self.path)}:{self.line}:{self.column}: {self.message}"


class PolicySetFaults(PolicyError):  # noqa: N818 it is all of them, not one error
    """All faults of a set, sorted by position."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(sorted(set(faults)))
        super().__init__()

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults[:MAX_LISTED_FAULTS]]
        more = len(self.faults) - len(lines)
        return "\n".join([*lines, f"and {more} faults more"] if more > 0 else lines)


def printable(text: str) -> str:
    """Give `text` on one line: line breaks, control characters and what reorders text are escaped.

    Whatever stands in a policy file, a file's name or a request, it forges no line of output.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def quoted(text: str) -> str:
    """Give `text` in backticks, on one line, and shortened where it is long."""
    shown = printable(text[:MAX_SHOWN_CHARACTERS]).replace("`", "\\x60")
    return f"`{shown}`" if len(text) <= MAX_SHOWN_CHARACTERS else f"`{shown}`... ({len(text)} characters)"


def nearest(word: str, known: Iterable[str], *, similarity: float = 0.6) -> str:
    """Give the hint `; did you mean `x`?` where one of the known words is as close as that, else nothing."""
    matches = get_close_matches(word[:MAX_SHOWN_CHARACTERS], sorted(known), n=1, cutoff=similarity)
    return f"; did you mean `{matches[0]}`?" if matches else ""
