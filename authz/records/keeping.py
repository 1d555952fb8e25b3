"""Which decisions are kept in full: every deny, the first sight of a kind of call, and a sample of the allowed ones.

Whoever can connect can be denied, as often as the network lets him, so that there is an allowance: within it every
deny is kept, beyond it decisions are counted in their flows and nowhere else, and how many, exactly, is `unkept`. A
kind of call (who, whom, which route, by which policy, for which reason) is kept when it is seen first, and again every
SAMPLE_S.

# INVARIANT (bounded): in any time t at most BURST + t * A_SECOND records, of less than 16 KiB each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.instant import NS_PER_S

if TYPE_CHECKING:
    from authz.records.recorded_decision import DecisionKind

#: of a sidecar: what somebody can still look at; a record has about 800 bytes
A_SECOND: Final = 100
BURST: Final = 1000
SAMPLE_S: Final = 60
_SAMPLE_NS: Final = SAMPLE_S * NS_PER_S


class Keeping:
    """Says which decisions are kept; for one thread, by a clock that only goes on."""

    def __init__(self, now_ns: int) -> None:
        self._left = float(BURST)
        self._filled_ns = now_ns
        #: denies that were not kept
        self.unkept = 0

    def keeps(self, kind: DecisionKind, now_ns: int) -> bool:
        """Say whether a decision of a kind is kept."""
        kept_ns = kind.kept_ns
        if kind.allows and kept_ns is not None and now_ns - kept_ns < _SAMPLE_NS:
            return False
        if self._left < BURST:
            self._left = min(BURST, self._left + (now_ns - self._filled_ns) * A_SECOND / NS_PER_S)
        self._filled_ns = now_ns
        if self._left < 1:
            self.unkept += not kind.allows
            return False
        self._left -= 1
        kind.kept_ns = now_ns
        return True
