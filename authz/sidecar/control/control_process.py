"""Control: what a sidecar does apart from answering. Its stalls, restarts and end never delay or change a check.

It empties the workers' rings into the decision log, watches the policy folder, reads the workload's SVID and bundles
for the workers, and writes the status file. It outlives a supervisor that was killed for as long as records come.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.sidecar.channel import (
    Channel,
    ControlFailed,
    ControlRuns,
    EndControl,
    FolderChanged,
    IdentityNotice,
    InForceChanged,
    OwnPolicyNotice,
    StatusNotice,
    StatusWritten,
)
from authz.sidecar.control.clock_guard import ClockGuard
from authz.sidecar.control.control_records import ControlRecords
from authz.sidecar.control.folder_watch import FolderWatch
from authz.sidecar.control.policy_lag import PolicyLag
from authz.sidecar.control.status_file import StatusFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

    from authz.identity.held_svid import HeldSvid
    from authz.identity.trust import Trust
    from authz.records.cut_call import CutCall
    from authz.sidecar.authority_page import AuthorityPage
    from authz.sidecar.control.authority_files import AuthorityFiles
    from authz.sidecar.control.control_services import ControlServices
    from authz.sidecar.control.cut_records import CutRecords
    from authz.sidecar.control.ended_calls import HeardCalls
    from authz.sidecar.control.handshake_records import HandshakeRecords
    from authz.sidecar.control.identity_delivery import IdentityDelivery
    from authz.sidecar.control.otlp_export import OtlpExport
    from authz.sidecar.control.own_identity import FileIdentity
    from authz.sidecar.control.running_calls import RunningCalls
    from authz.sidecar.control.shipper import Shipper
    from authz.sidecar.control.spool import SpooledBatch
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
        self._settings = settings
        self._shared = shared
        heard = _heard_calls() if settings.access_log_socket is not None else None
        otlp = None if settings.otlp_endpoint is None else _otlp(settings.otlp_endpoint, settings.service)
        self._records = ControlRecords(
            settings,
            shared,
            heard=heard,
            status=self._status_now,
            written=self._batches_written,
            told=None if otlp is None else otlp.told,
            lost_grant=self._lost_grant,
        )
        self._notice: StatusNotice | None = None
        self._lag = PolicyLag()
        self._delivery: IdentityDelivery | None = None
        self._shipper: Shipper | None = None
        self._access_log: tuple[HandshakeRecords, CutRecords] | None = None
        self._status = StatusFile(service=settings.service, state=settings.state, pid=pid)
        self._identity = _identity(settings, shared)
        self._services = _services() if settings.has_services else None
        self._delivery = self._identity_delivery(settings)
        self._trust = (
            _trust(settings, shared, self._identity[0])
            if self._identity is not None and self._delivery is None
            else None
        )
        self._running = self._running_calls(settings)
        self._access_log = self._access_log_records(settings, heard)
        self._shipper = self._add_shipper(settings)
        self._add_metrics(settings)
        if otlp is not None and self._services is not None:
            self._services.add(otlp)
        self._clock = ClockGuard(settings, shared.clock, changed=self._clock_changed)
        self._clock_said = True
        self._refused_addresses = self._egress_records(settings)
        self._authorities: AuthorityFiles | None = None
        self._watch = FolderWatch(settings.policies, changed=self._folder_changed)
        self._changed = False
        self._told_to_end = self._told_to_reopen = False
        self._files_s = self._counted_s = -FILES_S
        self._refused = 0
        self._peers = None if heard is None else heard.clocks
        self._peers_said: list[dict[str, object]] = []

    def run(self) -> None:
        """Work until told to end, or left alone."""
        signal.signal(signal.SIGHUP, self._reopen)
        self._look_at_identity()
        poll = select.poll()
        if self._services is not None:
            self._services.start()
            poll.register(self._services.bell.descriptor, select.POLLIN)
        self._clock.start()
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
            idle = 0 if self._records.look() else idle + 1
            self._look_at_files()
            if not self._clock_said:
                self._clock_said = True
                self._write_status()
            if self._changed:
                self._changed = not self._supervisor.send(FolderChanged())
        self._clock.stop()
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

    def _add_shipper(self, settings: SidecarSettings) -> Shipper | None:
        spool = self._records.spool
        if settings.hub is None or spool is None or self._services is None:
            return None
        # aiohttp is large, and most of control does not need it.
        from authz.sidecar.control.hub_address import hub_address  # noqa: PLC0415
        from authz.sidecar.control.shipper import Shipper, nobody  # noqa: PLC0415

        services, delivery = self._services, self._delivery

        def identity() -> tuple[HeldSvid | None, Trust | None]:
            now = None if delivery is None else delivery.identity.now
            return (None, None) if now is None else (now.held, now.trust)

        def set_aside(batch: SpooledBatch) -> None:
            spool.set_aside(batch)
            services.call(shipper.wake)

        shipper = Shipper(
            hub_address(settings.hub),
            spool,
            identity=nobody if delivery is None else identity,
            token_file=settings.hub_token_file,
            refused=lambda batch: services.hand_over(lambda: set_aside(batch)),
        )
        services.add(shipper)
        return shipper

    def _add_metrics(self, settings: SidecarSettings) -> None:
        if settings.metrics is None or self._services is None:
            return
        # prometheus-client and aiohttp are large, and most of control does not need them.
        from authz.sidecar.control.metrics import MetricsServer, SidecarMetrics, SidecarNow  # noqa: PLC0415

        def now() -> SidecarNow:
            revision, ready, svid_expires_ns = self._status_now()
            return SidecarNow(
                revision=revision,
                ready=ready,
                svid_expires_ns=svid_expires_ns,
                lag_s=self._lag.lag_s,
                refused=sum(cell.refused for cell in self._shared.worker_cells),
                skew_s=None if self._peers is None else self._peers.furthest_s,
            )

        metrics = SidecarMetrics(self._records, shipper=self._shipper, now=now)
        self._services.add(MetricsServer(settings.metrics, metrics))

    def _batches_written(self) -> None:
        if self._services is not None and self._shipper is not None:
            self._services.call(self._shipper.wake)

    def _status_now(self) -> tuple[str | None, bool, int | None]:
        """Give the revision, whether the sidecar is ready, and the end of its SVID."""
        notice = self._notice
        held = None if self._delivery is None else self._delivery.identity.now.held
        return (
            None if notice is None else notice.revision,
            notice is not None and notice.ready,
            None if held is None else held.svid.not_after_ns,
        )

    def _access_log_records(
        self, settings: SidecarSettings, heard: HeardCalls | None
    ) -> tuple[HandshakeRecords, CutRecords] | None:
        if settings.access_log_socket is None or self._services is None or heard is None:
            return None
        # grpcio and Envoy's messages are large, and most of control does not need them.
        from authz.sidecar.control.access_log_message import failed_handshake  # noqa: PLC0415
        from authz.sidecar.control.access_log_receiver import AccessLogReceiver, Heard  # noqa: PLC0415
        from authz.sidecar.control.cut_message import end_of_call  # noqa: PLC0415
        from authz.sidecar.control.cut_records import CutRecords  # noqa: PLC0415
        from authz.sidecar.control.handshake_records import HandshakeRecords  # noqa: PLC0415

        handshakes, cuts = Heard(failed_handshake), Heard(end_of_call)
        running = None if self._running is None else self._running.heard
        self._services.add(
            AccessLogReceiver(
                settings.access_log_socket,
                connections=handshakes.add,
                calls=_both(cuts.add, running),
                ended=heard.add,
            ),
        )
        name, records = settings.service, self._records
        return (
            HandshakeRecords(
                heard=handshakes,
                sidecar=name,
                put=records.put,
                now_ns=time.time_ns(),
                counted=records.journal.add_failed_handshakes,
            ),
            CutRecords(heard=cuts, sidecar=name, put=records.put, cut=records.recording.cut),
        )

    def _running_calls(self, settings: SidecarSettings) -> RunningCalls | None:
        if settings.listeners is None or self._services is None:
            return None
        # as above
        from authz.sidecar.control.running_calls import RunningCalls  # noqa: PLC0415
        from authz.sidecar.grant_versions import GrantVersions  # noqa: PLC0415
        from authz.sidecar.listening_socket import worker_sockets  # noqa: PLC0415

        services = self._services
        running = RunningCalls(
            settings.listeners,
            sockets=worker_sockets(settings.socket, settings.workers),
            versions=GrantVersions(self._shared).read,
            lost_grant=lambda content: services.hand_over(lambda: self._lost_grant(content)),
            changed=lambda: services.hand_over(self._write_status),
        )
        services.add(running)
        return running

    def _lost_grant(self, content: bytes) -> None:
        if self._access_log is not None:
            self._access_log[1].lost_grant(content)

    def _egress_records(self, settings: SidecarSettings) -> tuple[CutRecords, ...]:
        """Give what records calls to addresses that are refused, or nothing where nobody asks for addresses."""
        if settings.egress_socket is None or self._services is None:
            return ()
        # as above
        from authz.sidecar.control.access_log_receiver import Heard  # noqa: PLC0415
        from authz.sidecar.control.cut_message import End  # noqa: PLC0415
        from authz.sidecar.control.cut_records import CutRecords  # noqa: PLC0415
        from authz.sidecar.egress.address_answer import AddressAnswers  # noqa: PLC0415
        from authz.sidecar.egress.address_server import AddressServer  # noqa: PLC0415
        from authz.sidecar.egress.networks import ReachableNetworks  # noqa: PLC0415
        from authz.sidecar.egress.resolution import NameResolution  # noqa: PLC0415

        heard: Heard[CutCall, End] = Heard(lambda call: End(call, cut=True))
        answers = AddressAnswers(
            resolution=NameResolution(),
            networks=ReachableNetworks.parse(settings.egress_networks),
            refused=lambda call: heard.add((call,)),
        )
        self._services.add(AddressServer(settings.egress_socket, answers))
        return (
            CutRecords(heard=heard, sidecar=settings.service, put=self._records.put, cut=self._records.recording.cut),
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
                clock=self._clock.report().to_json() | self._peers_json(),
                drain=None if self._running is None else self._running.counts.to_json(),
            )

    def _peers_json(self) -> dict[str, object]:
        return {} if self._peers is None else {"peers": self._peers.to_json()}

    def _pause_s(self, idle_looks: int) -> float:
        """Say how long to wait for the next record, having found none so often."""
        if idle_looks < _ASLEEP_AFTER_LOOKS:
            return LOOK_S
        # All of them, whatever the first one says.
        asleep = [ring.sleep() for ring in self._records.rings]
        return ASLEEP_S if all(asleep) else 0.0

    def _reopen(self, *_: object) -> None:
        self._told_to_reopen = True

    def _clock_changed(self) -> None:
        self._clock_said = False

    def _folder_changed(self) -> None:
        # From the thread that watches: what control waits for, such as a disk that syncs, holds up no edit.
        self._changed = not self._supervisor.send(FolderChanged())

    def _in_force(self, generation: int) -> None:
        if self._running is not None and self._services is not None:
            self._services.call(partial(self._running.in_force, generation))

    def _hear(self) -> bool:  # noqa: C901 a line for each message
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
                    self._lag.told(stale=bool(notice.faults))
                    for records in (*(self._access_log or ()), *self._refused_addresses):
                        records.revision = notice.revision or ""
                    self._write_status()
                    self._supervisor.send(StatusWritten(serial=notice.serial))
                case OwnPolicyNotice(own=own), _:
                    self._follow_authorities(own.get("authorities", ()))
                    if self._delivery is not None:
                        self._delivery.policy(own)
                case InForceChanged(generation=generation), _:
                    self._in_force(generation)
                case EndControl(), _:
                    self._told_to_end = True
                case _, _:
                    pass

    def _look_at_files(self) -> None:
        now_s = time.monotonic()
        if self._told_to_reopen:
            self._told_to_reopen = False
            self._records.reopen()
        if now_s - self._files_s >= FILES_S:
            self._files_s = now_s
            self._records.follow()
            self._look_at_identity()
            if self._authorities is not None:
                self._authorities.look()
            self._look_at_peers(moved=False)
        if now_s - self._counted_s >= _COUNTED_INTERVAL_S:
            self._counted_s = now_s
            self._say_counted()
            self._look_at_peers(moved=True)

    def _look_at_peers(self, *, moved: bool) -> None:
        """Say what is known of other sidecars' clocks, where there is a new one, or where any of them has `moved`."""
        if self._peers is None:
            return
        self._peers.warn(time.time_ns())
        peers = self._peers.to_json()
        if len(peers) != len(self._peers_said) or (moved and peers != self._peers_said):
            self._peers_said = peers
            self._write_status()

    def _follow_authorities(self, names: Sequence[str]) -> None:
        if self._authorities is None:
            if not names:
                return
            # What reads certificates is large, and most of control does not need it.
            from authz.sidecar.authority_page import AuthorityPage  # noqa: PLC0415
            from authz.sidecar.control.authority_files import AuthorityFiles  # noqa: PLC0415

            page = AuthorityPage(self._shared.authorities)
            self._authorities = AuthorityFiles(
                self._settings.policies,
                instead=dict(self._settings.authorities),
                changed=lambda texts: self._authorities_changed(page, texts),
            )
        self._authorities.configure(names)

    def _authorities_changed(self, page: AuthorityPage, texts: Mapping[str, bytes]) -> None:
        for name in page.write(texts):
            _log.error("the authority `%s` finds no room beside the others: nobody is known by it", name)
        if self._delivery is not None:
            self._delivery.authorities(texts)

    def _look_at_access_log(self) -> None:
        if self._access_log is not None:
            handshakes, cuts = self._access_log
            handshakes.look(time.time_ns())
            cuts.look()
        for refused in self._refused_addresses:
            refused.look()

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
        self._records.say_counted()
        refused = sum(cell.refused for cell in self._shared.worker_cells)
        before, self._refused = self._refused, refused
        if refused > before:
            _log.error("checks are answered `overloaded`: %d by the workers that run", refused)

    def _drain_to_the_end(self, *, looks: int) -> None:
        left = looks
        while True:
            self._look_at_access_log()
            moved = self._records.look()
            if moved:
                left = looks
            elif left > 0:
                left -= 1
                time.sleep(LOOK_S)
            else:
                break
        self._say_counted()
        self._records.end()


def _heard_calls() -> HeardCalls:
    # Envoy's messages are large, and most sidecars' control does without them.
    from authz.sidecar.control.ended_calls import HeardCalls  # noqa: PLC0415

    return HeardCalls()


def _otlp(endpoint: str, service: str) -> OtlpExport:
    # Read only where there is a collector.
    from authz.sidecar.control.otlp_export import OtlpExport  # noqa: PLC0415

    return OtlpExport(endpoint, service=service)


def _both(
    one: Callable[[Iterable[HTTPAccessLogEntry]], None], other: Callable[[Iterable[HTTPAccessLogEntry]], None] | None
) -> Callable[[Iterable[HTTPAccessLogEntry]], None]:
    """Have both take entries, where there are two."""
    if other is None:
        return one

    def take(entries: Iterable[HTTPAccessLogEntry]) -> None:
        one(entries)
        other(entries)

    return take


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
