"""What every connection of the echo app has in common, whatever it speaks.

INVARIANT (bounded): while a client does not read what it is sent, nothing more is read from it; so the bytes that wait
for it are never more than asyncio's high-water mark and the answers to one read.
INVARIANT (last words): a connection that is refused still reads, and drops, for a second after its answer, because
the kernel takes an answer back when a socket is closed with unread bytes (RFC 9112 9.6).
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import cast

#: how long a client has to read the last words (RFC 9112 9.6: "for a short period of time")
LINGER_S = 1.0


class EchoConnection(asyncio.Protocol, ABC):
    """One connection; `writable` says whether the client reads what it is sent."""

    transport: asyncio.Transport

    def __init__(self, connections: OpenConnections) -> None:
        """Be one of `connections` while it is open."""
        self.connections = connections
        self.writable = True
        self._lingers = False

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Take what the client sent."""

    @abstractmethod
    def proceed(self) -> None:
        """Go on where the client had to read first."""

    @abstractmethod
    def stop(self) -> None:
        """Say nothing more of one's own accord."""

    @abstractmethod
    def shut_down(self) -> None:
        """Say good-bye as the protocol does, and close."""

    @property
    def now_s(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    @property
    def is_tls(self) -> bool:
        """Whether the client speaks through TLS."""
        return self.transport.get_extra_info("ssl_object") is not None

    @property
    def closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self._lingers or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has gone."""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def hand_over(self, successor: EchoConnection, data: bytes = b"") -> None:
        """Let another protocol speak on this connection; `data` is what it has to read first."""
        self.connections.discard(self)
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        if data:
            successor.data_received(data)

    def close_after_last_words(self) -> None:
        """Close so that the client can read what it was sent, even if it is still sending."""
        if self.closing:
            return
        self.stop()
        self._lingers = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent, unless everything has been said."""
        if not self._lingers:
            self.receive(data)

    def pause_writing(self) -> None:
        """Read nothing more: the client does not read either."""
        self.writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self.writable = True
        self.transport.resume_reading()
        if not self.closing:
            self.proceed()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 why it went is nobody's business here
        """Stop: the client has gone."""
        self.stop()
        self.connections.discard(self)


class OpenConnections:
    """The connections of the echo app of one Service, as long as each is open."""

    def __init__(self, service: str) -> None:
        """Begin with none."""
        self.service = service
        self._open: set[EchoConnection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def add(self, connection: EchoConnection) -> None:
        """Take note of a connection that opens."""
        self._open.add(connection)
        self._all_closed.clear()

    def discard(self, connection: EchoConnection) -> None:
        """Take note of a connection that has closed, or is another's now."""
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()

    async def shut_down(self, *, within_s: float) -> None:
        """Say good-bye on every connection, and cut those that do not take it in time."""
        for connection in list(self._open):
            connection.shut_down()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_closed.wait(), within_s)
        for connection in list(self._open):
            connection.transport.abort()
