"""A decision record as the hub keeps it: its JSON, packed, and beside it what it is found by. Pure.

What callers sent (paths, hosts, addresses) is kept as the sidecar wrote it and trusted by nobody.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.hub.errors import ArrivalError
from authz.hub.series import source_of, target_of
from authz.instant import NS_PER_MS
from authz.records.decision_record import record_from_json, record_json

if TYPE_CHECKING:
    from authz.hub.answers import DecisionRecord

#: What nearly every record has in it: a thousand bytes become two hundred. What it has packed, only it unpacks.
_DICTIONARY: Final = (
    b'","valid_until":"2026-01-01T00:00:00.000Z"spiffe://example.org/ns/default/sa/127.0.0.1:[::1]:'
    b'"unidentified""untrusted""unknown_destination""guardrail""not_commissioned""decommissioned""not_yet_open"'
    b'"outside_hours""closed""no_policy""malformed""overloaded""internal_error","handshake":{"failure":"","claimed":'
    b'{"decision_id":"","request_id":null,"time":"2026-","sidecar":"","direction":"outbound""inbound",'
    b'"caller":{"identity":"spiffe://","service":"","third_party":null,"presented_by":null,"address":"127.0.0.1:"},'
    b'"destination":{"service":"","third_party":null,"host":""},"method":"POST""DELETE""PUT""GET","route":null,'
    b'"path":null,"protocol":"grpc""http/1.1""http/2","decision":"allow","reason":"allowed","observed""decision":"deny",'
    b'"reason":"no_policy","policy":null,"shadow":null,"revision":"","valid_until":null,'
    b'"tls":{"version":"TLSv1_3","cipher":"TLS_AES_128_GCM_SHA256","peer_serial":null},"check_us":'
    b',"status":null,"bytes_received":null,"bytes_sent":null,"duration_ms":null,"cut":false}'
    b',"status":200,"bytes_received":0,"bytes_sent":0,"duration_ms":0.,"cut":true}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecord:
    """One record; `body` is its JSON, packed (:func:`unpacked`).

    `handshakes` is how many failed handshakes it tells of: 0 for a decision.
    """

    decision_id: str
    time_ms: int
    decision: str
    reason: str
    source: str
    target: str
    policy: str | None
    revision: str
    cut: bool
    handshakes: int
    body: bytes


def kept_record(value: Any, sidecar: str) -> KeptRecord:
    """Check the JSON of a record and pack it; raises RecordError or ArrivalError."""
    record = record_from_json(value)
    if record.sidecar != sidecar:
        raise ArrivalError("a batch has records of its own sidecar only")
    return KeptRecord(
        decision_id=record.decision_id,
        time_ms=record.time_ns // NS_PER_MS,
        decision=record.reason.verdict.value,
        reason=record.reason.value,
        source=source_of(record.caller)[0],
        target=target_of(record.destination)[0],
        policy=record.policy,
        revision=record.revision,
        cut=record.cut,
        handshakes=0 if record.handshake is None else record.handshake.count,
        body=packed(json.dumps(record_json(record), separators=(",", ":")).encode("ascii")),
    )


def packed(text: bytes) -> bytes:
    """Pack the JSON of a record."""
    packer = zlib.compressobj(level=6, wbits=-15, zdict=_DICTIONARY)
    return packer.compress(text) + packer.flush()


def unpacked(body: bytes) -> DecisionRecord:
    """Give the record that was packed."""
    record: DecisionRecord = json.loads(zlib.decompressobj(wbits=-15, zdict=_DICTIONARY).decompress(body))
    return record
