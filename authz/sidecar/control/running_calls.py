"""Calls that run for longer than a second and are not held: known from their entries, asked about again, and drained.

Envoy tells of each of them every second (:mod:`authz.proxy.access_log`). When what is in force changes, workers are
asked what they would get now, as the hold asks about its own; where one is refused, or its new end has come, the
connections of the filter chain that it came in by are drained, a second later they are closed, and with them the call.
That is coarse: it ends what else runs on those connections. Held calls have others.

An outbound call to another Service is judged by the callee's sidecar, too, which ends it and spares held calls: the
caller's side waits `CALLEE_S` for that before it drains its own listener, which spares nobody.

A drain ends the calls of others, too: none is made for a call that has ended, though Envoy tells of that and of its
running by two streams, neither of which waits for the other, nor for one that Envoy ends by itself, by its deadline.

# INVARIANT (nobody is forgotten): a call is known again a second after control has begun anew, for as long as it runs;
# one that finds no room, or says too little of itself, counts as refused at the next change.
# INVARIANT (fail closed): where no worker answers for `recheck.PATIENCE_S`, calls that began before something changed
# in the set in force, in the own identity, in the bundles or authorities, count as refused, `internal_error`. Where
# nothing has changed since they began, what they were told still holds.

Everything here is called in the loop of control's services.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.proxy.listener_names import MAIN_CHAIN
from authz.request import Direction
from authz.sidecar.check.stream_deadline import SAME_DEADLINE_NS
from authz.sidecar.control.drained_listeners import Chain, drain, require_drainable
from authz.sidecar.control.running_message import chain_of, decision_of, is_running, running_call, was_drained
from authz.sidecar.errors import SidecarError
from authz.sidecar.hold.held_call import ENDED_S, MOST_ENDED
from authz.sidecar.hold.recheck import PATIENCE_S, Rechecks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

    from authz.decision import Reason
    from authz.sidecar.control.running_message import RunningCall

_log = logging.getLogger(__name__)

#: how often the pages are looked at that say what has changed, and what is due
LOOK_S: Final = 0.05
#: some 3 KiB each, nearly all of it the caller's certificate
MOST_RUNNING: Final = 10_000
#: a call that has told nothing of itself for so long has ended, and the entry of its end was lost
SILENT_S: Final = 10.0
#: Entries of one call come by two streams that are written every 50 and every 200 ms; so late one may be.
LATE_S: Final = 10.0
#: ends that are remembered for that, of some 150 bytes each: a few seconds of those that ran for a second
MOST_OVER: Final = 40_000
#: so long the callee's sidecar has to end what it refuses: as an edit may reach it so much later, and a drain takes 1 s
CALLEE_S: Final = 2.0
#: a drained connection is closed after a second (authz.proxy.listener_names.ENVOY_FLAGS): what still runs then was not
DRAINED_AFTER_S: Final = 3.0
#: between two drains: what is to be drained meanwhile goes with the second one
BETWEEN_S: Final = 0.5
#: after a drain that could not even be asked for
_TRY_AGAIN_S: Final = 0.5
#: a call of which Envoy has begun to tell so little before a change may have been decided before it
_DECIDED_WITHIN_NS: Final = 5_000_000_000
_EVERYTHING: Final = (Chain(Direction.INBOUND, MAIN_CHAIN), Chain(Direction.OUTBOUND, MAIN_CHAIN))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCounts:
    """How often connections were drained since control began, how many calls that ended, and how often it failed."""

    drains: int = 0
    ended_calls: int = 0
    failed: int = 0

    def to_json(self) -> dict[str, object]:
        """Give what the status file says."""
        return {"drains": self.drains, "ended_calls": self.ended_calls, "failed": self.failed}


class RunningCalls:
    """A service of control; `lost_grant` is told of decisions whose calls are refused, `changed` of other counts."""

    name = "running calls"

    def __init__(
        self,
        listeners: str,
        *,
        sockets: Sequence[str],
        versions: Callable[[], tuple[int, ...]],
        lost_grant: Callable[[bytes], None],
        changed: Callable[[], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Take the file of listeners, the workers' sockets, and what gives the versions of the pages that matter."""
        self._listeners = listeners
        self._say_lost = lost_grant
        self._say_changed = changed
        self._rechecks: Rechecks[RunningCall] = Rechecks(
            sockets,
            judged=self._judged,
            kind="running",
            ends_unjudged=self._is_outdated,
            patience_s=patience_s,
        )
        self._read_versions = versions
        self._versions = versions()
        self._calls: dict[bytes, RunningCall] = {}
        self._ended: deque[RunningCall] = deque()
        #: when calls ended of which an entry that says that they run may still come
        self._over: dict[bytes, float] = {}
        #: calls that are to end before Envoy ends them, and those that have lost their grant and still run
        self._ending: dict[bytes, RunningCall] = {}
        self._lost: dict[bytes, RunningCall] = {}
        #: where calls run that nobody can ask about
        self._unfollowed: set[Chain] = set()
        #: of those, what is to be drained now
        self._owed: set[Chain] = set()
        #: what has changed last, by the wall clock; nobody knows what has before control began
        self._changed_ns = time.time_ns()
        self._drain_from_s = 0.0
        self.counts = DrainCounts()

    async def run(self, ready: Callable[[], None]) -> None:
        """Look at what changes, ask and drain, until cancelled."""
        ready()
        try:
            await asyncio.to_thread(require_drainable, self._listeners, _EVERYTHING)
        except SidecarError as error:
            _log.error("calls that lose their grant and are not held could not be ended: %s", error)
            self._count(failed=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rechecks.run())
            group.create_task(self._look())

    # --- what others say

    def heard(self, entries: Iterable[HTTPAccessLogEntry]) -> None:
        """Take in what Envoy tells of calls that run, and of ends."""
        now_s = time.monotonic()
        new: list[RunningCall] = []
        for entry in entries:
            if not is_running(entry):
                self._end(entry, now_s)
                continue
            decision_id = decision_of(entry) or b""
            if decision_id in self._over:
                continue
            known = self._calls.get(decision_id)
            if known is not None:
                known.heard_s = now_s
            elif (call := self._begun(entry, now_s)) is not None:
                new.append(call)
        if new:
            self._rechecks.ask(new)

    def in_force(self, generation: int) -> None:
        """Take in that another set is in force, by workers of this generation."""
        self._rechecks.generation = generation
        self._ask_again()

    def _begun(self, entry: HTTPAccessLogEntry, now_s: float) -> RunningCall | None:
        call = None if len(self._calls) >= MOST_RUNNING else running_call(entry, now_s)
        if call is None:
            chain = chain_of(entry)
            before = len(self._unfollowed)
            self._unfollowed.update(_EVERYTHING if chain is None else (chain,))
            if len(self._unfollowed) > before:
                _log.error("calls run that cannot be asked about: their connections are drained at the next change")
            return None
        self._calls[call.decision_id] = call
        call.claim(lambda reason: self._lose(call, reason))
        return call

    def _end(self, entry: HTTPAccessLogEntry, now_s: float) -> None:
        if was_drained(entry):
            self._count(ended_calls=1)
        decision_id = decision_of(entry)
        if decision_id is None:
            return
        self._over[decision_id] = now_s
        call = self._calls.pop(decision_id, None)
        if call is None:
            return
        self._lost.pop(call.decision_id, None)
        if call.refusal is not None:
            return
        call.ended_s = now_s
        if call.new_end is not None and call.new_end[0] <= time.time_ns() + SAME_DEADLINE_NS:
            # The other sidecar's clock goes ahead of this one's.
            self._lose(call, call.new_end[1])
            return
        self._ended.append(call)
        if len(self._ended) > MOST_ENDED:
            self._ended.popleft()

    # --- what calls get now

    def _is_outdated(self, call: RunningCall) -> bool:
        """Whether something has changed since a call was decided that could matter to it."""
        return call.started_ns <= self._changed_ns + _DECIDED_WITHIN_NS

    def _judged(self, call: RunningCall) -> None:
        if call.ended_s is None and call.refusal is None and call.new_end is not None:
            self._ending[call.decision_id] = call

    def _lose(self, call: RunningCall, reason: Reason) -> None:
        """Take in that a call is refused from now on: it is to end, or has ended for that a moment ago."""
        self._say_lost(call.decision_id + reason.value.encode())
        if call.ended_s is None and not call.is_over(time.time_ns()):
            self._lost[call.decision_id] = call
            call.due_s = time.monotonic() + (CALLEE_S if call.is_followed_by_callee else 0.0)

    def _ask_again(self) -> None:
        self._changed_ns = time.time_ns()
        self._owed |= self._unfollowed
        self._unfollowed.clear()
        self._rechecks.ask_all((*self._calls.values(), *self._ended))

    # --- what is due

    async def _look(self) -> None:
        looks = 0
        while True:
            versions = self._read_versions()
            # An odd one is being written.
            if versions != self._versions and not any(version % 2 for version in versions):
                self._versions = versions
                self._ask_again()
            now_s = time.monotonic()
            self._end_in_time()
            if now_s >= self._drain_from_s:
                due = self._owed | {call.chain for call in self._lost.values() if call.due_s <= now_s}
                if due:
                    await self._drain(due, now_s)
            looks += 1
            if looks * LOOK_S >= 1.0:
                looks = 0
                self._forget(now_s)
            await asyncio.sleep(LOOK_S)

    def _end_in_time(self) -> None:
        """Have those refused whose new end has come."""
        now_ns = time.time_ns()
        for decision_id, call in tuple(self._ending.items()):
            if call.new_end is None or call.refusal is not None or decision_id not in self._calls:
                del self._ending[decision_id]
            elif call.new_end[0] <= now_ns:
                del self._ending[decision_id]
                call.refuse(call.new_end[1])

    async def _drain(self, chains: Collection[Chain], now_s: float) -> None:
        names = ", ".join(map(str, sorted(chains)))
        calls = [call for call in self._lost.values() if call.chain in chains]
        again = sum(call.drained for call in calls)
        try:
            await asyncio.to_thread(drain, self._listeners, chains)
        except SidecarError as error:
            _log.error(
                "connections of %s cannot be drained, %d calls without a grant run on: %s", names, len(calls), error
            )
            self._count(failed=1)
            self._drain_from_s = now_s + _TRY_AGAIN_S
            return
        self._owed.clear()
        if again:
            _log.error("%d calls without a grant have outlived a drain of %s; it is tried again", again, names)
            self._count(failed=1)
        _log.info("connections of %s are drained: %d calls that run have lost their grant", names, len(calls))
        self._count(drains=1)
        self._drain_from_s = now_s + BETWEEN_S
        for call in calls:
            call.drained = True
            call.due_s = now_s + DRAINED_AFTER_S
            if call.refusal is not None:
                self._say_lost(call.decision_id + call.refusal.value.encode())

    def _forget(self, now_s: float) -> None:
        """Forget what ended a while ago, and what has told nothing of itself for so long that it must have."""
        while self._ended and now_s - (self._ended[0].ended_s or 0.0) > ENDED_S:
            self._ended.popleft()
        for decision_id, ended_s in tuple(self._over.items()):
            if now_s - ended_s <= LATE_S and len(self._over) <= MOST_OVER:
                break  # they are in the order in which they ended
            del self._over[decision_id]
        for decision_id, call in tuple(self._calls.items()):
            if now_s - call.heard_s > SILENT_S:
                del self._calls[decision_id]
                self._lost.pop(decision_id, None)

    def _count(self, *, drains: int = 0, ended_calls: int = 0, failed: int = 0) -> None:
        before = self.counts
        self.counts = DrainCounts(
            drains=before.drains + drains, ended_calls=before.ended_calls + ended_calls, failed=before.failed + failed
        )
        self._say_changed()
