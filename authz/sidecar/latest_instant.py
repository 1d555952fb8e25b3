"""The latest instant ever seen, kept in the state folder: what a clock that was stepped back is compared with.

The file is replaced whole and is on disk then, so that whoever is killed when leaves the one before or the one after.
What is in it was shown by the wall clock, at most `KEEP_S` before the sidecar was killed; one that ends by itself
leaves the last reading.

# INVARIANT (no guess): a file that cannot be read keeps the sidecar from starting. Without it nobody knows what has
# closed, and an operator has to say that the clock is right (`--accept-clock`).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final

from authz.instant import rfc3339_from_ns
from authz.sidecar.clock_cell import STEP_NS, ClockCell
from authz.sidecar.control.replaced_file import replace_file
from authz.sidecar.errors import ClockError, SidecarError

if TYPE_CHECKING:
    from pathlib import Path

    from authz.sidecar.settings import SidecarSettings

_log = logging.getLogger(__name__)

FILE_NAME: Final = "latest-instant.json"
#: a clock that tests set leaves no trace in the real one's
UNSAFE_FILE_NAME: Final = "latest-instant.unsafe.json"
FILE_NAMES: Final = (FILE_NAME, UNSAFE_FILE_NAME)
#: what is written has 80
MAX_BYTES: Final = 256
#: how often it is written, while the clock moves
KEEP_S: Final = 1.0


def kept_path(state: Path, *, unsafe: bool) -> Path:
    """Give where the latest instant is kept."""
    return state / (UNSAFE_FILE_NAME if unsafe else FILE_NAME)


def kept_text(latest_ns: int) -> bytes:
    """Write an instant down: the number counts, the text is for people."""
    return json.dumps({"latest_ns": latest_ns, "latest": rfc3339_from_ns(latest_ns)}).encode() + b"\n"


def kept_instant_ns(content: bytes) -> int:
    """Read what :func:`kept_text` has written; raises ClockError for everything else."""
    if len(content) > MAX_BYTES:
        raise ClockError(f"has more than {MAX_BYTES} bytes")
    try:
        latest_ns = json.loads(content)["latest_ns"]
        if type(latest_ns) is int and -(2**63) < latest_ns < 2**63 and content == kept_text(latest_ns):
            return latest_ns
    except (ValueError, TypeError, KeyError, RecursionError, UnicodeDecodeError):
        pass
    raise ClockError("is damaged")


def keep(path: Path, latest_ns: int) -> None:
    """Put an instant into the file; raises SidecarError where it cannot be written."""
    replace_file(path, kept_text(latest_ns))


def opened_clock(settings: SidecarSettings) -> ClockCell:
    """Give the clock of a sidecar that starts, as it was left; raises SidecarError where that cannot be told."""
    cell = ClockCell()
    if settings.unsafe_clock_file is not None:
        from authz.sidecar.unsafe_clock import read_clock_file  # noqa: PLC0415 who reads policies' instants is larger

        _log.warning("--unsafe-clock-file %s is taken for the time: for tests only", settings.unsafe_clock_file)
        setting, _fault = read_clock_file(settings.unsafe_clock_file)
        cell.set(setting)
    try:
        now_ns: int | None = cell.now_ns()
    except ClockError:
        now_ns = None
    if settings.state is not None:
        _restore(cell, kept_path(settings.state, unsafe=settings.unsafe_clock_file is not None), settings, now_ns)
    elif settings.accept_clock:
        _log.warning("--accept-clock: without --state nothing is kept, and there is nothing to accept")
    if now_ns is not None:
        cell.saw(now_ns)
    return cell


def _restore(cell: ClockCell, path: Path, settings: SidecarSettings, now_ns: int | None) -> None:
    if settings.accept_clock:
        if now_ns is None:
            raise SidecarError(f"{settings.unsafe_clock_file}: says no time that --accept-clock could accept")
        keep(path, now_ns)
        _log.warning("--accept-clock: it is %s, and what was seen before is forgotten", rfc3339_from_ns(now_ns))
        return
    latest_ns = _kept(path)
    if latest_ns is None:
        return
    cell.saw(latest_ns)
    if now_ns is not None and latest_ns - now_ns >= STEP_NS:
        _log.warning(
            "the clock says %s and has said %s before: calls are decided at both, and denied where one of them denies;"
            " if it is right now, start once with --accept-clock",
            rfc3339_from_ns(now_ns),
            rfc3339_from_ns(latest_ns),
        )


def _kept(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            return kept_instant_ns(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return None
    except (OSError, ClockError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SidecarError(
            f"{path}: the latest instant cannot be read ({why}): see that the clock is right, then start once with"
            " --accept-clock"
        ) from error
