"""When a worker has more to do than it can: then it refuses at once instead of answering when nobody waits any more.

It is told by three clocks: how late the heartbeat of a worker is that has worked; how long an iteration of the event
loop that is full of checks has taken so far; and, where the worker never slept, how long a peer takes to answer a PING.
Its answer waits behind all checks that the peer has sent, and most of those that wait do so in the peer: a loop that is
on time does not see them.
"""

from __future__ import annotations

from math import inf
from typing import Final

#: Envoy waits 350 ms at most, two retries included: an answer that comes later than this is of no use
LATE_S: Final = 0.1
#: answers come at once again
ON_TIME_S: Final = 0.02
#: A worker that has had less of the processor since its last heartbeat is not late by its own work: the machine has
#: other things to do, and what is refused would have been answered in these milliseconds.
OWN_WORK_S: Final = 0.02
#: being late once is the machine's affair, which had something else to do; more work than can be done lasts
_LATE_IN_A_ROW: Final = 2
#: refused between two heartbeats of an overload, 20 ms apart: so few would have been answered as well
_FEW_REFUSED: Final = 100
#: a peer that is slow by itself does not keep a worker refusing for longer; one that is flooding asks in bursts
_FEW_IN_A_ROW: Final = 10


class Overload:
    """Whether checks are to be refused; between the two thresholds it stays as it is."""

    __slots__ = ("_began_s", "_due_s", "_few", "_late", "on")

    def __init__(self) -> None:
        self.on = False
        self._late = 0
        self._few = 0
        self._due_s = inf
        self._began_s = inf

    def observe(
        self,
        late_s: float,
        *,
        lag_s: float = 0.0,
        slept: bool = True,
        spent_s: float = inf,
        refused: int = 0,
        next_s: float = inf,
    ) -> None:
        """Take in a heartbeat: how late it is, how long peers wait, what came of the time since the last one.

        `slept`: there was nothing to do for a while; `spent_s`: so much of the processor the worker has had; `refused`:
        so many checks were; `next_s`: when the next is due.
        """
        has_worked = spent_s >= OWN_WORK_S
        is_late = (late_s > LATE_S and has_worked) or (lag_s > LATE_S and not slept)
        self._late = self._late + 1 if is_late else 0
        self._few = self._few + 1 if self.on and refused < _FEW_REFUSED else 0
        if self._late >= _LATE_IN_A_ROW:
            self.on = True
        elif late_s < ON_TIME_S and (lag_s < ON_TIME_S or self._few >= _FEW_IN_A_ROW):
            self.on = False
        self._due_s = next_s
        self._began_s = inf

    def look(self, now_s: float) -> None:
        """Take in, between two heartbeats, that checks are being answered.

        Only what has been spent on checks since the heartbeat was due counts: a machine that stood still sheds nothing.
        """
        if now_s < self._due_s:
            return
        if self._began_s == inf:
            self._began_s = now_s
        elif now_s - self._began_s > LATE_S:
            self.on = True
