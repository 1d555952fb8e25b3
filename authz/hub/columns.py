"""What a store counts of a flow, column by column, and how a flow's own counts become them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from authz.hub.errors import ArrivalError
from authz.records.latency_histogram import MAX_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Collection

#: of calls, bytes or microseconds in one flow: 7 TB a second; sums of a hundred thousand such flows fit into 63 bits
MAX_NUMBER: Final = 2**46
#: Buckets that are kept: from below 128 microseconds to above 9 minutes; what lies outside is in the outermost.
FIRST_BUCKET, LAST_BUCKET = 6, 29

#: the columns of a flow in a store, behind `time` and `series`
COUNTS: Final = ("count", "calls", "cut", "unreached", "unjoined", "received", "sent", "check_us")
STATUSES: Final = ("s0", "s2", "s3", "s4", "s5")
DURATIONS: Final = tuple(f"d{bucket}" for bucket in range(FIRST_BUCKET, LAST_BUCKET + 1))
COLUMNS: Final = (*COUNTS, *STATUSES, *DURATIONS)
#: The rows that an edge counts. A call that runs on into another interval moves bytes there, ends there, is cut there:
#: such a row has no decision. What the other sidecar tells of has decisions here, and no calls.
COUNTED: Final = f"""(calls > 0 OR (count = 0
    AND cut + received + sent + {" + ".join((*STATUSES, *DURATIONS))} > 0))"""
#: the same where the latency histogram is one packed text
COUNTED_PACKED: Final = f"""(calls > 0 OR (count = 0
    AND (durations <> '' OR cut + received + sent + {" + ".join(STATUSES)} > 0)))"""
NO_DURATIONS: Final = (0,) * len(DURATIONS)
_WHOLE: Final = {int}
#: A call ends with a 1xx only where it was upgraded (101, RFC 9110 15.2.2): that is an answer, and no failure.
_CLASSES: Final = {"1": 1, "2": 1, "3": 2, "4": 3, "5": 4}


#: time (seconds since the epoch), series, and COLUMNS
Row = tuple[int, ...]


def require_counts(numbers: Collection[Any]) -> None:
    """Refuse what is no whole number from 0 on; there has to be one at least."""
    if set(map(type, numbers)) != _WHOLE or min(numbers) < 0 or max(numbers) > MAX_NUMBER:
        raise ArrivalError(f"a number of a flow is none from 0 to {MAX_NUMBER}")


def status_counts(statuses: Any) -> tuple[int, ...]:
    """Give the counts by class of status; raises ArrivalError."""
    if type(statuses) is not dict:
        raise ArrivalError("`statuses` is an object")
    counts = [0] * len(STATUSES)
    if statuses:
        require_counts(statuses.values())
    for status, count in statuses.items():
        counts[_CLASSES.get(status[:1], 0)] += count
    return tuple(counts)


def duration_counts(buckets: Any) -> tuple[int, ...]:
    """Give the counts by bucket, of those that are kept; raises ArrivalError."""
    if type(buckets) is not list or len(buckets) > MAX_BUCKETS:
        raise ArrivalError(f"a latency histogram is a list of at most {MAX_BUCKETS}")
    if not buckets:
        return NO_DURATIONS
    require_counts(buckets)
    first, between = sum(buckets[: FIRST_BUCKET + 1]), buckets[FIRST_BUCKET + 1 : LAST_BUCKET]
    return (first, *between, *NO_DURATIONS[2 + len(between) :], sum(buckets[LAST_BUCKET:]))
