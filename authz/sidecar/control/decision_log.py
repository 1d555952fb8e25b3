"""The decision log: one JSON record a line, written before the answer leaves.

Each record is one `write` to a file opened for appending: a killed sidecar leaves whole lines, and a decision that
was answered is in the file (it survives the process, not the machine). What cannot be written is counted, said once
per interval, and never delays or changes a decision.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from authz.records.decision_record import DecisionRecord

_log = logging.getLogger(__name__)

#: never wait: a pipe without a reader, or a full one, is an error
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
#: who called whom is not for every user of the machine
_MODE: Final = 0o600
_LOG_INTERVAL_S: Final = 10.0


class DecisionLog:
    """An append-only file of records; `reopen` follows a rotation that renamed the file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file = _open(path)
        self._broken_line = False
        self._said_s = -_LOG_INTERVAL_S
        #: records that could not be written
        self.lost = 0

    def append(self, record: DecisionRecord) -> None:
        """Write one record; never raises."""
        line = record.json_line()
        with self._lock:
            if self._broken_line:
                line = b"\n" + line
            try:
                written = os.write(self._file, line)
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            self._broken_line = written != len(line)
            if self._broken_line:
                self._lose(f"only {written} of {len(line)} bytes were taken")

    def _lose(self, why: str) -> None:
        self.lost += 1
        if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            _log.error("%s: a record is lost: %s (%d so far)", self._path, why, self.lost)

    def reopen(self) -> None:
        """Open the path anew, after a rotation renamed the file (the sidecar does this on SIGHUP)."""
        try:
            file = _open(self._path)
        except SidecarError as error:
            _log.error("%s", error)
            return
        with self._lock:
            before, self._file = self._file, file
            self._broken_line = False
        os.close(before)

    def follow(self) -> None:
        """Open the path anew where another file, or none, stands there: it was rotated or removed."""
        try:
            moved = os.stat(self._path).st_ino != os.fstat(self._file).st_ino  # noqa: PTH116 beside its fstat
        except FileNotFoundError:
            moved = True
        except OSError:
            return
        if moved:
            self.reopen()

    def close(self) -> None:
        """Close the file; nothing may be appended afterwards."""
        os.close(self._file)


def _open(path: str) -> int:
    try:
        return os.open(path, _FLAGS, _MODE)
    except OSError as error:
        raise SidecarError(f"{path}: the decision log cannot be opened: {error.strerror}") from error
