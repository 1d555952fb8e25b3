"""Quantiles of latency histograms whose buckets are powers of two of a microsecond. Pure."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from authz.hub.columns import FIRST_BUCKET

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantiles_ms(buckets: Sequence[int], shares: Sequence[float]) -> list[float | None]:
    """Give the latencies (ms) that these shares of the calls do not exceed, None where nothing was measured.

    Within a bucket calls are taken to be spread evenly over its logarithm: at most a factor of two from the truth.
    """
    passed = list(accumulate(buckets))
    if not passed or not passed[-1]:
        return [None] * len(shares)
    found: list[float | None] = []
    for share in shares:
        wanted = share * passed[-1]
        number = bisect_left(passed, wanted)
        before = passed[number] - buckets[number]
        exponent = FIRST_BUCKET + number + (wanted - before) / buckets[number]
        found.append(round(float(2.0**exponent) / 1000.0, 3))
    return found
