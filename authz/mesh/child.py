"""One child process of the mesh: how it is started, how it says that it is ready, and how its end is noticed.

A child runs in a process group of its own, so that a Ctrl-C on the terminal reaches the supervisor only, and dies with
the supervisor (PR_SET_PDEATHSIG). Python children say READY=1 on a datagram socket of their own (sd_notify(3)); Envoy
answers 200 to `/ready` on its admin socket. An end is an event on a pidfd. What a child leaves behind in its process
group is killed before the child is reaped, while its pid cannot belong to anyone else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz.mesh.envoy_admin import envoy_is_ready
from authz.mesh.errors import MeshError, cause
from authz.mesh.process_mark import ProcessMark, mark_of

if TYPE_CHECKING:
    from enum import StrEnum

#: prctl(2)
_PR_SET_PDEATHSIG = 1
#: sd_notify(3) messages are a few words
_MAX_NOTIFICATION_BYTES = 4096
#: Envoy cannot say that it is ready, so it is asked
_ENVOY_ASKED_EVERY_S = 0.02

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What one child is: whose, in which role, with which command line, log and sockets.

    `log` is appended to. `sockets` are the unix sockets that it makes: a predecessor that was killed may have left
    them. Exactly one of `notify_socket` (the child says when it is ready) and `envoy_admin` (it is asked) is set.
    `niceness` is how far it stands back behind the others where they share too few processors (nice(2)).
    """

    of: str
    role: StrEnum
    arguments: tuple[str, ...]
    log: str
    sockets: tuple[str, ...] = ()
    notify_socket: str | None = None
    envoy_admin: str | None = None
    niceness: int = 0

    @property
    def name(self) -> str:
        """What the user calls it, such as `the sidecar of orders`."""
        return f"the {str(self.role).replace('_', '-')} of `{self.of}`"


class Child:
    """A process that was started; `ended` is set with its exit status once it has gone."""

    def __init__(self, program: Program) -> None:
        """Start the program; raises MeshError where it cannot be executed. Needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._program = program
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._said_ready = asyncio.Event()
        self.last_words = ""
        for path in program.sockets:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 no Path is needed to remove a name
        self._notifications = None if program.notify_socket is None else self._listen(program.notify_socket)
        try:
            self._process = _start(program)
            self._pidfd = _watchable(self._process)
        except OSError as error:
            self._stop_listening()
            raise MeshError(f"{program.name} cannot be started: {cause(error)}") from error
        self._loop.add_reader(self._pidfd, self._has_ended)
        # The process cannot have been reaped, so it has a mark even if it has ended already.
        self.mark = mark_of(self._process.pid) or ProcessMark(pid=self._process.pid, started=0)

    @property
    def program(self) -> Program:
        """What the child runs."""
        return self._program

    def pidfd(self) -> int | None:
        """Open the process: a descriptor of the caller's own; None where the child has ended."""
        return None if self.ended.done() else os.dup(self._pidfd)

    async def ready(self) -> bool:
        """Wait until the child serves, or has ended: give whether it serves."""
        serves = asyncio.ensure_future(self._serves())
        waited_for: set[asyncio.Future[Any]] = {serves, self.ended}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serves.cancel()
        return not self.ended.done()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child, if it still runs."""
        if not self.ended.done():
            self._process.send_signal(number)

    async def stop(self, *, grace_s: float) -> None:
        """End the child by SIGTERM, by SIGKILL if it takes longer than `grace_s`, and wait until it has gone."""
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self.ended}, timeout=grace_s)
        if not done:
            self.signal(signal.SIGKILL)
            await asyncio.wait({self.ended})

    async def _serves(self) -> None:
        if self._program.envoy_admin is None:
            await self._said_ready.wait()
            return
        while not await envoy_is_ready(self._program.envoy_admin):  # noqa: ASYNC110 another process has no event for us
            await asyncio.sleep(_ENVOY_ASKED_EVERY_S)

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._stop_listening()
        # Not reaped yet: the pid, and with it the group's id, still is this child's alone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        if not self.ended.done():
            self.ended.set_result(status)

    def _listen(self, path: str) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 as above
        notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notifications.setblocking(False)
        notifications.bind(path)
        self._loop.add_reader(notifications, self._hear, notifications)
        return notifications

    def _hear(self, notifications: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            message = notifications.recv(_MAX_NOTIFICATION_BYTES).decode("utf-8", "replace")
            for line in message.splitlines():
                name, _, value = line.partition("=")
                if name == "STATUS":
                    self.last_words = value
                if (name, value) == ("READY", "1"):
                    self._said_ready.set()

    def _stop_listening(self) -> None:
        if self._notifications is None:
            return
        self._loop.remove_reader(self._notifications)
        path = self._notifications.getsockname()
        self._notifications.close()
        self._notifications = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 as above


def _start(program: Program) -> subprocess.Popen[bytes]:
    # What was set for the supervisor's own flags is not meant for the children's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")}
    environment.pop("NOTIFY_SOCKET", None)
    if program.notify_socket is not None:
        environment["NOTIFY_SOCKET"] = program.notify_socket
    log = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    supervisor = os.getpid()

    def in_the_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before the kernel was told
            os._exit(1)
        os.nice(program.niceness)

    try:
        return subprocess.Popen(  # noqa: S603 our own programs, no shell
            program.arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            process_group=0,
            preexec_fn=in_the_child,  # noqa: PLW1509 the supervisor has one thread only
        )
    finally:
        os.close(log)


def _watchable(process: subprocess.Popen[bytes]) -> int:
    """Open a descriptor that becomes readable when the process ends; a process that has none does not stay."""
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise
