"""What the orchestrator says of the processes that it started: whose workload each of them is.

Whoever starts the workloads hands the issuer a pidfd of each child and the name of its Service (`orchestrator`). A peer
is that Service's workload if it is that child or descends from it. So workloads may share a user and a program.

# INVARIANT (one process): each step from a process to its parent is made while pidfds of both are held, and counts only
if neither has ended and the child still has this parent afterwards. A pid that was given to another process therefore
never stands for the one before.
# INVARIANT (no longer than the process): a registration ends when its process ends, or its orchestrator's connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.issuer.errors import AttestationError
from authz.workload_api.peer import Pidfd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from authz.issuer.registration import Registration
    from authz.workload_api.peer import Peer

_log = logging.getLogger(__name__)

#: a mesh of hundreds of Services has a few processes for each
MAX_CHILDREN: Final = 4096
#: a script that starts a shell that starts a program is three
MAX_DEPTH: Final = 64
#: proc(5), /proc/PID/stat: field 4 is the parent's pid; field 2, the command, may hold spaces and parentheses
_PARENT_FIELD: Final = 4
_FIELDS_BEFORE_COMMAND_ENDS: Final = 2


class Child:
    """One process that the orchestrator started, as a Service's workload."""

    __slots__ = ("pid", "pidfd", "service")

    def __init__(self, *, service: str, pidfd: Pidfd, pid: int) -> None:
        self.service = service
        self.pidfd = pidfd
        self.pid = pid


class SupervisedAttestor:
    """Knows the children of the orchestrator; `changed` is called when one has gone. Belongs to one event loop."""

    def __init__(self, *, changed: Callable[[], None]) -> None:
        self._children: dict[int, Child] = {}
        #: processes that outlive their registration: workloads no more, and never an orchestrator
        self._former: dict[int, Child] = {}
        self._changed = changed

    @property
    def name(self) -> str:
        """What it is called in records."""
        return "supervised"

    def add(self, service: str, pidfd: Pidfd) -> Child:
        """Register a process; raises AttestationError where it has gone, cannot be seen, or there are too many."""
        if len(self._children) >= MAX_CHILDREN:
            raise AttestationError(f"more than {MAX_CHILDREN} processes")
        pid = pidfd.pid()
        if pid <= 0 or pidfd.has_ended():
            raise AttestationError("this is no pidfd of a process that runs in our pid namespace")
        before = self._children.get(pid)
        if before is not None and not before.pidfd.has_ended():
            raise AttestationError(f"process {pid} is registered already, as `{before.service}`")
        if before is not None:  # its end has not been noticed yet
            self.remove(before)
        child = Child(service=service, pidfd=pidfd, pid=pid)
        self._children[pid] = child
        asyncio.get_running_loop().add_reader(pidfd, self.remove, child)
        return child

    def remove(self, child: Child) -> None:
        """End a registration."""
        if self._children.get(child.pid) is child:
            del self._children[child.pid]
            loop = asyncio.get_running_loop()
            loop.remove_reader(child.pidfd)
            if not child.pidfd.has_ended():
                self._former[child.pid] = child
                loop.add_reader(child.pidfd, self._forget, child)
            self._changed()

    def _forget(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd)
        if self._former.get(child.pid) is child:
            del self._former[child.pid]

    def close(self) -> None:
        """Forget everything."""
        for child in tuple(self._children.values()):
            self.remove(child)
        for child in tuple(self._former.values()):
            self._forget(child)

    def __len__(self) -> int:
        return len(self._children)

    async def services(self, peer: Peer, candidates: Sequence[Registration]) -> frozenset[str]:
        """Give the Service of the nearest registered process from which the peer descends, if it is a candidate."""
        if not self._children:
            return frozenset()
        service = _service_of(peer, self._children)
        return frozenset(each.service for each in candidates if each.service == service)

    def ever_workload_of(self, peer: Peer) -> str | None:
        """Give the Service whose process the peer is or was, or descends from; raises AttestationError."""
        if not self._children and not self._former:
            return None
        return _service_of(peer, {**self._former, **self._children})


def _service_of(peer: Peer, children: Mapping[int, Child]) -> str | None:
    """Give the Service whose process the peer is, or descends from."""
    if not peer.pid or peer.pidfd is None:
        raise AttestationError("the process is in another pid namespace, so who started it cannot be known")
    pidfd = peer.pidfd
    for _ in range(MAX_DEPTH):
        # Asked of the descriptor: a number would be that of whoever has it now.
        pid = pidfd.pid()
        child = children.get(pid)
        # Two pidfds of one pid, of which neither has ended, are of one process.
        if child is not None and not child.pidfd.has_ended() and not pidfd.has_ended():
            return child.service
        parent = _parent(pidfd, pid)
        if parent is None:
            return None
        pidfd = parent
    return None


def _parent(pidfd: Pidfd, pid: int) -> Pidfd | None:
    """Give the parent of a process, None at the top; raises AttestationError where it cannot be told for sure."""
    parent = _parent_pid(pid)
    if parent <= 1:
        return None
    try:
        found = Pidfd(os.pidfd_open(parent))
    except OSError as error:
        raise AttestationError("the process that started it has ended") from error
    # INVARIANT (one process): while a process lives and has this parent, the parent lives and has its pid; so the
    # descriptor, opened before this look, is the parent's.
    if _parent_pid(pid) != parent or pidfd.has_ended() or found.has_ended():
        raise AttestationError("who started it changed while it was looked at")
    return found


def _parent_pid(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        raise AttestationError("the process has ended") from error
    fields = stat.rpartition(b")")[2].split()
    return int(fields[_PARENT_FIELD - _FIELDS_BEFORE_COMMAND_ENDS - 1])
