"""Envoy's choice of a destination by host, against the policy's: they may differ only in going nowhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.type.v3 import FractionalPercent
from hypothesis import given, strategies as st

from authz.policy.host import is_well_formed, requested_host
from authz.policy.index import compile_index
from authz.proxy.errors import ProxyError
from authz.proxy.route import NOWHERE_STATUS, SIDECARS_HEADERS, inbound_routes, outbound_routes
from authz.proxy.spec import ServiceDestination, ThirdPartyDestination, ThirdPartyHost, Tunnel
from tests.support.policy_sets import OPEN, document, parsed, service
from tests.support.sidecar_specs import LOCAL, sidecar

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, VirtualHost

POLICY_SET = parsed(
    document("Mesh", "shop", "{trustDomains: [shop.example]}"),
    service(
        "orders",
        more=', hosts: [orders.shop.local, o.cdn.example], egress: {connect: ["api.acme.example:443",'
        ' "api.acme.example:8443", "q.cdn.example:8443", "a.cdn.example:443", "nobody.example:443"]}',
    ),
    service("catalog"),
    document(
        "ThirdParty",
        "acme",
        f'{{hosts: [api.acme.example, "a.cdn.example:8443", "*.cdn.example", "b.cdn.example:9443"], window: {OPEN}}}',
    ),
    document(
        "ThirdParty",
        "other",
        f'{{hosts: ["api.acme.example:8443", "*.cdn.example:8443", "*.a.cdn.example"], window: {OPEN}}}',
    ),
)
INDEX = compile_index(POLICY_SET)
SPEC = sidecar(
    destinations=tuple(
        ServiceDestination(name=one.name, hosts=one.hosts, identities=("spiffe://a/b",), address=LOCAL)
        for one in POLICY_SET.services
    ),
    third_parties=tuple(
        ThirdPartyDestination(
            name=one.name,
            hosts=tuple(ThirdPartyHost(name=host.name, wildcard=host.wildcard, port=host.port) for host in one.hosts),
            authority_file="authorities.pem",
            address=LOCAL,
        )
        for one in POLICY_SET.third_parties
    ),
)
(TUNNELS,) = (one.tunnels for one in POLICY_SET.services if one.name == "orders")
SPEC = replace(SPEC, tunnels=tuple(Tunnel(name=name, port=port) for name, port in sorted(TUNNELS)))
ROUTES = outbound_routes(SPEC)

_LABELS = st.sampled_from(
    ["orders", "catalog", "shop", "local", "api", "acme", "example", "cdn", "a", "b", "o", "x", "A", "CDN", ""]
)
_HOSTS = st.builds(
    "{}{}{}".format,
    st.one_of(
        st.lists(_LABELS, min_size=1, max_size=5).map(".".join),
        st.sampled_from(["orders", "orders.shop.local", "o.cdn.example", "api.acme.example", "q.cdn.example"]),
    ),
    st.sampled_from(["", ".", ".."]),
    st.sampled_from(["", ":", ":80", ":443", ":8443", ":9443", ":65535", ":65536", ":080", ":x", ":80:80"]),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    cluster: str | None
    status: int | None


def envoys_choice(routes: RouteConfiguration, authority: str, path: str = "/") -> Chosen | None:
    """Choose as Envoy does: exact domains, then the longest suffix, then `*`; then the first route that matches."""
    host = authority.lower()
    if routes.ignore_port_in_host_matching:
        host = host[: host.rindex(":")] if ":" in host else host
    candidates = [(domain, virtual_host) for virtual_host in routes.virtual_hosts for domain in virtual_host.domains]
    exact = [found for domain, found in candidates if domain == host]
    suffixes = sorted(
        (
            (len(domain), found)
            for domain, found in candidates
            if domain.startswith("*.") and host.endswith(domain[1:]) and len(host) > len(domain) - 1
        ),
        key=lambda pair: -pair[0],
    )
    chosen: VirtualHost = exact[0] if exact else suffixes[0][1] if suffixes else candidates[-1][1]
    return next((_outcome(route) for route in chosen.routes if _matches(route, authority, path)), None)


def _matches(route: Route, authority: str, path: str) -> bool:
    match = route.match
    assert match is not None
    if match.prefix is not None and not path.startswith(match.prefix):
        return False
    if match.path is not None and path != match.path:
        return False
    if match.connect_matcher is not None and path:
        return False
    return all(
        header.string_match is not None
        and header.string_match.safe_regex is not None
        and re.fullmatch(header.string_match.safe_regex.regex, authority) is not None
        for header in match.headers
    )


def _outcome(route: Route) -> Chosen:
    return Chosen(
        cluster=None if route.route is None else route.route.cluster,
        status=None if route.direct_response is None else route.direct_response.status,
    )


def policys_choice(host: str) -> str | None:
    asked = requested_host(host)
    party = None if asked is None or not is_well_formed(host) else INDEX.destination(*asked)
    return None if party is None else party.name


@given(_HOSTS)
def test_a_host_goes_to_the_destination_that_was_decided_about_or_nowhere(host: str) -> None:
    chosen, decided = envoys_choice(ROUTES, host), policys_choice(host)
    assert chosen is not None
    if chosen.cluster is None:
        assert chosen.status == NOWHERE_STATUS
        # A wildcard's name with a trailing dot is no name that TLS could carry: it is allowed, and not reached.
        assert decided is None or host.partition(":")[0].endswith(".")
    else:
        assert decided is not None
        assert chosen.cluster == f"service_{decided}" or chosen.cluster.startswith(f"third_party_{decided}_")


@given(_HOSTS)
def test_a_tunnel_leads_to_the_host_and_port_that_the_service_may_have_one_to_or_nowhere(host: str) -> None:
    chosen, decided = envoys_choice(ROUTES, host, path=""), policys_choice(host)
    assert chosen is not None
    if chosen.cluster is None:
        assert chosen.status == NOWHERE_STATUS
    else:
        asked = requested_host(host)
        assert asked in TUNNELS
        assert chosen.cluster == f"third_party_{decided}_connect.{asked[0]}_{asked[1]}"


@pytest.mark.parametrize(
    ("host", "cluster"),
    [
        ("api.acme.example:443", "third_party_acme_connect.api.acme.example_443"),
        ("API.acme.example.:8443", "third_party_other_connect.api.acme.example_8443"),
        ("q.cdn.example:8443", "third_party_other_connect.q.cdn.example_8443"),
        ("a.cdn.example:443", "third_party_acme_connect.a.cdn.example_443"),
        ("nobody.example:443", None),
        ("api.acme.example", None),
        ("api.acme.example:80", None),
        ("b.cdn.example:9443", None),
        ("orders:443", None),
    ],
)
def test_a_tunnel_is_routed_by_host_and_port(host: str, cluster: str | None) -> None:
    chosen = envoys_choice(ROUTES, host, path="")
    assert chosen is not None
    assert chosen.cluster == cluster


@pytest.mark.parametrize(
    ("host", "cluster"),
    [
        ("orders", "service_orders"),
        ("o.cdn.example:8443", "service_orders"),
        ("api.acme.example:80", "third_party_acme_api.acme.example_443"),
        ("api.acme.example:8443", "third_party_other_api.acme.example_8443"),
        ("a.cdn.example:8443", "third_party_acme_a.cdn.example_8443"),
        ("a.cdn.example", "third_party_acme_any.cdn.example_443"),
        ("b.cdn.example:8443", "third_party_other_any.cdn.example_8443"),
        ("x.a.cdn.example", "third_party_other_any.a.cdn.example_443"),
    ],
)
def test_the_nearest_entry_wins(host: str, cluster: str) -> None:
    assert envoys_choice(ROUTES, host) == Chosen(cluster=cluster, status=None)


@given(st.text(max_size=40), st.sampled_from(["/", "/a", "*", ""]))
def test_there_is_no_request_without_a_route(host: str, path: str) -> None:
    for routes in (ROUTES, inbound_routes(SPEC)):
        assert envoys_choice(routes, host, path) is not None


def test_every_table_says_where_it_stands() -> None:
    for routes in (ROUTES, inbound_routes(SPEC)):
        assert set(routes.typed_per_filter_config) == {"envoy.filters.http.ext_authz"}
        assert routes.virtual_hosts[-1].domains == ["*"]


def test_inbound_everything_but_connect_goes_to_the_app_and_no_denial_is_believed_of_it() -> None:
    for host in ("orders", "nowhere", ""):
        assert envoys_choice(inbound_routes(SPEC), host) == Chosen(cluster="app", status=None)
        assert envoys_choice(inbound_routes(SPEC), host, "") == Chosen(cluster=None, status=NOWHERE_STATUS)
    (virtual_host,) = inbound_routes(SPEC).virtual_hosts
    for route in virtual_host.routes:
        assert route.route is None or route.response_headers_to_remove == list(SIDECARS_HEADERS)


def test_one_call_in_ten_is_told_when_it_came_and_goes_where_all_others_go() -> None:
    (virtual_host,) = inbound_routes(SPEC).virtual_hosts
    told = [route for route in virtual_host.routes if route.response_headers_to_add]
    rest = virtual_host.routes[len(told) :]
    assert told
    assert virtual_host.routes[: len(told)] == told
    for route, usual in zip(told, rest, strict=False):
        ((header,), fraction) = route.response_headers_to_add, route.match.runtime_fraction
        assert (header.header.key, header.append_action.name) == ("x-authz-received", "OVERWRITE_IF_EXISTS_OR_ADD")
        assert fraction is not None
        assert (fraction.runtime_key, fraction.default_value) == ("", FractionalPercent(numerator=10))
        assert replace(route, match=replace(route.match, runtime_fraction=None), response_headers_to_add=[]) == usual


def test_callers_with_certificates_are_never_told_when_their_call_came() -> None:
    (virtual_host,) = inbound_routes(SPEC, by_certificates=True).virtual_hosts
    assert not any(route.response_headers_to_add for route in virtual_host.routes)


def test_a_third_party_says_nothing_of_clocks() -> None:
    routes = [route for host in ROUTES.virtual_hosts for route in host.routes if route.route is not None]
    third = [route for route in routes if route.route.cluster.startswith("third_party_")]
    assert third
    assert all("x-authz-received" in route.response_headers_to_remove for route in third)


def test_a_host_of_two_owners_is_refused() -> None:
    def service(name: str) -> ServiceDestination:
        return ServiceDestination(name=name, hosts=("Same.",), identities=("spiffe://a/b",), address=LOCAL)

    with pytest.raises(ProxyError, match="the host `same` belongs to two destinations"):
        outbound_routes(sidecar(destinations=(service("a"), service("b"))))
