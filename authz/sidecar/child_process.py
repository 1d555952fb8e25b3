"""How the processes of a sidecar are made: by fork, all of them children of the supervisor, ending with it.

A process that another one forks for the supervisor (a compiler, a worker) is handed over by forking twice: its parent
ends at once, and the kernel gives it to the supervisor, which is the subreaper. So the supervisor alone learns of ends,
its children's pids can be nobody else's, and the death of a compiler touches no worker.

INVARIANT (nobody is left): a child dies with the supervisor by the kernel's own hand (PR_SET_PDEATHSIG), stopped or
hung as it may be; control alone ends by itself, as it has the last records to write, and is woken where it is stopped.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

_log = logging.getLogger(__name__)

#: prctl(2)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
#: a parent that ends at once is waited for by looking: the kernel tells nobody of a new parent
_LOOK_S: Final = 0.0002

_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Make this process the parent of all orphans among its descendants."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def fork_child(name: str, run: Callable[[], None], *, outlives: bool = False) -> int:
    """Fork a child of this process that runs a function and ends; gives its pid. `name` is what `top` shows.

    One that `outlives` this process ends by itself, and must notice that it is to; SIGTERM does not tell it.
    """
    parent = os.getpid()
    _flush()
    pid = os.fork()
    if not pid:
        _end_after(name, run, parent, outlives=outlives)
    return pid


def fork_for(supervisor: int, name: str, run: Callable[[], None]) -> bool:
    """Fork a child of the supervisor, this process's ancestor; False where there is no room for a process."""
    _flush()
    between = os.fork()
    if not between:
        _hand_over(supervisor, name, run)
    return os.waitpid(between, 0)[1] == 0


def _hand_over(supervisor: int, name: str, run: Callable[[], None]) -> Never:
    between = os.getpid()
    try:
        child = os.fork()
    except OSError:
        os._exit(1)
    if child:
        os._exit(0)
    while os.getppid() == between:
        time.sleep(_LOOK_S)
    _end_after(name, run, supervisor, outlives=False)


def _end_after(name: str, run: Callable[[], None], parent: int, *, outlives: bool) -> Never:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        # A Ctrl-C on the terminal is for the supervisor, which ends the others in their order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if outlives:
            # Who tells all processes to end at once does not mean this one: it ends when nobody records any more.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT if outlives else signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent and not outlives:  # it died before the kernel was told
            os._exit(1)
        run()
        status = 0
    except BaseException as error:  # noqa: BLE001 the end of a process: nobody above it catches anything
        _log.error("a process ends by a fault of the program: %s: %s", type(error).__name__, error)
    finally:
        _flush()
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
