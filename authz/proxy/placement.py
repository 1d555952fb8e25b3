"""From a policy set, and where things are, to what one Service's sidecar is to do.

The policy set says who the Service is, whom it could call and what they are called; :class:`Placement` says where
listeners, files and peers are. Every Service and every ThirdParty with hosts becomes a destination: which of them may
be called is decided at each call and never by what is configured here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz.proxy.addresses import Address, TcpAddress, UnixAddress
from authz.proxy.errors import ProxyError
from authz.proxy.spec import (
    BUNDLE_FILE,
    ServiceDestination,
    SidecarSpec,
    ThirdPartyDestination,
    ThirdPartyHost,
    TrustBundle,
    Tunnel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.identity.spiffe_id import SpiffeId, TrustDomain
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import Service, ThirdParty

#: Stands for a Service's name in :attr:`Placement.peer_host_template`.
SERVICE_PLACEHOLDER = "{service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the parts of one sidecar are, and where it finds the others.

    `spiffe_id` None: the Service's first exact identity. `bundles` has files by trust domain; for one that is not in it
    the file is `bundle.pem` (the SVID's own trust domain) or `bundle.<trust domain>.pem` in the SVID directory.
    `third_parties` has addresses by name; one that is not in it is reached at its hosts' own. With `sds_socket` SVID
    and bundles come from there, and the files of an SVID are not read. `third_party_inbound` is where ThirdParties come
    in that are known by `certificates`. `egress_socket` is where the addresses of ThirdParties' hosts are asked for.
    `listeners_directory` is where Envoy reads its listeners from, None where they stand in the bootstrap.
    """

    inbound: Address
    outbound: Address
    app: Address
    admin: UnixAddress
    authz_sockets: tuple[str, ...]
    svid_directory: str
    svid_secret_file: str
    authority_file: str
    peer_host_template: str
    peer_port: int
    spiffe_id: SpiffeId | None = None
    bundles: Mapping[str, str] = field(default_factory=dict)
    third_parties: Mapping[str, Address] = field(default_factory=dict)
    access_log_socket: str | None = None
    sds_socket: str | None = None
    hold_socket: str | None = None
    egress_socket: str | None = None
    third_party_inbound: TcpAddress | None = None
    listeners_directory: str | None = None


def sidecar_spec(policy_set: PolicySet, service_name: str, placement: Placement) -> SidecarSpec:
    """Give the sidecar of one Service; raises ProxyError where the set and the places do not fit together."""
    service = next((one for one in policy_set.services if one.name == service_name), None)
    if service is None:
        raise ProxyError(f"there is no Service `{service_name}` in the policy set")
    if SERVICE_PLACEHOLDER not in placement.peer_host_template:
        raise ProxyError(f"the host template `{placement.peer_host_template}` has no `{SERVICE_PLACEHOLDER}` in it")
    spiffe_id = _spiffe_id(service, placement.spiffe_id)
    return SidecarSpec(
        service=service.name,
        identity=str(spiffe_id),
        svid_directory=placement.svid_directory,
        svid_secret_file=placement.svid_secret_file,
        trust_domains=_trust_domains(policy_set, spiffe_id.trust_domain, placement),
        inbound=placement.inbound,
        outbound=placement.outbound,
        app=placement.app,
        admin=placement.admin,
        authz_sockets=placement.authz_sockets,
        access_log_socket=placement.access_log_socket,
        destinations=tuple(_destination(one, placement) for one in policy_set.services),
        third_parties=_third_parties(policy_set.third_parties, placement),
        sds_socket=placement.sds_socket,
        hold_socket=placement.hold_socket,
        egress_socket=placement.egress_socket,
        tunnels=tunnels_of(service),
        third_party_inbound=placement.third_party_inbound,
        listeners_directory=placement.listeners_directory,
    )


def tunnels_of(service: Service) -> tuple[Tunnel, ...]:
    """Give the opaque tunnels that a Service may open."""
    return tuple(Tunnel(name=name, port=port) for name, port in sorted(service.tunnels))


def _spiffe_id(service: Service, wanted: SpiffeId | None) -> SpiffeId:
    if wanted is not None:
        if not any(pattern.matches(wanted) for pattern in service.identities):
            raise ProxyError(f"`{wanted}` is none of the identities of `{service.name}`")
        return wanted
    exact = next((pattern.exact for pattern in service.identities if pattern.exact is not None), None)
    if exact is None:
        raise ProxyError(f"`{service.name}` has identity patterns only: the SPIFFE ID in its SVID must be given")
    return exact


def _trust_domains(policy_set: PolicySet, own: TrustDomain, placement: Placement) -> tuple[TrustBundle, ...]:
    federated = [federation.trust_domain for federation in policy_set.mesh.federations]
    trust_domains = [*policy_set.mesh.trust_domains, *federated]
    for unknown in sorted(placement.bundles.keys() - set(map(str, trust_domains))):
        raise ProxyError(f"the trust domain `{unknown}` is neither the Mesh's own nor federated, and has a bundle")
    return tuple(
        TrustBundle(
            trust_domain=str(one),
            file=placement.bundles.get(
                str(one), f"{placement.svid_directory}/{BUNDLE_FILE if one == own else f'bundle.{one}.pem'}"
            ),
        )
        for one in trust_domains
    )


def _destination(service: Service, placement: Placement) -> ServiceDestination:
    host = placement.peer_host_template.replace(SERVICE_PLACEHOLDER, service.name)
    return ServiceDestination(
        name=service.name,
        hosts=tuple(service.hosts),
        identities=tuple(str(pattern) for pattern in service.identities),
        address=TcpAddress(host=host, port=placement.peer_port),
    )


def _third_parties(parties: tuple[ThirdParty, ...], placement: Placement) -> tuple[ThirdPartyDestination, ...]:
    called = [party for party in parties if party.hosts]
    for unknown in sorted(placement.third_parties.keys() - {party.name for party in called}):
        raise ProxyError(f"there is no ThirdParty `{unknown}` with hosts, and an address is given for it")
    return tuple(
        ThirdPartyDestination(
            name=party.name,
            hosts=tuple(ThirdPartyHost(name=host.name, wildcard=host.wildcard, port=host.port) for host in party.hosts),
            authority_file=placement.authority_file,
            address=placement.third_parties.get(party.name),
            min_tls=party.tls,
        )
        for party in called
    )
