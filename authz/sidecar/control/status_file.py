"""What the sidecar says of itself: a status file for people and supervisors, and systemd's notifications."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Final

from authz.notify import notify
from authz.sidecar.control.last_good import replace_file
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from pathlib import Path

    from authz.sidecar.in_force import PolicyInForce

_log = logging.getLogger(__name__)

FILE_NAME: Final = "status.json"


class StatusReport:
    """Writes STATE/status.json on every change, and tells the supervisor when the sidecar is ready.

    The file: {"pid", "service", "ready": bool, "revision": str|null, "stale": bool, "faults": [str]}. Ready means
    that the sidecar listens and has a usable set; a sidecar with a stale set is ready.
    """

    def __init__(self, *, service: str, state: Path | None) -> None:
        self._service = service
        self._path = None if state is None else state / FILE_NAME
        self._listening = False
        self._policy: PolicyInForce | None = None

    def listening(self) -> None:
        """Say that the socket takes checks from now on."""
        self._listening = True
        self._write()

    def policy(self, policy: PolicyInForce) -> None:
        """Say what is in force."""
        self._policy = policy
        self._write()

    def _write(self) -> None:
        policy = self._policy
        ready = self._listening and policy is not None and policy.index is not None
        if self._path is not None:
            status = {
                "pid": os.getpid(),
                "service": self._service,
                "ready": ready,
                "revision": None if policy is None else policy.revision,
                "stale": policy is not None and policy.stale,
                "faults": [] if policy is None else list(policy.faults),
            }
            try:
                replace_file(self._path, json.dumps(status).encode())
            except SidecarError as error:
                _log.error("%s", error)
        if ready:
            notify(f"READY=1\nSTATUS={_words(policy)}")
        elif self._listening:
            notify("STATUS=no usable policy set: every call is denied")


def _words(policy: PolicyInForce | None) -> str:
    revision = "none" if policy is None or policy.revision is None else policy.revision[:12]
    stale = policy is not None and policy.stale
    return f"revision {revision} is in force" + (", newer files cannot be used" if stale else "")
