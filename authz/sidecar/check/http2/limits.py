"""How much a peer may ask for, send and leave undone; each limit with where it comes from.

The peer is Envoy, or whoever can reach its socket. A limit that Envoy can meet in honest work is set above what it does
then; what goes beyond is refused, by stream where that is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: RFC 9113 4.2: what every peer may send without asking; we never allow more
MAX_FRAME_BYTES: Final = 16_384
#: RFC 9113 6.9.1
MAX_WINDOW_BYTES: Final = 2**31 - 1
#: RFC 9113 6.9.2: the windows before any SETTINGS or WINDOW_UPDATE
DEFAULT_WINDOW_BYTES: Final = 65_535

#: gRPC's own default (GRPC_ARG_ABSOLUTE_MAX_METADATA_SIZE); Envoy's check has about 300 bytes
MAX_HEADER_LIST_BYTES: Final = 16 * 1024
#: a field counts 32 bytes more in the list than in its text (RFC 9113 6.5.2), which no sane encoding of it needs
MAX_HEADER_BLOCK_BYTES: Final = MAX_HEADER_LIST_BYTES + 64
#: nghttp2's answer to CVE-2024-28182, the CONTINUATION flood
MAX_CONTINUATIONS: Final = 8
#: a proxy has one or two header blocks; a client whose deadline is in them has one for each call
MAX_KNOWN_BLOCKS: Final = 128
MAX_KNOWN_BLOCK_BYTES: Final = 1024

#: as many as Envoy's circuit breaker lets out by default (max_requests)
MAX_STREAMS: Final = 1024
#: streams that we have reset and whose late frames are dropped
MAX_RESET_STREAMS: Final = 1024
#: numbers that a client skipped, so that their late use is told from that of a closed stream
MAX_GAPS: Final = 32
#: a check of 1.9 KiB, with a body of the request where Envoy is told to send one, goes in one window
STREAM_WINDOW_BYTES: Final = 256 * 1024
#: what may be on its way at once; given back as it is read
CONNECTION_WINDOW_BYTES: Final = 4 * 1024 * 1024
#: of messages that have begun and not ended, on one connection
MAX_HELD_BYTES: Final = 8 * 1024 * 1024
#: of answers for which the peer opens no window
MAX_WAITING_BYTES: Final = 1024 * 1024
#: what is made before the transport is asked whether the peer reads it
MAX_BATCH_BYTES: Final = 256 * 1024

#: grpcio's handshake timeout is longer; on a unix socket the preface and the SETTINGS ACK take well under a millisecond
HANDSHAKE_TIMEOUT_S: Final = 10.0
#: a frame or a header block that has begun
FRAME_TIMEOUT_S: Final = 10.0
#: a request that has begun; an answer that the peer lets wait. Envoy gives a check 0.2 s
STREAM_TIMEOUT_S: Final = 30.0
#: bytes that the peer does not read
WRITE_TIMEOUT_S: Final = 30.0
#: a PING of ours that the peer does not answer
PROBE_PATIENCE_S: Final = 2.0
#: RFC 9112 9.6: a peer has "a short period of time" to read why the connection ends
LINGER_S: Final = 1.0
#: between the first GOAWAY and the last, where the peer does not answer the PING between them
DRAIN_NOTICE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How often something may happen: a burst, so many each second, and so many for each call that is made."""

    burst: int
    per_second: int
    per_call: int


#: CVE-2023-44487 (rapid reset) and CVE-2025-8671 (resets that we are made to send). An Envoy whose checks all run out
#: of its default timeout of 0.2 s resets each stream it may have, five times a second.
RESETS: Final = Allowance(burst=5 * MAX_STREAMS, per_second=5 * MAX_STREAMS, per_call=0)
#: CVE-2019-9512, CVE-2019-9515 and priority churn. Go's client may send a PING for each answer.
CONTROL_FRAMES: Final = Allowance(burst=1000, per_second=200, per_call=2)
#: CVE-2019-9511. A client gives back what it has read, stream and connection: two for each answer and KiB of answers.
WINDOW_UPDATES: Final = Allowance(burst=4000, per_second=1000, per_call=4)
#: CVE-2019-9518: DATA that brings nothing and ends nothing
EMPTY_FRAMES: Final = Allowance(burst=100, per_second=10, per_call=2)


class Budget:
    """What is left of an allowance: a bucket that time and calls fill again."""

    __slots__ = ("_allowance", "_calls", "_left", "_now_s")

    def __init__(self, allowance: Allowance, now_s: float) -> None:
        """Begin full."""
        self._allowance = allowance
        self._left = float(allowance.burst)
        self._now_s = now_s
        self._calls = 0

    def spend(self, now_s: float, calls: int) -> bool:
        """Whether it may happen once more; `calls` is how many there have been on the connection."""
        allowance = self._allowance
        earned = (now_s - self._now_s) * allowance.per_second + (calls - self._calls) * allowance.per_call
        self._now_s, self._calls = now_s, calls
        self._left = min(float(allowance.burst), self._left + earned) - 1
        return self._left >= 0
