"""What a story of something that goes wrong came to: one line each, beside what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    what: str
    measured: str
    aim: str = "-"


def table(findings: Sequence[Finding]) -> str:
    rows = [f"| {each.what} | {each.measured} | {each.aim} |" for each in findings]
    return "\n".join(["| what | measured | aim |", "|---|---|---|", *rows])
