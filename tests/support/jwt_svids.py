"""Tokens that an issuer signs, honest ones and others: what is wrong is said by name, everything else is right."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz.identity.bundle import Bundle, bundle_from_pem

if TYPE_CHECKING:
    from authz.identity.spiffe_id import TrustDomain

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NS_PER_S = 1_000_000_000
LIFETIME_S = 300


def _new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuer:
    """The key that signs a trust domain's JWT-SVIDs."""

    trust_domain: TrustDomain
    key: PrivateKey = field(default_factory=_new_key, repr=False)
    key_id: str = "current"
    algorithm: str = "ES256"

    def bundle(self, authorities_pem: bytes = b"") -> Bundle:
        """Give the trust domain's bundle, with these X.509 authorities beside the key."""
        authorities = bundle_from_pem(authorities_pem, self.trust_domain).x509_authorities if authorities_pem else ()
        return Bundle(
            trust_domain=self.trust_domain,
            x509_authorities=authorities,
            jwt_authorities={self.key_id: self.key.public_key()},
        )

    def token(
        self,
        subject: str,
        audience: str | list[str],
        *,
        now_ns: int,
        lifetime_s: int = LIFETIME_S,
        header: dict[str, Any] | None = None,
        claims: dict[str, Any] | None = None,
    ) -> bytes:
        """Sign a token; `header` and `claims` are put over what an honest one has."""
        now_s = now_ns // NS_PER_S
        said = {"sub": subject, "aud": audience, "iat": now_s, "exp": now_s + lifetime_s, **(claims or {})}
        headers = {"kid": self.key_id, "typ": "JWT", **(header or {})}
        return jwt.encode(said, self.key, algorithm=self.algorithm, headers=headers).encode()


def unsigned_token(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> bytes:
    """Write a token that nobody has signed."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def bearer(token: bytes) -> tuple[str, bytes]:
    """Give the header that carries a token."""
    return "authorization", b"Bearer " + token
