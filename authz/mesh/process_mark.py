"""Which process is meant: a pid alone may belong to another process tomorrow.

A :class:`ProcessMark` is a pid together with the instant at which that process started, in clock ticks since the boot
(proc(5), /proc/PID/stat, field 22). A signal is sent through a pidfd that was opened before the start time was
compared, so it can never reach a process that took the pid in between.

# INVARIANT (ours only): no function here signals a process whose start time differs from the mark's.
"""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_TIME_FIELD = 22
_STATE_FIELD = 3
#: proc(5): the second field, the command in parentheses, may hold spaces and parentheses itself.
_FIELDS_BEFORE_COMMAND_ENDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """A process, by its pid and the clock ticks since the boot at which it started."""

    pid: int
    started: int

    def lives(self) -> bool:
        """Whether the process runs; one that has ended and waits for its parent does not."""
        fields = _stat_fields(self.pid)
        return fields is not None and _started(fields) == self.started and _state(fields) not in {"Z", "X"}


def mark_of(pid: int) -> ProcessMark | None:
    """Give the mark of the process that has the pid now, None if there is none."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessMark(pid=pid, started=_started(fields))


def end_process(mark: ProcessMark, *, grace_s: float) -> bool:
    """Ask a process to end (SIGTERM), wait for its end, kill it after `grace_s`; give whether it was there."""
    return bool(end_processes([mark], grace_s=grace_s))


def end_processes(marks: Sequence[ProcessMark], *, grace_s: float) -> int:
    """Ask processes to end, all at once, wait for them, kill those that have not within `grace_s`; count them."""
    open_fds = [fd for mark in marks if (fd := _open(mark)) is not None]
    try:
        left = open_fds
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for fd in left:
                _send(fd, signal_number)
            left = _wait(left, timeout_s=grace_s)
    finally:
        for fd in open_fds:
            os.close(fd)
    return len(open_fds)


def _open(mark: ProcessMark) -> int | None:
    """Open a pidfd for exactly the marked process; None if it has gone."""
    try:
        fd = os.pidfd_open(mark.pid)
    except OSError:
        return None
    # The descriptor names one process for ever: if the mark holds now, it is the one.
    if mark.lives():
        return fd
    os.close(fd)
    return None


def _send(fd: int, signal_number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(fd, signal_number)
    except ProcessLookupError:
        return


def _wait(fds: list[int], *, timeout_s: float) -> list[int]:
    """Wait until every process has ended, or for the time given each time one does; give those that still run."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    left = set(fds)
    while left:
        ended = poll.poll(timeout_s * 1000)
        if not ended:
            break
        for fd, _ in ended:
            poll.unregister(fd)
            left.discard(fd)
    return [fd for fd in fds if fd in left]


def _stat_fields(pid: int) -> list[str] | None:
    """Read the fields of /proc/PID/stat behind the command's name, which is field 2."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()


def _started(fields: list[str]) -> int:
    return int(fields[_START_TIME_FIELD - _FIELDS_BEFORE_COMMAND_ENDS - 1])


def _state(fields: list[str]) -> str:
    return fields[_STATE_FIELD - _FIELDS_BEFORE_COMMAND_ENDS - 1]
