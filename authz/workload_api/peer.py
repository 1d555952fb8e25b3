"""Who stands at the other end of a unix connection, as the kernel knows it: no claim of the peer's own counts.

A pid alone may belong to another process a moment later. A pidfd names one process for ever, so a peer is known by one:
by that which the kernel kept when the peer connected (SO_PEERPIDFD, Linux 6.5), or, on older kernels, by one that is
opened for the pid afterwards and counts only where the process is older than the connection can be.

Known is the process that *connected*. It may hand the connection on to another process; then it answers for it, as long
as it lives.

# INVARIANT (one process): while `Peer.lives()` is true, its pid is that of the process that connected, so what is read
# from /proc/PID is true of it if `lives()` is true after the reading.

https://man7.org/linux/man-pages/man7/unix.7.html, https://man7.org/linux/man-pages/man2/pidfd_open.2.html
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz.workload_api.errors import WorkloadApiError

#: asm-generic/socket.h; Python has no name for it yet
_SO_PEERPIDFD: Final = 77
#: struct ucred: pid, uid, gid
_UCRED: Final = struct.Struct("=iII")
#: proc(5): the start time is field 22; field 2, the command, may hold spaces and parentheses itself
_START_TIME_FIELD: Final = 22
_FIELDS_BEFORE_COMMAND_ENDS: Final = 2
_NS_PER_S: Final = 1_000_000_000


class PeerError(WorkloadApiError):
    """Nobody can say who stands at the other end of a connection: it is to be closed."""


class Pidfd:
    """A descriptor that names one process for ever; it is closed with the last reference to this object.

    So its number cannot come to name another process while somebody still asks it something.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __del__(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """Give the descriptor; it becomes readable when the process ends."""
        return self._fd

    def has_ended(self) -> bool:
        """Whether the process has ended, all its threads included; it may not have been reaped yet."""
        # pidfd_open(2): readable from then on. select(2) could not take a number above 1023.
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def pid(self) -> int:
        """Give the process's pid in our namespace; 0 if it is not in ours, -1 if it has gone or this is no pidfd."""
        try:
            content = Path(f"/proc/self/fdinfo/{self._fd}").read_bytes()
        except OSError:
            return -1
        for line in content.splitlines():
            name, _, value = line.partition(b":")
            if name == b"Pid":
                return int(value)
        return -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Peer:
    """The process at the other end of a connection that came by the socket at `socket`.

    `pid` is 0 where the process is in a pid namespace that ours does not see: then only what socket it came by, its uid
    and gid say anything. `pidfd` is None only where the kernel has none to give.
    """

    socket: str
    pid: int
    uid: int
    gid: int
    pidfd: Pidfd | None

    def lives(self) -> bool:
        """Whether the process that connected still runs; False where nobody can tell."""
        return self.pidfd is not None and not self.pidfd.has_ended()


def boot_ticks() -> int:
    """Give the clock that /proc/PID/stat tells start times by: ticks since the boot, rounded down."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // _NS_PER_S


def start_ticks(pid: int) -> int | None:
    """Give when the process that has the pid now started, in ticks since the boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return int(fields[_START_TIME_FIELD - _FIELDS_BEFORE_COMMAND_ENDS - 1])


def peer_of(connection: socket.socket, *, path: str, not_before_ticks: int) -> Peer:
    """Say who has connected; raises PeerError where the process has gone or cannot be told from another one.

    `not_before_ticks` is an instant (:func:`boot_ticks`) before which nobody can have connected. Only kernels without
    SO_PEERPIDFD need it.
    """
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    pidfd: Pidfd | None
    try:
        pidfd = Pidfd(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        if error.errno not in {errno.ENOPROTOOPT, errno.EOPNOTSUPP}:
            raise PeerError("the process that connected has gone") from error
        pidfd = older_pidfd(pid, not_before_ticks=not_before_ticks) if pid else None
    if pidfd is not None and pidfd.has_ended():
        raise PeerError("the process that connected has gone")
    return Peer(socket=path, pid=pid, uid=uid, gid=gid, pidfd=pidfd)


def older_pidfd(pid: int, *, not_before_ticks: int) -> Pidfd:
    """Open a pidfd for a process that started before an instant; raises PeerError where there is none such.

    A process that has taken over the pid of the one that connected must have started after the connection was made. So
    one that started in a tick before the instant at which nobody had connected yet is the one that did. A process that
    connects within its first tick may be refused, and will be known when it comes again.
    """
    try:
        pidfd = Pidfd(os.pidfd_open(pid))
    except OSError as error:
        raise PeerError("the process that connected has gone") from error
    started = start_ticks(pid)
    if started is None or started >= not_before_ticks or pidfd.has_ended():
        raise PeerError(f"process {pid} is younger than the connection may be; it is to connect again")
    return pidfd
