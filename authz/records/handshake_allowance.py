"""How many failed handshakes are written down: whoever can connect can fail, as often as the network lets him.

Within an interval the first few of each address are written in full, up to a number for all addresses together. Of
what comes beyond it only the number is kept, by address and reason, and written when the interval ends: "and 37 more
from 10.0.0.9". Addresses beyond a number share one count. So neither the log nor the memory grows with the attempts,
and every attempt that was heard of is counted in some record.

# INVARIANT (bounded): at most `MOST_IN_FULL + MOST_ADDRESSES + 2` records an interval, of less than 6 KiB each.
# INVARIANT (nothing is forgotten): the counts of all records are the number of handshakes that were given to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from authz.decision import Reason
from authz.instant import NS_PER_S
from authz.records.failed_handshake import MAX_ADDRESS_CHARS, FailedHandshake

INTERVAL_NS: Final = 60 * NS_PER_S
#: of one address in an interval: enough to see what a misconfigured caller does wrong
MOST_OF_AN_ADDRESS: Final = 10
#: of all addresses in an interval; a record has about 800 bytes
MOST_IN_FULL: Final = 100
#: (address, reason) pairs that are told apart in an interval
MOST_ADDRESSES: Final = 100
#: what stands for addresses beyond that number
OTHERS: Final = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedHandshake:
    """A handshake that is to be written down, and how many it stands for."""

    handshake: FailedHandshake
    count: int = 1


@dataclass(slots=True, kw_only=True)
class _Interval:
    begins_ns: int
    in_full: int = 0
    of_address: dict[str, int] = field(default_factory=dict)
    more: dict[tuple[str, Reason], int] = field(default_factory=dict)


class HandshakeAllowance:
    """Decides which failed handshakes are written in full, and counts the others; for one thread.

    `now_ns` is the reader's clock; where it is set back, the interval has ended too. The handshakes' own times are only
    written.
    """

    def __init__(self, now_ns: int) -> None:
        self._interval = _Interval(begins_ns=now_ns)

    def add(self, handshake: FailedHandshake, now_ns: int) -> tuple[CountedHandshake, ...]:
        """Give what is to be written of one more handshake, and of an interval that has ended before it."""
        before = self.ended(now_ns)
        interval, host = self._interval, handshake.host[:MAX_ADDRESS_CHARS]
        written = interval.of_address.get(host, 0)
        if written < MOST_OF_AN_ADDRESS and interval.in_full < MOST_IN_FULL:
            interval.of_address[host] = written + 1
            interval.in_full += 1
            return (*before, CountedHandshake(handshake=handshake))
        key = (host, handshake.reason)
        if key not in interval.more and len(interval.more) >= MOST_ADDRESSES:
            key = (OTHERS, handshake.reason)
        interval.more[key] = interval.more.get(key, 0) + 1
        return before

    def add_unread(self, count: int) -> None:
        """Count handshakes of which nothing more is known, because there were too many at once."""
        if count > 0:
            key = (OTHERS, Reason.UNIDENTIFIED)
            self._interval.more[key] = self._interval.more.get(key, 0) + count

    def ended(self, now_ns: int) -> tuple[CountedHandshake, ...]:
        """Give what an interval has counted, if it has ended by now."""
        lasts = 0 <= now_ns - self._interval.begins_ns < INTERVAL_NS
        return () if lasts else self.rest(now_ns)

    def rest(self, now_ns: int) -> tuple[CountedHandshake, ...]:
        """Give what was counted and not written yet; a new interval begins."""
        more, self._interval = self._interval.more, _Interval(begins_ns=now_ns)
        return tuple(
            CountedHandshake(
                handshake=FailedHandshake(
                    time_ns=now_ns,
                    address=host,
                    failure=f"and {count} more from {'other addresses' if host == OTHERS else host}",
                    reason=reason,
                ),
                count=count,
            )
            for (host, reason), count in more.items()
        )
