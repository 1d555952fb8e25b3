"""Which set decides: compiles are ordered one at a time, and a new set takes over once all its workers serve.

The workers of the set before are told to drain only then, and it counts as in force only when all of them have ended: a
caller who has not read their GOAWAY yet may still be answered by them. What goes wrong with a new set leaves the one
before as it is.

INVARIANT (somebody answers): workers of the set in force are told to end only when others serve on every socket.
INVARIANT (by itself): a worker that ends or hangs is followed by another one at once, a compiler likewise; neither
touches the workers that serve.
"""

from __future__ import annotations

import itertools
import logging
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from authz.sidecar.backoff import Backoff
from authz.sidecar.channel import (
    Channel,
    CompilerRuns,
    SetCompiled,
    SetRefused,
    SetSame,
    StartCompiler,
    channel_pair,
)
from authz.sidecar.generation import DRAIN_PATIENCE_S, START_PATIENCE_S, Generation, WorkerSeen
from authz.sidecar.worker_cells import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.sidecar.channel import Message
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

#: where the first set takes longer than this, somebody denies meanwhile
FIRST_SET_PATIENCE_S: Final = 1.0
#: a folder that changes all the time has a set made of it after so many that were given up
MOST_GIVEN_UP: Final = 10
#: workers of a new set that end before they serve: so many, and the set before stays
_MOST_FAILED_STARTS: Final = 3
_NS_PER_S: Final = 1_000_000_000


class Generations:
    """The set in force, the one that is to follow it, and those whose workers still drain."""

    def __init__(
        self,
        *,
        settings: SidecarSettings,
        shared: SharedMemory,
        order: Callable[[StartCompiler, int, int | None], bool],
        watch: Callable[[Channel, Callable[[], None]], None],
        unwatch: Callable[[Channel], None],
        changed: Callable[[], None],
    ) -> None:
        """Take how a compiler is ordered (its end of a channel, the source), and whom to tell of changes."""
        self._settings = settings
        self._shared = shared
        self._order = order
        self._watch = watch
        self._unwatch = unwatch
        self._changed = changed
        self._tickets = itertools.count(1)
        self._numbers = itertools.count(1)
        self._in_force: Generation | None = None
        self._next: Generation | None = None
        #: who denies while the first set is made
        self._stopgap: Generation | None = None
        self._retired: list[Generation] = []
        self._look_wanted = True
        #: sets in a row that were not finished, because the folder had changed again
        self._given_up = 0
        self._compiles = Backoff()
        self._began_s = time.monotonic()
        self._ending = False
        self._said = False
        self.faults: tuple[str, ...] = ()

    @property
    def revision(self) -> str | None:
        """The revision in force."""
        return None if self._in_force is None else self._in_force.revision

    @property
    def number(self) -> int:
        """The generation in force, 0 before the first."""
        return 0 if self._in_force is None else self._in_force.number

    @property
    def own_policy(self) -> dict[str, Any]:
        """What the set in force says of the sidecar's own; empty where there is none."""
        return {} if self._in_force is None or self._in_force.result is None else self._in_force.result.own

    @property
    def answers(self) -> bool:
        """Whether the set in force, and no other one, answers on every socket."""
        return (
            self._in_force is not None
            and len(self._in_force.serving_slots) == self._settings.workers
            and not any(one.workers for one in self._retired)
        )

    @property
    def has_workers(self) -> bool:
        """Whether any worker is left."""
        return any(one.workers for one in self._all())

    def look(self) -> None:
        """Have the folder looked at: it may hold something else than before.

        What is still being made of what it held is given up for it, so that an edit never waits for the one before it.
        """
        self._look_wanted = True
        candidate = self._next
        if candidate is not None and candidate.is_being_made and self._given_up < MOST_GIVEN_UP:
            self._given_up += 1
            self._drop(candidate)
        self._order_next(time.monotonic())

    def tick(self) -> None:
        """Look at all workers, and do what is due."""
        now_s = time.monotonic()
        for generation in tuple(self._all()):
            for worker in tuple(generation.workers):
                self._look_at(generation, worker, now_s)
        self._go_on(now_s)

    def look_at_phases(self) -> None:
        """Take in that a worker is further than it was."""
        self._go_on(time.monotonic())

    def ended(self, pid: int, how: str) -> None:
        """Take in that a process has ended."""
        now_s = time.monotonic()
        for generation in tuple(self._all()):
            if generation.compiler_pid == pid:
                generation.compiler_pid = 0
            worker = generation.worker(pid)
            if worker is not None:
                self._worker_ended(generation, worker, how, now_s)
        self._go_on(now_s)

    def end(self) -> None:
        """Have everybody end, and start nobody any more."""
        self._ending = True
        now_s = time.monotonic()
        for generation in tuple(self._all()):
            self._retire(generation, now_s)

    def kill(self) -> None:
        """End who is left."""
        for generation in self._all():
            for worker in generation.workers:
                worker.signal(signal.SIGKILL)

    # --- compiles

    def _order_next(self, now_s: float) -> None:
        if self._ending or self._next is not None or now_s < self._compiles.due_s:
            return
        in_force = self._in_force
        result = None if in_force is None else in_force.result
        if in_force is not None and in_force.channel is None:
            self._next = self._ordered(again=True, empty=in_force.revision is None, replaces=False)
        elif result is not None and result.renews and self._renewal_is_due(result.compiled_ns):
            self._next = self._ordered(again=True, empty=False, replaces=True)
        elif self._look_wanted:
            self._next = self._ordered(again=False, empty=False, replaces=True)
            self._look_wanted = self._next is None

    def _renewal_is_due(self, compiled_ns: int) -> bool:
        """Whether hours are to be worked out anew: once a day, and when the clock was set."""
        return abs(self._shared.clock.around_ns() - compiled_ns) >= self._settings.renewal_s * _NS_PER_S

    def _ordered(self, *, again: bool, empty: bool, replaces: bool) -> Generation | None:
        in_force = self._in_force
        ours, theirs = channel_pair(second_waits=True)
        job = StartCompiler(
            again=again,
            empty=empty,
            serving=in_force is not None and in_force.revision is not None,
            digest="" if in_force is None or in_force.result is None else in_force.result.digest,
        )
        source = in_force.source if in_force is not None and again else None
        ordered = self._order(job, theirs.fileno(), source)
        theirs.close()
        if not ordered:
            ours.close()
            return None
        generation = Generation(channel=ours, number=next(self._numbers), again=again, empty=empty, replaces=replaces)
        self._watch(ours, lambda: self._hear(generation))
        return generation

    def _hear(self, generation: Generation) -> None:
        while generation.channel is not None:
            try:
                received = generation.channel.receive()
            except BlockingIOError:
                break
            if received is None:
                self._compiler_gone(generation)
                break
            self._take(generation, *received)
        self._go_on(time.monotonic())

    def _take(self, generation: Generation, message: Message, descriptors: list[int]) -> None:
        if not isinstance(message, CompilerRuns):
            self._given_up = 0
        match message:
            case CompilerRuns(pid=pid):
                generation.compiler_pid = pid
            case SetSame():
                self._drop(generation)
                self._say(())
            case SetRefused(faults=faults):
                self._drop(generation)
                if generation.again:
                    self._compiles.ended(time.monotonic())
                    _log.error("%s", "; ".join(faults))
                else:
                    self._say(faults)
            case SetCompiled(revision=revision, faults=faults):
                generation.result = message
                generation.source = descriptors[0] if descriptors else None
                if not generation.replaces:
                    self._stand_in(generation)
                elif revision is None and self._in_force is not None and self._in_force.revision is None:
                    # Those who deny need not be relieved by others who deny.
                    self._drop(generation)
                    self._say(faults)
            case _:
                pass

    def _stand_in(self, generation: Generation) -> None:
        """Let a compiler fork for the generation in force, whose own has gone."""
        in_force = self._in_force
        if in_force is None or in_force.channel is not None:
            self._drop(generation)
            return
        channel = generation.channel
        if channel is None:
            return
        in_force.channel, in_force.compiler_pid = channel, generation.compiler_pid
        generation.channel = None
        generation.forget_source()
        self._unwatch(channel)
        self._watch(channel, lambda: self._hear(in_force))
        self._next = None

    def _compiler_gone(self, generation: Generation) -> None:
        self._close_channel(generation)
        now_s = time.monotonic()
        if generation is self._in_force:
            _log.error("the compiler has ended; another one takes its place, the workers go on")
            self._compiles.ended(now_s)
            # What it was asked for and has not done is asked of its successor.
            for worker in tuple(generation.workers):
                if not worker.cell.pid:
                    self._forget(generation, worker)
        elif generation is self._next:
            self._compiles.ended(now_s)
            self._retire(generation, now_s)
            if not generation.again:
                self._look_wanted = True
                self._say((f"{self._settings.policies}: the compiler ended before the set could be used",))
            self._next = None
        elif generation is self._stopgap:
            self._retire(generation, now_s)
            self._stopgap = None

    # --- workers

    def _look_at(self, generation: Generation, worker: WorkerSeen, now_s: float) -> None:
        if worker.cell.held:  # it stopped itself because the supervisor was stopped
            worker.signal(signal.SIGCONT)
        phase = worker.cell.phase
        if worker.told_to_end_s is not None:
            if now_s - worker.told_to_end_s > DRAIN_PATIENCE_S:
                worker.signal(signal.SIGKILL)
                if not worker.cell.pid:
                    self._forget(generation, worker)
        elif phase is Phase.ASKED:
            if now_s - worker.asked_s > START_PATIENCE_S:
                _log.error("worker %d does not start; it and its compiler are killed", worker.slot + 1)
                worker.end(now_s)
                generation.kill_compiler()
                self._compiler_gone(generation)
        elif worker.is_hung():
            _log.error("worker %d is hung; it is killed", worker.slot + 1)
            worker.signal(signal.SIGKILL)

    def _worker_ended(self, generation: Generation, worker: WorkerSeen, how: str, now_s: float) -> None:
        served = worker.cell.phase is not Phase.ASKED
        self._forget(generation, worker)
        if worker.told_to_end_s is not None or self._ending:
            return
        generation.backoff(worker.slot).ended(now_s)
        _log.error("worker %d %s; another one takes its place", worker.slot + 1, how)
        if generation is not self._in_force and not served:
            generation.failed_starts += 1

    def _forget(self, generation: Generation, worker: WorkerSeen) -> None:
        worker.cell.free()
        generation.workers.remove(worker)

    def _fill(self, generation: Generation, now_s: float) -> None:
        """Have a worker forked for each socket that has none."""
        if generation.result is None or self._ending:
            return
        for slot in generation.lacking_slots(self._settings.workers, now_s):
            cell = next((cell for cell in self._shared.worker_cells if cell.phase is Phase.FREE), None)
            if cell is None or not generation.ask(slot, cell, next(self._tickets), now_s):
                return

    def _go_on(self, now_s: float) -> None:
        """Do whatever the last event has made possible."""
        candidate = self._next
        if candidate is not None and candidate.failed_starts >= _MOST_FAILED_STARTS:
            self._drop(candidate)
            self._compiles.ended(now_s)
            self._look_wanted = True
            self._say((f"{self._settings.policies}: the workers of the new set end at their start",))
        if self._in_force is None and self._stopgap is None and now_s - self._began_s > FIRST_SET_PATIENCE_S:
            self._stopgap = None if self._ending else self._ordered(again=False, empty=True, replaces=True)
        for generation in (self._in_force, self._next, self._stopgap):
            if generation is not None and generation.replaces:
                self._fill(generation, now_s)
        # One at a time: the first may retire the second, whose workers go on to serve for a moment.
        if self._next is not None and self._is_complete(self._next):
            self._promote(self._next, now_s)
        if self._stopgap is not None and self._is_complete(self._stopgap):
            self._promote(self._stopgap, now_s)
        self._retired = [one for one in self._retired if one.workers]
        self._order_next(now_s)
        if not self._said and self.answers:
            self._said = True
            self._changed()

    def _is_complete(self, generation: Generation) -> bool:
        return len(generation.serving_slots) == self._settings.workers

    def _promote(self, generation: Generation, now_s: float) -> None:
        result = generation.result
        if result is None or self._ending:
            return
        before = self._in_force
        is_stopgap = generation is self._stopgap
        if is_stopgap:
            self._stopgap = None
        else:
            self._next = None
        if is_stopgap and before is not None:
            self._retire(generation, now_s)
            return
        self._in_force = generation
        if self._stopgap is not None:
            self._retire(self._stopgap, now_s)
            self._stopgap = None
        if before is not None:
            self._retire(before, now_s)
        if not generation.again and not is_stopgap:
            self._log_in_force(before, result)
            self.faults = result.faults
        self._said = False

    def _retire(self, generation: Generation, now_s: float) -> None:
        """Have the workers of a generation drain, and its compiler end."""
        self._close_channel(generation)
        generation.kill_compiler()
        generation.forget_source()
        for worker in tuple(generation.workers):
            worker.end(now_s)
            if not worker.cell.pid:
                self._forget(generation, worker)
        if generation not in self._retired:
            self._retired.append(generation)

    def _drop(self, generation: Generation) -> None:
        if generation is self._next:
            self._next = None
        self._retire(generation, time.monotonic())

    def _close_channel(self, generation: Generation) -> None:
        if generation.channel is not None:
            self._unwatch(generation.channel)
            generation.channel.close()
            generation.channel = None

    def _all(self) -> Iterator[Generation]:
        yield from (one for one in (self._in_force, self._next, self._stopgap) if one is not None)
        yield from self._retired

    # --- what is said

    def _say(self, faults: tuple[str, ...]) -> None:
        """Take in what is wrong with what stands in the folder."""
        if faults == self.faults:
            return
        self._log_faults(faults, self.revision)
        if not faults:
            _log.info("revision %s is in force", (self.revision or "none")[:12])
        self.faults = faults
        if self._in_force is not None:
            self._said = False

    def _log_in_force(self, before: Generation | None, result: SetCompiled) -> None:
        if result.faults != self.faults:
            self._log_faults(result.faults, result.revision)
        if before is None or before.revision != result.revision or (self.faults and not result.faults):
            _log.info("revision %s is in force", (result.revision or "none")[:12])
        if not result.has_service:
            _log.warning("the set has no Service `%s`: every call is denied", self._settings.service)

    def _log_faults(self, faults: tuple[str, ...], revision: str | None) -> None:
        for fault in faults:
            _log.error("%s", fault)
        if faults:
            kept = "no calls are allowed" if revision is None else f"revision {revision[:12]} stays"
            _log.error("the policies in %s cannot be used: %s", self._settings.policies, kept)
