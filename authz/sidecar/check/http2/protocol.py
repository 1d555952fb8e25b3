"""A connection's bytes between asyncio and :mod:`.connection`: one write for each read.

INVARIANT (a slow reader holds itself up): while the transport's buffer is full, nothing more is read from its peer, and
what has been read is not answered on; after WRITE_TIMEOUT_S the connection is cut.
INVARIANT (last words): a connection that is refused still reads, and drops, for a moment after its GOAWAY, because the
kernel takes it back when a socket is closed with unread bytes (RFC 9112 9.6).
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, cast

from authz.sidecar.check.http2.limits import LINGER_S, WRITE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.http2.connection import Connection


class Http2Protocol(asyncio.Protocol):
    """One accepted connection."""

    __slots__ = (
        "_closed",
        "_connection",
        "_failed",
        "_is_closing",
        "_is_woken",
        "_is_writable",
        "_loop",
        "_timer",
        "_timer_s",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        connection: Connection,
        *,
        closed: Callable[[Http2Protocol], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Speak for `connection`; `closed` is told when it is over, `failed` what fault of ours ended it."""
        self._connection = connection
        self._closed = closed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._is_writable = True
        self._is_closing = self._is_woken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our SETTINGS."""
        self._transport = cast("asyncio.Transport", transport)
        self._connection.tell_when_said(self._wake)
        self._transport.write(self._connection.start())
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Answer what was asked."""
        if self._is_closing:
            return
        connection = self._connection
        try:
            written = connection.receive(data)
            if written:
                self._transport.write(written)
            while connection.held and self._is_writable:
                self._transport.write(connection.receive(b""))
        except Exception as error:  # noqa: BLE001 the outermost edge of a connection: it ends, the others go on
            self._failed(error)
            self._transport.write(connection.fail())
        if connection.finished:
            self._close()
        elif connection.due_s < self._timer_s and self._is_writable:
            self._set_timer()

    def drain(self) -> None:
        """Take no new streams, and close behind the last answer."""
        if not self._is_closing:
            self._transport.write(self._connection.drain())
            self._set_timer()

    def lag_s(self) -> float:
        """Give how long the peer waits by now, and measure it again; one that reads nothing waits for none."""
        if self._is_closing or not self._is_writable:
            return 0.0
        lag_s = self._connection.lag_s
        if probe := self._connection.probe():
            self._transport.write(probe)
        return lag_s

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """Read nothing more: the peer does not read either."""
        self._is_writable = False
        self._transport.pause_reading()
        self._set_timer()

    def resume_writing(self) -> None:
        """Go on: the peer has read."""
        self._is_writable = True
        self._transport.resume_reading()
        self._timer_s = inf
        self.data_received(b"")

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 why it went changes nothing
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_closing = True
        self._connection.lost()
        self._closed(self)

    def _wake(self) -> None:
        """Write what is said from now on at one stroke, when all of it is said."""
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._write_said)

    def _write_said(self) -> None:
        self._is_woken = False
        if self._is_closing:
            return
        self._transport.write(self._connection.said())
        if self._connection.finished:
            self._close()
        elif self._connection.due_s < self._timer_s and self._is_writable:
            self._set_timer()

    def _set_timer(self) -> None:
        due_s = self._connection.due_s
        if not self._is_writable:
            due_s = self._loop.time() + WRITE_TIMEOUT_S
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due_s == inf else self._loop.call_at(due_s, self._expire)
        self._timer_s = due_s

    def _expire(self) -> None:
        self._timer = None
        self._timer_s = inf
        if self._is_closing or not self._is_writable:
            self._transport.abort()
            return
        self._transport.write(self._connection.expire())
        if self._connection.finished:
            self._close()
        else:
            self._set_timer()

    def _close(self) -> None:
        # INVARIANT (last words)
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_writable:
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer = self._loop.call_later(LINGER_S, self._expire)
