"""What Envoy is given by SDS: the SVID with its key, and the bundles that peers are judged by.

Names that can be asked for, and what stands behind each:

    svid, default, the SVID's own SPIFFE ID     the certificate chain and its key
    trust, ALL                                  every trust domain that is trusted now, each by its own bundle
    ROOTCA                                      the SVID's own trust domain only
    spiffe://TRUSTDOMAIN                        that trust domain only
    authorities                                 the authorities of callers without SPIFFE IDs, all of them; no
                                                certificate passes where there is none

`svid`, `trust` and `authorities` are ours; the others are what SPIRE's agent calls them, so that a configuration for it
goes on working. All validation but by `authorities` is done by Envoy's SPIFFE validator: a bundle vouches for its own
trust domain only.

# INVARIANT (public versions): a version is made of what is public; a private key is in no version, log or repr.

https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2
from google.protobuf import any_pb2

from authz.proxy.spec import AUTHORITIES_SECRET, SVID_SECRET, TRUST_SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from authz.identity.bundle import Bundle
    from authz.identity.held_svid import HeldSvid
    from authz.identity.trust import Trust

SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 a type
_SPIFFE_VALIDATOR: Final = "envoy.tls.cert_validator.spiffe"
_SVID_NAMES: Final = (SVID_SECRET, "default")
_TRUST_NAMES: Final = (TRUST_SECRET, "ALL")
_OWN_TRUST_NAME: Final = "ROOTCA"
_SPIFFE: Final = "spiffe://"
#: the SHA-256 of no certificate that anybody can find
_NO_CERTIFICATE: Final = "00" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SdsResource:
    """One secret as it travels, and the version that tells it from others of its name."""

    name: str
    version: str
    secret: any_pb2.Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SdsResources:
    """All that can be asked for now, by name."""

    by_name: Mapping[str, SdsResource] = field(default_factory=dict)

    @classmethod
    def of(cls, held: HeldSvid | None, trust: Trust, authorities_pem: bytes = b"") -> SdsResources:
        """Give the resources of what holds now; nothing without an SVID."""
        if held is None:
            return cls()
        own = held.spiffe_id.trust_domain
        bundles = sorted((one for one in trust if one.x509_authorities), key=lambda one: one.trust_domain)
        resources = [_certificate(name, held) for name in (*_SVID_NAMES, str(held.spiffe_id))]
        if bundles:
            resources += [_validation(name, bundles) for name in _TRUST_NAMES]
        resources += [_validation(f"{_SPIFFE}{one.trust_domain}", [one]) for one in bundles]
        resources.append(_callers_without_ids(authorities_pem))
        resources += [_validation(_OWN_TRUST_NAME, [one]) for one in bundles if one.trust_domain == own]
        return cls(by_name={one.name: one for one in resources})

    def get(self, name: str) -> SdsResource | None:
        """Give the resource of a name, None where there is none now."""
        return self.by_name.get(name)


def is_known(name: str) -> bool:
    """Whether a name can ever stand for something; of others it can be said at once that there is nothing."""
    return name in {*_SVID_NAMES, *_TRUST_NAMES, _OWN_TRUST_NAME, AUTHORITIES_SECRET} or name.startswith(_SPIFFE)


def _certificate(name: str, held: HeldSvid) -> SdsResource:
    secret = secret_pb2.Secret(
        name=name,
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain={"inline_bytes": held.certificate_pem}, private_key={"inline_bytes": held.key_pem}
        ),
    )
    return _resource(name, secret, held.chain)


def _validation(name: str, bundles: Iterable[Bundle]) -> SdsResource:
    trust_domains = [(one.trust_domain.name, one.x509_pem) for one in bundles]
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig(
        trust_domains=[{"name": domain, "trust_bundle": {"inline_bytes": pem}} for domain, pem in trust_domains]
    )
    packed = any_pb2.Any()
    packed.Pack(config)
    secret = secret_pb2.Secret(
        name=name,
        validation_context=common_pb2.CertificateValidationContext(
            custom_validator_config={"name": _SPIFFE_VALIDATOR, "typed_config": packed}
        ),
    )
    return _resource(name, secret, [part for domain, pem in trust_domains for part in (domain.encode(), pem)])


def _callers_without_ids(authorities_pem: bytes) -> SdsResource:
    # INVARIANT (nobody by default): to Envoy a context that says nothing is one that takes every certificate.
    validation: dict[str, object] = {"verify_certificate_hash": [_NO_CERTIFICATE]}
    if authorities_pem:
        validation = {"trusted_ca": {"inline_bytes": authorities_pem}}
    secret = secret_pb2.Secret(
        name=AUTHORITIES_SECRET, validation_context=common_pb2.CertificateValidationContext(**validation)
    )
    return _resource(AUTHORITIES_SECRET, secret, [authorities_pem])


def _resource(name: str, secret: secret_pb2.Secret, public: Iterable[bytes]) -> SdsResource:
    packed = any_pb2.Any(type_url=SECRET_TYPE, value=secret.SerializeToString(deterministic=True))
    digest = hashlib.sha256()
    for part in public:
        digest.update(len(part).to_bytes(8, "big") + part)
    return SdsResource(name=name, version=digest.hexdigest()[:32], secret=packed)
