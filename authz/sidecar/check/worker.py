"""A check worker: accepts connections on a socket of its own, answers, and does nothing else.

It reads no file, waits for no other process and writes to nothing but its connections and memory that is shared: its
records and its log go into a ring, its heartbeat into a cell. On SIGTERM it accepts no more, lets what is under way
end, and ends.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING, Final

from authz.sidecar.authority_page import AuthorityPage
from authz.sidecar.check.check_clock import CheckClock
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.guarded_answer import GuardedAnswer, RingRecorder
from authz.sidecar.check.http2.grpc import GrpcError, Status
from authz.sidecar.check.overload import Overload
from authz.sidecar.control.own_identity import ServiceIdentity
from authz.sidecar.errors import HoldError
from authz.sidecar.hold.notice import RingHold
from authz.sidecar.hold.verdict import Rechecked, answer_bytes, question_from
from authz.sidecar.identity_page import IdentityPage
from authz.sidecar.record_ring import RingProducer
from authz.sidecar.ring_log import RingLog
from authz.sidecar.settings import Audit
from authz.sidecar.stopped_supervisor import StoppedSupervisor
from authz.sidecar.tightening_page import TighteningPage
from authz.sidecar.trust_page import TrustPage
from authz.sidecar.worker_cells import HEARTBEAT_S, Phase

if TYPE_CHECKING:
    import socket

    from authz.sidecar.check.check_server import CheckServer, ServerMaker
    from authz.sidecar.in_force import InForce
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory
    from authz.sidecar.worker_cells import Cell

_log = logging.getLogger(__name__)

#: what is under way at the end gets so long: longer than Envoy waits for an answer
DRAIN_S: Final = 2.0


def run_worker(
    settings: SidecarSettings,
    *,
    supervisor: int,
    shared: SharedMemory,
    cell: Cell,
    listener: socket.socket,
    in_force: InForce,
    server: ServerMaker,
) -> None:
    """Answer checks until SIGTERM."""
    # What was there before the fork stays: the collector need not look at it, and does not unshare its pages.
    gc.freeze()
    gc.enable()
    cell.own(os.getpid())
    ring = RingProducer(shared.rings[cell.number], wake=shared.records_bell.ring)
    log = logging.getLogger()
    log.handlers[:] = [RingLog(ring)]
    overload = Overload()
    strict = settings.audit is Audit.STRICT
    checker = Checker(
        workload=Workload(
            service=settings.service,
            identity=ServiceIdentity(service=settings.service, in_force=in_force)
            if not settings.has_identity_source
            else IdentityPage(shared.identity),
            trust=TrustPage(shared.trust) if settings.has_identity_source else None,
            authorities=AuthorityPage(shared.authorities),
        ),
        in_force=in_force,
        record=RingRecorder(ring, cell=cell, strict=strict) if settings.keeps_records else _unrecorded,
        hold=RingHold(
            RingProducer(shared.notices[cell.number], wake=shared.notices_bell.ring), generation=cell.generation
        )
        if settings.hold_socket is not None
        else None,
        strict=strict,
        clock=CheckClock.of(shared.clock, unsafe=settings.unsafe_clock_file is not None),
        tightened=TighteningPage(shared.tightening),
    )
    answer = GuardedAnswer(checker.answer, checker.shed, cell=cell, overload=overload)
    worker = CheckWorker(
        server=server(answer, partial(_rechecked, checker, cell.generation), _failed),
        listener=listener,
        cell=cell,
        shared=shared,
        overload=overload,
        supervisor=StoppedSupervisor(supervisor, cell),
    )
    asyncio.run(worker.run())


class CheckWorker:
    """The event loop of one worker."""

    def __init__(
        self,
        *,
        server: CheckServer,
        listener: socket.socket,
        cell: Cell,
        shared: SharedMemory,
        overload: Overload,
        supervisor: StoppedSupervisor,
    ) -> None:
        self._supervisor = supervisor
        self._server = server
        self._listener = listener
        self._cell = cell
        self._shared = shared
        self._overload = overload
        self._due_s = 0.0
        self._slept = 0
        self._spent_s = 0.0
        self._refused = 0

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        loop = asyncio.get_running_loop()
        told_to_end = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told_to_end.set)
        self._due_s = loop.time()
        self._beat(loop)
        await self._server.serve(self._listener)
        self._say(Phase.SERVING)
        await told_to_end.wait()
        drained = loop.create_task(self._server.drain(within_s=DRAIN_S))
        await asyncio.sleep(0)
        # The drain has begun: whoever connects from here on is another worker's, and who is connected has been told.
        self._say(Phase.DRAINING)
        await drained

    def _say(self, phase: Phase) -> None:
        self._cell.enter(phase)
        self._shared.cells.bell.ring()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._supervisor.stop_with_it()
        now_s = loop.time()
        self._cell.beat()
        late_s = now_s - self._due_s
        # A process gives its core back by itself only to sleep: one that has not done so always had something to do.
        usage = resource.getrusage(resource.RUSAGE_SELF)
        has_slept, self._slept = usage.ru_nvcsw != self._slept, usage.ru_nvcsw
        spent_s = usage.ru_utime + usage.ru_stime
        spent_now_s, self._spent_s = spent_s - self._spent_s, spent_s
        refused = self._cell.refused
        refused_now, self._refused = refused - self._refused, refused
        # While it may be overloaded it looks sooner whether it is.
        self._due_s = now_s + (HEARTBEAT_S if has_slept and not self._overload.on else HEARTBEAT_S / 5)
        self._overload.observe(
            late_s,
            lag_s=self._server.lag_s(),
            slept=has_slept,
            spent_s=spent_now_s,
            refused=refused_now,
            next_s=self._due_s,
        )
        loop.call_at(self._due_s, self._beat, loop)


def _rechecked(checker: Checker, generation: int, question: bytes) -> bytes:
    """Answer what the hold asks about calls that were allowed."""
    try:
        messages = question_from(question)
    except HoldError as error:
        raise GrpcError(Status.INVALID_ARGUMENT, str(error)) from error
    return answer_bytes(Rechecked(generation=generation, verdicts=tuple(map(checker.recheck, messages))))


def _failed(error: Exception) -> None:
    _log.error("a connection ends by a fault of the program: %s: %s", type(error).__name__, error)


def _unrecorded(_packed: bytes) -> bool:
    """Take a record where no decision log was asked for."""
    return True
