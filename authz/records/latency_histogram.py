"""How long calls took, as counts by powers of two: small, and added up without losing anything.

Bucket i counts durations of [2^i, 2^(i+1)) microseconds, bucket 0 those below 1 as well, the last one whatever is
longer. A quantile is therefore known to a factor of two; it is told as a place inside its bucket, by how many of the
bucket lie before it.

# INVARIANT (one form): no histogram ends in a zero, so that equal counts are equal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from authz.records.errors import RecordError

#: 2^40 microseconds are 12 days: longer than a window's deadline lets one stream run without being asked for again
MAX_BUCKETS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyHistogram:
    """Counts by bucket; raises RecordError for more than there are, a count below 0 and a last one of 0."""

    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        counts = self.counts
        if len(counts) > MAX_BUCKETS:
            raise RecordError(f"a latency histogram has at most {MAX_BUCKETS} buckets")
        if counts and (min(counts) < 0 or not counts[-1]):
            raise RecordError("a latency histogram counts something in its last bucket, and nothing below zero")

    def __add__(self, other: LatencyHistogram) -> LatencyHistogram:
        return LatencyHistogram(
            counts=tuple(mine + theirs for mine, theirs in zip_longest(self.counts, other.counts, fillvalue=0))
        )

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def quantile_us(self, share: float) -> float | None:
        """Give the duration, in microseconds, that this share (0 to 1) is not above; None where nothing was counted."""
        total = self.total
        if not total:
            return None
        wanted = max(0.0, min(share, 1.0)) * total
        below = 0
        for bucket, count in enumerate(self.counts):
            if count and below + count >= wanted:
                low = 0 if not bucket else 1 << bucket
                return low + ((1 << (bucket + 1)) - low) * max(0.0, wanted - below) / count
            below += count
        return float(1 << len(self.counts))


#: of nothing
NONE: Final = LatencyHistogram()


def bucket_of(duration_us: int) -> int:
    """Give the bucket that counts a duration; one below zero, by a clock that was set back, counts as none."""
    return min(max(duration_us, 1).bit_length(), MAX_BUCKETS) - 1


def histogram_of(counts: list[int]) -> LatencyHistogram:
    """Give the histogram of counts by bucket, zeros at the end or not."""
    end = len(counts)
    while end and not counts[end - 1]:
        end -= 1
    return LatencyHistogram(counts=tuple(counts[:end]))
