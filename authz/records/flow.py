"""Many calls that have everything in common but themselves, within one interval: how many, how much and how long.

A flow says what happened in its interval: `count` decisions were made; `cut` calls were cut; of calls that ended, the
statuses and durations; the bytes of bodies that went over the wire, of calls that still run too. A call that begins in
one interval and ends in another is therefore counted in the first, and its duration in the second.

The interval's beginning and the key say which flow it is. The same flow may come in pieces (something was heard late):
`merged` adds them up, in any order, to the same flow.

# INVARIANT (counted once): the counts of all flows are the number of decisions; a call that was cut has one decision,
and its cut is counted in `cut`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from authz.instant import NS_PER_S, rfc3339_from_ns
from authz.records.call_ends import (
    MAX_METHOD_CHARS,
    MAX_NAME_CHARS,
    MAX_PROTOCOL_CHARS,
    MAX_REVISION_CHARS,
    MAX_ROUTE_CHARS,
    Caller,
    Destination,
    Tls,
    caller_from_json,
    caller_json,
    destination_from_json,
    destination_json,
    direction_from_json,
    reason_from_json,
    shadow_from_json,
    shadow_json,
    tls_from_json,
    tls_json,
)
from authz.records.errors import RecordError
from authz.records.json_fields import count_of, fields_of, instant_ns_of, list_of, text_of, text_or_none
from authz.records.latency_histogram import MAX_BUCKETS, NONE, LatencyHistogram

if TYPE_CHECKING:
    from authz.decision import Reason, Shadow
    from authz.request import Direction

INTERVAL_S: Final = 10
#: after rolling up in a store, a day at most
MAX_INTERVAL_S: Final = 86_400
#: RFC 9110 15: a status has three digits
_STATUSES: Final = {str(status): status for status in range(100, 1000)}
_FIELDS: Final = frozenset(
    {
        "time", "interval_s", "sidecar", "direction", "caller", "destination", "method", "route", "protocol",
        "decision", "reason", "policy", "shadow", "revision", "tls", "count", "cut", "unreached", "unjoined",
        "statuses", "bytes_received", "bytes_sent", "duration_us_log2", "check_us_sum",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowKey:
    """What the calls of a flow have in common; `tls.peer_serial` is None, and `caller.address` has no port.

    Where a sidecar sees more kinds of calls than it keeps apart, flows stand for several: without a route, a method, a
    host and an address first, then without a caller too.
    """

    sidecar: str
    direction: Direction
    caller: Caller
    destination: Destination
    method: str
    route: str | None
    protocol: str
    reason: Reason
    policy: str | None
    shadow: Shadow | None
    revision: str
    tls: Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What happened to the calls of a key in the interval that begins at `time_ns` (since the epoch).

    `unreached` were allowed outbound and never arrived; of `unjoined` decisions nothing was heard but the decision.
    `statuses` is in the order of the statuses, each once. `bytes_received` came from the caller, `bytes_sent` went to
    it. `check_us_sum` is what deciding took, of all of them.
    """

    time_ns: int
    interval_s: int = INTERVAL_S
    key: FlowKey
    count: int = 0
    cut: int = 0
    unreached: int = 0
    unjoined: int = 0
    statuses: tuple[tuple[int, int], ...] = ()
    bytes_received: int = 0
    bytes_sent: int = 0
    durations: LatencyHistogram = NONE
    check_us_sum: int = 0


def interval_start_ns(time_ns: int, interval_s: int = INTERVAL_S) -> int:
    """Give the beginning of the interval that an instant is in."""
    return time_ns - time_ns % (interval_s * NS_PER_S)


def merged(one: Flow, other: Flow) -> Flow:
    """Add up two pieces of one flow; raises RecordError where they are of two."""
    if (one.time_ns, one.interval_s, one.key) != (other.time_ns, other.interval_s, other.key):
        raise RecordError("two flows of different keys or intervals are not one flow")
    statuses = Counter(dict(one.statuses))
    statuses.update(dict(other.statuses))
    return replace(
        one,
        count=one.count + other.count,
        cut=one.cut + other.cut,
        unreached=one.unreached + other.unreached,
        unjoined=one.unjoined + other.unjoined,
        statuses=tuple(sorted(statuses.items())),
        bytes_received=one.bytes_received + other.bytes_received,
        bytes_sent=one.bytes_sent + other.bytes_sent,
        durations=one.durations + other.durations,
        check_us_sum=one.check_us_sum + other.check_us_sum,
    )


def flow_json(flow: Flow) -> dict[str, object]:
    """Write a flow, in the contract's names."""
    key = flow.key
    return {
        "time": rfc3339_from_ns(flow.time_ns),
        "interval_s": flow.interval_s,
        "sidecar": key.sidecar,
        "direction": key.direction.value,
        "caller": caller_json(key.caller),
        "destination": destination_json(key.destination),
        "method": key.method,
        "route": key.route,
        "protocol": key.protocol,
        "decision": key.reason.verdict.value,
        "reason": key.reason.value,
        "policy": key.policy,
        "shadow": shadow_json(key.shadow),
        "revision": key.revision,
        "tls": tls_json(key.tls),
        "count": flow.count,
        "cut": flow.cut,
        "unreached": flow.unreached,
        "unjoined": flow.unjoined,
        "statuses": {str(status): count for status, count in flow.statuses},
        "bytes_received": flow.bytes_received,
        "bytes_sent": flow.bytes_sent,
        "duration_us_log2": list(flow.durations.counts),
        "check_us_sum": flow.check_us_sum,
    }


def flow_from_json(value: Any) -> Flow:
    """Read a flow; raises RecordError."""
    fields = fields_of(value, _FIELDS, of="flow")
    time_ns = instant_ns_of(fields["time"], of="flow.time")
    interval_s = count_of(fields["interval_s"], MAX_INTERVAL_S, of="flow.interval_s")
    if not interval_s or time_ns % (interval_s * NS_PER_S):
        raise RecordError("flow: `time` must be the beginning of an interval of `interval_s` seconds")
    return Flow(
        time_ns=time_ns,
        interval_s=interval_s,
        key=FlowKey(
            sidecar=text_of(fields["sidecar"], MAX_NAME_CHARS, of="flow.sidecar"),
            direction=direction_from_json(fields["direction"], of="flow"),
            caller=caller_from_json(fields["caller"]),
            destination=destination_from_json(fields["destination"]),
            method=text_of(fields["method"], MAX_METHOD_CHARS, of="flow.method"),
            route=text_or_none(fields["route"], MAX_ROUTE_CHARS, of="flow.route"),
            protocol=text_of(fields["protocol"], MAX_PROTOCOL_CHARS, of="flow.protocol"),
            reason=reason_from_json(fields["decision"], fields["reason"], of="flow"),
            policy=text_or_none(fields["policy"], MAX_NAME_CHARS, of="flow.policy"),
            shadow=shadow_from_json(fields["shadow"]),
            revision=text_of(fields["revision"], MAX_REVISION_CHARS, of="flow.revision"),
            tls=tls_from_json(fields["tls"]),
        ),
        count=count_of(fields["count"], of="flow.count"),
        cut=count_of(fields["cut"], of="flow.cut"),
        unreached=count_of(fields["unreached"], of="flow.unreached"),
        unjoined=count_of(fields["unjoined"], of="flow.unjoined"),
        statuses=_statuses(fields["statuses"]),
        bytes_received=count_of(fields["bytes_received"], of="flow.bytes_received"),
        bytes_sent=count_of(fields["bytes_sent"], of="flow.bytes_sent"),
        durations=_durations(fields["duration_us_log2"]),
        check_us_sum=count_of(fields["check_us_sum"], of="flow.check_us_sum"),
    )


def _statuses(value: Any) -> tuple[tuple[int, int], ...]:
    if type(value) is not dict or not value.keys() <= _STATUSES.keys():
        raise RecordError("flow.statuses: must be an object of counts by status, such as 200")
    return tuple(sorted((_STATUSES[status], count_of(count, of="flow.statuses")) for status, count in value.items()))


def _durations(value: Any) -> LatencyHistogram:
    counts = list_of(value, MAX_BUCKETS, of="flow.duration_us_log2")
    return LatencyHistogram(counts=tuple(count_of(count, of="flow.duration_us_log2") for count in counts))
