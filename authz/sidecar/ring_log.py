"""What a process logs whose work waits for nobody: into its ring, for control, which may wait for who reads it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from authz.sidecar.check.ring_entry import LOG_LINE

if TYPE_CHECKING:
    from authz.sidecar.record_ring import RingProducer


class RingLog(logging.Handler):
    """Puts lines into a ring; one that finds no room is lost."""

    def __init__(self, ring: RingProducer) -> None:
        super().__init__()
        self._ring = ring

    def emit(self, record: logging.LogRecord) -> None:
        """Put one line into the ring."""
        self._ring.put(LOG_LINE + bytes([record.levelno]) + record.getMessage().encode("utf-8", "replace"))
