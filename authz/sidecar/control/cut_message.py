"""What Envoy's access log says of calls that their deadline cut: wire types in, values out.

Entries come from both listeners (:mod:`authz.proxy.access_log`). Who called, by which policy, and why no longer, are
the check server's own words, which Envoy hands back; the rest comes from the caller and is only written down.

envoy/data/accesslog/v3/accesslog.proto
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

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
from authz.proxy.header_names import CUT_REASON, EXT_AUTHZ, X_AUTHZ_CALLER
from authz.records.cut_call import CutCall
from authz.request import Direction
from authz.sidecar.check.question import protocol_of
from authz.sidecar.control.access_log_message import address_of, agreed_tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

_DECISION_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}", re.ASCII)
_VERSIONS: Final = {
    accesslog_pb2.HTTPAccessLogEntry.HTTP10: b"HTTP/1.0",
    accesslog_pb2.HTTPAccessLogEntry.HTTP11: b"HTTP/1.1",
    accesslog_pb2.HTTPAccessLogEntry.HTTP2: b"HTTP/2",
}


def cut_call(entry: HTTPAccessLogEntry) -> CutCall | None:
    """Give the call that was cut, None where the entry does not say which decision had allowed it, or why no longer."""
    common, request, response = entry.common_properties, entry.request, entry.response
    said = common.metadata.filter_metadata[EXT_AUTHZ].fields if EXT_AUTHZ in common.metadata.filter_metadata else {}
    decision_id, reason = _text(said, "decision_id"), _reason(_text(said, CUT_REASON))
    direction = _direction(common.custom_tags.get(DIRECTION_TAG, ""))
    if _DECISION_ID.fullmatch(decision_id) is None or reason is None or direction is None:
        return None
    headers = request.request_headers
    caller, presenter = _caller(entry, direction)
    service, third_party = _destination(common.upstream_cluster)
    version, cipher = agreed_tls(common.tls_properties)
    serial = common.custom_tags.get(SERIAL_TAG, "").lstrip("0")
    duration_ns = common.duration.seconds * NS_PER_S + common.duration.nanos
    return CutCall(
        decision_id=decision_id,
        request_id=request.request_id or None,
        direction=direction,
        ended_ns=common.start_time.seconds * NS_PER_S + common.start_time.nanos + duration_ns,
        duration_ns=duration_ns,
        reason=reason,
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


def _destination(cluster: str) -> tuple[str | None, str | None]:
    """Give the Service or the ThirdParty that a cluster leads to; no name has an underscore (RFC 1123 2.1)."""
    if cluster.startswith(THIRD_PARTY_CLUSTER_PREFIX):
        return None, cluster.removeprefix(THIRD_PARTY_CLUSTER_PREFIX).partition("_")[0] or None
    if cluster.startswith(SERVICE_CLUSTER_PREFIX):
        return cluster.removeprefix(SERVICE_CLUSTER_PREFIX) or None, None
    return None, None
