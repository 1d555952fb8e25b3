"""When what was counted becomes batches, and what happens where they find no room.

Flows are written a moment after their interval has ended; records that are kept in full soon, by themselves; and
everything at once where a ring is half full, because what is written may leave the rings. A batch tells either of
denies or of allowed calls only: the spool may drop those.

Where the spool takes nothing (its disk is full, or it is full of denies) flows stay in memory, bounded, and go on
being counted; records in full beyond a number are left out and counted. What is in memory only is lost if control is
killed then, and the journal says how much that is.

# INVARIANT (to the last one): decisions = those in the flows of batches that were shipped or wait, those in flows that
are not written yet, and those that are counted as lost or dropped.
"""

from __future__ import annotations

import gzip
import logging
import secrets
import time
from typing import TYPE_CHECKING, Final

from authz.instant import NS_PER_S
from authz.records.batch import MAX_BATCH_BYTES, MAX_FLOWS, MAX_RECORDS, Batch, written_batch, written_json
from authz.records.flow import flow_json, interval_start_ns
from authz.sidecar.control.record_journal import SpooledUpTo
from authz.sidecar.control.spool import SpooledBatch
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from authz.records.batch import SidecarStatus
    from authz.records.flow import Flow
    from authz.sidecar.control.call_recording import Shipping
    from authz.sidecar.control.record_drain import RecordDrain
    from authz.sidecar.control.record_journal import RecordJournal
    from authz.sidecar.control.spool import Spool
    from authz.sidecar.record_ring import RingConsumer

    #: is told of flows, and of lines of records that are kept, each once
    Told = Callable[[Sequence[Flow], Sequence[bytes]], None]

_log = logging.getLogger(__name__)

#: the ends of calls come up to this long after them, and a decision's line waits for them
GRACE_S: Final = 1.2
#: Somebody waits for a denial to appear: it is on the page within 2 s of the call.
KEPT_S: Final = 0.3
#: so often a spool that took nothing is tried again
RETRY_S: Final = 1.0
#: where so much of a ring is taken, everything is written
FULL_SHARE: Final = 0.5
#: what a batch has at most, of what the hub takes: the rest of it is its head
_BATCH_BYTES: Final = MAX_BATCH_BYTES // 2
_LOG_INTERVAL_S: Final = 10.0
#: fast: batches repeat themselves
_GZIP_LEVEL: Final = 3


class Telling:
    """Where there is no hub: tells of flows when their intervals have ended, and of kept records soon."""

    def __init__(self, shipping: Shipping, told: Told) -> None:
        self._shipping = shipping
        self._told = told
        self._told_ns = _open_interval_ns()

    def look(self) -> None:
        """Tell of what there is to tell by now."""
        interval_ns = _open_interval_ns()
        if interval_ns != self._told_ns:
            self._told_ns = interval_ns
            self.flush(interval_ns)
        elif not self._shipping.kept.is_empty:
            self._tell(())

    def flush(self, before_ns: int | None = None) -> None:
        """Tell of intervals that ended by an instant, or all of them, and of the records that are kept."""
        self._tell(self._shipping.flows.flows(before_ns))
        self._shipping.flows.forget(before_ns)

    def _tell(self, flows: Sequence[Flow]) -> None:
        kept = self._shipping.kept
        self._told(flows, [*kept.denied, *kept.allowed])
        kept.clear()


class BatchWriting:
    """Writes batches into the spool; `look` is called all the time by control's main loop.

    `status` says how the sidecar stands, `written` is told when there is something to be sent, and `told` what it is.
    """

    def __init__(
        self,
        *,
        service: str,
        shipping: Shipping,
        spool: Spool,
        journal: RecordJournal,
        status: Callable[[], SidecarStatus],
        written: Callable[[], None],
        told: Told,
    ) -> None:
        self._service = service
        self._told = told
        self._shipping = shipping
        self._spool = spool
        self._journal = journal
        self._status = status
        self._written = written
        if journal.boot is None:
            journal.set_boot(time.time_ns(), secrets.randbits(64))
        self._flushed_ns = _open_interval_ns()
        self._kept_since_s: float | None = None
        self._retry_s = 0.0
        self._said_s = -_LOG_INTERVAL_S
        #: by ring, how far what is held in memory goes
        self._held_up_to: tuple[int, ...] = ()
        #: whether the spool took nothing the last time
        self.refused = False

    def look(self, drain: RecordDrain) -> None:
        """Write what is to be written by now."""
        now_s = time.monotonic()
        if self.refused:
            self._hold_in_memory(drain)
            if now_s >= self._retry_s:
                self._shipping.flows.put_together(time.time_ns())
                self.flush(drain)
            return
        interval_ns = _open_interval_ns()
        if any(lane.ring.used_share > FULL_SHARE for lane in drain.lanes):
            self.flush(drain)
        elif interval_ns != self._flushed_ns:
            self._flushed_ns = interval_ns
            self.flush(drain, interval_ns)
        elif self._shipping.kept.is_empty:
            self._kept_since_s = None
        elif self._kept_since_s is None:
            self._kept_since_s = now_s
        elif now_s - self._kept_since_s >= KEPT_S:
            self._write(drain, (), None)

    def flush(self, drain: RecordDrain, before_ns: int | None = None) -> None:
        """Write the flows of intervals that ended by an instant, or all of them, and the records that are kept."""
        self._write(drain, self._shipping.flows.flows(before_ns), before_ns, has_flows=True)

    def _write(
        self, drain: RecordDrain, flows: Sequence[Flow], before_ns: int | None, *, has_flows: bool = False
    ) -> None:
        shipping, journal = self._shipping, self._journal
        written = list(self._batches(flows))
        if not written and has_flows and not len(self._spool):
            # Nothing has happened, and the hub is to know that the sidecar lives.
            written = [self._batch(journal.sequence + 1, [], [], flows=(), has_denies=False)]
        if not written:
            return
        unjoined = sum(flow.unjoined for flow in flows)
        pending = sum(flow.count - flow.durations.total - flow.unjoined for flow in flows)
        journal.begin_spooling(
            journal.sequence + 1,
            journal.sequence + len(written),
            SpooledUpTo(
                committed=shipping.up_to(before_ns)
                if has_flows
                else tuple(lane.ring.committed for lane in drain.lanes),
                kept=shipping.kept_up_to,
            ),
            unjoined=journal.unjoined + unjoined,
            pending=journal.pending + pending,
        )
        try:
            self._spool.put(written)
        except SidecarError as error:
            journal.forget_spooling()
            self._refuse(str(error), drain)
            return
        drain.commit(journal.spooled(len(drain.lanes)).committed)
        if has_flows:
            shipping.flows.forget(before_ns)
        self._told(flows, [*shipping.kept.denied, *shipping.kept.allowed])
        shipping.kept.clear()
        self._kept_since_s = None
        journal.forget_spooling()
        if self.refused:
            self.refused = False
            self._held_up_to = ()
            _log.warning("batches are written again")
        self._spool.offer([batch for batch, _ in written])
        self._written()

    def _refuse(self, why: str, drain: RecordDrain) -> None:
        self.refused = True
        self._retry_s = time.monotonic() + RETRY_S
        if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            _log.error("%s; records are counted in memory", why)
        self._hold_in_memory(drain)

    def _hold_in_memory(self, drain: RecordDrain) -> None:
        """Let rings go on: what was counted is in memory only, and the journal says how much that is."""
        counted = self._shipping.up_to(None)
        if counted == self._held_up_to:
            return
        self._held_up_to = counted
        self._journal.set_at_risk(self._shipping.flows.decisions)
        drain.commit(counted)

    def _batches(self, flows: Sequence[Flow]) -> Iterator[tuple[SpooledBatch, bytes]]:
        sequence = self._journal.sequence
        kept = self._shipping.kept
        for has_denies, lines in ((True, kept.denied), (False, kept.allowed)):
            of_kind = [flow for flow in flows if flow.key.reason.allows is not has_denies]
            records: list[bytes] = []
            encoded: list[bytes] = []
            told: list[Flow] = []
            size = 0
            for line in lines:
                if size + len(line) > _BATCH_BYTES or len(records) == MAX_RECORDS:
                    sequence += 1
                    yield self._batch(sequence, records, [], flows=(), has_denies=has_denies)
                    records, size = [], 0
                records.append(line)
                size += len(line)
            for flow in of_kind:
                text = written_json(flow_json(flow))
                if size + len(text) > _BATCH_BYTES or len(encoded) == MAX_FLOWS:
                    sequence += 1
                    yield self._batch(sequence, records, encoded, flows=told, has_denies=has_denies)
                    records, encoded, told, size = [], [], [], 0
                encoded.append(text)
                told.append(flow)
                size += len(text)
            if records or encoded:
                sequence += 1
                yield self._batch(sequence, records, encoded, flows=told, has_denies=has_denies)

    def _batch(
        self,
        sequence: int,
        records: Sequence[bytes],
        encoded: Sequence[bytes],
        *,
        flows: Sequence[Flow],
        has_denies: bool,
    ) -> tuple[SpooledBatch, bytes]:
        boot = self._journal.boot or ""
        content = gzip.compress(
            written_batch(
                Batch(
                    sidecar=self._service,
                    boot=boot,
                    sequence=sequence,
                    service=self._service,
                    sent_ns=time.time_ns(),
                    status=self._status(),
                ),
                records=records,
                flows=encoded,
            ),
            _GZIP_LEVEL,
            mtime=0,
        )
        decisions = sum(flow.count for flow in flows)
        return (
            SpooledBatch(
                boot=boot, sequence=sequence, decisions=decisions, has_denies=has_denies, size_bytes=len(content)
            ),
            content,
        )


def _open_interval_ns() -> int:
    """Give the beginning of the oldest interval of which something may still be heard in time."""
    return interval_start_ns(max(0, time.time_ns() - int(GRACE_S * NS_PER_S)))


def recovered(rings: Sequence[RingConsumer], journal: RecordJournal, spool: Spool | None) -> None:
    """Take over from a control that was killed: what it has written is committed, what it had in memory is counted.

    Called before anything is read from the rings.
    """
    begun, boot = journal.spooling, journal.boot
    if begun is not None:
        if spool is not None and boot is not None and spool.has_all(boot, *begun):
            for ring, position in zip(rings, journal.spooled(len(rings)).committed, strict=True):
                ring.commit(max(ring.committed, position))
        journal.forget_spooling()
    journal.succeed()
