"""What Envoy's access log says of calls that run for longer than a second and are not held: wire types in, values out.

Such a call can be asked about again: its entry has what the check of it had, but for its headers. What was decided by
a token, or by a rule with a condition on headers, is held from its start and never comes here.

envoy/data/accesslog/v3/accesslog.proto, envoy/service/auth/v3/attribute_context.proto
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.auth.v3 import external_auth_pb2

from authz.instant import NS_PER_S
from authz.proxy.access_log_names import (
    CERTIFICATE_TAG,
    CHAIN_TAG,
    CONTENT_TYPE_HEADER,
    DIRECTION_TAG,
    METHOD_HEADER,
    WORKLOAD_TAG,
)
from authz.proxy.header_names import CUT_AFTER, DRAINED_DETAILS, EXT_AUTHZ, X_AUTHZ_TLS_VERSION
from authz.proxy.listener_names import MAIN_CHAIN, THIRD_PARTY_DOOR
from authz.request import Direction
from authz.sidecar.check.question import CERTIFICATES, MAX_CERTIFICATE_BYTES
from authz.sidecar.control.access_log_message import agreed_tls
from authz.sidecar.control.cut_message import called_party_of, duration_ns_of
from authz.sidecar.control.drained_listeners import Chain
from authz.sidecar.hold.held_call import HeldCall
from authz.sidecar.hold.notice import Notice

if TYPE_CHECKING:
    from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, HTTPAccessLogEntry

_DECISION_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PROTOCOLS: Final = {
    accesslog_pb2.HTTPAccessLogEntry.HTTP10: "HTTP/1.0",
    accesslog_pb2.HTTPAccessLogEntry.HTTP11: "HTTP/1.1",
    accesslog_pb2.HTTPAccessLogEntry.HTTP2: "HTTP/2",
}


class RunningCall(HeldCall):
    """One call that runs: as a held one, but what ends it is a drain of the connections that it came in with."""

    __slots__ = ("chain", "drained", "due_s", "heard_s", "is_followed_by_callee", "started_ns")

    def __init__(self, notice: Notice, now_s: float, *, chain: Chain, started_ns: int, callee: bool) -> None:
        super().__init__(notice, now_s)
        self.chain = chain
        self.started_ns = started_ns
        #: whether a sidecar at the other end judges it, too, and ends it
        self.is_followed_by_callee = callee
        self.heard_s = now_s
        #: when its connections are to be drained (again), where it has lost its grant
        self.due_s = 0.0
        self.drained = False

    def is_over(self, now_ns: int) -> bool:
        """Whether Envoy has ended it by now, by the deadline that it was given."""
        return self.ends_ns is not None and self.ends_ns <= now_ns


def is_running(entry: HTTPAccessLogEntry) -> bool:
    """Whether an entry tells of a call that runs, and not of an end."""
    return bool(entry.common_properties.access_log_type == accesslog_pb2.DownstreamPeriodic)


def decision_of(entry: HTTPAccessLogEntry) -> bytes | None:
    """Give the id of the decision that allowed the call; None where the entry does not say."""
    metadata = entry.common_properties.metadata.filter_metadata
    if EXT_AUTHZ not in metadata:
        return None
    text = metadata[EXT_AUTHZ].fields["decision_id"].string_value
    return text.encode() if _DECISION_ID.fullmatch(text) else None


def was_drained(entry: HTTPAccessLogEntry) -> bool:
    """Whether a call ended because its connection was drained."""
    return DRAINED_DETAILS in entry.response.response_code_details


def chain_of(entry: HTTPAccessLogEntry) -> Chain | None:
    """Give the chain that a call came in by; None where the entry does not say."""
    tags = entry.common_properties.custom_tags
    try:
        direction = Direction(tags.get(DIRECTION_TAG, ""))
    except ValueError:
        return None
    return Chain(direction, tags.get(CHAIN_TAG) or MAIN_CHAIN)


def running_call(entry: HTTPAccessLogEntry, now_s: float) -> RunningCall | None:
    """Give the call that an entry tells of; None where that says too little to ask about it again."""
    common = entry.common_properties
    decision_id, chain = decision_of(entry), chain_of(entry)
    workload = common.custom_tags.get(WORKLOAD_TAG, "")
    certificate = common.custom_tags.get(CERTIFICATE_TAG, "")
    method = entry.request.request_headers.get(METHOD_HEADER, "")
    if decision_id is None or chain is None or not workload or not method or len(certificate) > MAX_CERTIFICATE_BYTES:
        return None
    started_ns = common.start_time.seconds * NS_PER_S + common.start_time.nanos
    after_ns = duration_ns_of(common.metadata.filter_metadata[EXT_AUTHZ].fields[CUT_AFTER].string_value)
    service, third_party = called_party_of(common.upstream_cluster)
    extensions = {"direction": chain.direction.value, "workload": workload}
    if chain.direction is Direction.OUTBOUND and (service or third_party):
        extensions["destination"] = service or third_party or ""
    if chain.name == THIRD_PARTY_DOOR:
        extensions["callers"] = CERTIFICATES
    notice = Notice(
        decision_id=decision_id,
        generation=0,
        checked_ns=0,
        ends_ns=None if after_ns is None else started_ns + after_ns,
        message=_check(entry, certificate, extensions),
    )
    return RunningCall(notice, now_s, chain=chain, started_ns=started_ns, callee=service is not None)


def _check(entry: HTTPAccessLogEntry, certificate: str, extensions: dict[str, str]) -> bytes:
    """Write the check that the call had, without its headers."""
    common, request = entry.common_properties, entry.request
    check = external_auth_pb2.CheckRequest()
    attributes = check.attributes
    attributes.context_extensions.update(extensions)
    at = common.downstream_direct_remote_address.socket_address
    if at.address:
        attributes.source.address.socket_address.address = at.address
        attributes.source.address.socket_address.port_value = at.port_value
    attributes.source.certificate = certificate
    attributes.request.time.CopyFrom(common.start_time)
    http = attributes.request.http
    http.protocol = _PROTOCOLS.get(entry.protocol_version, "")
    headers = request.request_headers
    said = {":method": headers.get(METHOD_HEADER, ""), ":path": request.path, ":authority": request.authority}
    if CONTENT_TYPE_HEADER in headers:
        said[CONTENT_TYPE_HEADER] = headers[CONTENT_TYPE_HEADER]
    version = _tls_version(common)
    if version:
        said[X_AUTHZ_TLS_VERSION] = version
    for name, value in said.items():
        header = http.header_map.headers.add()
        header.key = name
        header.raw_value = value.encode()
    message: bytes = check.SerializeToString()
    return message


def _tls_version(common: AccessLogCommon) -> str | None:
    """Give the version as Envoy writes it for the check."""
    version, _ = agreed_tls(common.tls_properties)
    return None if version is None else version.replace("_", ".").removesuffix(".0")
