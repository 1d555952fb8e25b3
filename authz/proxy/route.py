"""Which cluster a decided request goes to, and that none is routed, or answered, without having been decided.

INVARIANT (no answer without a check): Envoy answers a request that matches no virtual host or no route with a bare 404,
before any filter runs. Therefore every routing table here ends in the virtual host `*`, and every virtual host in
routes that match whatever is left: every path, the exact path `*`, and CONNECT, which has no path. (What Envoy
refuses before it routes cannot be checked: a request that is not well-formed HTTP, and `OPTIONS *`, which Envoy 1.40
answers with 404 and counts as `http.inbound.downstream_rq_non_relative_path`.)
The check's `context_extensions` stand on the table as a whole, so no route can lack them; and a request that
somehow had none would be denied by the check server.

INVARIANT (one reading of a host): a destination's route matches the whole Host (:authority) header by one expression
that says what the policy's host rules say (letters of either case, one trailing dot, ports). A host that the check
reads in another way than Envoy matches no such route and is refused; it never arrives somewhere else.
Each outbound route tells the check which destination it leads to: this table is as old as the Envoy, while the policies
are as new as their folder; where the two disagree about a host, nothing passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteActionMaxStreamDuration,
    RouteActionUpgradeConfig,
    RouteActionUpgradeConfigConnectConfig,
    RouteConfiguration,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from authz.proxy.address_filter import address_extensions
from authz.proxy.check_filter import check_extensions
from authz.proxy.cluster import (
    APP_CLUSTER,
    HTTPS_PORT,
    service_cluster_name,
    third_party_cluster_name,
    tunnel_cluster_name,
    tunnels,
)
from authz.proxy.errors import ProxyError
from authz.proxy.hardening import NO_TIMEOUT
from authz.proxy.header_names import (
    GRPC_TIMEOUT,
    X_AUTHZ_CALLER,
    X_AUTHZ_DECISION_ID,
    X_AUTHZ_REASON,
    X_AUTHZ_RECEIVED,
)
from authz.proxy.hold_filter import held, is_to_be_held, not_held
from authz.proxy.peer_clock import received_here, told_of_some_calls
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envoy_data_plane.google.protobuf import Any

    from authz.proxy.spec import SidecarSpec, ThirdPartyDestination, ThirdPartyHost, Tunnel

#: What is said to a request that a check server let through although nothing stands behind its host.
NOWHERE_STATUS = 503
#: What only a sidecar says in answers, most of it of denials: an app or a ThirdParty must not be able to answer in its
#: name.
SIDECARS_HEADERS = (X_AUTHZ_CALLER, X_AUTHZ_DECISION_ID, X_AUTHZ_REASON, X_AUTHZ_RECEIVED)

_ANY_CASE = "(?i)"
#: gRPC over HTTP/2, Requests: what the policy language takes for a gRPC call's content type
_GRPC = StringMatcher(safe_regex=RegexMatcher(regex="application/grpc([+;].*)?"))
_ONE_LABEL = r"[a-z0-9_-]+\."
#: 1 to 65535, without a leading zero
_PORT = r"[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One host that a destination is addressed by. `rank` orders the entries of one virtual host, lowest first."""

    rank: int
    name: str
    wildcard: bool
    authority: str
    cluster: str
    #: where held calls go instead
    held_cluster: str
    destination: str
    third_party: bool
    address: dict[str, Any] = field(default_factory=dict)


def inbound_routes(spec: SidecarSpec, *, by_certificates: bool = False, held_alone: bool = False) -> RouteConfiguration:
    """Give the routing table of the inbound listener: everything to the app, whatever its host, but CONNECT.

    `by_certificates`: that of the door for callers without SPIFFE IDs. `held_alone`: that of the chain of held calls:
    the check holds every call there, and none goes on that is not.
    """
    return RouteConfiguration(
        name="inbound",
        virtual_hosts=[
            VirtualHost(
                name="app",
                domains=["*"],
                routes=[
                    Route(
                        match=match if told is None else replace(match, runtime_fraction=told),
                        route=_to(APP_CLUSTER),
                        request_headers_to_remove=removed,
                        response_headers_to_remove=list(SIDECARS_HEADERS),
                        response_headers_to_add=[] if told is None else [received_here()],
                        typed_per_filter_config=hold,
                    )
                    # Who is outside of any mesh need not know our clock to the microsecond.
                    for told in ((None,) if by_certificates else (told_of_some_calls(), None))
                    for every in _every_path()
                    for match, removed, hold in _of_any_call(spec, every)
                    if hold or not held_alone
                ]
                + (_nowhere_else() if held_alone else [_nowhere(_connect())]),
            )
        ],
        typed_per_filter_config=check_extensions(
            Direction.INBOUND, spec.service, spec.identity, by_certificates=by_certificates, held_alone=held_alone
        )
        | not_held(spec),
    )


def outbound_routes(spec: SidecarSpec) -> RouteConfiguration:
    """Give the routing table of the outbound listener: by host, to the one destination that it names.

    Ports take no part in finding the virtual host; each route says which ports it takes.
    """
    hosts: dict[tuple[str, bool], list[_Entry]] = {}
    entries = list(_entries(spec))
    for entry in entries:
        hosts.setdefault((entry.name, entry.wildcard), []).append(entry)
    tunnelled: dict[str, list[Route]] = {}
    for tunnel, party in tunnels(spec):
        name = _normal(tunnel.name)
        hosts.setdefault((name, False), [])
        tunnelled.setdefault(name, []).extend(_tunnels(spec, tunnel, party))
    for (name, wildcard), found in hosts.items():
        if not wildcard:
            # Envoy looks into one virtual host only: a wildcard's ports must be reachable from the exact name's too.
            found += [entry for entry in entries if entry.wildcard and entry.name == name.partition(".")[2]]
    return RouteConfiguration(
        name="outbound",
        ignore_port_in_host_matching=True,
        virtual_hosts=[
            *(
                _virtual_host(spec, name, wildcard, found, [] if wildcard else tunnelled.get(name, []))
                for (name, wildcard), found in sorted(hosts.items(), key=lambda pair: pair[0])
            ),
            VirtualHost(name="unknown", domains=["*"], routes=_nowhere_else()),
        ],
        typed_per_filter_config=_extensions(spec, "") | not_held(spec),
    )


def _entries(spec: SidecarSpec) -> Iterator[_Entry]:
    seen: set[tuple[str, bool, int | None]] = set()
    for service in spec.destinations:
        for name in dict.fromkeys(_normal(host) for host in (service.name, *service.hosts)):
            _claim(seen, name, (name, False, None))
            yield _Entry(
                rank=0,
                name=name,
                wildcard=False,
                authority=rf"{_ANY_CASE}{re.escape(name)}\.?(:({_PORT}))?",
                cluster=service_cluster_name(service),
                held_cluster=service_cluster_name(service, held=spec.drains),
                destination=service.name,
                third_party=False,
            )
    seen.clear()
    for party in spec.third_parties:
        for host in party.hosts:
            name = _normal(host.name)
            _claim(seen, name, (name, host.wildcard, host.port))
            yield _Entry(
                rank=1 + 2 * host.wildcard + (host.port is None),
                name=name,
                wildcard=host.wildcard,
                authority=_third_party_authority(name, host),
                cluster=third_party_cluster_name(party, host),
                held_cluster=third_party_cluster_name(party, host),
                destination=party.name,
                third_party=True,
                address=_address(spec, party, "" if host.wildcard else name, host.port or HTTPS_PORT),
            )


def _third_party_authority(name: str, host: ThirdPartyHost) -> str:
    # A wildcard takes its TLS name from the host as written, which must not end in a dot (RFC 6066 3).
    begin, end = (_ONE_LABEL, "") if host.wildcard else ("", r"\.?")
    ports = "(:80|:443)?" if host.port is None else f":{host.port}"
    return f"{_ANY_CASE}{begin}{re.escape(name)}{end}{ports}"


def _claim(seen: set[tuple[str, bool, int | None]], name: str, key: tuple[str, bool, int | None]) -> None:
    if key in seen:
        raise ProxyError(f"the host `{name}` belongs to two destinations")
    seen.add(key)


def _normal(host: str) -> str:
    return host.lower().removesuffix(".")


def _extensions(spec: SidecarSpec, destination: str) -> dict[str, Any]:
    return check_extensions(Direction.OUTBOUND, spec.service, spec.identity, destination)


def _virtual_host(
    spec: SidecarSpec,
    name: str,
    wildcard: bool,  # noqa: FBT001 a sorted key
    entries: Iterable[_Entry],
    tunnelled: list[Route],
) -> VirtualHost:
    domain = f"*.{name}" if wildcard else name
    return VirtualHost(
        name=domain,
        domains=[domain, f"{domain}."],
        routes=tunnelled
        + [route for entry in sorted(entries, key=lambda entry: entry.rank) for route in _by_host(spec, entry)]
        + _nowhere_else(),
    )


def _by_host(spec: SidecarSpec, entry: _Entry) -> Iterator[Route]:
    host = _authority(entry.authority)
    for match, removed, hold in _of_any_call(spec, RouteMatch(prefix="/")):
        match.headers.append(host)
        yield Route(
            match=match,
            route=_to(entry.held_cluster if hold else entry.cluster),
            request_headers_to_remove=removed,
            response_headers_to_remove=list(SIDECARS_HEADERS) if entry.third_party else [],
            typed_per_filter_config=_extensions(spec, entry.destination) | entry.address | hold,
        )


def _tunnels(spec: SidecarSpec, tunnel: Tunnel, party: ThirdPartyDestination) -> Iterator[Route]:
    """Give the routes of an opaque tunnel: Envoy answers the CONNECT, and carries bytes from then on."""
    name = _normal(tunnel.name)
    authority = _authority(rf"{_ANY_CASE}{re.escape(name)}\.?:{tunnel.port}")
    for match, removed, hold in _of_any_call(spec, _connect()):
        match.headers.append(authority)
        action = _to(tunnel_cluster_name(party, tunnel))
        action.upgrade_configs = [
            RouteActionUpgradeConfig(upgrade_type="CONNECT", connect_config=RouteActionUpgradeConfigConnectConfig())
        ]
        yield Route(
            match=match,
            route=action,
            request_headers_to_remove=removed,
            response_headers_to_remove=list(SIDECARS_HEADERS),
            typed_per_filter_config=_extensions(spec, party.name) | _address(spec, party, name, tunnel.port) | hold,
        )


def _address(spec: SidecarSpec, party: ThirdPartyDestination, host: str, port: int) -> dict[str, Any]:
    if party.address is not None:
        return {}
    return address_extensions(third_party=party.name, host=host, port=port, workload=spec.identity)


def _authority(expression: str) -> HeaderMatcher:
    return HeaderMatcher(name=":authority", string_match=StringMatcher(safe_regex=RegexMatcher(regex=expression)))


def _of_any_call(spec: SidecarSpec, match: RouteMatch) -> Iterator[tuple[RouteMatch, list[str], dict[str, Any]]]:
    """Give routes for held calls, where there is who holds them, and for all others, of any protocol each.

    With them come the headers that the app does not see, and what a held call's route says of the hold.
    """
    if spec.hold_socket is not None:
        for each, removed in _of_any_protocol(match):
            each.headers.append(is_to_be_held())
            yield each, removed, held()
    for each, removed in _of_any_protocol(match):
        yield each, removed, {}


def _of_any_protocol(match: RouteMatch) -> Iterator[tuple[RouteMatch, list[str]]]:
    """Give routes for gRPC, and for all else, each with the headers that its app does not see.

    The deadline of a call is said in gRPC's own header: who speaks gRPC is to know it, for others it does not exist.
    (Envoy takes it away behind the router's timer, which has read it.)
    """
    yield replace(match, headers=[HeaderMatcher(name="content-type", string_match=_GRPC)]), []
    yield replace(match, headers=[]), [GRPC_TIMEOUT]


def _to(cluster: str) -> RouteAction:
    return RouteAction(
        cluster=cluster,
        timeout=NO_TIMEOUT,
        # 0 is no limit of its own: a stream lives for as long as `grpc-timeout` says, which the check server writes.
        max_stream_duration=RouteActionMaxStreamDuration(grpc_timeout_header_max=NO_TIMEOUT),
        # Only what certainly did not reach the other side is tried again.
        retry_policy=RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=1),
    )


def _nowhere_else() -> list[Route]:
    return [_nowhere(match) for match in (*_every_path(), _connect())]


def _nowhere(match: RouteMatch) -> Route:
    return Route(match=match, direct_response=DirectResponseAction(status=NOWHERE_STATUS))


def _every_path() -> tuple[RouteMatch, ...]:
    return (RouteMatch(prefix="/"), RouteMatch(path="*"))


def _connect() -> RouteMatch:
    return RouteMatch(connect_matcher=RouteMatchConnectMatcher())
