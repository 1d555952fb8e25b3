"""The hold: one process with one loop, which serves Envoy, hears workers and asks them again.

Its end ends the calls that it holds. It reads no policy and writes to nothing but its connections and its ring.

When does it ask again? When another set is in force (the supervisor says so), when an edit takes something away, or the
own identity or trusted bundles change (their pages say so), when the clock was set (control says so in the clock's
words), and about a call that began before the last of those was noticed.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from authz.sidecar.channel import InForceChanged
from authz.sidecar.check.ring_entry import LOST_GRANT
from authz.sidecar.check.stream_deadline import SAME_DEADLINE_NS
from authz.sidecar.errors import HoldError
from authz.sidecar.grant_versions import GrantVersions
from authz.sidecar.hold.held_call import HeldCalls
from authz.sidecar.hold.hold_server import HoldServer
from authz.sidecar.hold.notice import notice_from
from authz.sidecar.hold.recheck import Rechecks
from authz.sidecar.listening_socket import worker_sockets
from authz.sidecar.record_ring import RingConsumer, RingProducer
from authz.sidecar.ring_log import RingLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.decision import Reason
    from authz.sidecar.channel import Channel
    from authz.sidecar.hold.held_call import HeldCall
    from authz.sidecar.hold.notice import Notice
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

#: how often the pages are looked at that others write: a look is a few reads of memory
LOOK_S: Final = 0.05
_LOOKS_A_SECOND: Final = 20
#: ends that may be out of date, beside as many as there are calls
_ENDS_KEPT: Final = 1000


def run_hold(supervisor: Channel, *, settings: SidecarSettings, shared: SharedMemory) -> None:
    """Hold calls until the supervisor has gone."""
    gc.freeze()
    gc.enable()
    shared.hold_cell.own(os.getpid())
    ring = RingProducer(shared.hold_ring, wake=shared.records_bell.ring)
    logging.getLogger().handlers[:] = [RingLog(ring)]

    async def run() -> None:
        await HoldProcess(supervisor, settings=settings, shared=shared, ring=ring).run()

    asyncio.run(run())


class HoldProcess:
    """The loop; made and run in its own process."""

    def __init__(
        self, supervisor: Channel, *, settings: SidecarSettings, shared: SharedMemory, ring: RingProducer
    ) -> None:
        if settings.hold_socket is None:
            raise HoldError("no socket is given to hold calls on")
        self._supervisor = supervisor
        self._shared = shared
        self._ring = ring
        self._rings = [RingConsumer(memory) for memory in shared.notices]
        self._calls = HeldCalls()
        self._rechecks: Rechecks[HeldCall] = Rechecks(
            worker_sockets(settings.socket, settings.workers), judged=self._judged
        )
        self._server = HoldServer(settings.hold_socket, claim=self._claim, end=self._end)
        self._grant = GrantVersions(shared)
        self._versions = self._grant.read()
        #: what was noticed to change, was noticed by then; what was checked before may have been checked by less
        self._changed_ns = time.perf_counter_ns()
        #: calls that are to end before Envoy ends them: when (since the epoch, in nanoseconds), in order
        self._ends: list[tuple[int, int, HeldCall]] = []
        self._next_end: asyncio.TimerHandle | None = None
        self._looks = 0

    async def run(self) -> None:
        """Serve until the supervisor has gone."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.add_reader(self._supervisor.fileno(), self._hear, ended.set)
        loop.add_reader(self._shared.notices_bell.descriptor, self._take_notices)
        rechecks = loop.create_task(self._rechecks.run())
        await self._server.start()
        self._take_notices()
        self._beat(loop)
        await asyncio.wait((rechecks, loop.create_task(ended.wait())), return_when=asyncio.FIRST_COMPLETED)
        if rechecks.done():
            rechecks.result()

    # --- what others say

    def _hear(self, ended: Callable[[], None]) -> None:
        while True:
            try:
                received = self._supervisor.receive()
            except BlockingIOError:
                return
            if received is None:
                ended()
                return
            match received[0]:
                case InForceChanged(generation=generation):
                    self._rechecks.generation = generation
                    self._ask_again()
                case _:
                    pass

    def _take_notices(self) -> None:
        self._shared.notices_bell.answer()
        awake = True
        while awake:
            for ring in self._rings:
                while entries := ring.take():
                    for entry in entries:
                        self._take(entry.record)
                    ring.commit(entries[-1].end)
            # All of them are told to ring, whatever the first one says.
            asleep = [ring.sleep() for ring in self._rings]
            awake = not all(asleep)

    def _take(self, record: bytes) -> None:
        try:
            notice = notice_from(record)
        except HoldError as error:
            _log.error("%s", error)
            return
        call = self._calls.add(notice, asyncio.get_running_loop().time())
        if call is not None and self._is_outdated(notice):
            self._rechecks.ask((call,))

    def _is_outdated(self, notice: Notice) -> bool:
        return notice.generation < self._rechecks.generation or notice.checked_ns <= self._changed_ns

    # --- calls

    def _claim(self, decision_id: bytes, cut: Callable[[Reason], None]) -> HeldCall | None:
        call = self._calls.claim(decision_id, cut)
        if call is None:
            self._take_notices()  # INVARIANT: a worker tells of a call before it answers
            call = self._calls.claim(decision_id, cut)
        return call

    def _end(self, call: HeldCall) -> None:
        soon_ns = time.time_ns() + SAME_DEADLINE_NS
        if call.refusal is None and call.new_end is not None and call.new_end[0] <= soon_ns:
            # The other sidecar's clock goes ahead of this one's.
            self._say_refused(call, call.new_end[1])
        self._calls.end(call, asyncio.get_running_loop().time())

    def _judged(self, call: HeldCall) -> None:
        if call.refusal is not None:
            self._say_refused(call, call.refusal)
            return
        if call.new_end is not None and call.ended_s is None:
            if len(self._ends) > 2 * len(self._calls) + _ENDS_KEPT:
                # Those of calls that have ended, and those that were said again.
                ends = ((one.new_end[0], id(one), one) for one in self._calls if one.new_end is not None)
                self._ends[:] = sorted(ends)
            heapq.heappush(self._ends, (call.new_end[0], id(call), call))
            if self._ends[0][2] is call:
                self._wait_for_end()

    def _say_refused(self, call: HeldCall, reason: Reason) -> None:
        """Tell control, which knows how the call ended and not why."""
        self._ring.put(LOST_GRANT + call.decision_id + reason.value.encode())

    def _wait_for_end(self) -> None:
        """End what is due, and have the next end waited for."""
        if self._next_end is not None:
            self._next_end.cancel()
            self._next_end = None
        now_ns = time.time_ns()
        while self._ends and self._ends[0][0] <= now_ns:
            ends_ns, _, call = heapq.heappop(self._ends)
            if call.new_end is not None and call.new_end[0] == ends_ns:
                call.refuse(call.new_end[1])
                self._say_refused(call, call.new_end[1])
        if self._ends:
            # The wall clock may be set meanwhile: it is looked at again every second.
            wait_s = (self._ends[0][0] - now_ns) / 1e9
            self._next_end = asyncio.get_running_loop().call_later(wait_s, self._wait_for_end)

    # --- what changes

    def _ask_again(self) -> None:
        """Have every call asked about."""
        self._take_notices()
        self._changed_ns = time.perf_counter_ns()
        self._rechecks.ask_all(self._calls)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._shared.hold_cell.beat()
        versions = self._grant.read()
        # An odd one is being written.
        if versions != self._versions and not any(version % 2 for version in versions):
            self._versions = versions
            self._ask_again()
        self._looks += 1
        if self._looks % _LOOKS_A_SECOND == 0:
            self._calls.forget(loop.time())
            self._wait_for_end()
        loop.call_later(LOOK_S, self._beat, loop)
