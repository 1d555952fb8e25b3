"""What Envoy's access log says of calls that were cut: wire types in, values out.

A held call that broke without being cut here may have been cut by the other sidecar, or may just have broken: what the
hold has found out tells (:mod:`authz.sidecar.control.cut_records`).

Entries come from both listeners (:mod:`authz.proxy.access_log`). Who called, by which policy, and why no longer, are
the check server's own words, which Envoy hands back; the rest comes from the caller and is only written down.

envoy/data/accesslog/v3/accesslog.proto
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.data.accesslog.v3 import accesslog_pb2

from authz.decision import Reason
from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.instant import NS_PER_S
from authz.proxy.access_log_names import (
    CONTENT_TYPE_HEADER,
    DIRECTION_TAG,
    METHOD_HEADER,
    SERIAL_TAG,
    SERVICE_CLUSTER_PREFIX,
    THIRD_PARTY_CLUSTER_PREFIX,
    UPGRADE_HEADER,
    WORKLOAD_TAG,
)
from authz.proxy.header_names import (
    CUT_AFTER,
    CUT_REASON,
    EXT_AUTHZ,
    HELD,
    HOLD_CUT_DETAILS,
    HOLD_LOST_DETAILS,
    OVER_DETAILS,
    X_AUTHZ_CALLER,
)
from authz.records.cut_call import CutCall
from authz.request import Direction
from authz.sidecar.check.question import protocol_of
from authz.sidecar.check.stream_deadline import SAME_DEADLINE_NS
from authz.sidecar.control.access_log_message import address_of, agreed_tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

_DECISION_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s)", re.ASCII)
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}", re.ASCII)
_VERSIONS: Final = {
    accesslog_pb2.HTTPAccessLogEntry.HTTP10: b"HTTP/1.0",
    accesslog_pb2.HTTPAccessLogEntry.HTTP11: b"HTTP/1.1",
    accesslog_pb2.HTTPAccessLogEntry.HTTP2: b"HTTP/2",
}


class End(NamedTuple):
    """The end of a call: where `cut` is false it is not known whether it was cut, and for which reason."""

    call: CutCall
    cut: bool


def end_of_call(entry: HTTPAccessLogEntry) -> End | None:
    """Give how a call ended; None where the entry does not say which decision had allowed it, or why no longer."""
    common, request, response = entry.common_properties, entry.request, entry.response
    if common.access_log_type == accesslog_pb2.DownstreamPeriodic:
        return None  # it runs
    said = common.metadata.filter_metadata[EXT_AUTHZ].fields if EXT_AUTHZ in common.metadata.filter_metadata else {}
    decision_id, reason = _text(said, "decision_id"), _why_cut(entry, said)
    direction = _direction(common.custom_tags.get(DIRECTION_TAG, ""))
    if _DECISION_ID.fullmatch(decision_id) is None or direction is None:
        return None
    # A call that is not held is told of at its end, too, where it has run for long: one that broke may have been cut.
    if reason is None and HELD not in said and not common.response_flags.ByteSize():
        return None
    headers = request.request_headers
    caller, presenter = _caller(entry, direction)
    service, third_party = called_party_of(common.upstream_cluster)
    version, cipher = agreed_tls(common.tls_properties)
    serial = common.custom_tags.get(SERIAL_TAG, "").lstrip("0")
    duration_ns = common.duration.seconds * NS_PER_S + common.duration.nanos
    call = CutCall(
        decision_id=decision_id,
        request_id=request.request_id or None,
        direction=direction,
        ended_ns=common.start_time.seconds * NS_PER_S + common.start_time.nanos + duration_ns,
        duration_ns=duration_ns,
        reason=reason or Reason.INTERNAL_ERROR,
        policy=_text(said, "policy") or None,
        caller=caller,
        presenter=presenter,
        address=address_of(common),
        service=service,
        third_party=third_party,
        host=request.authority,
        method=headers.get(METHOD_HEADER, ""),
        path=request.path,
        protocol=protocol_of(
            _VERSIONS.get(entry.protocol_version, b""), headers.get(CONTENT_TYPE_HEADER), headers.get(UPGRADE_HEADER)
        ),
        tls_version=version,
        tls_cipher=cipher,
        serial=serial if _SERIAL.fullmatch(serial) else None,
        status=response.response_code.value or None,
        received_bytes=request.request_body_bytes,
        sent_bytes=response.response_body_bytes,
    )
    return End(call, cut=reason is not None)


def _why_cut(entry: HTTPAccessLogEntry, said: Mapping[str, object]) -> Reason | None:
    """Give why a call was cut, None where it is not known to have been."""
    details = entry.response.response_code_details
    if details.startswith(HOLD_CUT_DETAILS):
        return _reason(details.removeprefix(HOLD_CUT_DETAILS)) or Reason.INTERNAL_ERROR
    if details.startswith(HOLD_LOST_DETAILS) and HELD in said:
        return Reason.INTERNAL_ERROR
    duration = entry.common_properties.duration
    after_ns = duration_ns_of(_text(said, CUT_AFTER))
    is_over = details == OVER_DETAILS or (
        after_ns is not None and duration.seconds * NS_PER_S + duration.nanos >= after_ns - SAME_DEADLINE_NS
    )
    return _reason(_text(said, CUT_REASON)) if is_over else None


def duration_ns_of(text: str) -> int | None:
    """Read what the check has said as CEL writes a duration (`stream_deadline.duration_text`)."""
    match = _DURATION.fullmatch(text)
    return None if match is None else int(match[1]) * (1_000_000 if match[2] == "ms" else NS_PER_S)


def _text(said: Mapping[str, object], field: str) -> str:
    value = said.get(field)
    return str(getattr(value, "string_value", ""))


def _reason(text: str) -> Reason | None:
    try:
        reason = Reason(text)
    except ValueError:
        return None
    return None if reason.allows else reason


def _direction(text: str) -> Direction | None:
    try:
        return Direction(text)
    except ValueError:
        return None


def _caller(entry: HTTPAccessLogEntry, direction: Direction) -> tuple[SpiffeId | None, SpiffeId | None]:
    """Give who called, and who presented its token where it is somebody else.

    Inbound the check has written the caller into the header that the app sees; the peer is who shook hands.
    """
    common = entry.common_properties
    if direction is Direction.OUTBOUND:
        return _spiffe_id(common.custom_tags.get(WORKLOAD_TAG, "")), None
    caller = _spiffe_id(entry.request.request_headers.get(X_AUTHZ_CALLER, ""))
    uris = [name.uri for name in common.tls_properties.peer_certificate_properties.subject_alt_name if name.uri]
    peer = _spiffe_id(uris[0]) if len(uris) == 1 else None  # X509-SVID 5.2
    return caller, None if peer == caller else peer


def _spiffe_id(text: str) -> SpiffeId | None:
    try:
        return SpiffeId.parse(text) if text else None
    except IdentityError:
        return None


def called_party_of(cluster: str) -> tuple[str | None, str | None]:
    """Give the Service or the ThirdParty that a cluster leads to; no name has an underscore (RFC 1123 2.1)."""
    if cluster.startswith(THIRD_PARTY_CLUSTER_PREFIX):
        return None, cluster.removeprefix(THIRD_PARTY_CLUSTER_PREFIX).partition("_")[0] or None
    if cluster.startswith(SERVICE_CLUSTER_PREFIX):
        return cluster.removeprefix(SERVICE_CLUSTER_PREFIX).partition("_")[0] or None, None
    return None, None
