"""A call that was under way when its permission ended, and was cut: what is written down of its end.

It is a second record of the same decision: with the id, the request id and the policy of the one that had allowed the
call, but denied, for the reason that a new call would get from then on, with `cut: true`, and with what only the end
knows: the status, the bytes of the bodies both ways and the time that the call took. Its `time` is that end.

What the end does not know (the route, the names of a caller) is taken from the first record where control still has it,
else null; what checking took is 0. The decision's id leads to the first record. `revision` is the set that was in force
at the end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.instant import rfc3339_from_ns
from authz.records.failed_handshake import MAX_ADDRESS_CHARS
from authz.records.packed_record import MAX_HOST_BYTES, MAX_METHOD_BYTES, MAX_PATH_BYTES, MAX_REQUEST_ID_BYTES
from authz.request import Direction

if TYPE_CHECKING:
    from authz.decision import Reason
    from authz.identity.spiffe_id import SpiffeId

#: RFC 5280 4.1.2.2: 20 octets; in hexadecimal
MAX_SERIAL_CHARS: Final = 40
#: A policy's name is a DNS label, a destination's too.
MAX_NAME_CHARS: Final = 63
_NANOSECONDS_A_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCall:
    """One call, and its end at `ended_ns` (since the epoch), `duration_ns` after its beginning.

    `decision_id` has 32 characters. `policy` is the one that had allowed the call, `reason` why it is refused now.
    `service` and `third_party` are where an outbound call led to. `received_bytes` came from the caller,
    `sent_bytes` went to it, both of bodies only. `caller_service`, `caller_third_party` and `route` are those of the
    decision, None where it is not known any more.
    """

    decision_id: str
    request_id: str | None
    direction: Direction
    ended_ns: int
    duration_ns: int
    reason: Reason
    policy: str | None
    caller: SpiffeId | None
    presenter: SpiffeId | None
    address: str
    service: str | None
    third_party: str | None
    host: str
    method: str
    path: str
    protocol: str
    tls_version: str | None
    tls_cipher: str | None
    serial: str | None
    status: int | None
    received_bytes: int
    sent_bytes: int
    caller_service: str | None = None
    caller_third_party: str | None = None
    route: str | None = None


def cut_line(call: CutCall, *, sidecar: str, revision: str) -> bytes:
    """Give the record as one line of JSON in ASCII, its line end included; `sidecar` is the Service that has it."""
    inbound = call.direction is Direction.INBOUND
    record = {
        "decision_id": call.decision_id,
        "request_id": None if call.request_id is None else call.request_id[:MAX_REQUEST_ID_BYTES],
        "time": rfc3339_from_ns(call.ended_ns),
        "sidecar": sidecar,
        "direction": call.direction.value,
        "caller": {
            "identity": None if call.caller is None else str(call.caller),
            "service": _name(call.caller_service) if inbound else sidecar,
            "third_party": _name(call.caller_third_party),
            "presented_by": None if call.presenter is None else str(call.presenter),
            "address": call.address[:MAX_ADDRESS_CHARS],
        },
        "destination": {
            "service": sidecar if inbound else _name(call.service),
            "third_party": None if inbound else _name(call.third_party),
            "host": call.host[:MAX_HOST_BYTES],
        },
        "method": call.method[:MAX_METHOD_BYTES],
        "route": call.route,
        "path": call.path.partition("?")[0][:MAX_PATH_BYTES],
        "protocol": call.protocol,
        "decision": call.reason.verdict.value,
        "reason": call.reason.value,
        "policy": _name(call.policy),
        "shadow": None,
        "revision": revision,
        "valid_until": None,
        "tls": {
            "version": call.tls_version,
            "cipher": call.tls_cipher,
            "peer_serial": None if call.serial is None else call.serial[:MAX_SERIAL_CHARS],
        },
        "check_us": 0,
        "status": call.status,
        "bytes_received": call.received_bytes,
        "bytes_sent": call.sent_bytes,
        "duration_ms": round(call.duration_ns / _NANOSECONDS_A_MS, 3),
        "cut": True,
    }
    return (json.dumps(record, separators=(",", ":")) + "\n").encode("ascii")


def _name(name: str | None) -> str | None:
    return None if name is None else name[:MAX_NAME_CHARS]
