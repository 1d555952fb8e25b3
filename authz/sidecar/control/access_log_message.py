"""What Envoy's access log says of connections whose handshake failed: wire types in, values out.

Entries come from Envoy's listener (:mod:`authz.proxy.access_log`), and half of what is in them comes from whoever
connected. Nothing in them is believed further than to be written down: a SPIFFE ID in a certificate that was refused
is a claim.

envoy/data/accesslog/v3/accesslog.proto
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.data.accesslog.v3 import accesslog_pb2

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.instant import NS_PER_S
from authz.proxy.access_log_names import HANDSHAKE_TAG
from authz.records.failed_handshake import MAX_ADDRESS_CHARS, FailedHandshake, plain_failure

if TYPE_CHECKING:
    from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, TCPAccessLogEntry, TLSProperties

#: IANA: what Envoy says where no cipher suite was agreed, and then its version means nothing either
_NO_CIPHER: Final = 0xFFFF
_VERSIONS: Final = {
    accesslog_pb2.TLSProperties.TLSv1: "TLSv1_0",
    accesslog_pb2.TLSProperties.TLSv1_1: "TLSv1_1",
    accesslog_pb2.TLSProperties.TLSv1_2: "TLSv1_2",
    accesslog_pb2.TLSProperties.TLSv1_3: "TLSv1_3",
}
#: RFC 8446 B.4: the listener takes no other version
_CIPHERS: Final = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}


def failed_handshake(entry: TCPAccessLogEntry) -> FailedHandshake | None:
    """Give the handshake that failed, None where the connection ended for another reason or after its handshake."""
    common = entry.common_properties
    said = common.downstream_transport_failure_reason or common.connection_termination_details
    if not said or HANDSHAKE_TAG in common.custom_tags or entry.connection_properties.received_bytes:
        return None
    claimed = _claimed(common.tls_properties)
    failure, reason = plain_failure(said, claimed)
    version, cipher = agreed_tls(common.tls_properties)
    return FailedHandshake(
        time_ns=common.start_time.seconds * NS_PER_S + common.start_time.nanos,
        address=address_of(common),
        failure=failure,
        reason=reason,
        claimed=claimed,
        tls_version=version,
        tls_cipher=cipher,
    )


def _claimed(tls: TLSProperties) -> SpiffeId | None:
    """Give the SPIFFE ID of the certificate that was shown, if it has exactly one URI (X509-SVID 5.2)."""
    uris = [name.uri for name in tls.peer_certificate_properties.subject_alt_name if name.uri]
    if len(uris) != 1:
        return None
    try:
        return SpiffeId.parse(uris[0])
    except IdentityError:
        return None


def agreed_tls(tls: TLSProperties) -> tuple[str | None, str | None]:
    """Give the version and the cipher suite of a connection, None where none were agreed."""
    number = tls.tls_cipher_suite.value
    if number in {0, _NO_CIPHER}:
        return None, None
    return _VERSIONS.get(tls.tls_version), _CIPHERS.get(number)


def address_of(common: AccessLogCommon) -> str:
    """Give `ip:port` of who connected, "" where there is none (a unix socket)."""
    at = common.downstream_direct_remote_address.socket_address
    host = at.address[:MAX_ADDRESS_CHARS]
    if not host:
        return ""
    return f"[{host}]:{at.port_value}" if ":" in host else f"{host}:{at.port_value}"
