"""When a bundle endpoint is asked again.

As often as the bundle itself proposes, else every five minutes (SPIFFE Federation 4.1), within bounds. A poll that
failed is followed by one at the next interval, never sooner (6.2), and then by ever later ones.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

# A failure doubles the pause; more doublings than this change nothing, whatever the bounds.
_MAX_DOUBLINGS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PollTimes:
    """Bounds of the pause between two polls.

    A hint of weeks is cut to `longest`, because until the next poll a key that was taken back is still trusted (Trust
    Domain and Bundle 6.1); one of a moment is raised to `shortest`, which bounds what a partner can make us do. After
    failures the pause grows to `patience`, or stays the hint where that is longer.
    """

    unhinted: timedelta = timedelta(minutes=5)
    shortest: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(hours=1)
    patience: timedelta = timedelta(minutes=5)
    #: the share of a pause that chance takes away, so that a thousand sidecars do not ask in the same instant
    jitter: float = 0.1

    def pause(self, *, hint: timedelta | None, failures: int, has_bundle: bool, chance: float) -> timedelta:
        """Give the pause until the next poll; `chance` is from 0 to 1.

        Without any bundle there is no interval to keep to, and every call of the trust domain is refused: then the
        first pause is the shortest.
        """
        interval = self.unhinted if hint is None else min(max(hint, self.shortest), self.longest)
        if not has_bundle and failures:
            interval = self.shortest
        pause = min(interval * (1 << min(max(failures - 1, 0), _MAX_DOUBLINGS)), max(interval, self.patience))
        return pause * (1 - self.jitter * chance)
