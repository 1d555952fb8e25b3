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
    written = _DURATION.fullmatch(text)
    if written is None or not int(written[1]):
        raise argparse.ArgumentTypeError(f"`{text}` is no duration such as 90s, 30m, 1h or 7d")
    return int(written[1]) * _UNITS[written[2]]
