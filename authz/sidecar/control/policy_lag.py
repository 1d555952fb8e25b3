"""How far the policies in force are behind the files that are there."""

from __future__ import annotations

import time


class PolicyLag:
    """For how long newer files of the policies could not be used; for control's main loop."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def told(self, *, stale: bool) -> None:
        """Take whether there are newer files that cannot be used."""
        if not stale:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = time.monotonic()

    @property
    def lag_s(self) -> float:
        """Seconds, 0 where what is in force is the newest."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s
