"""Times in questions to the API: an instant (RFC 3339) or an age (`15m`, `2h`, `30d`). Pure.

The patterns are those of the OpenAPI document too: what they match is answered.
"""

from __future__ import annotations

import re
from typing import Final

from authz.hub.errors import ParameterError
from authz.instant import NS_PER_S
from authz.policy.window import InstantError, parse_instant_ns

AGE: Final = "[0-9]{1,6}[smhdw]"
#: a multiple of 10 s, which is what flows tell apart
STEP: Final = "[1-9][0-9]{0,6}0s?|[1-9][0-9]{0,3}[mhdw]"
_AGE: Final = re.compile(AGE)
_STEP: Final = re.compile(STEP)
#: RFC 3339 has any number of digits behind the second; a millisecond is what records have.
_FRACTION: Final = re.compile(r"(\.[0-9]{3})[0-9]+")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: an RFC 3339 time with a long fraction
MAX_CHARACTERS: Final = 64


def moment_ns(text: str, now_ns: int, parameter: str) -> int:
    """Give the instant (nanoseconds since the epoch) that a parameter says; raises ParameterError that names it."""
    if _AGE.fullmatch(text) is not None:
        return now_ns - _seconds(text) * NS_PER_S
    try:
        # A `+` that was not encoded arrives as a space.
        return parse_instant_ns(_FRACTION.sub(r"\1", text[:MAX_CHARACTERS]).replace(" ", "+"))
    except InstantError as error:
        raise ParameterError(parameter, "give a time (2026-01-31T08:00:00Z) or an age (15m, 2h, 30d)") from error


def step_s(text: str, parameter: str) -> int:
    """Give the seconds that a parameter says as `60` or `1m`; raises ParameterError."""
    if _STEP.fullmatch(text) is None:
        raise ParameterError(parameter, "give a multiple of 10 seconds (60), or a number with m, h, d or w (5m)")
    return _seconds(text)


def _seconds(text: str) -> int:
    return int(text) if text[-1].isdigit() else int(text[:-1]) * _UNITS_S[text[-1]]
