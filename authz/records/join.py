"""Decisions and the ends of their calls find each other by the decision's id, in whatever order they come.

Both wait for each other, bounded in number and time. What waits longest makes room for what comes; a decision that
nobody asks for any more is `unjoined`, an end whose decision never comes is an orphan (the decision found no room in
its ring, or was counted by a control that was killed). Each is counted once.

# INVARIANT (bounded): at most MOST_PENDING decisions and MOST_EARLY ends wait, of some hundred bytes each.
# INVARIANT (counted once): decisions given = joined + unjoined + pending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from authz.instant import NS_PER_S
from authz.records.call_end import CallEnd, RunningBytes

if TYPE_CHECKING:
    from collections.abc import Iterator

#: calls that run at once: ten times what one workload's sidecar is measured with
MOST_PENDING: Final = 50_000
#: Nothing was heard of a call for so long: one that runs is told of every second.
PENDING_NS: Final = 600 * NS_PER_S
#: Entries come a fraction of a second after their decisions, or before them where those wait for the disk.
MOST_EARLY: Final = 20_000
EARLY_NS: Final = 10 * NS_PER_S
#: ends of calls that something else than an answer ended, kept for the word that they were cut
MOST_ENDED: Final = 4096

Called = TypeVar("Called")


class Joins(Generic[Called]):
    """Gives of each decision's call what its end says, once; for one thread. Times are a clock's that only goes on."""

    def __init__(
        self,
        *,
        most_pending: int = MOST_PENDING,
        pending_ns: int = PENDING_NS,
        most_early: int = MOST_EARLY,
        early_ns: int = EARLY_NS,
    ) -> None:
        self._most_pending = most_pending
        self._pending_ns = pending_ns
        self._most_early = most_early
        self._early_ns = early_ns
        # Dicts are in the order in which something was last heard: the oldest first.
        self._pending: dict[bytes, tuple[int, Called]] = {}
        self._early: dict[bytes, tuple[int, CallEnd]] = {}
        self._running: dict[bytes, tuple[int, int]] = {}
        self._ended: dict[bytes, Called] = {}
        self.joined = self.unjoined = self.orphans = 0

    @property
    def pending(self) -> int:
        """How many decisions wait for the ends of their calls."""
        return len(self._pending)

    def decided(self, decision_id: bytes, called: Called, now_ns: int) -> CallEnd | None:
        """Take a decision; gives the end of its call where that came first."""
        early = self._early.pop(decision_id, None)
        if early is not None:
            self.joined += 1
            self._remember(decision_id, called, early[1])
            return early[1]
        if decision_id in self._pending:
            self.unjoined += 1
        self._pending[decision_id] = now_ns, called
        return None

    def ended(self, decision_id: bytes, end: CallEnd, now_ns: int) -> tuple[Called, CallEnd] | None:
        """Take the end of a call; gives its decision's call where that came first, and of the end what is new.

        The bytes of the end are those that `running` has not told of.
        """
        waiting = self._pending.pop(decision_id, None)
        if waiting is None:
            self._early[decision_id] = now_ns, end
            if len(self._early) > self._most_early:
                self._forget_early()
            return None
        self.joined += 1
        told = self._running.pop(decision_id, None) if self._running else None
        if told is not None:
            end = end._replace(
                received_bytes=max(0, end.received_bytes - told[0]), sent_bytes=max(0, end.sent_bytes - told[1])
            )
        self._remember(decision_id, waiting[1], end)
        return waiting[1], end

    def running(self, decision_id: bytes, so_far: RunningBytes, now_ns: int) -> tuple[Called, RunningBytes] | None:
        """Take what a call that runs has moved so far; gives the call and how much of it is new."""
        waiting = self._pending.pop(decision_id, None)
        if waiting is None:
            return None
        self._pending[decision_id] = now_ns, waiting[1]  # the newest again
        received, sent = self._running.get(decision_id, (0, 0))
        self._running[decision_id] = max(received, so_far.received_bytes), max(sent, so_far.sent_bytes)
        return waiting[1], RunningBytes(
            so_far.at_ns, max(0, so_far.received_bytes - received), max(0, so_far.sent_bytes - sent)
        )

    def call_of(self, decision_id: bytes) -> Called | None:
        """Give the call of a decision that waits for its end, or that something odd has ended a moment ago."""
        waiting = self._pending.get(decision_id)
        return self._ended.get(decision_id) if waiting is None else waiting[1]

    def expired(self, now_ns: int) -> Iterator[Called]:
        """Give the calls that are not waited for any longer, each once; they are counted."""
        while len(self._pending) > self._most_pending or self._is_late(self._pending, now_ns - self._pending_ns):
            decision_id = next(iter(self._pending))
            called = self._pending.pop(decision_id)[1]
            self._running.pop(decision_id, None)
            self.unjoined += 1
            yield called
        while self._is_late(self._early, now_ns - self._early_ns):
            self._forget_early()

    @staticmethod
    def _is_late(waiting: dict[bytes, tuple[int, Called]] | dict[bytes, tuple[int, CallEnd]], before_ns: int) -> bool:
        return bool(waiting) and waiting[next(iter(waiting))][0] < before_ns

    def _forget_early(self) -> None:
        del self._early[next(iter(self._early))]
        self.orphans += 1

    def _remember(self, decision_id: bytes, called: Called, end: CallEnd) -> None:
        if end.is_odd:
            self._ended[decision_id] = called
            if len(self._ended) > MOST_ENDED:
                del self._ended[next(iter(self._ended))]
