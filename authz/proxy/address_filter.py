"""Which address a ThirdParty's host is reached at: asked of the sidecar for each call, behind the check.

INVARIANT (resolved once): a cluster of a ThirdParty's host has no endpoints and resolves nothing. It connects to the
address that this filter's answer wrote into the call's metadata, or to none (503). Envoy's own dynamic forward proxy
would check one address and connect to another: of several that a name has it tries the rest by itself where the first
is dead, and a retry takes what the name means by then.

The filter is off but on the routes to such hosts. It stands behind the check: what is refused resolves no name.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    ClusterOriginalDstLbConfig,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, GrpcService, GrpcServiceEnvoyGrpc, Http2ProtocolOptions
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import CheckSettings, ExtAuthz, ExtAuthzPerRoute
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from authz.proxy.addresses import UnixAddress
from authz.proxy.check_filter import MAX_DENIAL_BYTES
from authz.proxy.header_names import EXT_AUTHZ, UPSTREAM_ADDRESS
from authz.proxy.rendering import packed
from authz.proxy.socket_address import socket_address

if TYPE_CHECKING:
    from envoy_data_plane.google.protobuf import Any

ADDRESS_FILTER: Final = "authz.upstream_address"
ADDRESS_CLUSTER: Final = "egress"
#: The sidecar gives a resolver four seconds (authz.sidecar.egress.resolution.PATIENCE_S).
ADDRESS_TIMEOUT: Final = timedelta(seconds=5)


def address_filter() -> HttpFilter:
    """Give the filter; it stands right behind the check."""
    return HttpFilter(
        name=ADDRESS_FILTER,
        disabled=True,
        typed_config=packed(
            ExtAuthz(
                stat_prefix="address",
                transport_api_version=ApiVersion.V3,
                grpc_service=GrpcService(
                    envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=ADDRESS_CLUSTER), timeout=ADDRESS_TIMEOUT
                ),
                failure_mode_allow=False,
                status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
                # It says where to, and nothing to whoever is there.
                validate_mutations=True,
                decoder_header_mutation_rules=HeaderMutationRules(disallow_all=True, disallow_is_error=True),
                # The decision that had allowed the call: what is refused is told and recorded under its id.
                metadata_context_namespaces=[EXT_AUTHZ],
                encode_raw_headers=True,
                max_denied_response_body_bytes=MAX_DENIAL_BYTES,
                enforce_response_header_limits=True,
            )
        ),
    )


def address_extensions(*, third_party: str, host: str, port: int, workload: str) -> dict[str, Any]:
    """Give the per-route configuration that turns the filter on; `host` is "" where it is the call's own."""
    extensions = {"third_party": third_party, "host": host, "port": str(port), "workload": workload}
    return {ADDRESS_FILTER: packed(ExtAuthzPerRoute(check_settings=CheckSettings(context_extensions=extensions)))}


def address_cluster(path: str) -> Cluster:
    """Give the cluster of the sidecar's address server."""
    return Cluster(
        name=ADDRESS_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(milliseconds=500),
        load_assignment=ClusterLoadAssignment(
            cluster_name=ADDRESS_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=socket_address(UnixAddress(path=path))))]
                )
            ],
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=Http2ProtocolOptions()
                    )
                )
            )
        },
    )


def held_to_its_address(cluster: Cluster) -> None:
    """Make a cluster connect where the call's metadata says, and nowhere else."""
    cluster.type = ClusterDiscoveryType.ORIGINAL_DST
    cluster.lb_policy = ClusterLbPolicy.CLUSTER_PROVIDED
    cluster.load_assignment = None
    cluster.original_dst_lb_config = ClusterOriginalDstLbConfig(
        metadata_key=MetadataKey(key=EXT_AUTHZ, path=[MetadataKeyPathSegment(key=UPSTREAM_ADDRESS)])
    )
