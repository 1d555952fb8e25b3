"""One decision as it is written down: the record's JSON names are a contract.

What a caller sent is cut and never trusted: the path is kept only for denies and where no route matched, without its
query; headers and bodies never. JSON's own escaping keeps control characters and line ends inside one line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.decision import Verdict
from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.request import Call

MAX_PATH_BYTES = 256
#: A host name has at most 253 characters (RFC 1035 2.3.4), and a port; a method is a short token.
MAX_HOST_BYTES = 260
MAX_METHOD_BYTES = 64
MAX_REQUEST_ID_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFacts:
    """What the enforcement point said of a call beside what a decision is made of."""

    request_id: str | None
    protocol: str
    tls_version: str | None
    tls_cipher: str | None
    peer_serial: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A call, its decision and the facts around it; `check_us` is what deciding took, in microseconds."""

    decision_id: str
    time_ns: int
    sidecar: str
    call: Call
    decision: Decision
    wire: WireFacts
    check_us: int

    def json_line(self) -> bytes:
        """Give the record as one line of JSON in ASCII, its line end included."""
        return (json.dumps(self._object(), separators=(",", ":")) + "\n").encode("ascii")

    def _object(self) -> dict[str, object]:
        call, decision, wire = self.call, self.decision, self.wire
        shadow = decision.shadow
        return {
            "decision_id": self.decision_id,
            "request_id": _cut(wire.request_id, MAX_REQUEST_ID_BYTES),
            "time": rfc3339_from_ns(self.time_ns),
            "sidecar": self.sidecar,
            "direction": call.direction.value,
            "caller": {
                "identity": None if call.caller is None else str(call.caller),
                "service": decision.caller_service,
                "third_party": decision.caller_third_party,
                "presented_by": None if call.presenter is None else str(call.presenter),
                "address": call.address,
            },
            "destination": {
                "service": decision.destination_service,
                "third_party": decision.destination_third_party,
                "host": _cut(call.host, MAX_HOST_BYTES),
            },
            "method": _cut(call.method, MAX_METHOD_BYTES),
            "route": decision.route,
            "path": self._kept_path(),
            "protocol": wire.protocol,
            "decision": decision.verdict.value,
            "reason": decision.reason.value,
            "policy": decision.policy,
            "shadow": None
            if shadow is None
            else {"decision": shadow.decision.value, "reason": shadow.reason.value, "policy": shadow.policy},
            "revision": decision.revision,
            "valid_until": None if decision.valid_until_ns is None else rfc3339_from_ns(decision.valid_until_ns),
            "tls": {"version": wire.tls_version, "cipher": wire.tls_cipher, "peer_serial": wire.peer_serial},
            "check_us": self.check_us,
            "status": None,
            "bytes_received": None,
            "bytes_sent": None,
            "duration_ms": None,
            "cut": False,
        }

    def _kept_path(self) -> str | None:
        if self.decision.verdict is Verdict.ALLOW and self.decision.route is not None:
            return None
        return _cut(self.call.path.partition("?")[0], MAX_PATH_BYTES)


def _cut(text: str | None, limit_bytes: int) -> str | None:
    """Keep at most so many bytes; what came off the wire has one character a byte (Latin-1)."""
    return None if text is None else text[:limit_bytes]
