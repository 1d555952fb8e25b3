"""Whether a chain of certificates proves a SPIFFE ID: X509-SVID 5, on the path validation of RFC 5280 6.1.

Decides by the bytes of the chain, a bundle and an instant. Not decided here: whether the peer holds the leaf's key (the
handshake), revocation by serial number and what an identity may do (the policy). The leaf's own rules stand in
`x509_svid`, those of signing certificates in `signing_certificate`.

# INVARIANT (own bundle): only authorities of the bundle of the leaf's own trust domain end a path.
# INVARIANT (bounded): a chain has at most MAX_CHAIN_CERTIFICATES, and at most MAX_SIGNATURE_CHECKS signatures are
checked for it, whatever it holds.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from authz.identity.certificate_blocks import CertificateBlockError, all_from_pem, certificate_of
from authz.identity.signing_certificate import (
    SigningCertificateError,
    require_signing_certificate,
    require_sound_signature,
)
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, X509Svid, X509SvidError, x509_svid_from_der

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509

    from authz.identity.spiffe_id import TrustDomain
    from authz.identity.trust import Trust

#: A leaf and the intermediates of nested authorities; SPIRE's nested setups have three or four. Go's TLS takes ten.
MAX_CHAIN_CERTIFICATES: Final = 10
#: Twice the longest path, and the authorities of a rotation beside it. Go's verifier stops at 100.
MAX_SIGNATURE_CHECKS: Final = 32


def chain_from_pem(pem: bytes) -> tuple[bytes, ...]:
    """Give the DER of the certificates of a PEM text, the leaf first; raises X509SvidError."""
    if len(pem) > MAX_CERTIFICATE_BYTES:
        raise X509SvidError(f"a chain has at most {MAX_CERTIFICATE_BYTES} bytes, not {len(pem)}")
    try:
        return all_from_pem(pem, at_most=MAX_CHAIN_CERTIFICATES)
    except CertificateBlockError as exc:
        raise X509SvidError(str(exc)) from exc


def verify_x509_svid(chain: Sequence[bytes], trust: Trust, now: datetime) -> X509Svid:
    """Give whom a chain (DER, the leaf first) proves at `now`; raises X509SvidError with the rule that it breaks."""
    # 1. Sizes, before anything is read.
    if not chain:
        raise X509SvidError("no certificate")
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        raise X509SvidError(f"a chain has at most {MAX_CHAIN_CERTIFICATES} certificates, not {len(chain)}")
    if sum(map(len, chain)) > MAX_CERTIFICATE_BYTES:
        raise X509SvidError(f"a chain has at most {MAX_CERTIFICATE_BYTES} bytes")
    # 2. X509-SVID 5.2: what the leaf says, by the rules for leaves.
    svid = x509_svid_from_der(chain[0])
    trust_domain = svid.spiffe_id.trust_domain
    # 3. INVARIANT (own bundle). Trust Domain and Bundle 4.1.3: nothing in it, nothing proven.
    bundle = trust.bundle(trust_domain)
    if bundle is None:
        raise X509SvidError(f"there is no bundle of the trust domain `{trust_domain}`")
    if not bundle.x509_authorities:
        raise X509SvidError(f"the bundle of `{trust_domain}` has no authority for X.509-SVIDs")
    # 4. X509-SVID 5.1, RFC 5280 6.1: a path to one of them.
    try:
        leaf, *intermediates = map(certificate_of, chain)
        require_sound_signature(leaf)
        _require_validity(leaf, now, "the certificate")
        search = _PathSearch(trust_domain=trust_domain, authorities=bundle.x509_authorities, now=now)
        search.require_path(leaf, tuple(intermediates))
    except (CertificateBlockError, SigningCertificateError) as exc:
        raise X509SvidError(str(exc)) from exc
    return svid


def _require_validity(certificate: x509.Certificate, now: datetime, name: str) -> None:
    # RFC 5280 4.1.2.5, 6.1.3 (a) (2): both ends belong to the validity.
    if now < certificate.not_valid_before_utc:
        raise X509SvidError(f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    # The ends are whole seconds, and the last one belongs to the validity as a whole.
    if now.replace(microsecond=0) > certificate.not_valid_after_utc:
        raise X509SvidError(f"{name} has expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


@dataclass(slots=True, kw_only=True)
class _PathSearch:
    """The search for a path to an authority: depth first, authorities before intermediates.

    `checks` counts the signatures it has cost; `faults` says why signers that bear the right name were passed over.
    """

    trust_domain: TrustDomain
    authorities: tuple[x509.Certificate, ...]
    now: datetime
    checks: int = 0
    faults: list[str] = field(default_factory=list)

    def require_path(self, leaf: x509.Certificate, intermediates: tuple[x509.Certificate, ...]) -> None:
        """Raise X509SvidError unless a path leads from the leaf over some of the intermediates to an authority."""
        if not self._leads_to_an_authority(leaf, intermediates, depth=0):
            raise X509SvidError(
                self.faults[0]
                if self.faults
                else f"no authority in the bundle of `{self.trust_domain}` has signed this certificate"
            )

    def _leads_to_an_authority(
        self, certificate: x509.Certificate, intermediates: tuple[x509.Certificate, ...], *, depth: int
    ) -> bool:
        """Whether a path leads from a certificate to an authority.

        `depth` is how many intermediates that are not self-issued the path has had so far.
        """
        if any(self._has_signed(authority, certificate, depth) for authority in self.authorities):
            return True
        for number, signer in enumerate(intermediates):
            if self._has_signed(signer, certificate, depth):
                others = intermediates[:number] + intermediates[number + 1 :]
                # RFC 5280 6.1.4 (l): a self-issued certificate takes nothing from a path's length.
                deeper = depth if signer.subject == signer.issuer else depth + 1
                if self._leads_to_an_authority(signer, others, depth=deeper):
                    return True
        return False

    def _has_signed(self, signer: x509.Certificate, certificate: x509.Certificate, depth: int) -> bool:
        if signer.subject != certificate.issuer:
            return False
        try:
            path_length = require_signing_certificate(signer, self.trust_domain)
            _require_validity(signer, self.now, "the signing certificate")
        except (SigningCertificateError, X509SvidError) as exc:
            self.faults.append(str(exc))
            return False
        # RFC 5280 6.1.4 (m).
        if path_length is not None and depth > path_length:
            self.faults.append(f"the path is longer than its signing certificate allows (path length {path_length})")
            return False
        # INVARIANT (bounded): counted before it costs.
        self.checks += 1
        if self.checks > MAX_SIGNATURE_CHECKS:
            raise X509SvidError(f"the path is not found within {MAX_SIGNATURE_CHECKS} signatures")
        try:
            certificate.verify_directly_issued_by(signer)
        # RFC 5280 6.1.3 (a) (1). The library has several errors for several ways not to be signed by it.
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            self.faults.append("the signature is not that of the authority that the certificate names")
            return False
        return True
