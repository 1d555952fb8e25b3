"""Ports of 127.0.0.1 that belong to one mesh for its whole life.

A port that is merely free when it is looked for may be taken before the listener is there, or while it restarts. So
the supervisor keeps a socket bound to each port, never listening: no process of another user and no socket without
SO_REUSEPORT can bind the port, the kernel gives it to nobody who asks for any port, and connections only ever reach
the listener that Envoy or the app opens beside it with SO_REUSEPORT. Without a listener a connection is refused.

socket(7), SO_REUSEPORT: "all sockets ... must have the same effective UID".
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from authz.mesh.errors import MeshError, cause
from authz.proxy.addresses import TcpAddress

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = "127.0.0.1"


class ReservedPorts:
    """The ports that were handed out, each held until :meth:`release`."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def reserve(self) -> TcpAddress:
        """Give an address of this machine's loopback that nobody listens on and nobody else can take."""
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((LOOPBACK, 0))
        except OSError as error:
            holder.close()
            raise MeshError(f"no free port on {LOOPBACK}: {cause(error)}") from error
        self._held.append(holder)
        return TcpAddress(host=LOOPBACK, port=holder.getsockname()[1])

    def release(self) -> None:
        """Give all ports back; a second time does nothing."""
        while self._held:
            self._held.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
