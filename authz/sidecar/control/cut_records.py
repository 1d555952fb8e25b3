"""From calls that were heard to be cut to lines of the decision log: one for each, in the order in which they ended.

# INVARIANT (bounded): each of them was allowed by a decision, which has a record of its own, so there are never more of
these than of those. A burst (a window that many streams end with) is written down in turns.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from authz.records.cut_call import cut_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

    from authz.records.cut_call import CutCall
    from authz.sidecar.control.access_log_receiver import Heard

_log = logging.getLogger(__name__)

#: so many are written at once: half of what may wait for the disk (authz.sidecar.control.record_drain)
MOST_A_LOOK: Final = 500


class CutRecords:
    """Takes what the receiver has heard; `put` has a line written. For control's main loop."""

    def __init__(
        self, *, heard: Heard[HTTPAccessLogEntry, CutCall], sidecar: str, put: Callable[[bytes], None]
    ) -> None:
        self._heard = heard
        self._sidecar = sidecar
        self._put = put
        self._unread = 0
        #: of the set in force, "" where there is none
        self.revision = ""

    def look(self) -> None:
        """Write down what has come since the last look."""
        heard, unread = self._heard.take(MOST_A_LOOK)
        for call in heard:
            self._put(cut_line(call, sidecar=self._sidecar, revision=self.revision))
        if unread:
            self._unread += unread
            _log.error("calls were cut and are not recorded to be, too many at once: %d so far", self._unread)
