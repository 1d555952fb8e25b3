"""When what has ended is started again: at once the first time, then ever later, until it has lasted for a while."""

from __future__ import annotations

from typing import Final

FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 2.0
#: who has lasted so long is no longer punished for earlier ends
FORGIVEN_AFTER_S: Final = 10.0


class Backoff:
    """The pause before the next start."""

    def __init__(self) -> None:
        self._ends = 0
        self._ended_s = 0.0
        #: when it may be started
        self.due_s = 0.0

    def ended(self, now_s: float) -> None:
        """Take in that it has ended."""
        if now_s - self._ended_s > FORGIVEN_AFTER_S:
            self._ends = 0
        self._ends += 1
        self._ended_s = now_s
        delay_s = 0.0 if self._ends == 1 else min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._ends - 2, 10))
        self.due_s = now_s + delay_s
