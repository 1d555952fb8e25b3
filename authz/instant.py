"""Instants as they are written: nanoseconds since the epoch to RFC 3339 in UTC with three digits. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the seconds that RFC 3339's four digits can say
FIRST_S = -62_135_596_800
LAST_S = 253_402_300_799
_FIRST_HOUR: Final = FIRST_S // 3600
_LAST_HOUR: Final = LAST_S // 3600


def rfc3339_from_ns(instant_ns: int) -> str:
    """Write an instant as YYYY-MM-DDTHH:MM:SS.mmmZ, cut (not rounded) to the millisecond.

    What lies outside the years 1 to 9999 is written as the nearest instant inside.
    """
    seconds, rest_ns = divmod(instant_ns, NS_PER_S)
    seconds = max(FIRST_S, min(seconds, LAST_S))
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f".{rest_ns // NS_PER_MS:03d}Z"


def rfc3339_from_s(seconds: int) -> str:
    """Write an instant of whole seconds as `rfc3339_from_ns` does, where thousands of them are of a few hours."""
    hour, rest = divmod(seconds, 3600)
    if not _FIRST_HOUR <= hour < _LAST_HOUR:
        return rfc3339_from_ns(seconds * NS_PER_S)
    return f"{_hour(hour)}{rest // 60:02d}:{rest % 60:02d}.000Z"


@lru_cache(4096)
def _hour(hour: int) -> str:
    return rfc3339_from_ns(hour * 3600 * NS_PER_S)[: len("2026-01-31T08:")]
