"""A whole sidecar in one process, on grpcio: the fallback, and what the other transport is compared with.

It listens first, decides as soon as there is a usable set, and ends on SIGTERM. Without a usable set it runs, is not
ready, and denies `internal_error`. SIGHUP reopens the decision log.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Final

from authz.identity.trust import Trust
from authz.records.record_lines import RecordLines
from authz.sidecar.check.check_clock import CheckClock
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.grpcio_server import GrpcioServer
from authz.sidecar.control.authority_files import AuthorityFiles
from authz.sidecar.control.clock_guard import ClockGuard
from authz.sidecar.control.decision_log import DecisionLog
from authz.sidecar.control.own_identity import FileIdentity, ServiceIdentity
from authz.sidecar.control.policy_follower import PolicyFollower
from authz.sidecar.control.status_file import StatusReport
from authz.sidecar.control.trust_files import TrustFiles
from authz.sidecar.errors import SidecarError
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.sidecar.latest_instant import opened_clock
from authz.zone_data import zone_data_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.settings import SidecarSettings

_log = logging.getLogger(__name__)

#: how often the files that others may take away are looked at
LOOK_S: Final = 1.0
#: checks under way at the end get so long
GRACE_S: Final = 0.5


def run_single_process(settings: SidecarSettings) -> None:
    """Run a sidecar until SIGTERM or SIGINT; raises SidecarError where it cannot start."""
    in_force = InForce()
    clock = opened_clock(settings)
    authorities = AuthorityFiles(settings.policies, instead=dict(settings.authorities))
    workload = _workload(settings, in_force, authorities)
    log = None if settings.decision_log is None else DecisionLog(settings.decision_log)
    checker = Checker(
        workload=workload,
        in_force=in_force,
        record=_unrecorded if log is None else _logged(log, settings.service),
        clock=CheckClock.of(clock, unsafe=settings.unsafe_clock_file is not None),
    )
    clock_changed = threading.Event()
    guard = ClockGuard(settings, clock, changed=clock_changed.set)
    status = StatusReport(service=settings.service, state=settings.state, clock=lambda: guard.report().to_json())

    def changed(policy: PolicyInForce) -> None:
        if policy.index is not None and not policy.index.has_service(settings.service):
            _log.warning("the set has no Service `%s`: every call is denied", settings.service)
        status.policy(policy)

    follower = PolicyFollower(
        folder=settings.policies, in_force=in_force, state=settings.state, changed=changed, clock=clock.around_ns
    )
    server = GrpcioServer(answer=checker.answer, socket_path=settings.socket)
    ended = _signals(log)
    server.start()
    guard.start()
    try:
        follower.load()
        _follow(authorities, in_force)
        status.listening()
        follower.start()
        # Sidecars with one revision and different zones may disagree about hours: what they go by is to be seen.
        _log.info(
            "deciding for `%s` on %s, time zones of tzdata %s", settings.service, settings.socket, zone_data_version()
        )
        while not ended.wait(LOOK_S):
            if clock_changed.is_set():
                clock_changed.clear()
                status.clock()
            if log is not None:
                log.follow()
            _follow(authorities, in_force)
            if not server.is_reachable():
                raise SidecarError(
                    f"{settings.socket}: the socket was taken away; ending, so that a start makes it anew"
                )
    finally:
        follower.stop()
        server.stop(GRACE_S)
        guard.stop()
        if log is not None:
            log.close()


def _follow(authorities: AuthorityFiles, in_force: InForce) -> None:
    index = in_force.policy.index
    authorities.configure(() if index is None else sorted(index.authorities))


def _workload(settings: SidecarSettings, in_force: InForce, authorities: AuthorityFiles) -> Workload:
    if settings.identity_directory is None:
        return Workload(
            service=settings.service,
            identity=ServiceIdentity(service=settings.service, in_force=in_force),
            authorities=lambda: authorities.authorities,
        )
    identity = FileIdentity(settings.identity_directory)
    identity.read()
    trust = TrustFiles(settings.identity_directory, own=identity.trust_domain, last=Trust.of(()))
    trust.read()
    return Workload(
        service=settings.service, identity=identity, trust=trust, authorities=lambda: authorities.authorities
    )


def _signals(log: DecisionLog | None) -> threading.Event:
    """Take the signals over; the event says that the sidecar is to end."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, lambda *_: None if log is None else log.reopen())
    return ended


def _logged(log: DecisionLog, service: str) -> Callable[[bytes], bool]:
    """Write packed records into a log."""
    lines = RecordLines(service)
    return lambda packed: log.append(lines.line(packed))


def _unrecorded(_packed: bytes) -> bool:
    """Take a record where no decision log was asked for."""
    return True
