"""How Envoy asks: the ext_authz filter on every request, and the cluster of check servers that answer it.

INVARIANT (fail closed): a request goes on only after an OK of a check server. `failure_mode_allow` is off, no runtime
key or metadata can disable the filter, and where no server answers within the timeout the caller gets a bare 503
(`status_on_error`; the default, 403, would look like a decision).

The numbers of the cluster were measured together, with one and with two workers, killed and hung: a hung worker is
noticed by HTTP/2 PINGs only; `max_interval` of the retry back-off acts as the per-try timeout; with two workers,
outlier detection keeps a dead one out for a second. With a single worker there is nothing to prefer to it: it is
never ejected, so that the first request after its return finds it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    BackoffStrategy,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http2ProtocolOptions,
    KeepaliveSettings,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import CheckSettings, ExtAuthz, ExtAuthzPerRoute
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, Percent, StatusCode

from authz.proxy.addresses import UnixAddress
from authz.proxy.header_names import EXT_AUTHZ
from authz.proxy.rendering import packed
from authz.proxy.socket_address import socket_address

if TYPE_CHECKING:
    from envoy_data_plane.google.protobuf import Any

    from authz.request import Direction

AUTHZ_CLUSTER = "authz"

CHECK_TIMEOUT = timedelta(milliseconds=350)
#: Envoy draws two workers at random and takes the less busy one. A retry draws again, so often at most, where that is
#: the worker that failed: of 16 checks under way one would else wait for a hung worker twice.
HOST_SELECTIONS = 10
#: What a check server may write into a request: our own names, and the deadline that bounds a stream.
_WRITABLE_HEADERS = r"x-authz-[a-z0-9-]+|grpc-timeout"
#: A denial's body is one short JSON object.
MAX_DENIAL_BYTES = 4096
#: Checks under way at once, of the whole process; beyond it a request gets its 503.
MAX_CHECKS = 10_000


def check_filter(direction: Direction) -> HttpFilter:
    """Give the ext_authz filter; it must be the first of the chain."""
    return HttpFilter(
        name=EXT_AUTHZ,
        typed_config=packed(
            ExtAuthz(
                stat_prefix=direction.value,
                transport_api_version=ApiVersion.V3,
                grpc_service=GrpcService(
                    envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=AUTHZ_CLUSTER),
                    timeout=CHECK_TIMEOUT,
                    retry_policy=RetryPolicy(
                        retry_on="connect-failure,refused-stream,reset,unavailable,cancelled,deadline-exceeded",
                        num_retries=2,
                        retry_back_off=BackoffStrategy(
                            base_interval=timedelta(milliseconds=2), max_interval=timedelta(milliseconds=100)
                        ),
                        retry_host_predicate=[
                            RetryPolicyRetryHostPredicate(
                                name="envoy.retry_host_predicates.previous_hosts",
                                typed_config=packed(PreviousHostsPredicate()),
                            )
                        ],
                        host_selection_retry_max_attempts=HOST_SELECTIONS,
                    ),
                ),
                failure_mode_allow=False,
                # An answer that bounds the call, or has it held, does so through its route, which is looked up again
                # then: it leads to the same place, with a timer, or with the hold. A route reads nothing else that an
                # answer may write.
                clear_route_cache=True,
                status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
                # Invalid headers from a check server are an error, never something half applied.
                validate_mutations=True,
                decoder_header_mutation_rules=HeaderMutationRules(
                    disallow_all=True,
                    allow_expression=RegexMatcher(regex=_WRITABLE_HEADERS),
                    disallow_is_error=True,
                ),
                include_peer_certificate=True,
                include_tls_session=True,
                # Every header line of its own, in order: a joined map would hide duplicates.
                encode_raw_headers=True,
                max_denied_response_body_bytes=MAX_DENIAL_BYTES,
                enforce_response_header_limits=True,
            )
        ),
    )


def check_extensions(
    direction: Direction,
    service: str,
    identity: str,
    destination: str | None = None,
    *,
    by_certificates: bool = False,
    held_alone: bool = False,
) -> dict[str, Any]:
    """Give the per-route configuration that tells the check server where this request stands.

    Only `direction` is read as a claim; a check server refuses a request whose `service` or `workload` is not its own.
    `destination` is the name of the Service or ThirdParty that an outbound route leads to ("" for nowhere): a check
    server that decides by newer policies, in which the host belongs to another one, lets nothing through there.
    `by_certificates`: who comes in here has no SPIFFE ID, whatever the certificate says.
    `held_alone`: every call that comes in here is to be held.
    """
    extensions = {"direction": direction.value, "service": service, "workload": identity}
    if destination is not None:
        extensions["destination"] = destination
    if by_certificates:
        extensions["callers"] = "certificates"
    if held_alone:
        extensions["held"] = "all"
    settings = CheckSettings(context_extensions=extensions)
    return {EXT_AUTHZ: packed(ExtAuthzPerRoute(check_settings=settings))}


def authz_cluster(sockets: tuple[str, ...]) -> Cluster:
    """Give the cluster of check servers, one endpoint for each unix socket."""
    cluster = Cluster(
        name=AUTHZ_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(milliseconds=100),
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        # Panic mode would send requests to hosts that are known to be dead.
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0.0)),
        load_assignment=ClusterLoadAssignment(
            cluster_name=AUTHZ_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[
                        LbEndpoint(endpoint=Endpoint(address=socket_address(UnixAddress(path=path))))
                        for path in sockets
                    ]
                )
            ],
        ),
        # The default of 3 retries at once is used up by one dying worker.
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(
                    max_connections=1024,
                    max_pending_requests=MAX_CHECKS,
                    max_requests=MAX_CHECKS,
                    max_retries=MAX_CHECKS,
                )
            ]
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=Http2ProtocolOptions(
                            connection_keepalive=KeepaliveSettings(
                                interval=timedelta(milliseconds=500), timeout=timedelta(milliseconds=300)
                            )
                        )
                    )
                )
            )
        },
    )
    if len(sockets) > 1:
        cluster.outlier_detection = OutlierDetection(
            split_external_local_origin_errors=True,
            consecutive_local_origin_failure=2,
            enforcing_consecutive_local_origin_failure=100,
            consecutive_gateway_failure=3,
            enforcing_consecutive_gateway_failure=100,
            interval=timedelta(milliseconds=500),
            base_ejection_time=timedelta(seconds=1),
            # Each ejection lasts longer than the one before, up to this: a worker that comes back is used at once.
            max_ejection_time=timedelta(seconds=1),
            max_ejection_percent=50,
        )
    return cluster
