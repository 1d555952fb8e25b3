"""Draining connections: one number more in a filter chain's metadata, in the file that Envoy reads its listeners from.

Nothing else of the file is changed, and nothing of it is believed: what is no file of listeners is left as it is, and
the drain has failed.

:mod:`authz.proxy.listener_file` says what Envoy makes of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from authz.proxy.listener_names import DRAIN_METADATA, DRAINED
from authz.sidecar.control.replaced_file import replace_file
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Collection

    from authz.request import Direction

#: A route of a destination takes some 3 KiB, four times for each listener: room for a thousand destinations.
MAX_LISTENERS_BYTES: Final = 64 * 1024 * 1024
#: what is read and written by who may read and write the file by now
_MODE_BITS: Final = 0o666


class Chain(NamedTuple):
    """A filter chain of one of the two listeners."""

    direction: Direction
    name: str

    def __str__(self) -> str:
        """Say which one it is, for people."""
        return f"{self.direction.value}/{self.name}"


def with_drained(content: bytes, chains: Collection[Chain]) -> bytes:
    """Give the file by which the connections of these chains are drained; raises SidecarError where it has not all."""
    if len(content) > MAX_LISTENERS_BYTES:
        raise SidecarError(f"the file of listeners has more than {MAX_LISTENERS_BYTES} bytes")
    try:
        document = json.loads(content)
        left = set(chains)
        for listener in document["resources"]:
            for chain in listener["filter_chains"]:
                found = {
                    each for each in left if (each.direction.value, each.name) == (listener["name"], chain["name"])
                }
                if found:
                    _count(chain["metadata"]["filter_metadata"][DRAIN_METADATA])
                left -= found
        text = json.dumps(document, indent=1)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise SidecarError(
            "this is no file of listeners with a name and a number in each filter chain; print it with"
            " `authz envoy --part listeners`"
        ) from error
    if left:
        raise SidecarError(f"the file of listeners has no filter chain {', '.join(map(str, sorted(left)))}")
    return f"{text}\n".encode()


def drain(path: str, chains: Collection[Chain]) -> None:
    """Have Envoy drain the connections of these chains; raises SidecarError where the file cannot be changed."""
    content, mode = _drained(path, chains)
    replace_file(Path(path), content, mode=mode)


def require_drainable(path: str, chains: Collection[Chain]) -> None:
    """Raise SidecarError where the connections of these chains could not be drained; changes nothing."""
    _drained(path, chains)


def _drained(path: str, chains: Collection[Chain]) -> tuple[bytes, int]:
    """Give the file's content after a drain, and its mode."""
    file = Path(path)
    try:
        mode = file.stat().st_mode & _MODE_BITS
        with file.open("rb") as opened:
            content = opened.read(MAX_LISTENERS_BYTES + 1)
    except OSError as error:
        raise SidecarError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return with_drained(content, chains), mode
    except SidecarError as error:
        raise SidecarError(f"{path}: {error}") from error


def _count(said: dict[str, Any]) -> None:
    number = said[DRAINED]
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError
    # A Struct has doubles: numbers begin again before two of them are the same.
    said[DRAINED] = int(number) + 1 if 0 <= number < 2**52 else 0
