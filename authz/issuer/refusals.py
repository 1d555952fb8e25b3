"""The record of who asked for an identity and got none: one JSON object a line, no secrets, bounded in rate.

Each line is one `write` to a file opened for appending. Whoever asks all the time fills no disk: beyond a rate the rest
is counted, and the next line says how many there were.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.workload_api.peer import Peer

_log = logging.getLogger(__name__)

#: so many at once, and so many a second on average
BURST: Final = 50
RATE_PER_S: Final = 10.0
#: what a path is cut at; PATH_MAX is 4096
MAX_PATH_CHARACTERS: Final = 1024
#: who asked for what is not for every user of the machine
_MODE: Final = 0o600


class Refusals:
    """Writes to a file, or to the log where there is none."""

    def __init__(self, file: str | None, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._monotonic_s = monotonic_s
        self._left = float(BURST)
        self._at_s = monotonic_s()
        self._unsaid = 0

    def refused(self, peer: Peer, *, method: str, why: str) -> None:
        """Record that a peer got nothing; never raises."""
        now_s = self._monotonic_s()
        self._left = min(float(BURST), self._left + (now_s - self._at_s) * RATE_PER_S)
        self._at_s = now_s
        if self._left < 1.0:
            self._unsaid += 1
            return
        self._left -= 1.0
        record = {
            "event": "identity_refused",
            "time": rfc3339_from_ns(time.time_ns()),
            "socket": peer.socket,
            "method": method,
            "pid": peer.pid,
            "uid": peer.uid,
            "gid": peer.gid,
            "path": _program_of(peer),
            "why": why,
            "unrecorded": self._unsaid,
        }
        self._unsaid = 0
        line = json.dumps(record)  # in ASCII: what a path holds forges no line
        if self._file is None:
            _log.warning("%s", line)
            return
        try:
            # Opened for each: a rotation that renames the file needs no signal.
            fd = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
            try:
                os.write(fd, line.encode("ascii") + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            _log.error("%s: a record is lost (%s): %s", self._file, error.strerror, line)


def _program_of(peer: Peer) -> str | None:
    """Give the path of a peer's program, None where it cannot be told."""
    if not peer.pid:
        return None
    try:
        path = str(Path(f"/proc/{peer.pid}/exe").readlink())
    except OSError:
        return None
    return path[:MAX_PATH_CHARACTERS].encode("utf-8", "backslashreplace").decode() if peer.lives() else None
