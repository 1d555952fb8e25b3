"""One decision as it is written down, by the plainest means: what records of the running program are held to.

What a caller sent is cut and never trusted: the path is kept only for denies and where no route matched, without its
query; headers and bodies never. JSON's own escaping keeps control characters and line ends inside one line.
"""

from __future__ import annotations

import json
import marshal
from dataclasses import dataclass
from typing import Any

from authz.decision import Decision, Reason, Shadow, Verdict
from authz.identity.spiffe_id import SpiffeId
from authz.instant import rfc3339_from_ns
from authz.records.errors import RecordError
from authz.records.packed_record import (
    MAX_HOST_BYTES,
    MAX_METHOD_BYTES,
    MAX_PATH_BYTES,
    MAX_REQUEST_ID_BYTES,
    DecisionPacker,
)
from authz.request import Call, Direction

#: of a record, its kind counted as one; and of a kind
_FIELDS = 7
_KIND_FIELDS = 20


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


def packed(record: DecisionRecord) -> bytes:
    """Give what a worker hands over for such a record."""
    call, wire = record.call, record.wire
    return DecisionPacker().packed(
        decision_id=record.decision_id.encode(),
        time_ns=record.time_ns,
        call=call,
        caller=None if call.caller is None else str(call.caller),
        decision=record.decision,
        request_id=wire.request_id,
        protocol=wire.protocol,
        tls_version=wire.tls_version,
        tls_cipher=wire.tls_cipher,
        peer_serial=wire.peer_serial,
        check_us=record.check_us,
    )


def unpack_decision(content: bytes, sidecar: str) -> DecisionRecord:
    """Give the record that was packed in this sidecar; raises RecordError for what no packer gave."""
    try:
        fields = marshal.loads(content)  # noqa: S302 its own program's bytes, under a checksum
        if type(fields) is not tuple or len(fields) != _FIELDS:
            raise RecordError("a record has not the fields of one")
        kind = marshal.loads(fields[-1])  # noqa: S302 the same
        if type(kind) is not tuple or len(kind) != _KIND_FIELDS:
            raise RecordError("a record's kind has not the fields of one")
        return _record(fields, kind, sidecar)
    except (ValueError, TypeError, EOFError, AttributeError) as error:
        raise RecordError("a record cannot be read") from error


def _record(fields: tuple[Any, ...], kind: tuple[Any, ...], sidecar: str) -> DecisionRecord:
    decision_id, time_ns, request_id, address, path, check_us, _ = fields
    (
        inbound, service, caller, presenter, host, method,
        reason, policy, shadow, revision, valid_until_ns,
        caller_service, caller_third_party, destination_service, destination_third_party, route,
        protocol, tls_version, tls_cipher, peer_serial,
    ) = kind  # fmt: skip
    call = Call(
        direction=Direction.INBOUND if inbound else Direction.OUTBOUND,
        service=service,
        caller=None if caller is None else SpiffeId.parse(caller),
        method=method,
        path=path or "",
        host=host,
        address=address,
        presenter=None if presenter is None else SpiffeId.parse(presenter),
    )
    decision = Decision(
        reason=Reason(reason),
        policy=policy,
        revision=revision,
        valid_until_ns=valid_until_ns,
        shadow=None
        if shadow is None
        else Shadow(decision=Reason(shadow[0]).verdict, reason=Reason(shadow[0]), policy=shadow[1]),
        caller_service=caller_service,
        caller_third_party=caller_third_party,
        destination_service=destination_service,
        destination_third_party=destination_third_party,
        route=route,
    )
    wire = WireFacts(
        request_id=request_id,
        protocol=protocol,
        tls_version=tls_version,
        tls_cipher=tls_cipher,
        peer_serial=peer_serial,
    )
    return DecisionRecord(
        decision_id=decision_id.decode("ascii"),
        time_ns=time_ns,
        sidecar=sidecar,
        call=call,
        decision=decision,
        wire=wire,
        check_us=check_us,
    )
