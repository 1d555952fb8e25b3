"""A clock for tests: what the file of `--unsafe-clock-file` says is taken for the time that windows are judged by.

The file holds one line: an instant of RFC 3339, at which the clock stands still, or `+SECONDS` or `-SECONDS`, by which
it differs from the machine's. It is read anew all the time. What cannot be read is no time, and denies.

Certificates and tokens are judged by the machine's clock even so: Envoy and who issues them go by that one.
"""

from __future__ import annotations

import os
import re
from typing import Final

from authz.instant import rfc3339_from_ns
from authz.policy.errors import quoted
from authz.policy.window import InstantError, parse_instant_ns
from authz.sidecar.clock_cell import ClockMode, ClockSetting
from authz.sidecar.errors import ClockError

#: an instant with an offset has 29 characters; the rest is room for blanks around it
MAX_BYTES: Final = 64
#: a hundred years; with it the time stays within the 63 bits of nanoseconds that clocks have
MAX_OFFSET_S: Final = 100 * 366 * 24 * 3600
#: 1970 and 2200: the same
_FIRST_NS: Final = 0
_END_NS: Final = parse_instant_ns("2200-01-01T00:00:00Z")
_OFFSET: Final = re.compile(r"([+-])([0-9]{1,10})(?:\.([0-9]{1,6}))?", re.ASCII)
_US_PER_S: Final = 1_000_000
_NS_PER_US: Final = 1000
_BROKEN: Final = ClockSetting(ClockMode.BROKEN, 0)


def clock_setting(content: bytes) -> ClockSetting:
    """Read what such a file holds; raises ClockError."""
    if len(content) > MAX_BYTES:
        raise ClockError(f"has more than {MAX_BYTES} bytes")
    try:
        text = content.decode("ascii").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise ClockError("is no text of ASCII; write an instant, or `+SECONDS` or `-SECONDS`") from error
    found = _OFFSET.fullmatch(text)
    if found is not None:
        offset_us = int(found[2]) * _US_PER_S + int((found[3] or "").ljust(6, "0"))
        if offset_us > MAX_OFFSET_S * _US_PER_S:
            raise ClockError(f"{quoted(text)} is more than a hundred years")
        return ClockSetting(ClockMode.OFFSET, -offset_us if found[1] == "-" else offset_us)
    try:
        instant_ns = parse_instant_ns(text)
    except InstantError as error:
        raise ClockError(f"{error}; or write `+SECONDS` or `-SECONDS`") from error
    if not _FIRST_NS <= instant_ns < _END_NS:
        raise ClockError(f"{quoted(text)} is outside the years {rfc3339_from_ns(_FIRST_NS)[:4]} to 2199")
    return ClockSetting(ClockMode.STANDS, instant_ns // _NS_PER_US)


def read_clock_file(path: str) -> tuple[ClockSetting, str | None]:
    """Give what a file says is the time, and what is wrong with it; never blocks, whatever stands there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return clock_setting(os.read(descriptor, MAX_BYTES + 1)), None
        finally:
            os.close(descriptor)
    except OSError as error:
        return _BROKEN, f"{path}: cannot be read: {error.strerror}"
    except ClockError as error:
        return _BROKEN, f"{path}: {error}"
