"""One sidecar from start to stop: listens first, decides as soon as there is a usable set, ends on SIGTERM.

Without a usable set it runs, is not ready, and denies `internal_error`. SIGHUP reopens the decision log.
"""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.grpcio_server import GrpcioServer
from authz.sidecar.control import last_good
from authz.sidecar.control.decision_log import DecisionLog
from authz.sidecar.control.own_identity import FileIdentity, ServiceIdentity
from authz.sidecar.control.policy_follower import PolicyFollower
from authz.sidecar.control.status_file import StatusReport
from authz.sidecar.errors import SidecarError
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.zone_data import zone_data_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.identity.verification import VerifiedIdentity
    from authz.records.decision_record import DecisionRecord

_log = logging.getLogger(__name__)

#: how often the files that others may take away are looked at
LOOK_S: Final = 1.0
#: checks under way at the end get so long
GRACE_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """What a sidecar is told at its start; `identity_directory` holds the svid.pem that its Envoy presents."""

    service: str
    policies: str
    socket: str
    state: Path | None = None
    decision_log: str | None = None
    identity_directory: str | None = None


def run(settings: SidecarSettings) -> None:
    """Run a sidecar until SIGTERM or SIGINT; raises SidecarError where it cannot start."""
    if settings.state is not None:
        _make_state(settings.state)
    if not Path(settings.policies).is_dir() and (settings.state is None or last_good.kept(settings.state) is None):
        raise SidecarError(f"{settings.policies}: there is no such policy folder")
    in_force = InForce()
    identity = _identity(settings, in_force)
    log = None if settings.decision_log is None else DecisionLog(settings.decision_log)
    checker = Checker(
        workload=Workload(service=settings.service, identity=identity),
        in_force=in_force,
        record=_unrecorded if log is None else log.append,
    )
    status = StatusReport(service=settings.service, state=settings.state)

    def changed(policy: PolicyInForce) -> None:
        if policy.index is not None and not policy.index.has_service(settings.service):
            _log.warning("the set has no Service `%s`: every call is denied", settings.service)
        status.policy(policy)

    follower = PolicyFollower(folder=settings.policies, in_force=in_force, state=settings.state, changed=changed)
    server = GrpcioServer(answer=checker.answer, socket_path=settings.socket)
    ended = _signals(log)
    server.start()
    try:
        follower.load()
        status.listening()
        follower.start()
        # Sidecars with one revision and different zones may disagree about hours: what they go by is to be seen.
        _log.info(
            "deciding for `%s` on %s, time zones of tzdata %s", settings.service, settings.socket, zone_data_version()
        )
        while not ended.wait(LOOK_S):
            if log is not None:
                log.follow()
            if not server.is_reachable():
                raise SidecarError(
                    f"{settings.socket}: the socket was taken away; ending, so that a start makes it anew"
                )
    finally:
        follower.stop()
        server.stop(GRACE_S)
        if log is not None:
            log.close()


def _identity(settings: SidecarSettings, in_force: InForce) -> Callable[[], VerifiedIdentity | None]:
    if settings.identity_directory is None:
        return ServiceIdentity(service=settings.service, in_force=in_force)
    source = FileIdentity(settings.identity_directory)
    source.read()
    return source


def _signals(log: DecisionLog | None) -> threading.Event:
    """Take the signals over; the event says that the sidecar is to end."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, lambda *_: None if log is None else log.reopen())
    return ended


def _make_state(state: Path) -> None:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SidecarError(f"{state}: the state folder cannot be made: {error.strerror}") from error


def _unrecorded(_record: DecisionRecord) -> None:
    """Take a record where no decision log was asked for."""
