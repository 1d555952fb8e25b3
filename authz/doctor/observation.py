"""What was looked at, how it is, and what to do about it.

Texts come from files, peers and other programs as they are: whoever prints them escapes them (:func:`printable`).
# INVARIANT (silent): no observation is made of a private key, not even of its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


class Level(StrEnum):
    """How it is: `warning` is nothing to stop at, `missing` is required and not there, or broken."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing that was looked at: `says` how it is, `remedy` what to do, empty where there is nothing to do."""

    about: str
    level: Level
    says: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Give it as a flat mapping."""
        return {"about": self.about, "level": self.level.value, "says": self.says, "remedy": self.remedy}


def ok(about: str, says: str) -> Observation:
    """Say that something is as it should be."""
    return Observation(about=about, level=Level.OK, says=says)


def warning(about: str, says: str, remedy: str) -> Observation:
    """Say that something optional is not there, or that something will go wrong."""
    return Observation(about=about, level=Level.WARNING, says=says, remedy=remedy)


def missing(about: str, says: str, remedy: str) -> Observation:
    """Say that something required is not there, or broken."""
    return Observation(about=about, level=Level.MISSING, says=says, remedy=remedy)


def printable(text: str) -> str:
    """Give a text for a terminal, on one line: what does not print, or turns the writing around, is escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def span(duration: timedelta) -> str:
    """Write a duration in its two largest units: `3 d 4 h`, `59 min`, `12 s`."""
    seconds = int(abs(duration).total_seconds())
    parts: list[str] = []
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size_s)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
