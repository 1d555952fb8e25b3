"""Control: what a sidecar does apart from answering. Its stalls, restarts and end never delay or change a check.

It empties the workers' rings into the decision log, watches the policy folder, reads the workload's SVID and bundles
for the workers, and writes the status file. It outlives a supervisor that was killed for as long as records come.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.records.record_lines import RecordLines
from authz.sidecar.channel import (
    Channel,
    ControlFailed,
    ControlRuns,
    EndControl,
    FolderChanged,
    IdentityNotice,
    OwnPolicyNotice,
    StatusNotice,
    StatusWritten,
)
from authz.sidecar.control.decision_log import DecisionLog
from authz.sidecar.control.folder_watch import FolderWatch
from authz.sidecar.control.record_drain import Journal, RecordDrain
from authz.sidecar.control.status_file import StatusFile
from authz.sidecar.record_ring import RingConsumer

if TYPE_CHECKING:
    from authz.sidecar.control.control_services import ControlServices
    from authz.sidecar.control.cut_records import CutRecords
    from authz.sidecar.control.handshake_records import HandshakeRecords
    from authz.sidecar.control.identity_delivery import IdentityDelivery
    from authz.sidecar.control.own_identity import FileIdentity
    from authz.sidecar.control.trust_files import TrustFiles
    from authz.sidecar.control.written_trust import WrittenTrust
    from authz.sidecar.identity_page import IdentityPage
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

#: where records come all the time they are written so often, many at once
LOOK_S: Final = 0.02
#: where none has come for two looks, the next one rings; nothing else waits longer than this
ASLEEP_S: Final = 0.1
_ASLEEP_AFTER_LOOKS: Final = 2
#: how often files that others replace are looked at
FILES_S: Final = 1.0
#: workers that die with the supervisor may still put records for a moment
_LAST_LOOKS: Final = 10
_COUNTED_INTERVAL_S: Final = 10.0


def run_control(supervisor: Channel, *, pid: int, settings: SidecarSettings, shared: SharedMemory) -> None:
    """Do control's work until it is told to end, or until the supervisor, process `pid`, has gone."""
    # Who kills the group of processes at once does not take the last records with them.
    os.setpgid(0, 0)
    try:
        ControlProcess(supervisor, pid=pid, settings=settings, shared=shared).run()
    except AuthzError as error:
        supervisor.send(ControlFailed(why=str(error)))


class ControlProcess:
    """One thread that looks at everything in turn, one that watches the folder, and one for what speaks gRPC."""

    def __init__(self, supervisor: Channel, *, pid: int, settings: SidecarSettings, shared: SharedMemory) -> None:
        self._supervisor = supervisor
        self._shared = shared
        self._log = None if settings.decision_log is None else DecisionLog(settings.decision_log)
        self._rings = [RingConsumer(memory) for memory in shared.rings]
        self._drain = RecordDrain(
            rings=self._rings,
            log=self._log,
            journal=Journal(shared.journal),
            line=RecordLines(settings.service).line,
        )
        self._status = StatusFile(service=settings.service, state=settings.state, pid=pid)
        self._identity = _identity(settings, shared)
        self._notice: StatusNotice | None = None
        self._services = _services() if settings.has_services else None
        self._delivery = self._identity_delivery(settings)
        self._trust = (
            _trust(settings, shared, self._identity[0])
            if self._identity is not None and self._delivery is None
            else None
        )
        self._access_log = self._access_log_records(settings)
        self._watch = FolderWatch(settings.policies, changed=self._folder_changed)
        self._changed = False
        self._told_to_end = self._told_to_reopen = False
        self._files_s = self._counted_s = -FILES_S
        self._counted = (0, 0, 0)

    def run(self) -> None:
        """Work until told to end, or left alone."""
        signal.signal(signal.SIGHUP, self._reopen)
        self._look_at_identity()
        poll = select.poll()
        if self._services is not None:
            self._services.start()
            poll.register(self._services.bell.descriptor, select.POLLIN)
        self._supervisor.send(ControlRuns())
        self._watch.start()
        poll.register(self._supervisor.fileno(), select.POLLIN)
        poll.register(self._shared.records_bell.descriptor, select.POLLIN)
        idle = 0
        alone = False
        while not self._told_to_end and not alone:
            poll.poll(self._pause_s(idle) * 1000)
            self._shared.records_bell.answer()
            alone = not self._hear()
            if self._services is not None:
                self._services.bell.answer()
                self._services.look()
            self._look_at_access_log()
            self._shared.control_cell.beat()
            idle = 0 if self._drain.drain() else idle + 1
            self._look_at_files()
            if self._changed:
                self._changed = not self._supervisor.send(FolderChanged())
        if self._services is not None:
            self._services.stop()
        if self._access_log is not None:
            self._access_log[0].end(time.time_ns())
        self._drain_to_the_end(looks=_LAST_LOOKS if alone else 0)

    def _identity_delivery(self, settings: SidecarSettings) -> IdentityDelivery | None:
        if not settings.delivers_identity:
            return None
        # What reads certificates is large, and most of control does not need it.
        from authz.sidecar.control.identity_delivery import IdentityDelivery  # noqa: PLC0415

        return IdentityDelivery(
            settings,
            self._shared,
            services=self._services,
            usable=lambda usable: self._say_usable(usable=usable),
            status_changed=self._write_status,
        )

    def _access_log_records(self, settings: SidecarSettings) -> tuple[HandshakeRecords, CutRecords] | None:
        if settings.access_log_socket is None or self._services is None:
            return None
        # grpcio and Envoy's messages are large, and most of control does not need them.
        from authz.sidecar.control.access_log_message import failed_handshake  # noqa: PLC0415
        from authz.sidecar.control.access_log_receiver import AccessLogReceiver, Heard  # noqa: PLC0415
        from authz.sidecar.control.cut_message import cut_call  # noqa: PLC0415
        from authz.sidecar.control.cut_records import CutRecords  # noqa: PLC0415
        from authz.sidecar.control.handshake_records import HandshakeRecords  # noqa: PLC0415

        handshakes, cuts = Heard(failed_handshake), Heard(cut_call)
        self._services.add(
            AccessLogReceiver(settings.access_log_socket, connections=handshakes.add, calls=cuts.add),
        )
        name, put = settings.service, self._drain.put
        return (
            HandshakeRecords(heard=handshakes, sidecar=name, put=put, now_ns=time.time_ns()),
            CutRecords(heard=cuts, sidecar=name, put=put),
        )

    def _say_usable(self, *, usable: bool) -> None:
        self._supervisor.send(IdentityNotice(usable=usable))

    def _write_status(self) -> None:
        notice = self._notice
        if notice is not None:
            self._status.write(
                ready=notice.ready,
                revision=notice.revision,
                faults=notice.faults,
                identity=None if self._delivery is None else self._delivery.status(),
                federation=None if self._delivery is None else self._delivery.federation(),
            )

    def _pause_s(self, idle_looks: int) -> float:
        """Say how long to wait for the next record, having found none so often."""
        if idle_looks < _ASLEEP_AFTER_LOOKS:
            return LOOK_S
        # All of them, whatever the first one says.
        asleep = [ring.sleep() for ring in self._rings]
        return ASLEEP_S if all(asleep) else 0.0

    def _reopen(self, *_: object) -> None:
        self._told_to_reopen = True

    def _folder_changed(self) -> None:
        self._changed = True

    def _hear(self) -> bool:
        """Do what the supervisor says; False where it has gone."""
        while True:
            try:
                received = self._supervisor.receive()
            except BlockingIOError:
                return True
            match received:
                case None:
                    return False
                case StatusNotice() as notice, _:
                    self._notice = notice
                    for records in self._access_log or ():
                        records.revision = notice.revision or ""
                    self._write_status()
                    self._supervisor.send(StatusWritten(serial=notice.serial))
                case OwnPolicyNotice(own=own), _:
                    if self._delivery is not None:
                        self._delivery.policy(own)
                case EndControl(), _:
                    self._told_to_end = True
                case _, _:
                    pass

    def _look_at_files(self) -> None:
        now_s = time.monotonic()
        if self._log is not None and self._told_to_reopen:
            self._told_to_reopen = False
            self._log.reopen()
        if now_s - self._files_s >= FILES_S:
            self._files_s = now_s
            if self._log is not None:
                self._log.follow()
            self._look_at_identity()
        if now_s - self._counted_s >= _COUNTED_INTERVAL_S:
            self._counted_s = now_s
            self._say_counted()

    def _look_at_access_log(self) -> None:
        if self._access_log is not None:
            handshakes, cuts = self._access_log
            handshakes.look(time.time_ns())
            cuts.look()

    def _look_at_identity(self) -> None:
        if self._delivery is not None:
            self._delivery.look()
        if self._identity is not None:
            source, page = self._identity
            identity = source()
            if identity is not None and identity != page():
                page.write(identity)
        if self._trust is not None:
            bundles, written = self._trust
            written.write(bundles())

    def _say_counted(self) -> None:
        lost = self._drain.own_lost + sum(ring.lost for ring in self._rings)
        corrupt = sum(ring.corrupt for ring in self._rings)
        refused = sum(cell.refused for cell in self._shared.worker_cells)
        before, self._counted = self._counted, (lost, corrupt, refused)
        if lost > before[0]:
            _log.error("records found no room, and are lost where they were answered: %d so far", lost)
        if corrupt > before[1]:
            _log.error("a ring of records was damaged: %d times so far", corrupt)
        if refused > before[2]:
            _log.error("checks are answered `overloaded`: %d by the workers that run", refused)

    def _drain_to_the_end(self, *, looks: int) -> None:
        left = looks
        while True:
            self._look_at_access_log()
            moved = self._drain.drain()
            if moved:
                left = looks
            elif left > 0:
                left -= 1
                time.sleep(LOOK_S)
            else:
                break
        if not self._drain.is_empty:
            _log.error("records that could not be written are lost")
        self._say_counted()
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()


def _services() -> ControlServices:
    # asyncio and grpcio are large, and most sidecars' control does without them.
    from authz.sidecar.control.control_services import ControlServices  # noqa: PLC0415

    return ControlServices()


def _identity(settings: SidecarSettings, shared: SharedMemory) -> tuple[FileIdentity, IdentityPage] | None:
    if settings.identity_directory is None:
        return None
    # What reads certificates is large, and most of control does not need it.
    from authz.sidecar.control.own_identity import FileIdentity  # noqa: PLC0415
    from authz.sidecar.identity_page import IdentityPage  # noqa: PLC0415

    source = FileIdentity(settings.identity_directory)
    source.read()
    return source, IdentityPage(shared.identity)


def _trust(settings: SidecarSettings, shared: SharedMemory, identity: FileIdentity) -> tuple[TrustFiles, WrittenTrust]:
    from authz.sidecar.control.trust_files import TrustFiles  # noqa: PLC0415 as above
    from authz.sidecar.control.written_trust import WrittenTrust  # noqa: PLC0415
    from authz.sidecar.trust_page import TrustPage  # noqa: PLC0415

    page = TrustPage(shared.trust)
    bundles = TrustFiles(settings.identity_directory or "", own=identity.trust_domain, last=page())
    bundles.read()
    return bundles, WrittenTrust(page)
