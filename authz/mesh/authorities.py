"""The certificates of one mesh: an authority for each trust domain, for each ThirdParty's hosts, and what they issue.

The authorities' keys are in this process's memory only and end with it. X.509-SVIDs live for an hour and are issued
anew at half of that; a stand-in's TLS certificate lives as long as its authority. A federated trust domain's
authority is its stand-in's: nobody outside this mesh can be called or can call. So is the authority of each file that
a ThirdParty's `certificates` name.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.upstream_authority import UpstreamAuthority
from authz.svid_files import write_svid

if TYPE_CHECKING:
    from authz.mesh.layout import Layout, ThirdPartyLayout

SVID_LIFETIME: Final = timedelta(hours=1)
#: a mesh is thought for hours, and may be forgotten for months
AUTHORITY_LIFETIME: Final = timedelta(days=365)


class MeshAuthorities:
    """Issues and renews the certificates of every workload of a layout, into the layout's own files."""

    def __init__(self, layout: Layout, *, now: datetime) -> None:
        """Make the authorities and write their certificates."""
        self._layout = layout
        self._renew_at: dict[str, datetime] = {}
        self._authorities: dict[str, Authority] = {}
        root = UpstreamAuthority.generate(now, AUTHORITY_LIFETIME)
        #: certificate and key: a secret, for the issuer
        self.root_pem = root.to_pem()
        for name, file in layout.bundle_files:
            upstream = root if name in layout.own_trust_domains else None
            authority = Authority.generate(TrustDomain.parse(name), now, AUTHORITY_LIFETIME, upstream=upstream)
            self._authorities[name] = authority
            _write(file, authority.root.public_bytes(Encoding.PEM))
        for third_party in layout.third_parties:
            if third_party.dns_names:
                _issue_server_certificate(third_party, now)
        _issue_client_certificates(layout, now)

    def renew(self, now: datetime) -> int:
        """Issue every SVID that is not there yet or has passed half of its life; give how many."""
        count = 0
        for directory, identity in self._workloads():
            if now >= self._renew_at.get(directory, now):
                self._issue(directory, identity, now)
                count += 1
        return count

    def _workloads(self) -> list[tuple[str, SpiffeId]]:
        workloads = [(one.places.svid_directory, one.identity) for one in self._layout.services if not one.attested]
        callers = [(one.places.svid_directory, one.identity) for one in self._layout.third_parties]
        return workloads + [(directory, identity) for directory, identity in callers if identity is not None]

    def _issue(self, directory: str, identity: SpiffeId, now: datetime) -> None:
        authority = self._authorities[identity.trust_domain.name]
        svid = authority.issue_x509_svid(identity, now, SVID_LIFETIME)
        others = {each.trust_domain: each.root.public_bytes(Encoding.PEM) for each in self._authorities.values()}
        own = others.pop(identity.trust_domain)
        write_svid(directory, svid, own, other_bundles=others)
        self._renew_at[directory] = now + (svid.not_after - now) / 2


def wall_clock() -> datetime:
    """Read the clock that certificates are judged by."""
    return datetime.now(UTC)


def _issue_server_certificate(third_party: ThirdPartyLayout, now: datetime) -> None:
    trust_domain = TrustDomain.parse(f"{third_party.name}.third-party.invalid")
    authority = Authority.generate(trust_domain, now, AUTHORITY_LIFETIME)
    certificate = authority.issue_server_certificate(third_party.dns_names, now, AUTHORITY_LIFETIME)
    write_svid(third_party.places.tls_directory, certificate, authority.certificate_pem)
    _write(third_party.places.authority_file, authority.certificate_pem)


def _issue_client_certificates(layout: Layout, now: datetime) -> None:
    """Make an authority in the place of each that `certificates` name, and what the stand-ins call with."""
    authorities: dict[str, Authority] = {}
    for number, (name, file) in enumerate(layout.caller_authorities):
        authority = Authority.generate(TrustDomain.parse(f"callers-{number}.invalid"), now, AUTHORITY_LIFETIME)
        authorities[name] = authority
        _write(file, authority.certificate_pem)
    for third_party in layout.third_parties:
        caller = third_party.certificate
        if caller is not None:
            san = x509.DNSName(caller.name) if caller.kind == "dns" else x509.UniformResourceIdentifier(caller.name)
            authority = authorities[caller.authority]
            certificate = authority.issue_client_certificate(san, now, AUTHORITY_LIFETIME)
            write_svid(third_party.places.svid_directory, certificate, authority.certificate_pem)


def _write(file: str, certificate_pem: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, certificate_pem)
    finally:
        os.close(fd)
