"""Telling the issuer which process is whose: every app and sidecar that the mesh starts, by a pidfd of it.

The issuer forgets what it was told when its process ends; a new one is told of everything that lives. A workload that
asks before the issuer knows it is refused, and asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Final, Never

from authz.issuer.orchestrator import MAX_MESSAGE_BYTES
from authz.mesh.errors import MeshError, cause
from authz.mesh.state import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.mesh.child import Child

#: the issuer answers within milliseconds
_PATIENCE_S: Final = 10.0
_WORKLOADS: Final = frozenset({Role.APP, Role.SIDECAR})


class Orchestration:
    """Belongs to one event loop; `run` is its task."""

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        self._path = path
        self._report = report
        self._living: dict[Child, None] = {}
        #: a child that was started, or None for an issuer that serves
        self._news: asyncio.Queue[Child | None] = asyncio.Queue()
        self._issuer_is_known = False

    def started(self, child: Child) -> None:
        """Take in that a process was started."""
        role = child.program.role
        if role is Role.ISSUER:
            self._issuer_is_known = False
        elif role in _WORKLOADS:
            self._living[child] = None
            child.ended.add_done_callback(lambda _: self._living.pop(child, None))
            self._news.put_nowait(child)

    def issuer_serves(self) -> None:
        """Take in that the issuer listens; to be said again costs nothing."""
        if not self._issuer_is_known:
            self._issuer_is_known = True
            self._news.put_nowait(None)

    async def run(self) -> Never:
        """Tell each issuer, one after the other, what lives and what is started."""
        with contextlib.ExitStack() as held:
            connection: socket.socket | None = None
            while True:
                child = await self._news.get()
                try:
                    if child is None:
                        held.close()
                        connection = held.enter_context(self._connected())
                        await _require_taken(connection)
                        for each in tuple(self._living):
                            await self._register(connection, each)
                    elif connection is not None:
                        await self._register(connection, child)
                except (MeshError, OSError, TimeoutError) as error:
                    # One that died is followed by another; one that lives is asked again.
                    connection = None
                    self._issuer_is_known = False
                    self._report(f"the issuer cannot be told which process is whose: {_why(error)}")

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.setblocking(False)
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    async def _register(self, connection: socket.socket, child: Child) -> None:
        pidfd = child.pidfd()
        if pidfd is None:
            return
        service = child.program.of
        try:
            socket.send_fds(connection, [json.dumps({"service": service}).encode()], [pidfd])
        finally:
            os.close(pidfd)
        why = await _refusal(connection)
        if why is not None and not child.ended.done():
            self._report(f"{child.program.name} gets no identity from the issuer: {why}")


async def _require_taken(connection: socket.socket) -> None:
    """Read the first answer, which is to the connection itself; raises MeshError where the issuer has another one."""
    why = await _refusal(connection)
    if why is not None:
        raise MeshError(f"it refuses: {why}")


async def _refusal(connection: socket.socket) -> str | None:
    """Give why the issuer refuses, None where it does not; raises MeshError, OSError and TimeoutError."""
    async with asyncio.timeout(_PATIENCE_S):
        answer = await asyncio.get_running_loop().sock_recv(connection, MAX_MESSAGE_BYTES)
    if not answer:
        raise MeshError("it has closed the connection")
    why: str | None = json.loads(answer).get("error")
    return why


def _why(error: Exception) -> str:
    match error:
        case OSError():
            return cause(error)
        case TimeoutError():
            return f"it does not answer within {_PATIENCE_S:g} s"
        case _:
            return str(error)
