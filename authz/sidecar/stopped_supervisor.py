"""Whoever stops a sidecar's process (SIGSTOP) stops the sidecar: its workers stop themselves, and go on when it does.

The kernel tells nobody that a process was stopped, so a worker looks at its supervisor's state whenever it beats. A
supervisor that is merely busy, or held by a debugger, is not stopped.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from authz.sidecar.worker_cells import Cell

#: proc(5), /proc/PID/stat: "pid (name) state ..."; the name has at most 15 bytes, and may hold a parenthesis itself
_HEAD_BYTES: Final = 64
_STOPPED: Final = b"T"


class StoppedSupervisor:
    """A worker's eye on its supervisor; where there is no /proc, it sees nothing."""

    def __init__(self, supervisor: int, cell: Cell) -> None:
        self._cell = cell
        try:
            self._stat = os.open(Path("/proc", str(supervisor), "stat"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._stat = -1

    def stop_with_it(self) -> None:
        """Stop this process for as long as its supervisor is stopped.

        INVARIANT (nobody is left stopped): only the worker itself takes back that it is held, and the supervisor wakes
        who says so at every look: however the two cross, the worker goes on.
        """
        if not self._is_stopped():
            return
        self._cell.hold(held=True)
        while self._is_stopped():
            os.kill(os.getpid(), signal.SIGSTOP)
        self._cell.hold(held=False)

    def _is_stopped(self) -> bool:
        try:
            head = os.pread(self._stat, _HEAD_BYTES, 0)
        except OSError:  # it has gone, and the kernel is about to end this process; or there is no /proc
            return False
        return head.rpartition(b") ")[2][:1] == _STOPPED
