"""From failed handshakes that were heard of to lines of the decision log, as many as are allowed."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from authz.records.failed_handshake import handshake_line
from authz.records.handshake_allowance import HandshakeAllowance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from envoy.data.accesslog.v3.accesslog_pb2 import TCPAccessLogEntry

    from authz.records.failed_handshake import FailedHandshake
    from authz.records.handshake_allowance import CountedHandshake
    from authz.sidecar.control.access_log_receiver import Heard


class HandshakeRecords:
    """Takes what the receiver has heard; for control's main loop.

    `put` has a line written, `counted` is told how many there were.
    """

    def __init__(
        self,
        *,
        heard: Heard[TCPAccessLogEntry, FailedHandshake],
        sidecar: str,
        put: Callable[[bytes], None],
        now_ns: int,
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._heard = heard
        self._sidecar = sidecar
        self._put = put
        self._counted = counted
        self._allowance = HandshakeAllowance(now_ns)
        #: of the set in force, "" where there is none
        self.revision = ""

    def look(self, now_ns: int) -> None:
        """Write down what has come since the last look."""
        heard, unread = self._heard.take()
        if heard or unread:
            self._counted(len(heard) + unread)
        for handshake in heard:
            self._write(self._allowance.add(handshake, now_ns))
        self._allowance.add_unread(unread)
        self._write(self._allowance.ended(now_ns))

    def end(self, now_ns: int) -> None:
        """Write down everything that was counted and not written yet."""
        self.look(now_ns)
        self._write(self._allowance.rest(now_ns))

    def _write(self, counted: Iterable[CountedHandshake]) -> None:
        for one in counted:
            self._put(
                handshake_line(
                    one.handshake,
                    decision_id=secrets.token_hex(16),
                    sidecar=self._sidecar,
                    revision=self.revision,
                    count=one.count,
                )
            )
