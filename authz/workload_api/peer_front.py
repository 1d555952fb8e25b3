"""Unix sockets in front of a gRPC server, so that its handlers know which process has called.

gRPC shows no credentials of a unix socket's peer. So each connection is taken here, where the kernel says who made it,
and its bytes are carried to and from the gRPC server over a second connection, whose own end has a name that nobody
else can have: gRPC gives that name to the handlers (`context.peer()`), :meth:`PeerFront.peer` the process behind it.

# INVARIANT (no way around): nobody but this object connects to the gRPC server itself. Its socket lies in a directory
# of mode 0700 until it listens, and then has no name at all: it is reached through a descriptor of this process. What
# a process connected under before that, however it named itself, no :class:`Peer` is ever registered for.
# INVARIANT (no longer than the process): a connection ends when the process that made it ends, whoever else holds it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz import unix_socket
from authz.workload_api.errors import WorkloadApiError
from authz.workload_api.peer import Peer, PeerError, boot_ticks, peer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

_log = logging.getLogger(__name__)

#: every connection takes four descriptors: itself, the two ends of the inner one, the pidfd
MAX_CONNECTIONS: Final = 4096
#: a workload needs one, a test of a workload some; nobody takes them all
MAX_CONNECTIONS_OF_A_PROCESS: Final = 128
#: who may connect as often as that many processes of one user; the other half is for the others
MAX_CONNECTIONS_OF_A_USER: Final = 2048
#: struct timeval of SO_SNDTIMEO: how long the gRPC server may take to accept
_PATIENCE: Final = struct.pack("@ll", 5, 0)
#: after running out of descriptors
_RETRY_S: Final = 1.0
_LOG_INTERVAL_S: Final = 10.0


class PeerFront:
    """Carries connections from unix sockets to a `grpc.aio` server; needs the running loop of that server."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._inner_fd = -1
        self._fronts: list[_Front] = []
        self._connections: dict[str, _Connection] = {}
        self._of_process: Counter[int] = Counter()
        self._of_user: Counter[int] = Counter()
        self._starting: set[asyncio.Task[None]] = set()
        self._said_s = -_LOG_INTERVAL_S
        #: connections that were closed because there were too many, or because nobody could say whose they are
        self.refused = 0

    async def start(self) -> None:
        """Start the gRPC server, where only this object reaches it; raises WorkloadApiError."""
        try:
            directory = tempfile.mkdtemp(prefix="authz-")  # made with mode 0700
        except OSError as error:
            raise WorkloadApiError(f"no folder for the gRPC server's own socket: {error.strerror}") from error
        path = f"{directory}/grpc"
        try:
            self._server.add_insecure_port(f"unix:{path}")
            await self._server.start()
            # INVARIANT (no way around): /proc/self/fd of this process leads to the socket, and no path does.
            self._inner_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, RuntimeError) as error:
            raise WorkloadApiError(f"{path}: the gRPC server cannot listen: {error}") from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def listen(self, path: str, *, mode: int, admit: Callable[[Peer], bool] | None = None) -> None:
        """Listen on one more socket; raises UnixSocketError. Those whom `admit` refuses are disconnected at once."""
        self._fronts.append(_Front(path, mode=mode, take=self._take, admit=admit))

    def peer(self, context: grpc.aio.ServicerContext) -> Peer | None:
        """Say which process has called; None where its connection has ended meanwhile."""
        return self.peer_named(context.peer())

    def peer_named(self, name: str) -> Peer | None:
        """Say which process is behind the name that gRPC has for a connection."""
        connection = self._connections.get(name)
        return None if connection is None else connection.peer

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def disconnect(self, peer: Peer) -> None:
        """End the connection of a peer, if it is still there."""
        for connection in tuple(self._connections.values()):
            if connection.peer is peer:
                connection.close()

    async def stop(self, grace_s: float = 0.0) -> None:
        """Take no more connections, end the server's calls after `grace_s`, and every connection."""
        for front in self._fronts:
            front.close()
        await self._server.stop(grace_s)
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for connection in tuple(self._connections.values()):
            connection.close()
        if self._inner_fd >= 0:
            os.close(self._inner_fd)
            self._inner_fd = -1

    def _take(self, connection: socket.socket, peer: Peer) -> None:
        """Carry a connection from now on, unless there are too many."""
        key = peer.pid or -peer.uid
        if (
            len(self._connections) + len(self._starting) >= MAX_CONNECTIONS
            or self._of_user[peer.uid] >= MAX_CONNECTIONS_OF_A_USER
            or self._of_process[key] >= MAX_CONNECTIONS_OF_A_PROCESS
        ):
            self.refused += 1
            connection.close()
            if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
                self._said_s = time.monotonic()
                _log.warning(
                    "%s: too many connections; the last one that was refused came from pid %d, uid %d",
                    peer.socket,
                    peer.pid,
                    peer.uid,
                )
            return
        self._of_user[peer.uid] += 1
        self._of_process[key] += 1
        task = asyncio.get_running_loop().create_task(self._connect(connection, peer))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _connect(self, outer: socket.socket, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        # Nobody else has this name: it is not to be guessed, and taken from the instant at which anyone could read it.
        name = secrets.token_hex(16)
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        carried = _Connection(peer, lambda: self._forget(f"unix-abstract:{name}", peer))
        try:
            inner.bind("\0" + name)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
            await loop.run_in_executor(None, inner.connect, f"/proc/self/fd/{self._inner_fd}")
            inner.setblocking(False)
            self._connections[f"unix-abstract:{name}"] = carried
            await carried.carry(outer, inner)
        except BaseException as error:
            carried.abandon(outer, inner)
            if not isinstance(error, OSError):
                raise
            _log.warning("%s: a connection is lost: %s", peer.socket, error.strerror)

    def _forget(self, name: str, peer: Peer) -> None:
        self._connections.pop(name, None)
        for counter, key in ((self._of_user, peer.uid), (self._of_process, peer.pid or -peer.uid)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]


class _Front:
    """One listening socket: accepts, learns who connected, and gives both to `take`."""

    def __init__(
        self,
        path: str,
        *,
        mode: int,
        take: Callable[[socket.socket, Peer], None],
        admit: Callable[[Peer], bool] | None,
    ) -> None:
        self._path = path
        self._take = take
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        # Nobody can connect before the socket is there.
        self._empty_ticks = boot_ticks()
        self._listener = unix_socket.listening(path, mode=mode)
        self._inode = Path(path).lstat().st_ino
        self._retry: asyncio.TimerHandle | None = None
        self._watch()

    def close(self) -> None:
        """Accept no more, and leave no socket."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)
        unix_socket.remove(self._path, inode=self._inode)
        self._listener.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        while True:
            before_ticks = boot_ticks()
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                # Whoever is accepted from now on has connected after this.
                self._empty_ticks = before_ticks
                return
            except OSError as error:
                _log.error("%s: cannot accept: %s; trying again in %d s", self._path, error.strerror, _RETRY_S)
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(_RETRY_S, self._watch)
                return
            self._meet(connection)

    def _meet(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection, path=self._path, not_before_ticks=self._empty_ticks)
        except (PeerError, OSError) as error:
            _log.info("%s: a connection is refused: %s", self._path, error)
            connection.close()
            return
        if self._admit is not None and not self._admit(peer):
            _log.warning("%s: pid %d, uid %d may not connect", self._path, peer.pid, peer.uid)
            connection.close()
            return
        self._take(connection, peer)


class _Connection:
    """Two connections that are one: what arrives at either end leaves at the other."""

    def __init__(self, peer: Peer, ended: Callable[[], None]) -> None:
        self.peer = peer
        self._ended = ended
        self._ends: tuple[_End, _End] | None = None
        self._is_over = False

    async def carry(self, outer: socket.socket, inner: socket.socket) -> None:
        """Carry bytes between two sockets until one of them ends, or the process that made `outer`."""
        loop = asyncio.get_running_loop()
        one, other = _End(self.close), _End(self.close)
        self._ends = (one, other)
        await loop.connect_accepted_socket(lambda: one, outer)
        await loop.connect_accepted_socket(lambda: other, inner)
        if self._is_over:
            one.abort()
            other.abort()
            raise ConnectionAbortedError("it has ended")
        one.join(other)
        other.join(one)
        if self.peer.pidfd is not None:
            loop.add_reader(self.peer.pidfd, self._process_has_ended)

    def close(self) -> None:
        """End both connections, once: what has arrived already is still delivered."""
        if self._is_over:
            return
        self._is_over = True
        if self.peer.pidfd is not None:
            asyncio.get_running_loop().remove_reader(self.peer.pidfd)
        for end in self._ends or ():
            end.close()
        # They know us: a cycle, which would keep the peer's pidfd open until a garbage collection that may never come.
        self._ends = None
        self._ended()

    def abandon(self, outer: socket.socket, inner: socket.socket) -> None:
        """End what has not quite begun."""
        for end in self._ends or ():
            end.abort()
        self.close()
        outer.close()
        inner.close()

    def _process_has_ended(self) -> None:
        for end in self._ends or ():
            end.abort()  # nobody is there to be delivered to
        self.close()


class _End(asyncio.Protocol):
    """One of the two; reads nothing before it is joined to the other, and waits where the other one is full."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._transport: asyncio.Transport | None = None
        self._other: asyncio.Transport | None = None
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 asyncio's own promise for sockets
        self._transport = transport
        transport.pause_reading()

    def join(self, other: _End) -> None:
        """Send what arrives here to the other end from now on."""
        self._other = other._transport
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)

    def pause_writing(self) -> None:
        if self._other is not None and not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended()

    def close(self) -> None:
        """End this connection when what was written to it has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End this connection now."""
        if self._transport is not None:
            self._transport.abort()
