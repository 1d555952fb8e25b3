"""The rules of the world's time zones, as the installed tzdata wheel has them: names, and the bytes of each zone.

The wheel is a pinned part of the program and read as its modules are, through the import system: never by a path,
never from the machine's own database, whatever PYTHONTZPATH says. Two sidecars of one release cannot disagree about
a clock change because one machine is older (docs/decisions/0003-time-zones-are-part-of-the-program.md).

https://data.iana.org/time-zones/theory.html
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.resources import files


def zone_data_version() -> str:
    """Give the release of the time zone database, such as `2026f`: a policy set's revision does not have it."""
    return str(import_module("tzdata").IANA_VERSION)


@cache
def zone_names() -> frozenset[str]:
    """Give the names of all zones, such as `Europe/Berlin`."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def zone_bytes(name: str) -> bytes:
    """Give the TZif data of a zone; the name is one of :func:`zone_names`, so that it is never a path."""
    if name not in zone_names():
        raise KeyError(name)
    return files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
