"""Durations as they are typed: a number with s, m, h or d."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def duration(text: str) -> timedelta:
    """Read a duration of at least a second; raises ArgumentTypeError."""
    found = duration_or_none_at_all(text)
    if not found:
        raise _no_duration(text)
    return found


def duration_or_none_at_all(text: str) -> timedelta:
    """Read a duration, which may be nothing: for who says himself what is too short; raises ArgumentTypeError."""
    written = _DURATION.fullmatch(text)
    if written is None:
        raise _no_duration(text)
    return int(written[1]) * _UNITS[written[2]]


def _no_duration(text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"`{text}` is no duration such as 90s, 30m, 1h or 7d")
