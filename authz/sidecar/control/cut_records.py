"""From calls that were heard to be cut to lines of the decision log: one for each, in the order in which they ended.

A held call may break because the other sidecar of the call cuts it first. The hold here asks about the calls that ended
a moment ago, too, and says which have lost their grant; control waits for that word as long as it can come, and a
call of which none comes has just broken: nothing is written then.

# INVARIANT (bounded): each of them was allowed by a decision, which has a record of its own, so there are never more of
these than of those. A burst (a window that many streams end with) is written down in turns.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from authz.decision import Reason
from authz.records.cut_call import cut_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

    from authz.records.cut_call import CutCall
    from authz.records.flow import FlowKey
    from authz.sidecar.control.access_log_receiver import Heard
    from authz.sidecar.control.cut_message import End

_log = logging.getLogger(__name__)

#: so many are written at once: half of what may wait for the disk (authz.sidecar.control.record_drain)
MOST_A_LOOK: Final = 500
#: a word of the hold comes within so long of the end that it is about, however late its sidecar learns of an edit
WORD_PATIENCE_S: Final = 5.0
#: of each kind; beyond it the oldest are let go
MOST_WAITING: Final = 10_000
#: as long as a decision's id is, in hexadecimal
_ID_BYTES: Final = 32

Waiting = TypeVar("Waiting")


class CutRecords:
    """Takes what the receiver has heard; for control's main loop.

    `put` has a line written, `cut` is told of the decision and when its call ended; it gives the decision's flow.
    """

    def __init__(
        self,
        *,
        heard: Heard[HTTPAccessLogEntry, End],
        sidecar: str,
        put: Callable[[bytes], None],
        clock: Callable[[], float] = time.monotonic,
        cut: Callable[[str, int], FlowKey | None] = lambda *_: None,
    ) -> None:
        self._clock = clock
        self._heard = heard
        self._sidecar = sidecar
        self._put = put
        self._cut = cut
        self._unread = 0
        #: calls that broke, and reasons for which calls are refused by now, by decision, each with its time
        self._broken: dict[str, tuple[float, CutCall]] = {}
        self._refused: dict[str, tuple[float, Reason]] = {}
        #: of the set in force, "" where there is none
        self.revision = ""

    def look(self) -> None:
        """Write down what has come since the last look."""
        heard, unread = self._heard.take(MOST_A_LOOK)
        now_s = self._clock()
        for call, is_cut in heard:
            if is_cut:
                self._write(call)
            else:
                self._add(self._broken, call.decision_id, (now_s, call))
                self._match(call.decision_id)
        for waiting in (self._broken, self._refused):
            while waiting and now_s - next(iter(waiting.values()))[0] > WORD_PATIENCE_S:
                del waiting[next(iter(waiting))]
        if unread:
            self._unread += unread
            _log.error("calls were cut and are not recorded to be, too many at once: %d so far", self._unread)

    def lost_grant(self, content: bytes) -> None:
        """Take in that the call of a decision is refused from now on: its id, and the reason."""
        decision_id, reason = content[:_ID_BYTES].decode("latin-1"), content[_ID_BYTES:].decode("latin-1")
        try:
            refused = Reason(reason)
        except ValueError:
            _log.error("the hold says that a call is refused for the reason `%s`, which is none", reason[:32])
            return
        self._add(self._refused, decision_id, (self._clock(), refused))
        self._match(decision_id)

    def _match(self, decision_id: str) -> None:
        broken, refused = self._broken.get(decision_id), self._refused.get(decision_id)
        if broken is not None and refused is not None:
            del self._broken[decision_id]
            self._write(replace(broken[1], reason=refused[1]))

    def _write(self, call: CutCall) -> None:
        key = self._cut(call.decision_id, call.ended_ns)
        if key is not None:
            caller = key.caller
            call = replace(call, caller_service=caller.service, caller_third_party=caller.third_party, route=key.route)
        self._put(cut_line(call, sidecar=self._sidecar, revision=self.revision))

    @staticmethod
    def _add(waiting: dict[str, tuple[float, Waiting]], decision_id: str, value: tuple[float, Waiting]) -> None:
        if len(waiting) >= MOST_WAITING:
            del waiting[next(iter(waiting))]
        waiting[decision_id] = value
