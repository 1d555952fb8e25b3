"""The two listeners of a sidecar: inbound for callers from the mesh, outbound for the app beside it.

Both have the same filters, in this order: the check, the hold of long calls where there is one, the removal of what was
for the check only, the router. Outbound there are two more: one right behind the check finds the addresses of
ThirdParties, one before the router takes what the other sidecar says of its clock out of the answer. Upgrades
(WebSocket, CONNECT) run through them too.

Who could not even shake hands never becomes a request, so no check is made. It is told to control, where there is a
socket for it (:mod:`authz.proxy.access_log`), and counted:

    listener.inbound.ssl.fail_verify_no_cert    the client showed no certificate
    listener.inbound.ssl.fail_verify_error      a certificate that is not proven: of another authority than its trust
                                                domain's, of an unknown trust domain, without a SPIFFE ID or with
                                                one without a path, expired, an authority's own
    listener.inbound.ssl.connection_error       no TLS at all, no TLS 1.3, or broken off
    listener.inbound.ssl.handshake              handshakes that succeeded

`fail_verify_san` and `fail_verify_cert_hash` stay 0 inbound. Outbound the names are the same under
`cluster.service_NAME.ssl.`, where `fail_verify_san` counts destinations that showed somebody else's SVID, and under
`cluster.third_party_NAME_HOST_PORT.ssl.`. The names hang on `stat_prefix`, not on addresses.

A certificate with two URI SANs passes the handshake (Envoy looks at the first one): the check server, which reads the
certificate itself, refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import Metadata, SchemeHeaderTransformation, TrafficDirection
from envoy_data_plane.envoy.config.listener.v3 import (
    AdditionalAddress,
    Filter,
    FilterChain,
    FilterChainMatch,
    Listener,
    ListenerFilter,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerForwardClientCertDetails,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
    HttpConnectionManagerSetCurrentClientCertDetails,
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
    RequestIdExtension,
)
from envoy_data_plane.envoy.extensions.request_id.uuid.v3 import UuidRequestIdConfig
from envoy_data_plane.google.protobuf import Struct

from authz.proxy import hardening
from authz.proxy.access_log import all_calls, cut_calls, failed_handshakes, while_they_run
from authz.proxy.address_filter import address_filter
from authz.proxy.addresses import TcpAddress
from authz.proxy.check_filter import check_filter
from authz.proxy.cut_reply import cut_replies
from authz.proxy.hold_filter import hold_filters
from authz.proxy.listener_names import (
    DRAIN_METADATA,
    DRAINED,
    HELD_CHAIN,
    HELD_SERVER_NAME,
    MAIN_CHAIN,
    THIRD_PARTY_DOOR,
)
from authz.proxy.peer_clock import clock_filter
from authz.proxy.rendering import packed
from authz.proxy.route import inbound_routes, outbound_routes
from authz.proxy.socket_address import socket_address
from authz.proxy.tls import inbound_socket, third_party_inbound_socket
from authz.request import Direction

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.core.v3 import TransportSocket
    from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

    from authz.proxy.addresses import Address
    from authz.proxy.spec import SidecarSpec

#: Upgrades that reach the check like any request. CONNECT is among them to be refused there, with a record, wherever
#: the Service has no tunnel.
UPGRADES = ("websocket", "CONNECT")


def inbound_listener(spec: SidecarSpec) -> Listener:
    """Give the listener that callers' sidecars connect to: mTLS, then the check, then the app.

    Where ThirdParties without SPIFFE IDs come in it has a second address, and what differs there is who is vouched for
    by whom: a connection is told by the port that it came to, and nobody who came to one is judged as at the other.
    """
    listener = _listener(Direction.INBOUND, spec.inbound, _inbound_manager(spec))
    _secure(listener.filter_chains[0], inbound_socket(spec))
    if spec.third_party_inbound is not None:
        listener.additional_addresses.append(
            AdditionalAddress(address=socket_address(spec.third_party_inbound), tcp_keepalive=hardening.tcp_keepalive())
        )
        door = FilterChain(
            name=THIRD_PARTY_DOOR,
            filter_chain_match=FilterChainMatch(destination_port=spec.third_party_inbound.port),
            filters=[_manager_filter(_inbound_manager(spec, by_certificates=True))],
        )
        _secure(door, third_party_inbound_socket(spec))
        listener.filter_chains.append(door)
    if spec.drains:
        listener.filter_chains.append(_held_chain(spec))
        listener.listener_filters.append(
            ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector()))
        )
        listener.listener_filters_timeout = hardening.HANDSHAKE_TIMEOUT
    listener.access_log = failed_handshakes(spec)
    return _drainable(spec, listener)


def _held_chain(spec: SidecarSpec) -> FilterChain:
    """Give the chain of held calls: who asks for it by the server name gets nothing but being held for every call."""
    chain = FilterChain(
        name=HELD_CHAIN,
        filter_chain_match=FilterChainMatch(server_names=[HELD_SERVER_NAME]),
        filters=[_manager_filter(_inbound_manager(spec, held_alone=True))],
    )
    _secure(chain, inbound_socket(spec))
    return chain


def _inbound_manager(
    spec: SidecarSpec, *, by_certificates: bool = False, held_alone: bool = False
) -> HttpConnectionManager:
    routes = inbound_routes(spec, by_certificates=by_certificates, held_alone=held_alone)
    manager = _connection_manager(spec, Direction.INBOUND, routes)
    manager.common_http_protocol_options = hardening.downstream_options(spec.max_connection_duration)
    # HTTP/1.1 has no GOAWAY: say `connection: close` on the next answer instead of closing under a request.
    manager.http1_safe_max_connection_duration = True
    manager.use_remote_address = True
    manager.forward_client_cert_details = HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
    manager.set_current_client_cert_details = HttpConnectionManagerSetCurrentClientCertDetails(uri=True)
    return manager


def _drainable(spec: SidecarSpec, listener: Listener) -> Listener:
    """Have each chain say how it is called, and how often it was drained."""
    if spec.drains:
        for chain in listener.filter_chains:
            chain.name = chain.name or MAIN_CHAIN
            chain.metadata = Metadata(filter_metadata={DRAIN_METADATA: Struct.from_dict({DRAINED: 0})})
    return listener


def _secure(chain: FilterChain, socket: TransportSocket) -> None:
    chain.transport_socket = socket
    chain.transport_socket_connect_timeout = hardening.HANDSHAKE_TIMEOUT


def outbound_listener(spec: SidecarSpec) -> Listener:
    """Give the listener that the app calls: HTTP/1.1 or HTTP/2 without TLS, to the host that the request names."""
    manager = _connection_manager(spec, Direction.OUTBOUND, outbound_routes(spec))
    manager.common_http_protocol_options = hardening.downstream_options(None)
    manager.forward_client_cert_details = HttpConnectionManagerForwardClientCertDetails.SANITIZE
    # The app speaks http to its sidecar; where the sidecar goes on over TLS the scheme is https (RFC 9113 8.3.1).
    manager.scheme_header_transformation = SchemeHeaderTransformation(match_upstream=True)
    return _drainable(spec, _listener(Direction.OUTBOUND, spec.outbound, manager))


def _connection_manager(spec: SidecarSpec, direction: Direction, routes: RouteConfiguration) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=direction.value,
        codec_type=HttpConnectionManagerCodecType.AUTO,
        route_config=routes,
        http_filters=[
            check_filter(direction),
            *([address_filter()] if direction is Direction.OUTBOUND and spec.resolves_addresses else []),
            *hold_filters(spec),
            hardening.removal_after_the_check(),
            *([clock_filter()] if direction is Direction.OUTBOUND else []),
            HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router(suppress_envoy_headers=True))),
        ],
        http_protocol_options=hardening.http1_options(),
        http2_protocol_options=hardening.http2_options(),
        max_request_headers_kb=hardening.MAX_REQUEST_HEADERS_KB,
        stream_idle_timeout=hardening.NO_TIMEOUT,
        request_timeout=hardening.NO_TIMEOUT,
        request_headers_timeout=hardening.REQUEST_HEADERS_TIMEOUT,
        drain_timeout=hardening.DRAIN_TIMEOUT,
        delayed_close_timeout=hardening.DELAYED_CLOSE_TIMEOUT,
        early_header_mutation_extensions=[hardening.early_header_mutation(direction)],
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type=upgrade) for upgrade in UPGRADES],
        # The same request id on both sides of a call, unchanged, joins their two records.
        generate_request_id=True,
        preserve_external_request_id=True,
        request_id_extension=RequestIdExtension(
            typed_config=packed(UuidRequestIdConfig(pack_trace_reason=False, use_request_id_for_trace_sampling=False))
        ),
        # `expect: 100-continue` is the app's to answer, after the check, and not Envoy's before it.
        proxy_100_continue=True,
        # The app's own `server` header is its own business, and ours is nobody's.
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        local_reply_config=cut_replies(),
        access_log=[*cut_calls(spec, direction), *all_calls(spec, direction)],
        access_log_options=while_they_run(spec),
        normalize_path=False,
        merge_slashes=False,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED,
    )


def _listener(direction: Direction, address: Address, manager: HttpConnectionManager) -> Listener:
    listener = Listener(
        name=direction.value,
        stat_prefix=direction.value,
        address=socket_address(address),
        traffic_direction=TrafficDirection[direction.name],
        per_connection_buffer_limit_bytes=hardening.BUFFER_BYTES,
        filter_chains=[
            FilterChain(filters=[_manager_filter(manager)]),
        ],
    )
    if isinstance(address, TcpAddress):
        listener.tcp_keepalive = hardening.tcp_keepalive()
    return listener


def _manager_filter(manager: HttpConnectionManager) -> Filter:
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))
