"""What the sidecar says of itself: a status file for people and supervisors, and systemd's notifications."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Final

from authz.notify import notify
from authz.sidecar.control.replaced_file import replace_file
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from authz.sidecar.in_force import PolicyInForce

_log = logging.getLogger(__name__)

FILE_NAME: Final = "status.json"


class StatusFile:
    """STATE/status.json: {"pid", "service", "ready": bool, "revision": str|null, "stale": bool, "faults": [str]}.

    `pid` is the process that is told to end. Ready means that the sidecar listens and has a usable set; a sidecar with
    a stale set is ready. Without a state folder nothing is written.

    Where the identity has a source there is "identity" besides: {"source", "spiffe_id": str|null, "not_after":
    RFC 3339|null, "stale": bool, "lag": seconds, "fault": str|null, "sds_fault": str|null}. `stale`: the source has
    said nothing new for `lag` seconds while it should; what it said last is used until `not_after`. Then, and before
    the first SVID, the sidecar is not ready. `sds_fault` is what Envoy says against the secrets that it was given last.

    Where the sidecar follows federated bundles there is "federation": [{"trust_domain", "origin": file|endpoint|null,
    "sequence": int|null, "last_success": RFC 3339|null, "endpoint_error": str|null, "file_error": str|null,
    "next_poll": RFC 3339|null}], one for each trust domain that the set federates.

    "clock" is {"behind": bool, "latest": RFC 3339|null, "steps_forward": int, "steps_back": int, "last_step":
    {"seconds", "to": RFC 3339}|null, "unsafe": bool, "fault": str|null}: `behind` the latest instant
    that it has shown, which is `latest` then; how often it was set since the sidecar began, and by how much the last
    time; whether tests say what it is; what is wrong with that, or with keeping it. Where Envoy tells of calls there
    is "peers" in it, [{"service", "skew_s", "within_s", "seen": RFC 3339}]: of each Service that was called, by how
    much the clock of its sidecar is ahead of ours, by how much that may be wrong, and when that was.

    Where connections can be drained there is "drain": {"drains", "ended_calls", "failed"}: how often they were since
    control began, how many calls that has ended, and how often it could not be done, or ended nothing.
    """

    def __init__(self, *, service: str, state: Path | None, pid: int) -> None:
        self._service = service
        self._path = None if state is None else state / FILE_NAME
        self._pid = pid

    def write(
        self,
        *,
        ready: bool,
        revision: str | None,
        faults: tuple[str, ...],
        identity: Mapping[str, object] | None = None,
        federation: Sequence[Mapping[str, object]] | None = None,
        clock: Mapping[str, object] | None = None,
        drain: Mapping[str, object] | None = None,
    ) -> None:
        """Replace the file; one that cannot be written is logged."""
        if self._path is None:
            return
        status: dict[str, object] = {
            "pid": self._pid,
            "service": self._service,
            "ready": ready,
            "revision": revision,
            "stale": bool(faults),
            "faults": list(faults),
        }
        if identity is not None:
            status["identity"] = dict(identity)
        if federation is not None:
            status["federation"] = [dict(one) for one in federation]
        if clock is not None:
            status["clock"] = dict(clock)
        if drain is not None:
            status["drain"] = dict(drain)
        try:
            replace_file(self._path, json.dumps(status).encode())
        except SidecarError as error:
            _log.error("%s", error)


class StatusReport:
    """Writes the status file on every change, and tells the supervisor when the sidecar is ready."""

    def __init__(
        self, *, service: str, state: Path | None, clock: Callable[[], Mapping[str, object]] | None = None
    ) -> None:
        self._file = StatusFile(service=service, state=state, pid=os.getpid())
        self._clock = clock
        self._listening = False
        self._policy: PolicyInForce | None = None

    def listening(self) -> None:
        """Say that the socket takes checks from now on."""
        self._listening = True
        self._write()

    def clock(self) -> None:
        """Say how it stands with the clock."""
        self._write()

    def policy(self, policy: PolicyInForce) -> None:
        """Say what is in force."""
        self._policy = policy
        self._write()

    def _write(self) -> None:
        policy = self._policy
        revision = None if policy is None else policy.revision
        faults = () if policy is None else policy.faults
        ready = self._listening and revision is not None
        clock = None if self._clock is None else self._clock()
        self._file.write(ready=ready, revision=revision, faults=faults, clock=clock)
        if self._listening:
            say_status(ready=ready, revision=revision, stale=bool(faults))


def say_status(*, ready: bool, revision: str | None, stale: bool, has_identity: bool = True) -> None:
    """Tell who started the sidecar how it stands."""
    if ready:
        newer = ", newer files cannot be used" if stale else ""
        notify(f"READY=1\nSTATUS=revision {(revision or 'none')[:12]} is in force{newer}")
    elif revision is not None and not has_identity:
        notify("STATUS=no identity yet, or none any more: what this workload calls is denied")
    else:
        notify("STATUS=no usable policy set: every call is denied")
