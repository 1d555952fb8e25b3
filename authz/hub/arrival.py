"""A batch as it arrives from a sidecar: bytes of JSON to rows that a store can add.

It reads what :mod:`authz.records.batch` writes, several times as fast: flows come by the ten thousand, and what is the
same in flows of one kind is checked once, when the kind is new, and known again by its values. Numbers are checked in
every flow.

# INVARIANT (total): any bytes give an arrival or an ArrivalError; nothing else is raised.
# INVARIANT (once): a call is counted by exactly one flow of an edge: at the callee's sidecar; at the caller's where it
# was refused there, went to a ThirdParty or to a host that is nobody's, or never arrived.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.hub.errors import ArrivalError
from authz.hub.kept_record import KeptRecord, kept_record
from authz.hub.series import Series, series_of
from authz.instant import NS_PER_MS, NS_PER_S
from authz.records.batch import MAX_BATCH_BYTES, MAX_FLOWS, MAX_RECORDS, SidecarStatus, batch_from_json
from authz.records.flow import INTERVAL_S, flow_from_json
from authz.records.json_fields import instant_ns_of, list_of
from authz.records.latency_histogram import MAX_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Collection

#: of calls, bytes or microseconds in one flow: 7 TB a second; sums of a hundred thousand such flows fit into 63 bits
MAX_NUMBER: Final = 2**46
#: Buckets that are kept: from below 128 microseconds to above 9 minutes; what lies outside is in the outermost.
FIRST_BUCKET, LAST_BUCKET = 6, 29
#: kinds of flows that are known again: 200 sidecars with 500 each
MOST_KINDS: Final = 100_000
_MOST_TIMES: Final = 4096
_FLOW_FIELDS: Final = 24
#: The largest instant that is kept: the year 9999 in seconds has 12 digits, and nobody's clock is there.
_LAST_S: Final = 253_402_300_799

#: the columns of a flow in a store, behind `time` and `series`
COUNTS: Final = ("count", "calls", "cut", "unreached", "unjoined", "received", "sent", "check_us")
STATUSES: Final = ("s0", "s2", "s3", "s4", "s5")
DURATIONS: Final = tuple(f"d{bucket}" for bucket in range(FIRST_BUCKET, LAST_BUCKET + 1))
COLUMNS: Final = (*COUNTS, *STATUSES, *DURATIONS)
_NO_DURATIONS: Final = (0,) * len(DURATIONS)
_NOTHING: Final = (0,) * len(STATUSES) + _NO_DURATIONS
_WHOLE: Final = {int}
#: A call ends with a 1xx only where it was upgraded (101, RFC 9110 15.2.2): that is an answer, and no failure.
_CLASSES: Final = {"1": 1, "2": 1, "3": 2, "4": 3, "5": 4}

#: time (seconds since the epoch), series, and COLUMNS
Row = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A batch: `(sidecar, boot, sequence)` is its id, `series` describes what `rows` count.

    `revisions` are those by which its flows and records were decided.
    """

    sidecar: str
    boot: str
    sequence: int
    service: str
    sent_ms: int
    series: dict[int, Series]
    rows: list[Row]
    records: list[KeptRecord]
    revisions: frozenset[str]
    status: SidecarStatus


class ArrivalReader:
    """Reads batches; for one thread, and bounded."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[Any, ...], Series] = OrderedDict()
        self._times: dict[str, int] = {}

    def read(self, content: bytes) -> Arrival:
        """Read a batch of JSON; raises ArrivalError."""
        if len(content) > MAX_BATCH_BYTES:
            raise ArrivalError(f"a batch has at most {MAX_BATCH_BYTES} bytes")
        try:
            batch = json.loads(content, parse_constant=_no_number)
            return self._arrival(batch)
        except ArrivalError:
            raise
        except (ValueError, RecursionError) as error:
            raise ArrivalError("it is no JSON") from error
        except (TypeError, KeyError, AttributeError) as error:
            raise ArrivalError("a flow lacks a field, or has one of another kind") from error
        except AuthzError as error:
            raise ArrivalError(str(error)) from error

    def _arrival(self, batch: Any) -> Arrival:
        if not isinstance(batch, dict):
            raise ArrivalError("a batch is an object")
        flows = list_of(batch.get("flows"), MAX_FLOWS, of="batch.flows")
        records = list_of(batch.get("records"), MAX_RECORDS, of="batch.records")
        head = batch_from_json(json.dumps({**batch, "flows": [], "records": []}).encode())
        if not head.sidecar or not head.service:
            raise ArrivalError("`sidecar` and `service` are not empty")
        series: dict[int, Series] = {}
        revisions: set[str] = set()
        rows = [self._row(flow, head.sidecar, series, revisions) for flow in flows]
        kept = [kept_record(record, head.sidecar) for record in records]
        revisions.update(each.revision for each in kept)
        return Arrival(
            sidecar=head.sidecar,
            boot=head.boot,
            sequence=head.sequence,
            service=head.service,
            sent_ms=head.sent_ns // NS_PER_MS,
            series=series,
            rows=rows,
            records=kept,
            revisions=frozenset(revisions),
            status=head.status,
        )

    def _row(self, flow: dict[str, Any], sidecar: str, series: dict[int, Series], revisions: set[str]) -> Row:
        caller, destination, shadow, tls = flow["caller"], flow["destination"], flow["shadow"], flow["tls"]
        kind = (
            flow["sidecar"],
            flow["direction"],
            caller["identity"],
            caller["service"],
            caller["third_party"],
            caller["presented_by"],
            caller["address"],
            destination["service"],
            destination["third_party"],
            destination["host"],
            flow["method"],
            flow["route"],
            flow["protocol"],
            flow["decision"],
            flow["reason"],
            flow["policy"],
            None if shadow is None else (shadow["decision"], shadow["reason"], shadow["policy"]),
            flow["revision"],
            tls["version"],
            tls["cipher"],
            tls["peer_serial"],
        )
        known = self._kinds.get(kind)
        if known is None:
            known = self._new_kind(kind, flow)
        if known.sidecar != sidecar:
            raise ArrivalError("a batch has flows of its own sidecar only")
        if len(flow) != _FLOW_FIELDS:
            raise ArrivalError("a flow has a field that is not known")
        series[known.id] = known
        revisions.add(flow["revision"])
        numbers = count, cut, unreached, unjoined, received, sent, check_us = (
            flow["count"],
            flow["cut"],
            flow["unreached"],
            flow["unjoined"],
            flow["bytes_received"],
            flow["bytes_sent"],
            flow["check_us_sum"],
        )
        _require_counts(numbers)
        start = self._times.get(flow["time"]) or self._time(flow["time"])
        statuses, durations = _statuses(flow["statuses"]), _durations(flow["duration_us_log2"])
        if not known.counted:
            # The callee's sidecar tells of the others of these calls.
            return (start, known.id, count, unreached, 0, unreached, unjoined, 0, 0, check_us, *_NOTHING)
        return (
            start,
            known.id,
            count,
            count,
            cut,
            unreached,
            unjoined,
            received,
            sent,
            check_us,
            *statuses,
            *durations,
        )

    def _new_kind(self, kind: tuple[Any, ...], flow: dict[str, Any]) -> Series:
        found = series_of(flow_from_json(flow).key)
        self._kinds[kind] = found
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return found

    def _time(self, text: Any) -> int:
        seconds = instant_ns_of(text, of="flow.time") // NS_PER_S
        seconds -= seconds % INTERVAL_S
        if not 0 < seconds <= _LAST_S:
            raise ArrivalError("a flow's `time` is before 1970")
        if len(self._times) >= _MOST_TIMES:
            self._times.clear()
        self._times[text] = seconds
        return seconds


def _no_number(_: str) -> None:
    raise ArrivalError("NaN and Infinity are no JSON")


def _require_counts(numbers: Collection[Any]) -> None:
    """Refuse what is no whole number from 0 on; there has to be one at least."""
    if set(map(type, numbers)) != _WHOLE or min(numbers) < 0 or max(numbers) > MAX_NUMBER:
        raise ArrivalError(f"a number of a flow is none from 0 to {MAX_NUMBER}")


def _statuses(statuses: Any) -> tuple[int, ...]:
    if type(statuses) is not dict:
        raise ArrivalError("`statuses` is an object")
    counts = [0] * len(STATUSES)
    if statuses:
        _require_counts(statuses.values())
    for status, count in statuses.items():
        counts[_CLASSES.get(status[:1], 0)] += count
    return tuple(counts)


def _durations(buckets: Any) -> tuple[int, ...]:
    if type(buckets) is not list or len(buckets) > MAX_BUCKETS:
        raise ArrivalError(f"a latency histogram is a list of at most {MAX_BUCKETS}")
    if not buckets:
        return _NO_DURATIONS
    _require_counts(buckets)
    first, between = sum(buckets[: FIRST_BUCKET + 1]), buckets[FIRST_BUCKET + 1 : LAST_BUCKET]
    return (first, *between, *_NO_DURATIONS[2 + len(between) :], sum(buckets[LAST_BUCKET:]))
