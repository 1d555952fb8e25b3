"""What is made of each decision beside its line: its flow, its record in full, the join with the end of its call.

A record waits for the end of its call for JOINED_WITHIN_S, so that its line can tell of it; a call that runs longer is
joined when it ends, in its flow. Everything here is for control's main loop.

# INVARIANT (counted once): a record is counted in exactly one flow, in the order of its ring; what a ring gives back
up to a position (`up_to`) is what the flows of the intervals until then hold.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from json import loads
from typing import TYPE_CHECKING, Final

from authz.instant import NS_PER_MS
from authz.records.call_end import CallEnd, RunningBytes
from authz.records.decision_record import record_from_json
from authz.records.errors import RecordError
from authz.records.flow import interval_start_ns
from authz.records.flow_sums import is_over
from authz.sidecar.control.record_drain import Held
from authz.sidecar.record_ring import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.records.flow import FlowKey
    from authz.records.flow_sums import FlowSums
    from authz.records.join import Joins
    from authz.records.keeping import Keeping
    from authz.records.record_lines import RecordLines

_log = logging.getLogger(__name__)

#: Envoy tells of a call within 200 ms of its end (authz.proxy.access_log.FLUSH_INTERVAL). The contract gives a line of
#: the decision log a second; control looks every 100 ms.
JOINED_WITHIN_S: Final = 0.6
_WAIT_NS: Final = int(JOINED_WITHIN_S * 1000) * NS_PER_MS
#: what of a record is kept while its call runs
_NO_ENTRY: Final = Entry(b"", 0)
#: records that wait for the spool; more come only while it takes nothing
MOST_KEPT: Final = 2000
#: a decision's worth of checks: microseconds at which the buckets of the latency end
CHECK_US_BUCKETS: Final = (25, 50, 100, 200, 400, 800, 1600, 3200, 10_000, 100_000)


class KeptRecords:
    """Lines of records that are shipped in full: those of denies apart from those of allowed calls. Bounded."""

    def __init__(self) -> None:
        self.denied: list[bytes] = []
        self.allowed: list[bytes] = []
        #: records that found no room, or cannot be shipped; their decisions are counted all the same
        self.refused = 0

    def add(self, line: bytes, *, allows: bool) -> None:
        """Keep a line, its end included."""
        kept = self.allowed if allows else self.denied
        try:
            record_from_json(loads(line))
        except (RecordError, ValueError) as error:
            _log.error("a record cannot be shipped: %s", error)
            self.refused += 1
            return
        if len(kept) < MOST_KEPT:
            kept.append(line[:-1])
        else:
            self.refused += 1

    @property
    def is_empty(self) -> bool:
        """Whether none waits."""
        return not self.denied and not self.allowed

    def clear(self) -> None:
        """Forget those that were written."""
        self.denied = []
        self.allowed = []


class Checks:
    """What `/metrics` says of decisions: counts by direction, decision and reason, and how long checking took."""

    def __init__(self) -> None:
        self.by_reason: Counter[tuple[bool, str]] = Counter()
        self.check_us = [0] * (len(CHECK_US_BUCKETS) + 1)
        self.check_us_sum = 0

    def add(self, inbound: object, reason: object, check_us: int) -> None:
        """Count a decision."""
        self.by_reason[inbound is True, str(reason)] += 1
        self.check_us_sum += check_us
        for bucket, most in enumerate(CHECK_US_BUCKETS):
            if check_us <= most:
                self.check_us[bucket] += 1
                return
        self.check_us[-1] += 1


class Shipping:
    """What is shipped of decisions: their flows, the records that are kept, and how far each ring is in them."""

    def __init__(self, *, flows: FlowSums, keeping: Keeping, done: Iterable[int], kept_up_to: Iterable[int]) -> None:
        """Go on where an earlier control has ended: what is before `done` is counted, before `kept_up_to` kept."""
        self.flows = flows
        self.keeping = keeping
        self.kept = KeptRecords()
        self._kept_up_to = list(kept_up_to)
        #: by ring: intervals that have begun, and the position before their first record
        self._begun: list[deque[tuple[int, int]]] = [deque() for _ in self._kept_up_to]
        self._done = list(done)

    @property
    def kept_up_to(self) -> tuple[int, ...]:
        """Give the positions, by ring, before which all records were kept that are to be."""
        return tuple(map(max, self._kept_up_to, self._done))

    def up_to(self, before_ns: int | None) -> tuple[int, ...]:
        """Give the positions, by ring, before which all records are in intervals that ended by an instant, or all."""
        return tuple(
            next((position for start_ns, position in begun if not is_over(start_ns, before_ns)), done)
            for begun, done in zip(self._begun, self._done, strict=True)
        )

    def count(self, held: Held, ring: int, *, is_joined: bool, lines: RecordLines) -> None:
        """Count a record in its flow, and keep it where it is to be kept: its line is one of `lines`."""
        recorded, end = held.recorded, held.end
        if recorded is None:
            return
        position, kind = held.entry.end, recorded.kind
        start_ns = interval_start_ns(max(0, recorded.time_ns))
        begun = self._begun[ring]
        if not begun or begun[-1][0] < start_ns:
            begun.append((start_ns, self._done[ring]))
            if len(begun) > _MOST_BEGUN:
                begun.popleft()
        # A clock that was set back counts in the interval that has begun, as what leaves the ring goes by those.
        held.time_ns = max(recorded.time_ns, begun[-1][0])
        self._done[ring] = position
        counted = kind if end is None or end.tls is None else lines.encrypted(kind, end.tls)
        key = held.key = self.flows.key(counted, recorded.address)
        self.flows.decided(key, held.time_ns, recorded.check_us)
        if end is not None:
            self.flows.ended(key, _not_before(end, held.time_ns))
        elif held.unjoined or not is_joined:
            self.flows.unjoined(key, held.time_ns)
        if position > self._kept_up_to[ring] and self.keeping.keeps(kind, time.monotonic_ns()):
            # Few are kept, and without a decision log nobody has made their lines.
            self.kept.add(held.text or lines.text(recorded, end), allows=kind.allows)


#: intervals that may be open in a ring at once; they are taken one by one
_MOST_BEGUN: Final = 64


class CallRecording:
    """Takes records as they leave the rings, and what the access log says of their calls.

    Without `joins` no end of a call ever comes; without `shipping` records are only written.
    """

    def __init__(self, *, lines: RecordLines, joins: Joins[Held] | None, shipping: Shipping | None) -> None:
        self._lines = lines
        self.joins = joins
        self.shipping = shipping
        self.checks = Checks()

    # --- what the drain asks

    def read(self, packed: bytes, entry: Entry) -> Held:
        """Read a record; raises RecordError for what is none."""
        return Held(entry, self._lines.read(packed))

    def expect(self, held: Held) -> None:
        """Let the end of a record's call come."""
        if self.joins is not None and held.recorded is not None:
            now_ns = time.monotonic_ns()
            held.until_ns = now_ns + _WAIT_NS
            held.end = self.joins.decided(held.recorded.decision_id, held, now_ns)

    def line(self, held: Held) -> bytes:
        """Give the line of a record."""
        return b"" if held.recorded is None else self._lines.text(held.recorded, held.end)

    def end(self, held: Held, ring: int) -> None:
        """Count a record, and forget of it what its call's end does not need."""
        recorded = held.recorded
        if recorded is None:
            return
        facts = recorded.kind.facts
        self.checks.add(facts[_INBOUND], facts[_REASON], recorded.check_us)
        if self.shipping is not None:
            self.shipping.count(held, ring, is_joined=self.joins is not None, lines=self._lines)
        held.recorded, held.text, held.entry = None, None, _NO_ENTRY

    # --- what the access log says

    def heard(self, entries: Iterable[tuple[bytes, CallEnd | RunningBytes]]) -> None:
        """Join what the access log has told of calls."""
        joins = self.joins
        if joins is None:
            return
        flows, now_ns = None if self.shipping is None else self.shipping.flows, time.monotonic_ns()
        for decision_id, told in entries:
            if isinstance(told, CallEnd):
                found = joins.ended(decision_id, told, now_ns)
                if found is None:
                    continue
                held, end = found
                if held.recorded is not None:
                    held.end = end
                elif flows is not None and held.key is not None:
                    flows.ended(held.key, _not_before(end, held.time_ns))
            else:
                moved = joins.running(decision_id, told, now_ns)
                if moved is not None and flows is not None and (key := self._key(moved[0], flows)) is not None:
                    flows.moved(key, moved[1])

    def cut(self, decision_id: str, time_ns: int) -> FlowKey | None:
        """Count in its flow that the call of a decision was cut; gives it, None where it is not known any more."""
        if self.joins is None or self.shipping is None:
            return None
        flows = self.shipping.flows
        held = self.joins.call_of(decision_id.encode())
        key = None if held is None else self._key(held, flows)
        if held is not None and key is not None:
            flows.cut(key, max(time_ns, held.time_ns))
        return key

    def look(self) -> None:
        """Give up what was waited for long enough."""
        if self.joins is None:
            return
        for held in self.joins.expired(time.monotonic_ns()):
            held.unjoined = True
            held.until_ns = 0
            if held.recorded is None and self.shipping is not None and held.key is not None:
                self.shipping.flows.unjoined(held.key, held.time_ns)

    @staticmethod
    def _key(held: Held, flows: FlowSums) -> FlowKey | None:
        recorded = held.recorded
        return held.key if recorded is None else flows.key(recorded.kind, recorded.address)


#: where these stand among the facts of a kind
_INBOUND, _REASON = 0, 6


def _not_before(end: CallEnd, time_ns: int) -> CallEnd:
    """No call ends before its decision: by that a decision's flow never leaves its ring later than its end's."""
    return end if end.ended_ns >= time_ns else end._replace(ended_ns=time_ns)
