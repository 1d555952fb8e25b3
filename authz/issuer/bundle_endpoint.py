"""The issuer's bundle endpoint: who federates with us fetches our trust domain's bundle here, and proves us by it.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md (5.2.1.3, 5.2.2.3)
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.federation.bundle_endpoint import BundleEndpoint
from authz.federation.endpoint_certificate import CertificateFiles, SvidCertificate
from authz.identity.spiffe_id import SpiffeId
from authz.issuer.errors import IssuerError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from authz.federation.endpoint_certificate import EndpointCertificate
    from authz.identity.authority import IssuedSvid
    from authz.identity.bundle import Bundle
    from authz.issuer.issuance import Issuance

#: The endpoint's own SPIFFE ID below the local trust domain: what partners write as `spiffeId`.
ENDPOINT_PATH: Final = "/authz/bundle-endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEndpointSettings:
    """Where it listens, and the files of its web certificate; without them it proves itself by an SVID.

    So the profile is `https_web` with `certificate`, and `https_spiffe` without. `key` None: it is in the same file.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


class EndpointSvid:
    """The endpoint's own SVID, renewed at half of its life (and so never by an authority that is given up)."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance
        self._svid: IssuedSvid | None = None
        self._renewal: datetime | None = None

    @property
    def spiffe_id(self) -> SpiffeId:
        """Whose it is, in the local trust domain."""
        return SpiffeId(trust_domain=self._issuance.registry.trust_domains[0], path=ENDPOINT_PATH)

    def __call__(self) -> IssuedSvid:
        """Give the SVID of now; raises AuthorityError."""
        now = self._issuance.clock()
        if self._svid is None or self._renewal is None or now >= self._renewal:
            self._svid = self._issuance.issue_x509_svid(self.spiffe_id)
            self._renewal = now + (self._svid.not_after - now) / 2
        return self._svid


class IssuersBundleEndpoint:
    """The endpoint of one issuer; it listens from its construction on."""

    def __init__(self, settings: BundleEndpointSettings, issuance: Issuance) -> None:
        self._issuance = issuance
        svid = EndpointSvid(issuance)
        certificate: EndpointCertificate
        if settings.certificate is None:
            certificate = SvidCertificate(svid)
        else:
            certificate = CertificateFiles(settings.certificate, settings.key)
        certificate()  # what cannot prove itself does not start
        self._endpoint = BundleEndpoint(bundle=self._bundle, certificate=certificate)
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            self._listener = socket.create_server((settings.host, settings.port), family=family)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise IssuerError(f"--bundle-endpoint {where}: {(error.strerror or str(error)).lower()}") from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._endpoint.run(self._listener)

    def _bundle(self) -> Bundle:
        """Give the bundle of the local trust domain: no other one's is ours to serve (SPIFFE Federation 7.4)."""
        bundle = self._issuance.own.bundle(self._issuance.registry.trust_domains[0])
        if bundle is None:
            raise IssuerError("there is no bundle of the local trust domain")
        return bundle
