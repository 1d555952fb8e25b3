"""The rendered bootstrap, read back by Google's protobuf with other generated code than the one that wrote it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2  # noqa: F401 read as an Any
from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2  # noqa: F401 same
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 same
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    header_mutation_pb2 as early_header_mutation_pb2,
)
from envoy.extensions.request_id.uuid.v3 import uuid_pb2  # noqa: F401 read as an Any
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2  # noqa: F401 same
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2  # noqa: F401 same
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2, tls_spiffe_validator_config_pb2  # noqa: F401 same
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from authz.proxy.address_filter import ADDRESS_FILTER
from authz.proxy.addresses import TcpAddress, UnixAddress
from authz.proxy.bootstrap import sidecar_bootstrap
from authz.proxy.errors import ProxyError
from authz.proxy.hardening import DURATION_JITTER_PERCENT
from authz.proxy.header_names import OVERRIDE_HEADERS
from authz.proxy.spec import ServiceDestination, SidecarSpec, ThirdPartyDestination, ThirdPartyHost, TrustBundle, Tunnel
from tests.support.sidecar_specs import LOCAL, sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator

HCM = http_connection_manager_pb2.HttpConnectionManager
#: in the API that Envoy has and we write, not yet in the one of `xds-protos`
NEWER_FIELDS = {"max_connection_duration_jitter", "tcp_keepalive"}
SPEC = sidecar(
    destinations=(ServiceDestination(name="catalog", identities=("spiffe://shop.example/*",), address=LOCAL),),
    third_parties=(
        ThirdPartyDestination(
            name="acme",
            hosts=(ThirdPartyHost(name="api.acme.example"), ThirdPartyHost(name="cdn.example", wildcard=True)),
            authority_file="/etc/ssl/certs/ca-certificates.crt",
            address=LOCAL,
        ),
    ),
)


def read(spec: SidecarSpec) -> bootstrap_pb2.Bootstrap:
    return json_format.Parse(sidecar_bootstrap(spec), bootstrap_pb2.Bootstrap(), ignore_unknown_fields=True)


def hcm(listener: Any) -> http_connection_manager_pb2.HttpConnectionManager:
    manager = HCM()
    assert listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
    return manager


def managers(spec: SidecarSpec) -> Iterator[tuple[str, http_connection_manager_pb2.HttpConnectionManager]]:
    for listener in read(spec).static_resources.listeners:
        yield listener.name, hcm(listener)


def protocol_options(cluster: Any) -> http_protocol_options_pb2.HttpProtocolOptions:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    (packed,) = cluster.typed_extension_protocol_options.values()
    assert packed.Unpack(options)
    return options


def test_what_is_written_is_what_another_reader_reads() -> None:
    # Whatever the renderer left out, misspelt or put into the wrong form would be missing here or refused.
    again = json_format.MessageToDict(read(SPEC), preserving_proto_field_name=True)
    assert _comparable(again) == _comparable(json.loads(sidecar_bootstrap(SPEC)))


def _comparable(value: Any) -> Any:
    """Leave out what the other reader is too old for, and numbers' two forms: ProtoJSON writes 64-bit ones as text."""
    match value:
        case dict():
            return {key: _comparable(item) for key, item in value.items() if key not in NEWER_FIELDS}
        case list():
            return [_comparable(item) for item in value]
        case str() if value.isdigit():
            return int(value)
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def test_equal_specs_give_equal_text() -> None:
    assert sidecar_bootstrap(SPEC) == sidecar_bootstrap(SPEC)


def test_the_check_comes_first_and_the_router_last() -> None:
    for name, manager in managers(SPEC):
        clock = ["envoy.filters.http.header_to_metadata"] if name == "outbound" else []
        assert [one.name for one in manager.http_filters] == [
            "envoy.filters.http.ext_authz",
            "envoy.filters.http.header_mutation",
            *clock,
            "envoy.filters.http.router",
        ]
        assert not any(one.disabled or one.is_optional for one in manager.http_filters)
        assert not any(upgrade.filters for upgrade in manager.upgrade_configs)


def test_the_check_fails_closed_and_reads_everything_but_bodies() -> None:
    for name, manager in managers(SPEC):
        check = ext_authz_pb2.ExtAuthz()
        assert manager.http_filters[0].typed_config.Unpack(check)
        assert check.failure_mode_allow is False
        assert check.status_on_error.code == 503
        assert not check.HasField("filter_enabled")
        assert not check.HasField("with_request_body")
        assert not check.metadata_context_namespaces
        assert check.encode_raw_headers
        assert check.include_peer_certificate
        assert check.include_tls_session
        assert check.stat_prefix == name
        assert check.grpc_service.timeout.ToTimedelta() < timedelta(seconds=1)


def test_no_listener_rewrites_a_path_or_a_host() -> None:
    for _, manager in managers(SPEC):
        assert manager.HasField("normalize_path")
        assert manager.normalize_path.value is False
        assert manager.merge_slashes is False
        assert manager.path_with_escaped_slashes_action == HCM.KEEP_UNCHANGED
        assert not manager.strip_matching_host_port
        assert not manager.HasField("strip_any_host_port")
        assert not manager.strip_trailing_host_dot
        assert not manager.HasField("internal_address_config")
        for virtual_host in manager.route_config.virtual_hosts:
            for route in virtual_host.routes:
                assert not route.route.prefix_rewrite
                assert not route.route.HasField("regex_rewrite")
                assert not route.route.host_rewrite_literal


def test_streams_may_live_and_be_silent_and_connections_may_not_outlive_an_svid() -> None:
    told = dict(managers(SPEC))
    for manager in told.values():
        assert manager.HasField("stream_idle_timeout")
        assert manager.stream_idle_timeout.ToTimedelta() == timedelta(0)
        for virtual_host in manager.route_config.virtual_hosts:
            for route in virtual_host.routes:
                if route.HasField("route"):
                    assert route.route.HasField("timeout")
                    assert route.route.timeout.ToTimedelta() == timedelta(0)
    inbound = told["inbound"].common_http_protocol_options
    longest = inbound.max_connection_duration.ToTimedelta() * (1 + DURATION_JITTER_PERCENT / 100)
    assert longest <= SPEC.max_connection_duration
    cluster = next(one for one in read(SPEC).static_resources.clusters if one.name == "service_catalog")
    upstream = protocol_options(cluster).common_http_protocol_options
    assert upstream.max_connection_duration.ToTimedelta() == SPEC.max_connection_duration


def test_forged_and_overriding_headers_are_removed_before_ours_are_set() -> None:
    for name, manager in managers(SPEC):
        early = early_header_mutation_pb2.HeaderMutation()
        assert manager.early_header_mutation_extensions[0].typed_config.Unpack(early)
        prefixes = [mutation.remove_on_match.key_matcher.prefix for mutation in early.mutations][:2]
        assert prefixes == ["x-authz-", "x-envoy-"]
        assert {mutation.remove for mutation in early.mutations} >= set(OVERRIDE_HEADERS)
        set_ = [mutation.append.header.key for mutation in early.mutations if mutation.HasField("append")]
        connection = ["x-authz-tls-version", "x-authz-tls-cipher"] if name == "inbound" else []
        assert set_ == ["x-authz-timeout", *connection]


def test_the_protocol_of_a_call_is_kept_towards_every_destination() -> None:
    for cluster in read(SPEC).static_resources.clusters:
        options = protocol_options(cluster)
        if cluster.name == "authz":
            assert options.explicit_http_config.HasField("http2_protocol_options")
        else:
            assert options.use_downstream_protocol_config.HasField("http_protocol_options")
            assert options.use_downstream_protocol_config.http2_protocol_options.allow_connect


def test_only_a_wildcards_name_is_taken_from_the_request() -> None:
    by_name = {cluster.name: cluster for cluster in read(SPEC).static_resources.clusters}
    wildcard = protocol_options(by_name["third_party_acme_any.cdn.example_443"]).upstream_http_protocol_options
    assert (wildcard.auto_sni, wildcard.auto_san_validation) == (True, True)
    exact = protocol_options(by_name["third_party_acme_api.acme.example_443"])
    assert not exact.HasField("upstream_http_protocol_options")


def test_the_admin_and_the_runtime_are_out_of_reach() -> None:
    bootstrap = read(SPEC)
    assert bootstrap.admin.address.pipe.mode == 0o600
    assert not any("quit" in path.prefix or "runtime" in path.prefix for path in bootstrap.admin.allow_paths)
    assert [layer.WhichOneof("layer_specifier") for layer in bootstrap.layered_runtime.layers] == ["static_layer"]
    assert not bootstrap.HasField("dynamic_resources")


@pytest.mark.parametrize(("sockets", "ejects"), [(("a.sock",), False), (("a.sock", "b.sock"), True)])
def test_a_check_server_is_put_aside_only_where_there_is_another(sockets: tuple[str, ...], ejects: bool) -> None:  # noqa: FBT001
    cluster = next(one for one in read(sidecar(authz_sockets=sockets)).static_resources.clusters if one.name == "authz")
    assert cluster.HasField("outlier_detection") is ejects
    assert cluster.common_lb_config.HasField("healthy_panic_threshold")
    assert cluster.common_lb_config.healthy_panic_threshold.value == 0
    endpoints = cluster.load_assignment.endpoints[0].lb_endpoints
    assert [one.endpoint.address.pipe.path for one in endpoints] == list(sockets)


def test_a_sidecar_that_could_ask_nobody_or_trusts_nobody_cannot_be_specified() -> None:
    with pytest.raises(ProxyError, match="no check server"):
        sidecar(authz_sockets=())
    with pytest.raises(ProxyError, match="trusts nobody"):
        sidecar(trust_domains=())
    bundle = TrustBundle(trust_domain="shop.example", file="a.pem")
    with pytest.raises(ProxyError, match="two bundles"):
        sidecar(trust_domains=(bundle, bundle))


RESOLVED = ThirdPartyDestination(
    name="acme",
    hosts=(ThirdPartyHost(name="api.acme.example"), ThirdPartyHost(name="cdn.example", wildcard=True, port=8443)),
    authority_file="ca.pem",
)
EGRESS = replace(
    sidecar(),
    third_parties=(RESOLVED,),
    egress_socket="/run/authz/egress.sock",
    tunnels=(Tunnel(name="api.acme.example", port=443),),
)


def test_a_third_party_without_an_address_needs_somebody_to_ask_for_it() -> None:
    with pytest.raises(ProxyError, match="the ThirdParty `acme` has no address, and there is no egress socket"):
        sidecar(third_parties=(RESOLVED,))


def test_a_third_partys_clusters_resolve_no_name_and_connect_where_the_call_says() -> None:
    outside = [one for one in read(EGRESS).static_resources.clusters if one.name.startswith("third_party_")]
    assert {one.name for one in outside} == {
        "third_party_acme_api.acme.example_443",
        "third_party_acme_any.cdn.example_8443",
        "third_party_acme_connect.api.acme.example_443",
    }
    for cluster in outside:
        assert (cluster.type, cluster.lb_policy) == (cluster.ORIGINAL_DST, cluster.CLUSTER_PROVIDED)
        assert not cluster.HasField("load_assignment")
        key = cluster.original_dst_lb_config.metadata_key
        assert (key.key, [part.key for part in key.path]) == ("envoy.filters.http.ext_authz", ["upstream_address"])
        assert not cluster.original_dst_lb_config.use_http_header
        assert cluster.HasField("transport_socket") == ("connect." not in cluster.name)


def test_addresses_are_asked_for_behind_the_check_and_only_of_calls_to_third_parties() -> None:
    (_, inbound), (_, outbound) = managers(EGRESS)
    check, address, *_ = outbound.http_filters
    assert (check.name, address.name, address.disabled) == ("envoy.filters.http.ext_authz", ADDRESS_FILTER, True)
    asks = ext_authz_pb2.ExtAuthz()
    assert address.typed_config.Unpack(asks)
    assert (asks.failure_mode_allow, asks.status_on_error.code) == (False, 503)
    assert asks.decoder_header_mutation_rules.disallow_all.value
    assert ADDRESS_FILTER not in {each.name for each in inbound.http_filters}
    routes = [route for host in outbound.route_config.virtual_hosts for route in host.routes]
    for route in routes:
        leads_out = route.route.cluster.startswith("third_party_")
        assert (ADDRESS_FILTER in route.typed_per_filter_config) == leads_out


def test_nobody_is_asked_for_addresses_where_all_are_given() -> None:
    spec = replace(SPEC, egress_socket="/run/authz/egress.sock")
    assert "egress" not in {one.name for one in read(spec).static_resources.clusters}
    assert ADDRESS_FILTER not in {each.name for _, manager in managers(spec) for each in manager.http_filters}


def test_who_comes_in_by_the_door_for_certificates_is_vouched_for_by_other_authorities_and_said_to_be_there() -> None:
    door = TcpAddress(host="127.0.0.1", port=8081)
    spec = replace(SPEC, sds_socket="/run/authz/sds.sock", third_party_inbound=door)
    mesh, other = read(spec).static_resources.listeners[0].filter_chains
    said = []
    for chain in (mesh, other):
        tls, manager, extensions = tls_pb2.DownstreamTlsContext(), HCM(), ext_authz_pb2.ExtAuthzPerRoute()
        assert chain.transport_socket.typed_config.Unpack(tls)
        assert chain.filters[0].typed_config.Unpack(manager)
        (packed,) = manager.route_config.typed_per_filter_config.values()
        assert packed.Unpack(extensions)
        assert tls.require_client_certificate.value
        assert tls.disable_stateful_session_resumption
        assert tls.disable_stateless_session_resumption
        secret = tls.common_tls_context.validation_context_sds_secret_config.name
        said.append((secret, extensions.check_settings.context_extensions.get("callers")))
    assert said == [("trust", None), ("authorities", "certificates")]
    # What else differs is nothing.
    one, two = HCM(), HCM()
    assert mesh.filters[0].typed_config.Unpack(one)
    assert other.filters[0].typed_config.Unpack(two)
    for each in (one, two):
        each.ClearField("route_config")
    assert one == two


def test_a_door_needs_a_port_of_its_own_and_authorities() -> None:
    door = TcpAddress(host="127.0.0.1", port=8081)
    with pytest.raises(ProxyError, match="by SDS"):
        replace(SPEC, third_party_inbound=door)
    with pytest.raises(ProxyError, match="a port of their own"):
        replace(SPEC, sds_socket="/s", third_party_inbound=LOCAL)
    with pytest.raises(ProxyError, match="a port of their own"):
        replace(SPEC, sds_socket="/s", inbound=UnixAddress(path="/i"), third_party_inbound=door)


def test_failed_handshakes_are_told_where_there_is_a_socket_for_them() -> None:
    told = read(replace(SPEC, access_log_socket="/run/authz/access-log.sock")).static_resources
    inbound, outbound = told.listeners
    (log,) = inbound.access_log
    configuration, filter_ = als_pb2.TcpGrpcAccessLogConfig(), cel_pb2.ExpressionFilter()
    assert log.typed_config.Unpack(configuration)
    assert log.filter.extension_filter.typed_config.Unpack(filter_)
    assert "connection.transport_failure_reason != ''" in filter_.expression
    (cluster,) = (
        one for one in told.clusters if one.name == configuration.common_config.grpc_service.envoy_grpc.cluster_name
    )
    (endpoint,) = cluster.load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.pipe.path == "/run/authz/access-log.sock"
    assert not outbound.access_log


def test_without_such_a_socket_nothing_is_told() -> None:
    resources = read(SPEC).static_resources
    assert not any(listener.access_log for listener in resources.listeners)
    assert "access_log" not in {cluster.name for cluster in resources.clusters}


def test_long_calls_are_held_on_both_listeners_where_there_is_a_socket_for_it() -> None:
    told = read(replace(SPEC, hold_socket="/run/authz/hold.sock")).static_resources
    for listener in told.listeners:
        manager = hcm(listener)
        check, hold, *_ = manager.http_filters
        assert (check.name, hold.name) == ("envoy.filters.http.ext_authz", "envoy.filters.http.ext_proc")
        configuration, off = ext_proc_pb2.ExternalProcessor(), ext_proc_pb2.ExtProcPerRoute()
        assert hold.typed_config.Unpack(configuration)
        assert not configuration.failure_mode_allow
        # A cookie or a token is never told to the hold.
        assert [each.exact for each in configuration.forward_rules.allowed_headers.patterns] == ["x-authz-hold"]
        assert manager.route_config.typed_per_filter_config["envoy.filters.http.ext_proc"].Unpack(off)
        assert off.disabled
        for host in manager.route_config.virtual_hosts:
            routed = [route for route in host.routes if route.HasField("route")]
            held = [route for route in routed if "envoy.filters.http.ext_proc" in route.typed_per_filter_config]
            by_header = [route for route in routed if "x-authz-hold" in {each.name for each in route.match.headers}]
            assert held == by_header
            assert len(held) * 2 == len(routed)
            # What only the header tells apart is asked for first.
            assert [each in held for each in routed] == [index % 4 < 2 for index in range(len(routed))]
    (cluster,) = (one for one in told.clusters if one.name == "hold")
    (endpoint,) = cluster.load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.pipe.path == "/run/authz/hold.sock"


def test_without_such_a_socket_nothing_is_held() -> None:
    resources = read(SPEC).static_resources
    assert "hold" not in {cluster.name for cluster in resources.clusters}
    assert not any(
        each.name.endswith("ext_proc") for listener in resources.listeners for each in hcm(listener).http_filters
    )
    assert b"x-authz-hold" not in b"".join(
        route.SerializeToString()
        for listener in resources.listeners
        for host in hcm(listener).route_config.virtual_hosts
        for route in host.routes
    )
