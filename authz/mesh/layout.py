"""What a mesh consists of: from a policy set and allotted places to every Envoy, app, sidecar and stand-in. Pure.

Every Service of the set has its place and its Envoy's configuration, and is known to every other one, whether it is
started or not: a call to one that is not started fails as it would if that Service were down, after the same checks.

# INVARIANT (own identity): each workload's SPIFFE ID belongs, by the set's own rules, to that workload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.issuer.registration import registry_of
from authz.mesh.errors import MeshError
from authz.mesh.workload_identity import identity_of
from authz.proxy.listener_names import LISTENERS_FILE
from authz.proxy.placement import tunnels_of
from authz.proxy.spec import (
    ServiceDestination,
    SidecarSpec,
    ThirdPartyDestination,
    ThirdPartyHost,
    TrustBundle,
    Tunnel,
)
from authz.sidecar.listening_socket import worker_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from authz.identity.spiffe_id import SpiffeId
    from authz.issuer.registration import Registry
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import Service, ThirdParty
    from authz.proxy.addresses import TcpAddress, UnixAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlaces:
    """Where one Service's parts listen and where its files are; `authz_socket` is the first worker's."""

    app: TcpAddress
    inbound: TcpAddress
    outbound: TcpAddress
    admin: UnixAddress
    authz_socket: str
    authz_workers: int
    access_log_socket: str
    hold_socket: str
    listeners_directory: str
    sds_socket: str
    svid_directory: str
    decision_log: str
    sidecar_state: str
    #: where ThirdParties without SPIFFE IDs come in, None where the set has none
    third_party_inbound: TcpAddress | None = None

    @property
    def listeners_file(self) -> str:
        """The file that the Envoy reads its listeners from, and the sidecar changes."""
        return f"{self.listeners_directory}/{LISTENERS_FILE}"

    @property
    def authz_sockets(self) -> tuple[str, ...]:
        """The sockets of all workers."""
        return worker_sockets(self.authz_socket, self.authz_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyPlaces:
    """Where one ThirdParty's stand-in listens, and where the files of its two parts are: caller and TLS host."""

    address: TcpAddress
    svid_directory: str
    tls_directory: str
    authority_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLayout:
    """One Service of the mesh: its identity, its places, and what its Envoy is to do.

    `attested`: its workloads get their identity from the issuer. One that has patterns alone, or whose identity is
    another trust domain's, has files, which the mesh itself writes.
    """

    name: str
    identity: SpiffeId
    attested: bool
    places: ServicePlaces
    sidecar: SidecarSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerCertificate:
    """By which certificate a stand-in without SPIFFE ID calls: its authority's file in the policies, and its name."""

    authority: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyLayout:
    """One stand-in: what has no `dns_names` listens nowhere, what has no `identity` and no `certificate` calls nobody.

    `hosts` are written as in the policy file.
    """

    name: str
    identity: SpiffeId | None
    hosts: tuple[str, ...]
    dns_names: tuple[str, ...]
    places: ThirdPartyPlaces
    certificate: CallerCertificate | None = None

    @property
    def calls(self) -> bool:
        """Whether it can call anybody."""
        return self.identity is not None or self.certificate is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A whole mesh; `bundle_files` gives each trust domain's file, the own ones first, the local one before them.

    `caller_authorities` gives the file that is read in the place of each that the policies' `certificates` name.
    """

    bundle_files: tuple[tuple[str, str], ...]
    own_trust_domains: tuple[str, ...]
    services: tuple[ServiceLayout, ...]
    third_parties: tuple[ThirdPartyLayout, ...]
    caller_authorities: tuple[tuple[str, str], ...] = ()

    def only(self, names: Collection[str]) -> Layout:
        """Give the layout of what is to be started: everything, or the Services and ThirdParties named."""
        if not names:
            return self
        return Layout(
            bundle_files=self.bundle_files,
            own_trust_domains=self.own_trust_domains,
            services=tuple(one for one in self.services if one.name in names),
            third_parties=tuple(one for one in self.third_parties if one.name in names),
            caller_authorities=self.caller_authorities,
        )


def lay_out(
    policy_set: PolicySet,
    *,
    owner: Callable[[SpiffeId], str | None],
    services: Mapping[str, ServicePlaces],
    third_parties: Mapping[str, ThirdPartyPlaces],
    bundle_files: Mapping[str, str],
    caller_authorities: Mapping[str, str],
) -> Layout:
    """Lay out a mesh of everything in the set; raises MeshError where a workload can have no identity.

    `services` and `third_parties` have places for every name of the set, `bundle_files` a file for each trust domain,
    own and federated, `caller_authorities` one for each file that `certificates` name; `owner` gives the Service or
    ThirdParty that an ID belongs to.
    """
    identities = {one.name: _service_identity(one, owner) for one in policy_set.services}
    registry = registry_of(policy_set)
    bundles = tuple((name, bundle_files[name]) for name in trust_domain_names(policy_set))
    trust_domains = tuple(TrustBundle(trust_domain=name, file=file) for name, file in bundles)
    destinations = tuple(
        ServiceDestination(
            name=one.name,
            hosts=tuple(one.hosts),
            identities=(str(identities[one.name]),),
            address=services[one.name].inbound,
        )
        for one in policy_set.services
    )
    outside = tuple(_destination(one, third_parties[one.name]) for one in policy_set.third_parties if one.hosts)
    return Layout(
        bundle_files=bundles,
        own_trust_domains=tuple(trust_domain.name for trust_domain in policy_set.mesh.trust_domains),
        services=tuple(
            ServiceLayout(
                name=one.name,
                identity=identities[one.name],
                attested=_first_issued(registry, one.name) == identities[one.name],
                places=services[one.name],
                sidecar=_sidecar(
                    one.name,
                    identities[one.name],
                    services[one.name],
                    tunnels=tunnels_of(one),
                    trust_domains=trust_domains,
                    destinations=destinations,
                    third_parties=outside,
                ),
            )
            for one in policy_set.services
        ),
        third_parties=tuple(
            ThirdPartyLayout(
                name=one.name,
                identity=_caller_identity(one, owner),
                certificate=_caller_certificate(one),
                hosts=tuple(str(host) for host in one.hosts),
                dns_names=tuple(sorted({_dns_name(host) for host in _hosts(one)})),
                places=third_parties[one.name],
            )
            for one in policy_set.third_parties
        ),
        caller_authorities=tuple(sorted(caller_authorities.items())),
    )


def caller_authority_files(policy_set: PolicySet) -> tuple[str, ...]:
    """Give the files of authorities that `certificates` of the set name."""
    return tuple(sorted({each.authority_file for one in policy_set.third_parties for each in one.certificates}))


def require_names(policy_set: PolicySet, names: Collection[str]) -> None:
    """Raise MeshError for a name that no Service or ThirdParty of the set has."""
    known = {one.name for one in policy_set.services} | {one.name for one in policy_set.third_parties}
    for name in sorted(set(names) - known):
        raise MeshError(f"--only: there is no Service or ThirdParty `{name}` in the policy set")


def trust_domain_names(policy_set: PolicySet) -> tuple[str, ...]:
    """Give the names of all trust domains of a set: its own, the local one first, then the federated ones."""
    mesh = policy_set.mesh
    own = [trust_domain.name for trust_domain in mesh.trust_domains]
    return tuple(own + [federation.trust_domain.name for federation in mesh.federations])


def _first_issued(registry: Registry, service: str) -> SpiffeId | None:
    found = registry.registrations.get(service)
    return None if found is None else found.identities[0]


def _has_exact_identity(third_party: ThirdParty) -> bool:
    return any(pattern.exact is not None for pattern in third_party.identities)


def _caller_identity(third_party: ThirdParty, owner: Callable[[SpiffeId], str | None]) -> SpiffeId | None:
    # As in PolicyTests: the first exact identity, or the certificate; one made from a pattern where there is neither.
    if third_party.certificates and not _has_exact_identity(third_party):
        return None
    return identity_of(third_party.name, third_party.identities, owner=owner)


def _caller_certificate(third_party: ThirdParty) -> CallerCertificate | None:
    if not third_party.certificates or _has_exact_identity(third_party):
        return None
    first = third_party.certificates[0]
    kind, name = ("dns", first.dns[0]) if first.dns else ("uri", first.uri[0])
    return CallerCertificate(authority=first.authority_file, kind=kind, name=name)


def _service_identity(service: Service, owner: Callable[[SpiffeId], str | None]) -> SpiffeId:
    identity = identity_of(service.name, service.identities, owner=owner)
    if identity is None:
        raise MeshError(f"the Service `{service.name}` has no identities")
    return identity


def _sidecar(
    name: str,
    identity: SpiffeId,
    places: ServicePlaces,
    *,
    tunnels: tuple[Tunnel, ...],
    trust_domains: tuple[TrustBundle, ...],
    destinations: tuple[ServiceDestination, ...],
    third_parties: tuple[ThirdPartyDestination, ...],
) -> SidecarSpec:
    return SidecarSpec(
        service=name,
        identity=str(identity),
        svid_directory=places.svid_directory,
        svid_secret_file="",
        sds_socket=places.sds_socket,
        trust_domains=trust_domains,
        inbound=places.inbound,
        outbound=places.outbound,
        app=places.app,
        admin=places.admin,
        authz_sockets=places.authz_sockets,
        access_log_socket=places.access_log_socket,
        hold_socket=places.hold_socket,
        listeners_directory=places.listeners_directory,
        third_party_inbound=places.third_party_inbound,
        destinations=destinations,
        third_parties=third_parties,
        tunnels=tunnels,
    )


def _destination(third_party: ThirdParty, places: ThirdPartyPlaces) -> ThirdPartyDestination:
    return ThirdPartyDestination(
        name=third_party.name,
        hosts=_hosts(third_party),
        authority_file=places.authority_file,
        address=places.address,
        min_tls=third_party.tls,
    )


def _hosts(third_party: ThirdParty) -> tuple[ThirdPartyHost, ...]:
    return tuple(ThirdPartyHost(name=host.name, wildcard=host.wildcard, port=host.port) for host in third_party.hosts)


def _dns_name(host: ThirdPartyHost) -> str:
    """Give the name that the stand-in's certificate must bear: RFC 6125 6.4.3, `*` is the whole first label."""
    return f"*.{host.name}" if host.wildcard else host.name
