"""What control makes of records: the decision log, what is shipped to the hub, and the joins with calls' ends.

Put together here, and looked at by control's main loop.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from authz.records.batch import SidecarStatus
from authz.records.flow_sums import FlowSums
from authz.records.join import Joins
from authz.records.keeping import Keeping
from authz.records.record_lines import RecordLines
from authz.sidecar.control.batch_writing import BatchWriting, Telling, recovered
from authz.sidecar.control.call_recording import CallRecording, Shipping
from authz.sidecar.control.decision_log import DecisionLog
from authz.sidecar.control.record_drain import Held, RecordDrain
from authz.sidecar.control.record_journal import RecordJournal
from authz.sidecar.control.spool import Spool
from authz.sidecar.record_ring import RingConsumer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz.records.flow import Flow
    from authz.sidecar.control.batch_writing import Told
    from authz.sidecar.control.ended_calls import HeardCalls
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

#: what is said of what was counted
_WORDS = (
    "records found no room, and are lost where they were answered: %d so far",
    "a ring of records was damaged: %d times so far",
    "decisions that could not be spooled went with a control that was killed: %d so far",
    "decisions went with batches that the spool had no room for: %d so far",
)


class ControlRecords:
    """For control's main loop; raises SidecarError where the log or the spool cannot be had.

    `heard` is what the access log tells of calls, None where there is none. `status` gives the revision, whether the
    sidecar is ready, and until when its SVID is valid. `written` is told when there is something to be sent,
    `told` of what is counted and kept, `lost_grant` of calls that have lost their grant.
    """

    def __init__(
        self,
        settings: SidecarSettings,
        shared: SharedMemory,
        *,
        heard: HeardCalls | None,
        status: Callable[[], tuple[str | None, bool, int | None]],
        written: Callable[[], None],
        told: Told | None = None,
        lost_grant: Callable[[bytes], None] | None = None,
    ) -> None:
        self._settings = settings
        self._heard = heard
        self._status_now = status
        self.rings = [RingConsumer(memory) for memory in shared.rings]
        self.journal = RecordJournal(shared.journal)
        self.spool = self._spool()
        recovered(self.rings, self.journal, self.spool)
        self.shipping = self._shipping(told)
        self.recording = CallRecording(
            lines=RecordLines(settings.service),
            joins=None if heard is None else Joins[Held](),
            shipping=self.shipping,
        )
        self._decision_log = None
        if settings.decision_log is not None:
            self._decision_log = DecisionLog(
                settings.decision_log,
                max_bytes=settings.decision_log_max_bytes,
                kept_files=settings.decision_log_files,
            )
        self.drain = RecordDrain(
            rings=self.rings,
            log=self._decision_log,
            journal=self.journal,
            recording=self.recording,
            commits=self.spool is None,
            **({} if lost_grant is None else {"lost_grant": lost_grant}),
        )
        self.batches: BatchWriting | None = None
        if self.spool is not None and self.shipping is not None:
            self.batches = BatchWriting(
                service=settings.service,
                shipping=self.shipping,
                spool=self.spool,
                journal=self.journal,
                status=self.status,
                written=written,
                told=told or _nobody,
            )
        self._telling: Telling | None = None
        if self.spool is None and self.shipping is not None and told is not None:
            self._telling = Telling(self.shipping, told)
        self._counted = (0, 0, 0, 0)

    def _spool(self) -> Spool | None:
        settings = self._settings
        if settings.hub is None or settings.state is None:
            return None
        return Spool(settings.state, journal=self.journal, max_bytes=settings.spool_max_bytes)

    def _shipping(self, told: Told | None) -> Shipping | None:
        if self.spool is None and told is None:
            return None
        return Shipping(
            flows=FlowSums(self._settings.service),
            keeping=Keeping(time.monotonic_ns()),
            done=[ring.committed for ring in self.rings],
            kept_up_to=[self.journal.kept(ring) for ring in range(len(self.rings))],
        )

    # --- what is known

    @property
    def lost(self) -> int:
        """Decisions that found no room in a ring, or went with the memory of a control that was killed."""
        return self.journal.lost + sum(ring.lost for ring in self.rings)

    @property
    def corrupt(self) -> int:
        """How often a ring was damaged."""
        return sum(ring.corrupt for ring in self.rings)

    @property
    def unjoined(self) -> int:
        """Decisions of whose calls nothing else was heard."""
        if self.spool is not None:
            return self.journal.unjoined
        return 0 if self.recording.joins is None else self.recording.joins.unjoined

    def status(self) -> SidecarStatus:
        """Say how the sidecar stands, for a batch."""
        revision, ready, svid_expires_ns = self._status_now()
        return SidecarStatus(
            revision=revision,
            svid_expires_ns=svid_expires_ns,
            spooled=1 + (0 if self.spool is None else len(self.spool)),
            lost=self.lost,
            unjoined=self.unjoined,
            dropped=self.journal.dropped,
            failed_handshakes=self.journal.failed_handshakes,
            ready=ready,
        )

    # --- what is done

    def look(self) -> bool:
        """Do what there is to do; gives whether there was anything."""
        if self._heard is not None:
            self.recording.heard(self._heard.take())
            self.recording.look()
        moved = self.drain.drain(time.monotonic_ns())
        if self.batches is not None:
            self.batches.look(self.drain)
        elif self._telling is not None:
            self._telling.look()
        return moved

    def put(self, line: bytes) -> None:
        """Have a line of control's own written, and shipped: a failed handshake, a call that was cut."""
        if self._decision_log is not None:
            self.drain.put(line)
        if self.shipping is not None:
            self.shipping.kept.add(line, allows=False)

    def follow(self) -> None:
        """Open the decision log anew where it was moved away."""
        if self._decision_log is not None:
            self._decision_log.follow()

    def reopen(self) -> None:
        """Open the decision log anew."""
        if self._decision_log is not None:
            self._decision_log.reopen()

    def say_counted(self) -> None:
        """Say what was lost since this was said last."""
        roomless = self.drain.own_lost + sum(ring.lost for ring in self.rings)
        now = roomless, self.corrupt, self.journal.lost, self.journal.dropped
        before, self._counted = self._counted, now
        for count, told, words in zip(now, before, _WORDS, strict=True):
            if count > told:
                _log.error(words, count)

    def end(self) -> None:
        """Write the last of everything."""
        while self.drain.drain(time.monotonic_ns(), at_once=True):
            pass
        if self.batches is not None:
            self.batches.flush(self.drain)
        elif self._telling is not None:
            self._telling.flush()
        if not self.drain.is_empty:
            _log.error("records that could not be written are lost")
        self.say_counted()
        if self._decision_log is not None:
            with contextlib.suppress(OSError):
                self._decision_log.close()


def _nobody(_flows: Sequence[Flow], _lines: Sequence[bytes]) -> None:
    """Stand for nobody who wants to be told."""
