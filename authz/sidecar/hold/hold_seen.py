"""The hold as the supervisor sees it: started, looked at, told what is in force, and started anew alone.

Its end has cut the calls that it held; a successor holds those that begin from then on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.sidecar.backoff import Backoff
from authz.sidecar.channel import Channel, InForceChanged, channel_pair
from authz.sidecar.child_process import fork_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

#: looks without a heartbeat after which it is hung; its first beat comes once it has read what it needs
HUNG_AFTER_LOOKS: Final = 20
START_PATIENCE_S: Final = 10.0


class HoldSeen:
    """For the supervisor's one thread."""

    def __init__(self, settings: SidecarSettings, shared: SharedMemory) -> None:
        self._settings = settings
        self._shared = shared
        self._channel: Channel | None = None
        self._starts = Backoff()
        self._started_s = 0.0
        self._beats = self._missed = 0
        self._told = 0
        #: the process, 0 while there is none
        self.pid = 0
        #: whether one has ever listened: it beats from then on
        self.has_listened = False

    def keep_running(self, forget: Callable[[], None]) -> None:
        """Start one where there is none; `forget` closes in the child what is not for it."""
        now_s = time.monotonic()
        if self.pid or now_s < self._starts.due_s:
            return
        ours, theirs = channel_pair(second_waits=False)
        before, self._channel = self._channel, None
        if before is not None:
            before.close()

        def run() -> None:
            ours.close()
            forget()
            from authz.sidecar.hold.hold_process import run_hold  # noqa: PLC0415 grpc is loaded in the hold alone

            run_hold(theirs, settings=self._settings, shared=self._shared)

        self._beats = self._shared.hold_cell.beats
        self._missed = 0
        self.pid = fork_child("authz-hold", run)
        theirs.close()
        self._channel = ours
        self._started_s = now_s
        self._told = 0

    def tell(self, generation: int) -> None:
        """Tell it which generation is in force, once."""
        channel = self._channel
        if channel is not None and generation != self._told and channel.send(InForceChanged(generation=generation)):
            self._told = generation

    def look(self) -> None:
        """Look at its heartbeat; one that hangs is killed."""
        if not self.pid:
            return
        beats = self._shared.hold_cell.beats
        if beats != self._beats:
            self._beats, self._missed = beats, 0
            self.has_listened = True
            return
        self._missed += 1
        if self._missed >= HUNG_AFTER_LOOKS and time.monotonic() - self._started_s > START_PATIENCE_S:
            self._missed = 0
            _log.error("the hold is hung; it is killed, and the calls that it holds end")
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, how: str, *, expected: bool) -> None:
        """Take in that it has ended."""
        if not expected:
            _log.error("the hold %s; the calls that it held are cut, and another one takes its place", how)
        self.pid = 0
        self._starts.ended(time.monotonic())

    def forget(self) -> None:
        """Close, in a child, what only the supervisor is to hold."""
        if self._channel is not None:
            self._channel.close()

    def end(self) -> None:
        """End it, and with it what it holds; nobody is to find its socket."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        if self._settings.hold_socket is not None:
            with contextlib.suppress(OSError):
                Path(self._settings.hold_socket).unlink()
