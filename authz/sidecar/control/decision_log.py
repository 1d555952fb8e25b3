"""The decision log: one JSON record a line, written before the answer leaves.

Each record is one `write` to a file opened for appending: a killed sidecar leaves whole lines, and a decision that
was answered is in the file (it survives the process, not the machine). What cannot be written is counted, said once
per interval, and never delays or changes a decision.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz.sidecar.errors import SidecarError

_log = logging.getLogger(__name__)

#: never wait: a pipe without a reader, or a full one, is an error
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
#: who called whom is not for every user of the machine
_MODE: Final = 0o600
_LOG_INTERVAL_S: Final = 10.0
#: of a file behind a place: far more than is ever written at once
_MOST_READ_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """A file, whatever its name is by now, and an offset in it."""

    device: int
    inode: int
    size_bytes: int


class DecisionLog:
    """An append-only file of records; `reopen` follows a rotation that renamed the file.

    With `max_bytes` the log rotates itself: PATH becomes PATH.1, PATH.1 becomes PATH.2 and so on, and so many are kept.
    """

    def __init__(self, path: str, *, max_bytes: int | None = None, kept_files: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept_files = kept_files
        self._lock = threading.Lock()
        self._file = _open(path)
        self._broken_line = False
        self._said_s = -_LOG_INTERVAL_S
        #: records that could not be written
        self.lost = 0
        #: how often the file was opened
        self.opened = 1

    def append(self, line: bytes) -> bool:
        """Write one record, its line end included; says whether it is in the file, never raises."""
        with self._lock:
            if self._broken_line:
                line = b"\n" + line
            try:
                written = os.write(self._file, line)
            except OSError as error:
                self._lose(error.strerror or str(error))
                return False
            self._broken_line = written != len(line)
            if self._broken_line:
                self._lose(f"only {written} of {len(line)} bytes were taken")
            return not self._broken_line

    def _lose(self, why: str) -> None:
        self.lost += 1
        if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            _log.error("%s: a record is lost: %s (%d so far)", self._path, why, self.lost)

    def write(self, lines: bytes) -> int:
        """Write what other processes recorded, as much as is taken, and give how much that was; never raises."""
        try:
            return os.write(self._file, lines)
        except OSError as error:
            if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
                self._said_s = time.monotonic()
                _log.error("%s: records wait for room: %s", self._path, error.strerror)
            return 0

    def cut_off(self, length: int) -> None:
        """Take so many bytes off the end of the file: the beginning of a line that is written anew."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, os.fstat(self._file).st_size - length)

    def place(self) -> LogPlace | None:
        """Say which file is written to and where it ends now; None where it is none, such as a pipe."""
        facts = os.fstat(self._file)
        if not stat.S_ISREG(facts.st_mode):
            return None
        return LogPlace(device=facts.st_dev, inode=facts.st_ino, size_bytes=facts.st_size)

    def ends_within_a_line(self) -> bool:
        """Whether somebody who was killed has left the beginning of a line."""
        place = self.place()
        return place is not None and place.size_bytes > 0 and self.written_since(place, back_bytes=1) != b"\n"

    def written_since(self, place: LogPlace, *, back_bytes: int = 0) -> bytes:
        """Give what stands behind a place, wherever the file has been moved in its folder; b"" where it has gone."""
        for path in (Path(self._path), *_siblings(self._path)):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with open(descriptor, "rb") as file:  # noqa: PTH123 it is open
                    facts = os.fstat(descriptor)
                    if (facts.st_dev, facts.st_ino) == (place.device, place.inode):
                        file.seek(place.size_bytes - back_bytes)
                        return file.read(_MOST_READ_BYTES)
        return b""

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
        self.opened += 1
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

    def rotate(self) -> None:
        """Move the file away where it has grown long enough, and begin another one; to be called between two lines."""
        if self._max_bytes is None:
            return
        try:
            facts = os.fstat(self._file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size < self._max_bytes:
                return
            # The oldest first, so that no name is taken twice; a rotation that was broken off goes on next time.
            for number in range(self._kept_files, 1, -1):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self._path}.{number - 1}").rename(f"{self._path}.{number}")
            if self._kept_files:
                Path(self._path).rename(f"{self._path}.1")
            else:
                Path(self._path).unlink()
        except OSError as error:
            if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
                self._said_s = time.monotonic()
                _log.error("%s: cannot be moved away: %s", self._path, error.strerror)
            return
        self.reopen()

    def close(self) -> None:
        """Close the file; nothing may be appended afterwards."""
        os.close(self._file)


def _siblings(path: str) -> tuple[Path, ...]:
    try:
        return tuple(Path(path).parent.iterdir())
    except OSError:
        return ()


def _open(path: str) -> int:
    try:
        return os.open(path, _FLAGS, _MODE)
    except OSError as error:
        why = (error.strerror or "no reason is given").lower()
        raise SidecarError(f"{path}: the decision log cannot be opened: {why}") from error
