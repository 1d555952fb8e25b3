"""The socket on which whoever starts the workloads tells the issuer which process is whose.

A connection of kind SOCK_SEQPACKET. The issuer says first whether it takes the connection, by `{"ok": true}` or
`{"error": why}`. Then each message is a JSON object `{"service": NAME}` with exactly one descriptor beside it
(SCM_RIGHTS): a pidfd of the child; each gets an answer of the same form, in order. A child is to be registered before
it asks for its identity: have it wait for the answer. What was registered ends with its process, and all of it with the
connection.

# INVARIANT (one orchestrator): the socket is its owner's alone (0600), only the same user is served (and root, who may
do everything anyway), only one at a time, and never a workload: no process that is or was registered here, or descends
from one. Whoever has the same user can do worse to the orchestrator itself: users are the wall, not this.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz import unix_socket
from authz.issuer.errors import AttestationError, IssuerError
from authz.workload_api.peer import PeerError, Pidfd, boot_ticks, peer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.issuer.attestor.supervised import Child, SupervisedAttestor
    from authz.workload_api.peer import Peer

_log = logging.getLogger(__name__)

#: a Service's name has 63 characters
MAX_MESSAGE_BYTES: Final = 1024
_SOCKET_MODE: Final = 0o600
_OK: Final = b'{"ok": true}'
#: more than one is refused, and closed
_MAX_DESCRIPTORS: Final = 8
_ANSWER_PATIENCE_S: Final = 30.0


class OrchestratorSocket:
    """Listens, and registers what the one orchestrator hands over; belongs to one event loop."""

    def __init__(
        self,
        path: str,
        *,
        parent: int | None = None,
        supervised: SupervisedAttestor,
        is_service: Callable[[str], bool],
    ) -> None:
        self._path = path
        self._parent = parent
        self._supervised = supervised
        self._is_service = is_service
        self._loop = asyncio.get_running_loop()
        self._empty_ticks = boot_ticks()
        self._listener = unix_socket.listening(path, mode=_SOCKET_MODE, kind=socket.SOCK_SEQPACKET)
        self._inode = Path(path).lstat().st_ino
        self._connection: _Connection | None = None
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Listen no more, end what was registered, and leave no socket."""
        self._loop.remove_reader(self._listener)
        unix_socket.remove(self._path, inode=self._inode)
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def _accept(self) -> None:
        before_ticks = boot_ticks()
        try:
            accepted, _ = self._listener.accept()
        except BlockingIOError:
            self._empty_ticks = before_ticks
            return
        except OSError as error:
            _log.error("%s: cannot accept: %s", self._path, error.strerror)
            return
        try:
            peer = peer_of(accepted, path=self._path, not_before_ticks=self._empty_ticks)
            self._require_orchestrator(peer)
        except (PeerError, AttestationError, OSError) as error:
            _log.warning("%s: an orchestrator is refused: %s", self._path, error)
            with contextlib.suppress(OSError):
                accepted.send(_error(str(error)))
            accepted.close()
            return
        try:
            accepted.send(_OK)
        except OSError:
            accepted.close()
            return
        _log.info("%s: pid %d starts the workloads", self._path, peer.pid)
        self._connection = _Connection(
            accepted,
            peer,
            supervised=self._supervised,
            is_service=self._is_service,
            ended=self._has_ended,
        )

    def _require_orchestrator(self, peer: Peer) -> None:
        # INVARIANT (one orchestrator)
        if peer.uid not in {os.geteuid(), 0}:
            raise AttestationError(f"uid {peer.uid} may not")
        # A parent that has gone is nobody's any more: its pid may be another's, and this process has another parent.
        if self._parent is not None and not peer.pid == self._parent == os.getppid():
            raise AttestationError(f"pid {peer.pid} has not started this issuer")
        if self._connection is not None:
            raise AttestationError("there is one already")
        service = self._supervised.ever_workload_of(peer)
        if service is not None:
            raise AttestationError(f"pid {peer.pid} was started as a workload of `{service}`")

    def _has_ended(self) -> None:
        self._connection = None
        _log.info("%s: whoever starts the workloads has gone, and with it what it registered", self._path)


class _Connection:
    """The orchestrator's connection, and the children that live by it."""

    def __init__(
        self,
        connection: socket.socket,
        peer: Peer,
        *,
        supervised: SupervisedAttestor,
        is_service: Callable[[str], bool],
        ended: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._peer = peer
        self._supervised = supervised
        self._is_service = is_service
        self._ended = ended
        self._children: set[Child] = set()
        self._loop = asyncio.get_running_loop()
        connection.setblocking(False)
        self._loop.add_reader(connection, self._receive)
        if peer.pidfd is not None:  # whoever else holds the connection then
            self._loop.add_reader(peer.pidfd, self.close)

    def close(self) -> None:
        """End the connection and what was registered by it."""
        if self._connection.fileno() < 0:
            return
        self._loop.remove_reader(self._connection)
        if self._peer.pidfd is not None:
            self._loop.remove_reader(self._peer.pidfd)
        self._connection.close()
        for child in tuple(self._children):
            self._supervised.remove(child)
        self._children.clear()
        self._ended()

    def _receive(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._connection, MAX_MESSAGE_BYTES + 1, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        # Owned from here on: whatever is not kept is closed.
        pidfds = [Pidfd(each) for each in descriptors]
        if not message and not pidfds:
            self.close()
            return
        try:
            self._register(message, pidfds)
            answer = _OK
        except AttestationError as error:
            _log.warning("the orchestrator's message is refused: %s", error)
            answer = _error(str(error))
        try:
            self._connection.send(answer)
        except OSError:  # who does not read its answers registers nothing more
            self.close()

    def _register(self, message: bytes, pidfds: list[Pidfd]) -> None:
        service = service_of(message)
        if len(pidfds) != 1:
            raise AttestationError(f"one pidfd belongs to a message, not {len(pidfds)}")
        if not self._is_service(service):
            raise AttestationError(f"there is no Service `{service}` that has an identity of ours")
        self._children = {child for child in self._children if not child.pidfd.has_ended()}
        # Nobody is woken up: a process that is registered in time has no stream yet; others look again by themselves.
        self._children.add(self._supervised.add(service, pidfds[0]))


class Orchestrator:
    """The other end: for whoever starts workloads. Its calls wait for the issuer's answer."""

    def __init__(self, path: str) -> None:
        """Connect; raises IssuerError where nobody answers, or the issuer does not take us."""
        self._path = path
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(_ANSWER_PATIENCE_S)
        try:
            self._connection.connect(path)
        except OSError as error:
            self._connection.close()
            raise IssuerError(f"{path}: no issuer answers: {error.strerror}") from error
        try:
            self._require_ok()
        except IssuerError:
            self._connection.close()
            raise

    def register(self, service: str, pidfd: int) -> None:
        """Say that a process, named by its pidfd, is a workload of a Service; raises IssuerError if that is refused."""
        try:
            socket.send_fds(self._connection, [json.dumps({"service": service}).encode()], [pidfd])
        except OSError as error:
            raise IssuerError(f"{self._path}: the issuer does not answer: {error.strerror}") from error
        self._require_ok()

    def close(self) -> None:
        """End every registration."""
        self._connection.close()

    def _require_ok(self) -> None:
        try:
            answer = self._connection.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise IssuerError(f"{self._path}: the issuer does not answer: {error.strerror or error}") from error
        if not answer:
            raise IssuerError(f"{self._path}: the issuer has closed the connection")
        why = json.loads(answer).get("error")
        if why is not None:
            raise IssuerError(f"{self._path}: the issuer refuses: {why}")


def service_of(message: bytes) -> str:
    """Read a message; raises AttestationError for anything but an object with the one member `service`, a text."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise AttestationError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
    try:
        members: Any = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise AttestationError("a message is a JSON object") from error
    if not isinstance(members, dict) or members.keys() != {"service"} or not isinstance(members["service"], str):
        raise AttestationError('a message is {"service": NAME}')
    return str(members["service"])


def _error(why: str) -> bytes:
    return json.dumps({"error": why[: MAX_MESSAGE_BYTES // 8]}).encode()
