"""Attempts as the decision logs below a folder tell them: read once in the order of time, or followed as they grow.

    DIR/decisions/orders.jsonl       a log, where DIR is the state directory of a mesh; else DIR/orders.jsonl
    DIR/decisions/orders.jsonl.1     what a rotation has moved away: numbered (1 is the newest), dated, and perhaps .gz

Lines are read as a stream: a log of any size takes no more memory than its longest line. What is no record is counted,
and so is a last line that has no end yet; a file that cannot be read is named. Nothing here is ever written.

A file is known by its inode: one that a rotation renames while it is read is neither left out nor read twice.
"""

from __future__ import annotations

import gzip
import heapq
import os
import re
import stat
import zlib
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from authz.errors import AuthzError
from authz.insight.attempt import MAX_LINE_BYTES, Attempt, attempt_of_line
from authz.insight.errors import DamagedLineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: below the state directory of a mesh
FOLDER: Final = "decisions"
#: A mesh has a log a Service, each with some rotated files; more is no folder of decision logs.
MAX_FILES: Final = 10_000
_LOG: Final = re.compile(r"(?P<log>[^.].*\.jsonl)(?:[.-](?P<turn>[0-9][0-9A-Za-z_-]*))?(?P<gz>\.gz)?")
#: what is read at once of the rest of a line that is too long
_CHUNK_BYTES: Final = 64 * 1024

_Inode = tuple[int, int]


class DecisionLogsError(AuthzError):
    """A folder with decision logs cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One file of a log, as it was listed."""

    path: Path
    log: str
    inode: _Inode
    size_bytes: int

    @property
    def is_compressed(self) -> bool:
        """Whether it is to be unpacked while it is read."""
        return self.path.suffix == ".gz"


@dataclass(slots=True, kw_only=True)
class ReadLines:
    """What was read: how many files and lines, and what was wrong with them.

    `damaged` are lines that are no records, `partial` last lines without an end; `unreadable` says why, by path.
    """

    files: int = 0
    lines: int = 0
    damaged: int = 0
    partial: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def log_folder(directory: Path) -> Path:
    """Give the folder that the logs of a state directory are in."""
    below = directory / FOLDER
    return below if below.is_dir() else directory


def log_files(directory: Path) -> tuple[LogFile, ...]:
    """List the files of all logs, those of one log together and the oldest first; none where there is no folder."""
    folder = log_folder(directory)
    found: dict[str, list[tuple[tuple[int, int, str], LogFile]]] = defaultdict(list)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise DecisionLogsError(f"{folder}: {_reason(error)}") from error
    known = set(names)
    number = 0
    for name in names:
        matched = _LOG.fullmatch(name)
        # While one is being packed, the other one is still whole.
        if matched is None or (matched["gz"] and name.removesuffix(".gz") in known):
            continue
        with suppress(FileNotFoundError):
            facts = (folder / name).stat()
            if not stat.S_ISREG(facts.st_mode):
                continue
            number += 1
            if number > MAX_FILES:
                raise DecisionLogsError(f"{folder}: more than {MAX_FILES} decision logs")
            file = LogFile(
                path=folder / name, log=matched["log"], inode=(facts.st_dev, facts.st_ino), size_bytes=facts.st_size
            )
            found[matched["log"]].append((_age(matched["turn"]), file))
    return tuple(file for log in sorted(found) for _, file in sorted(found[log], key=lambda each: each[0]))


def _age(turn: str | None) -> tuple[int, int, str]:
    """Give what sorts the files of a log, the oldest first: dated ones, then numbered ones, then the log itself."""
    if turn is None:
        return 2, 0, ""
    if turn.isascii() and turn.isdigit() and len(turn) < len("20260101"):
        return 1, -int(turn), ""
    return 0, 0, turn


def read_attempts(directory: Path, told: ReadLines) -> Iterator[Attempt]:
    """Give every attempt in the logs, all logs together in the order of time; `told` is filled while they are read."""
    by_log: dict[str, list[LogFile]] = defaultdict(list)
    for file in log_files(directory):
        by_log[file.log].append(file)
    return heapq.merge(*(_of_log(files, told) for files in by_log.values()), key=lambda attempt: attempt.time_ns)


def _of_log(files: list[LogFile], told: ReadLines) -> Iterator[Attempt]:
    for file in files:
        try:
            with _opened(file) as stream:
                if stream is None:
                    continue
                told.files += 1
                for line in _lines(stream):
                    if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                        yield from _of_last_line(line, told)
                    else:
                        yield from _of_line(line, told)
        except (OSError, EOFError, zlib.error) as error:
            told.unreadable[str(file.path)] = _reason(error)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Give the lines of a stream; of one that is too long, only as much as shows that it is."""
    while line := stream.readline(MAX_LINE_BYTES + 2):
        yield line
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(_CHUNK_BYTES)


def _of_line(line: bytes, told: ReadLines) -> Iterator[Attempt]:
    told.lines += 1
    try:
        attempt = attempt_of_line(line.removesuffix(b"\n"))
    except DamagedLineError:
        # Where somebody who was killed has left the beginning of a line, the next one begins with a line's end.
        told.damaged += bool(line.strip())
        return
    if attempt is not None:
        yield attempt


def _of_last_line(line: bytes, told: ReadLines) -> Iterator[Attempt]:
    """Take what stands behind the last line's end: a record that only lacks its end, or the beginning of one."""
    before = told.damaged
    yield from _of_line(line, told)
    if told.damaged != before:
        told.damaged, told.partial, told.lines = before, told.partial + 1, told.lines - 1


class AttemptFollower:
    """Gives the attempts of the logs below a folder, and later those that have been added; `told` counts them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read_bytes: dict[_Inode, int] = {}
        self.told = ReadLines()

    def new_attempts(self) -> Iterator[Attempt]:
        """Give the attempts of lines that were completed since the last time, each log in its order."""
        files = log_files(self._directory)
        self.told.unreadable.clear()
        # What has gone is forgotten: its inode may be given to another file.
        here = {file.inode for file in files}
        self._read_bytes = {inode: read for inode, read in self._read_bytes.items() if inode in here}
        for file in files:
            if file.size_bytes != self._read_bytes.get(file.inode):
                try:
                    yield from self._of_file(file)
                except (OSError, EOFError, zlib.error) as error:
                    self.told.unreadable[str(file.path)] = _reason(error)

    def _of_file(self, file: LogFile) -> Iterator[Attempt]:
        if file.is_compressed:
            if file.inode in self._read_bytes:
                return
            with _opened(file) as stream:
                for line in () if stream is None else _lines(stream):
                    yield from _of_line(line, self.told)
            self._read_bytes[file.inode] = file.size_bytes
            return
        with _opened(file) as stream:
            if stream is None:
                return
            start = self._read_bytes.get(file.inode, 0)
            if start > file.size_bytes:  # it was cut off, and is written anew
                start = 0
            self._read_bytes[file.inode] = start
            stream.seek(start)
            for line in _lines(stream):
                if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                    break  # its end is still to come
                self._read_bytes[file.inode] = stream.tell()
                yield from _of_line(line, self.told)


@contextmanager
def _opened(file: LogFile) -> Iterator[BinaryIO | None]:
    """Open a file that was listed, wherever it has been moved in its folder since; None where it has gone."""
    descriptor = _descriptor(file)
    if descriptor is None:
        yield None
        return
    with open(descriptor, "rb") as raw:  # noqa: PTH123 it is open
        if file.is_compressed:
            with gzip.open(raw) as stream:
                yield cast("BinaryIO", stream)
        else:
            yield raw


def _descriptor(file: LogFile) -> int | None:
    for path in _places(file):
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            facts = os.fstat(descriptor)
            if (facts.st_dev, facts.st_ino) == file.inode and stat.S_ISREG(facts.st_mode):
                return descriptor
            os.close(descriptor)
    return None


def _places(file: LogFile) -> Iterator[Path]:
    yield file.path
    for entry in sorted(file.path.parent.iterdir()):
        if entry.name.startswith(file.log) and entry != file.path:
            yield entry


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or "it cannot be read").lower()
