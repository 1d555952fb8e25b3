"""What one sidecar is to do, as values: whose it is, where it listens, whom it trusts and whom it can reach.

A :class:`SidecarSpec` holds everything that makes one service's Envoy different from another's; what is the same
for all (hardening, timeouts, filters) is no field of it and cannot be turned off. It is pure text and numbers:
whoever fills it in (the local mesh, `authz envoy`) has chosen ports and paths, and no file is read here.

Two files belong to a sidecar: the bootstrap (:func:`authz.proxy.bootstrap.sidecar_bootstrap`) and, at
`svid_secret_file`, the content that :func:`authz.proxy.tls.svid_secret` gives. Envoy reads a renewed key pair only
through the second one, and does not start without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from authz.proxy.addresses import TcpAddress
from authz.proxy.errors import ProxyError
from authz.request import TlsVersion

if TYPE_CHECKING:
    from authz.proxy.addresses import Address, UnixAddress

#: The files in an SVID directory, all of them replaced by one atomic rename.
SVID_FILE, KEY_FILE, BUNDLE_FILE = "svid.pem", "key.pem", "bundle.pem"

#: The names under which Envoy asks for the key pair, for the bundles that peers are judged by, and for the authorities
#: that callers without SPIFFE IDs are.
SVID_SECRET = "svid"  # noqa: S105 a name, no secret
TRUST_SECRET = "trust"  # noqa: S105 same
AUTHORITIES_SECRET = "authorities"  # noqa: S105 same


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """A trust domain, own or federated, and the PEM file with the authorities that may sign its SVIDs."""

    trust_domain: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDestination:
    """Another Service of the mesh, reached over mTLS at its inbound listener.

    `hosts` are the further names that callers address it by; its `name` always is one. `identities` are exact SPIFFE
    IDs or identity patterns, written as the policy language writes them (`*` one segment, `**` one or more, last only).
    """

    name: str
    hosts: tuple[str, ...] = ()
    identities: tuple[str, ...]
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyHost:
    """One entry of a ThirdParty's `hosts`: `name`, `name:port`, or with exactly one leading `*` label (`wildcard`).

    `name` never holds the `*.` of a wildcard. Without a port it stands for none, 80 and 443, reached on 443.
    """

    name: str
    wildcard: bool = False
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One entry of the Service's `egress.connect`: an exact host name, and the port."""

    name: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyDestination:
    """A service outside the mesh, reached over TLS that the sidecar originates.

    `address` None: each host is resolved by its own name, and its address judged; else all hosts are reached there (a
    stand-in, a gateway), which whoever configures it has judged.
    `authority_file` holds the authorities that its certificate must chain to. The certificate must be for the host
    that the app asked for. `min_tls` is the lowest version offered.
    """

    name: str
    hosts: tuple[ThirdPartyHost, ...]
    authority_file: str
    address: Address | None = None
    min_tls: TlsVersion = TlsVersion.TLS_1_2


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSpec:
    """One sidecar: `service` and its SPIFFE ID, four addresses, its trust, its check servers, its destinations.

    `svid_directory` holds svid.pem, key.pem and bundle.pem and is watched: one atomic rename in it (`..data`) makes
    Envoy read a new pair. `svid_secret_file` is where :func:`authz.proxy.tls.svid_secret` was written.
    `trust_domains` begins with the local one. `authz_sockets` are the unix sockets of the check workers, at least one,
    in any order; `access_log_socket` is where failed handshakes are told (:mod:`authz.proxy.access_log`), None for
    nowhere. `max_connection_duration` must be shorter than what is left of an SVID's life when it is renewed
    (renewal at half of one hour leaves 30 minutes), because a connection keeps the certificate that it began with.

    `hold_socket` is that of `authz sidecar --hold-socket`, which holds long calls (:mod:`authz.proxy.hold_filter`);
    without it none is held.

    With `sds_socket`, the unix socket of `authz sidecar --sds-socket`, SVID and bundles come from there and no file of
    an SVID is read: `svid_directory`, `svid_secret_file` and `trust_domains` say nothing then.

    `egress_socket` is the unix socket of `authz sidecar --egress-socket`, which gives the addresses of ThirdParties
    that have none here. `tunnels` are where the Service may open opaque tunnels to (CONNECT).

    `listeners_directory`: the listeners are read from there (:mod:`authz.proxy.listener_file`), and again whenever the
    file in it is replaced; None: they stand in the bootstrap, and nothing ends a connection but its own end.

    `third_party_inbound` is a second address of the inbound listener, for ThirdParties that are known by
    `certificates`, and for nobody with a SPIFFE ID; None: there is none, and such callers come in nowhere.
    """

    service: str
    identity: str
    svid_directory: str
    svid_secret_file: str
    trust_domains: tuple[TrustBundle, ...]
    inbound: Address
    outbound: Address
    app: Address
    admin: UnixAddress
    authz_sockets: tuple[str, ...]
    destinations: tuple[ServiceDestination, ...] = ()
    third_parties: tuple[ThirdPartyDestination, ...] = ()
    max_connection_duration: timedelta = timedelta(minutes=15)
    access_log_socket: str | None = None
    sds_socket: str | None = None
    hold_socket: str | None = None
    egress_socket: str | None = None
    tunnels: tuple[Tunnel, ...] = ()
    listeners_directory: str | None = None

    @property
    def drains(self) -> bool:
        """Whether connections can be drained while Envoy runs, and there is who is told of what runs on them.

        Held calls have connections of their own then, between sidecars, which no drain ends.
        """
        others = (self.access_log_socket, self.hold_socket)
        return self.listeners_directory is not None and all(each is not None for each in others)

    @property
    def resolves_addresses(self) -> bool:
        """Whether there is a ThirdParty whose addresses the sidecar is asked for."""
        return any(party.address is None for party in self.third_parties)

    third_party_inbound: TcpAddress | None = None

    def __post_init__(self) -> None:
        self._require_possible_door()
        if not self.authz_sockets:
            raise ProxyError(f"the sidecar of `{self.service}` has no check server to ask")
        if not self.trust_domains and self.sds_socket is None:
            raise ProxyError(f"the sidecar of `{self.service}` trusts nobody: give it a trust bundle")
        if self.resolves_addresses and self.egress_socket is None:
            name = next(party.name for party in self.third_parties if party.address is None)
            raise ProxyError(
                f"the ThirdParty `{name}` has no address, and there is no egress socket to ask for those of its hosts"
            )
        names = [bundle.trust_domain for bundle in self.trust_domains]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise ProxyError(f"the trust domain `{name}` has two bundles")

    def _require_possible_door(self) -> None:
        if self.third_party_inbound is None:
            return
        if self.sds_socket is None:
            raise ProxyError("callers without SPIFFE IDs come in where their authorities come by SDS: give its socket")
        # The two doors are told apart by their ports.
        if not isinstance(self.inbound, TcpAddress) or self.inbound.port == self.third_party_inbound.port:
            raise ProxyError("callers without SPIFFE IDs come in on a port of their own: give another than inbound's")
