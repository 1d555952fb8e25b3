"""How Envoy has long calls held: the ext_proc filter behind the check, and the cluster of the hold server.

The check's answer gives a call that may last a header (:data:`~authz.proxy.header_names.X_AUTHZ_HOLD`), and Envoy looks
its route up again: the routes of held calls are found by that header, and there alone the filter does something. It
opens a gRPC stream to the hold server that lives for as long as the call, with nothing on it but that one header and,
at the end, the names of the trailers. What ends the stream ends the call, idle or active.

INVARIANT (fail closed): a held call begins only after a word of the hold server, and ends with its stream, however
that comes. `failure_mode_allow` is off; nothing that the hold server says may alter a request, but for our own names.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http2ProtocolOptions,
    KeepaliveSettings,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
    ExtProcOverrides,
    ExtProcPerRoute,
    HeaderForwardingRules,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from authz.proxy.addresses import UnixAddress
from authz.proxy.header_names import EXT_PROC, X_AUTHZ_HOLD
from authz.proxy.rendering import packed
from authz.proxy.socket_address import socket_address

if TYPE_CHECKING:
    from envoy_data_plane.google.protobuf import Any

    from authz.proxy.spec import SidecarSpec

HOLD_CLUSTER: Final = "hold"
#: The hold server answers in a millisecond or two; where many calls begin at once they wait in turn. Who waits longer
#: is refused.
HOLD_TIMEOUT: Final = timedelta(seconds=1)
#: Calls held at once, of the whole process; beyond it a long call gets its 503.
MAX_HELD: Final = 20_000
_WRITABLE_HEADERS: Final = "x-authz-reason|x-authz-decision-id|content-type|www-authenticate"


def hold_clusters(spec: SidecarSpec) -> list[Cluster]:
    """Give the cluster of the hold server, or none where there is none."""
    return [] if spec.hold_socket is None else [_cluster(spec.hold_socket)]


def hold_filters(spec: SidecarSpec) -> list[HttpFilter]:
    """Give the filter that holds calls, or none where there is no hold server; it stands right behind the check."""
    if spec.hold_socket is None:
        return []
    config = ExternalProcessor(
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=HOLD_CLUSTER)),
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        # With the trailers of the answer to come, Envoy keeps the stream until the call has ended.
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            response_header_mode=ProcessingModeHeaderSendMode.SKIP,
            request_body_mode=ProcessingModeBodySendMode.NONE,
            response_body_mode=ProcessingModeBodySendMode.NONE,
            request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
            response_trailer_mode=ProcessingModeHeaderSendMode.SEND,
        ),
        message_timeout=HOLD_TIMEOUT,
        # Neither tokens nor cookies are the hold's business.
        forward_rules=HeaderForwardingRules(
            allowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=X_AUTHZ_HOLD)])
        ),
        # They hold for what it answers a call with, too.
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex=_WRITABLE_HEADERS), disallow_is_error=True
        ),
        route_cache_action=ExternalProcessorRouteCacheAction.RETAIN,
    )
    return [HttpFilter(name=EXT_PROC, typed_config=packed(config))]


def not_held(spec: SidecarSpec) -> dict[str, Any]:
    """Give the per-route configuration by which a call is not held; it costs nothing then."""
    return {} if spec.hold_socket is None else {EXT_PROC: packed(ExtProcPerRoute(disabled=True))}


def held() -> dict[str, Any]:
    """Give the per-route configuration by which a call is held."""
    return {EXT_PROC: packed(ExtProcPerRoute(overrides=ExtProcOverrides()))}


def is_to_be_held() -> HeaderMatcher:
    """Give what a call is known by that the check wants held: nobody else can have written the header."""
    return HeaderMatcher(name=X_AUTHZ_HOLD, present_match=True)


def _cluster(socket: str) -> Cluster:
    return Cluster(
        name=HOLD_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(milliseconds=250),
        load_assignment=ClusterLoadAssignment(
            cluster_name=HOLD_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=socket_address(UnixAddress(path=socket))))]
                )
            ],
        ),
        circuit_breakers=CircuitBreakers(
            thresholds=[CircuitBreakersThresholds(max_pending_requests=MAX_HELD, max_requests=MAX_HELD)]
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        # A hold that hangs is one that cannot cut: its calls end when it is noticed.
                        http2_protocol_options=Http2ProtocolOptions(
                            connection_keepalive=KeepaliveSettings(
                                interval=timedelta(milliseconds=500), timeout=timedelta(milliseconds=1500)
                            )
                        )
                    )
                )
            )
        },
    )
