"""One decision as it is kept in full, and one handshake that failed: the record of the contract as a value.

The decision log's lines are written elsewhere, for speed (:mod:`authz.records.record_lines`), and hold the same: what
reads one reads the other. A record of a handshake has `handshake` besides, and no protocol; it is no decision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.instant import rfc3339_from_ns
from authz.records.call_ends import (
    MAX_IDENTITY_CHARS,
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
from authz.records.failed_handshake import MAX_FAILURE_CHARS
from authz.records.json_fields import (
    MAX_COUNT,
    count_of,
    count_or_none,
    fields_of,
    instant_ns_of,
    instant_ns_or_none,
    text_of,
    text_or_none,
    truth_of,
)
from authz.records.packed_record import MAX_PATH_BYTES, MAX_REQUEST_ID_BYTES

if TYPE_CHECKING:
    from authz.decision import Reason, Shadow
    from authz.request import Direction

_DECISION_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_US_PER_MS: Final = 1000
#: what a float of 64 bits can tell apart to the microsecond, as milliseconds: 285 years
MAX_DURATION_US: Final = 2**53 - 1
#: RFC 9110 15
MAX_STATUS: Final = 999
_FIELDS: Final = frozenset(
    {
        "decision_id", "request_id", "time", "sidecar", "direction", "caller", "destination", "method", "route",
        "path", "protocol", "decision", "reason", "policy", "shadow", "revision", "valid_until", "tls", "check_us",
        "status", "bytes_received", "bytes_sent", "duration_ms", "cut",
    }
)  # fmt: skip
_WITH_HANDSHAKE: Final = _FIELDS | {"handshake"}
_HANDSHAKE: Final = frozenset({"failure", "claimed", "count"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What is written of a handshake that failed; `claimed` was never proven, `count` says how many it stands for."""

    failure: str
    claimed: str | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A call, its decision and, where they are known, its end; instants are in nanoseconds since the epoch.

    `cut` marks a second record of a decision: the end of a call that it had allowed. Where `handshake` is there, there
    was neither a call nor a decision.
    """

    decision_id: str
    request_id: str | None
    time_ns: int
    sidecar: str
    direction: Direction
    caller: Caller
    destination: Destination
    method: str
    route: str | None
    path: str | None
    protocol: str | None
    reason: Reason
    policy: str | None
    shadow: Shadow | None
    revision: str
    valid_until_ns: int | None
    tls: Tls
    check_us: int
    status: int | None = None
    bytes_received: int | None = None
    bytes_sent: int | None = None
    duration_us: int | None = None
    cut: bool = False
    handshake: Handshake | None = None


def record_json(record: DecisionRecord) -> dict[str, object]:
    """Write a record, in the contract's names."""
    written: dict[str, object] = {
        "decision_id": record.decision_id,
        "request_id": record.request_id,
        "time": rfc3339_from_ns(record.time_ns),
        "sidecar": record.sidecar,
        "direction": record.direction.value,
        "caller": caller_json(record.caller),
        "destination": destination_json(record.destination),
        "method": record.method,
        "route": record.route,
        "path": record.path,
        "protocol": record.protocol,
        "decision": record.reason.verdict.value,
        "reason": record.reason.value,
        "policy": record.policy,
        "shadow": shadow_json(record.shadow),
        "revision": record.revision,
        "valid_until": None if record.valid_until_ns is None else rfc3339_from_ns(record.valid_until_ns),
        "tls": tls_json(record.tls),
        "check_us": record.check_us,
        "status": record.status,
        "bytes_received": record.bytes_received,
        "bytes_sent": record.bytes_sent,
        "duration_ms": None if record.duration_us is None else record.duration_us / _US_PER_MS,
        "cut": record.cut,
    }
    if record.handshake is not None:
        handshake = record.handshake
        written["handshake"] = {
            "failure": handshake.failure,
            "claimed": handshake.claimed,
            "count": handshake.count,
        }
    return written


def record_from_json(value: Any) -> DecisionRecord:
    """Read a record; raises RecordError."""
    has_handshake = type(value) is dict and "handshake" in value
    fields = fields_of(value, _WITH_HANDSHAKE if has_handshake else _FIELDS, of="record")
    decision_id = fields["decision_id"]
    if type(decision_id) is not str or _DECISION_ID.fullmatch(decision_id) is None:
        raise RecordError("record.decision_id: must be 32 hexadecimal digits")
    return DecisionRecord(
        decision_id=decision_id,
        request_id=text_or_none(fields["request_id"], MAX_REQUEST_ID_BYTES, of="record.request_id"),
        time_ns=instant_ns_of(fields["time"], of="record.time"),
        sidecar=text_of(fields["sidecar"], MAX_NAME_CHARS, of="record.sidecar"),
        direction=direction_from_json(fields["direction"], of="record"),
        caller=caller_from_json(fields["caller"]),
        destination=destination_from_json(fields["destination"]),
        method=text_of(fields["method"], MAX_METHOD_CHARS, of="record.method"),
        route=text_or_none(fields["route"], MAX_ROUTE_CHARS, of="record.route"),
        path=text_or_none(fields["path"], MAX_PATH_BYTES, of="record.path"),
        protocol=text_or_none(fields["protocol"], MAX_PROTOCOL_CHARS, of="record.protocol"),
        reason=reason_from_json(fields["decision"], fields["reason"], of="record"),
        policy=text_or_none(fields["policy"], MAX_NAME_CHARS, of="record.policy"),
        shadow=shadow_from_json(fields["shadow"]),
        revision=text_of(fields["revision"], MAX_REVISION_CHARS, of="record.revision"),
        valid_until_ns=instant_ns_or_none(fields["valid_until"], of="record.valid_until"),
        tls=tls_from_json(fields["tls"]),
        check_us=count_of(fields["check_us"], of="record.check_us"),
        status=count_or_none(fields["status"], MAX_STATUS, of="record.status"),
        bytes_received=count_or_none(fields["bytes_received"], of="record.bytes_received"),
        bytes_sent=count_or_none(fields["bytes_sent"], of="record.bytes_sent"),
        duration_us=_duration_us(fields["duration_ms"]),
        cut=truth_of(fields["cut"], of="record.cut"),
        handshake=_handshake(fields["handshake"]) if has_handshake else None,
    )


def _duration_us(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) not in {int, float} or not 0 <= value <= MAX_DURATION_US / _US_PER_MS:
        raise RecordError("record.duration_ms: must be a number of milliseconds, from 0 on")
    return round(float(value) * _US_PER_MS)


def _handshake(value: Any) -> Handshake:
    fields = fields_of(value, _HANDSHAKE, of="handshake")
    return Handshake(
        failure=text_of(fields["failure"], MAX_FAILURE_CHARS, of="handshake.failure"),
        claimed=text_or_none(fields["claimed"], MAX_IDENTITY_CHARS, of="handshake.claimed"),
        count=count_of(fields["count"], MAX_COUNT, of="handshake.count"),
    )
