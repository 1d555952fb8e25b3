"""Where requests go after the check: the app, other Services over mTLS, ThirdParties over TLS.

The protocol that a request came in with is the one it goes on with (`use_downstream_protocol_config`): an app that is
called by HTTP/2 is called by HTTP/2 from its own sidecar too, so that gRPC, WebSockets and trailers stay what they are.
Names of Services are resolved by DNS without holding up the start: a destination that is not there yet is a 503, not a
sidecar that does not run. Those of ThirdParties are not resolved here (:mod:`authz.proxy.address_filter`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions as CommonHttpProtocolOptions,
    KeepaliveSettings,
    UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster, DnsClusterRefreshRate
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
    HttpProtocolOptionsUseDownstreamHttpConfig,
)

from authz.proxy import hardening
from authz.proxy.access_log import access_log_clusters
from authz.proxy.access_log_names import HELD_CLUSTER_SUFFIX, SERVICE_CLUSTER_PREFIX, THIRD_PARTY_CLUSTER_PREFIX
from authz.proxy.address_filter import address_cluster, held_to_its_address
from authz.proxy.addresses import Address, TcpAddress, UnixAddress
from authz.proxy.check_filter import authz_cluster
from authz.proxy.hold_filter import hold_clusters
from authz.proxy.listener_names import HELD_SERVER_NAME
from authz.proxy.rendering import packed
from authz.proxy.socket_address import socket_address
from authz.proxy.tls import SDS_CLUSTER, service_socket, third_party_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envoy_data_plane.google.protobuf import Any

    from authz.proxy.spec import ServiceDestination, SidecarSpec, ThirdPartyDestination, ThirdPartyHost, Tunnel

APP_CLUSTER = "app"

CONNECT_TIMEOUT = timedelta(seconds=2)
#: On this machine; what does not answer in this time is not there.
SDS_CONNECT_TIMEOUT = timedelta(milliseconds=500)
#: Below the keep-alive of common app servers (Node.js and uvicorn: 5 s), or they close what we are about to use.
APP_IDLE_TIMEOUT = timedelta(seconds=4)
#: Below the idle timeout of the listener at the other end (hardening.DOWNSTREAM_IDLE_TIMEOUT), for the same reason.
PEER_IDLE_TIMEOUT = timedelta(minutes=1)
#: Of each cluster; Envoy's default of 1024 would be the number of WebSockets that an app may have.
MAX_CONNECTIONS = 10_000
#: Without a port an entry of a ThirdParty's `hosts` is reached here.
HTTPS_PORT = 443
HTTP_PORT = 80
_NOBODYS = TcpAddress(host="0.0.0.0", port=0)

#: Every address that a name resolves to is an endpoint, for as long as the name server says.
_RESOLVED = ClusterCustomClusterType(
    name="envoy.clusters.dns",
    typed_config=packed(
        DnsCluster(
            respect_dns_ttl=True,
            dns_lookup_family=DnsLookupFamily.V4_PREFERRED,
            dns_failure_refresh_rate=DnsClusterRefreshRate(
                base_interval=timedelta(seconds=1), max_interval=timedelta(seconds=5)
            ),
        )
    ),
)
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def clusters(spec: SidecarSpec) -> list[Cluster]:
    """Give every cluster of a sidecar: its app, its own servers (check, access log, hold, SDS), its destinations."""
    return [
        app_cluster(spec.app),
        authz_cluster(spec.authz_sockets),
        *access_log_clusters(spec),
        *hold_clusters(spec),
        *([] if spec.sds_socket is None else [sds_cluster(spec.sds_socket)]),
        *([address_cluster(spec.egress_socket)] if spec.egress_socket is not None and spec.resolves_addresses else []),
        *(service_cluster(spec, destination) for destination in spec.destinations),
        *(service_cluster(spec, destination, held=True) for destination in spec.destinations if spec.drains),
        *(third_party_cluster(party, host) for party in spec.third_parties for host in party.hosts),
        *(tunnel_cluster(party, tunnel) for tunnel, party in tunnels(spec)),
    ]


def service_cluster_name(destination: ServiceDestination, *, held: bool = False) -> str:
    """Give the name under which a Service's cluster, or that of held calls, stands in routes and statistics."""
    return SERVICE_CLUSTER_PREFIX + destination.name + (HELD_CLUSTER_SUFFIX if held else "")


def third_party_cluster_name(party: ThirdPartyDestination, host: ThirdPartyHost) -> str:
    """Give the name of the cluster of one entry of a ThirdParty's hosts."""
    wildcard = "any." if host.wildcard else ""
    return f"{THIRD_PARTY_CLUSTER_PREFIX}{party.name}_{wildcard}{host.name}_{host.port or HTTPS_PORT}"


def app_cluster(address: Address) -> Cluster:
    """Give the cluster of the app beside the sidecar, without TLS."""
    cluster = _cluster(APP_CLUSTER, address)
    cluster.typed_extension_protocol_options = _kept_protocol(CommonHttpProtocolOptions(idle_timeout=APP_IDLE_TIMEOUT))
    return cluster


def sds_cluster(path: str) -> Cluster:
    """Give the cluster of the sidecar's SDS server, on a unix socket; a hung one is noticed by HTTP/2 PINGs."""
    return Cluster(
        name=SDS_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=SDS_CONNECT_TIMEOUT,
        load_assignment=ClusterLoadAssignment(
            cluster_name=SDS_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=socket_address(UnixAddress(path=path))))]
                )
            ],
        ),
        typed_extension_protocol_options={
            _PROTOCOL_OPTIONS: packed(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=Http2ProtocolOptions(
                            connection_keepalive=KeepaliveSettings(
                                interval=hardening.PING_INTERVAL, timeout=hardening.PING_TIMEOUT
                            )
                        )
                    )
                )
            )
        },
    )


def service_cluster(spec: SidecarSpec, destination: ServiceDestination, *, held: bool = False) -> Cluster:
    """Give the cluster of another Service's inbound listener, or that of its chain for held calls."""
    cluster = _cluster(service_cluster_name(destination, held=held), destination.address)
    cluster.transport_socket = service_socket(spec, destination, server_name=HELD_SERVER_NAME if held else "")
    cluster.typed_extension_protocol_options = _kept_protocol(
        CommonHttpProtocolOptions(idle_timeout=PEER_IDLE_TIMEOUT, max_connection_duration=spec.max_connection_duration)
    )
    return cluster


def third_party_cluster(party: ThirdPartyDestination, host: ThirdPartyHost) -> Cluster:
    """Give the cluster of one entry of a ThirdParty's hosts."""
    cluster = _outside(third_party_cluster_name(party, host), party)
    cluster.transport_socket = third_party_socket(party, host)
    cluster.typed_extension_protocol_options = _kept_protocol(
        CommonHttpProtocolOptions(idle_timeout=PEER_IDLE_TIMEOUT),
        UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True) if host.wildcard else None,
    )
    return cluster


def tunnel_cluster_name(party: ThirdPartyDestination, tunnel: Tunnel) -> str:
    """Give the name of the cluster of an opaque tunnel to a ThirdParty's host."""
    return f"{THIRD_PARTY_CLUSTER_PREFIX}{party.name}_connect.{tunnel.name}_{tunnel.port}"


def tunnel_cluster(party: ThirdPartyDestination, tunnel: Tunnel) -> Cluster:
    """Give the cluster of an opaque tunnel: bytes as they come, without TLS of ours."""
    return _outside(tunnel_cluster_name(party, tunnel), party)


def _outside(name: str, party: ThirdPartyDestination) -> Cluster:
    if party.address is not None:
        return _cluster(name, party.address)
    # What is written here is nobody's address: each call brings its own.
    cluster = _cluster(name, _NOBODYS)
    held_to_its_address(cluster)
    return cluster


def tunnels(spec: SidecarSpec) -> Iterator[tuple[Tunnel, ThirdPartyDestination]]:
    """Give each tunnel of the Service, with the ThirdParty whose host it leads to by the policy's host rules.

    One that leads to nobody's host (`authz lint` says so) is left out.
    """
    for tunnel in spec.tunnels:
        found = [
            (host.wildcard, host.port is None, at, party)
            for at, party in enumerate(spec.third_parties)
            for host in party.hosts
            if _is_host(tunnel, host)
        ]
        if found:
            yield tunnel, min(found, key=lambda entry: entry[:3])[3]


def _is_host(tunnel: Tunnel, host: ThirdPartyHost) -> bool:
    name = tunnel.name.partition(".")[2] if host.wildcard else tunnel.name
    return name == host.name.lower().removesuffix(".") and (
        tunnel.port in {HTTP_PORT, HTTPS_PORT} if host.port is None else tunnel.port == host.port
    )


def _cluster(name: str, address: Address) -> Cluster:
    cluster = Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=CONNECT_TIMEOUT,
        per_connection_buffer_limit_bytes=hardening.BUFFER_BYTES,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=socket_address(address)))])
            ],
        ),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(
                    max_connections=MAX_CONNECTIONS,
                    max_pending_requests=MAX_CONNECTIONS,
                    max_requests=MAX_CONNECTIONS,
                )
            ]
        ),
    )
    if isinstance(address, TcpAddress):
        cluster.upstream_connection_options = UpstreamConnectionOptions(tcp_keepalive=hardening.tcp_keepalive())
        if not address.is_ip:
            cluster.type = None
            cluster.cluster_type = _RESOLVED
            cluster.wait_for_warm_on_init = False
    return cluster


def _kept_protocol(
    common: CommonHttpProtocolOptions, upstream: UpstreamHttpProtocolOptions | None = None
) -> dict[str, Any]:
    return {
        _PROTOCOL_OPTIONS: packed(
            HttpProtocolOptions(
                common_http_protocol_options=common,
                upstream_http_protocol_options=upstream,
                use_downstream_protocol_config=HttpProtocolOptionsUseDownstreamHttpConfig(
                    http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=hardening.http2_options()
                ),
            )
        )
    }
